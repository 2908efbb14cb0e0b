"""On a CUDA device: the same mathematics as on the CPU, exact resume where it is asked for."""

from __future__ import annotations

import pytest
import torch

from paribus import masks, optim, positions
from paribus.engine.budget import OutOfMemory
from paribus.engine.members import Stopped
from paribus.engine.train import Hooks, Trainer
from tests.engine import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")
CUDA = {"device": "cuda:0"}


def losses(m: tiny.Member, trainer: Trainer) -> list[float]:
    return trainer.curve(0)["loss"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.position": positions.alibi()},
        {"model.position": positions.kerple()},
        {"model.mask": masks.sliding_window(size=5)},
        {"model.dropout": 0.1},
        {"optim": optim.sgd(lr=0.1, momentum=0.9)},
    ],
    ids=lambda c: ", ".join(c) or "plain",
)
def test_the_cpu_and_the_gpu_train_alike(changes: dict[str, object]) -> None:
    """Initial values, batches and dropout masks are equal by construction; fp32 losses of the
    first steps agree to rounding."""
    a, b = tiny.member(1, **changes, steps=6), tiny.member(1, **changes, steps=6)
    on_cpu, on_gpu = tiny.train([a]), tiny.train([b], compile="off", **CUDA)
    torch.testing.assert_close(
        torch.tensor(losses(a, on_cpu)), torch.tensor(losses(b, on_gpu)), rtol=2e-5, atol=2e-5
    )


def test_a_stack_on_the_gpu_is_its_trials_alone() -> None:
    """One step's gradients within 1e-5 relative."""

    def gradients(members: list[tiny.Member]) -> list[list[torch.Tensor]]:
        t = Trainer(members, tiny.Settings(compile="off", **CUDA), tiny.Data(tiny.Path("unused")))
        t._enter(0)
        grads, *_ = t._gradients(0)
        return [[g[e] for g in grads] for e in range(len(members))]

    together = gradients([tiny.member(s) for s in (1, 2, 3)])
    for s, mine in zip((1, 2, 3), together, strict=True):
        (alone,) = gradients([tiny.member(s)])
        for a, b in zip(mine, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_is_bit_equal_when_determinism_is_asked_for(precision: str) -> None:
    settings = {"deterministic": True, **CUDA}
    changes = {"precision": precision, "model.dropout": 0.1}
    tiny.apply(tiny.Settings(**settings))
    try:
        calm = tiny.member(1, **changes)
        tiny.train([calm], **settings)
        torn = tiny.member(1, **changes)
        trainer = Trainer(
            [torn],
            tiny.Settings(**settings),
            tiny.Data(tiny.Path("unused")),
            Hooks(stop=lambda: trainer.step == 5),
        )
        with pytest.raises(Stopped):
            trainer.run()
        torn.state = trainer.snapshot(0)
        again = tiny.train([torn], **settings)
        assert again.loss_of.engine == "eager"
        assert tiny.equal(calm, torn)
    finally:
        torch.set_deterministic_debug_mode("default")


def test_compiled_training_is_the_eager_one() -> None:
    plain, fast = tiny.member(1), tiny.member(1)
    a = tiny.train([plain], compile="off", **CUDA)
    b = tiny.train([fast], compile="on", **CUDA)
    assert (a.loss_of.engine, b.loss_of.engine) == ("eager", "compiled")
    torch.testing.assert_close(
        torch.tensor(losses(plain, a)), torch.tensor(losses(fast, b)), rtol=1e-4, atol=1e-4
    )


def test_low_precision_learns() -> None:
    for precision in ("bf16", "fp16"):
        m = tiny.member(1, steps=150, precision=precision, optim=optim.adamw(lr=1e-2))
        curve = tiny.train([m], compile="off", **CUDA).curve(0)["loss"]
        assert curve[-1] < 0.6 * curve[0], precision


def test_memory_that_runs_out_splits_the_batch_and_keeps_the_result() -> None:
    """A real OutOfMemoryError: the allocator is capped below what the whole batch needs."""
    shape = {
        "model.width": 512,
        "model.heads": 4,
        "task.span": 512,
        "rows": 64,
        "steps": 2,
        "clip": None,
    }
    calm = tiny.member(1, **shape)
    tiny.train([calm], compile="off", micro=8, **CUDA)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2.0e9 / total)
    try:
        less: dict[str, int] = {"micro": 64, "halvings": 0}
        while True:
            tight = tiny.member(1, **shape)
            settings = tiny.Settings(compile="off", **CUDA)
            data = tiny.Data(tiny.Path("unused"))
            trainer = Trainer([tight], settings, data, Hooks(), less["micro"], less["halvings"])
            try:
                trainer.run()
                break
            except OutOfMemory as error:
                found = error.less()
                assert found is not None
                less = found
            torch.cuda.empty_cache()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.summary(0)["engine"]["halvings"] >= 1
    assert trainer.summary(0)["engine"]["micro_batch"] < 64
    for k, t in tiny.result(calm)[0].items():
        torch.testing.assert_close(tiny.result(tight)[0][k], t, rtol=1e-3, atol=1e-4)

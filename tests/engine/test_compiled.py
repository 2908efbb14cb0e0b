"""What is compiled: a step in one piece, and evaluations that are worth it, with what they are as
they are."""

from __future__ import annotations

import functools
import shutil
import typing
from pathlib import Path

import pytest
import torch

from paribus import lazy, norms, optim, positions, presets, tasks
from paribus.engine import evaluate
from paribus.engine.compiled import Either
from paribus.engine.settings import Settings
from paribus.engine.train import Trainer
from paribus.spec import patch, resolve
from paribus.text.data import Data
from tests.engine import tiny

ROWS: dict[str, typing.Any] = {"task": tasks.connectivity(V=3, batch=8), "rows": None}
CASES: dict[str, dict[str, typing.Any]] = {
    "turned": {},
    "learned positions": {"model.position": positions.learned(length=17)},
    "normed queries and keys": {
        "model.q_norm": norms.rmsnorm(), "model.k_norm": norms.rmsnorm(), "model.softcap": 15.0,
    },
    "vectors": {
        **ROWS, "model": presets.gpt2(
            width=32, layers=2, heads=2, read_in="vectors", read_out="scalar"
        ),
    },
    "positions that differ": {},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_pass_is_compiled_in_one_piece(case: str) -> None:
    """Torch runs what it cannot follow by itself and compiles the rest in pieces, which keeps what
    passes between them: the logits, in fp32."""
    lazy.fill()
    bases = (1e4, 5e4 if case == "positions that differ" else 1e4)
    members = [
        tiny.member(s, **CASES[case], **({} if base == 1e4 else {"model.position.base": base}))
        for s, base in zip((1, 2), bases, strict=True)
    ]
    trainer = Trainer(members, Settings(), Data(Path("unused")))
    trainer._enter(0)
    trainer.net.ahead = True  # type: ignore[union-attr]  # as on a GPU
    (piece,) = trainer.budget.pieces()
    batch, ready = trainer._drawn(0, piece)
    assert ready is not None
    torch.compiler.reset()
    whole = torch.compile(trainer._loss, backend="aot_eager", fullgraph=True)
    given = trainer.params, batch, None, ready
    for a, b in zip(whole(*given), trainer._loss(*given), strict=True):
        torch.testing.assert_close(a, b)


def test_an_evaluation_that_is_worth_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny.spec(**{"optim": optim.adamw(lr=1e-3), "task.examples": 1100})
    members = [tiny.member(s, spec) for s in (1, 2)]
    trainer = tiny.train(members)
    data, seeds, specs = Data(Path("unused")), [1, 2], [spec, spec]
    how = evaluate.Setting("c", "c", spec, "test", None, ())

    def judged(
        opened: dict[str, typing.Any], **settings: typing.Any
    ) -> list[dict[str, typing.Any]]:
        given = Settings(**settings)
        params = {k: t.detach() for k, t in trainer.params.items()}
        return evaluate.evaluate(params, specs, seeds, how, data, given, opened)

    plain = judged({})
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    on: dict[str, typing.Any] = {"compile": "on", "deterministic": False}
    assert judged({}, **on)[0]["engine"]["engine"] == "eager", "too little work"
    monkeypatch.setattr(evaluate, "WORTH", 0.0)
    opened: dict[str, typing.Any] = {}
    for _ in range(2):
        for a, b in zip(plain, judged(opened, **on), strict=True):
            assert b["engine"]["engine"] == "compiled"
            assert a["size"] == b["size"] == 1100
            for name, value in a["metrics"].items():
                assert value["count"] == b["metrics"][name]["count"]
                assert value["value"] == pytest.approx(b["metrics"][name]["value"], rel=1e-5)
    assert len([k for k in opened if "scorer" in k]) == 1
    specs = [resolve(patch(s, "kernel", "reference")) for s in specs]
    assert judged(opened, **on)[0]["engine"]["kernel"] == "reference", "not the net of before"


@pytest.mark.skipif(not shutil.which("g++"), reason="NO C++ COMPILER: the cache is not tested")
def test_code_of_another_gradient_is_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions with gradients of their own are kept, too: by what they do, not by their name."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def made(factor: float) -> typing.Any:
        class Own(torch.autograd.Function):
            @staticmethod
            def forward(ctx: typing.Any, x: torch.Tensor) -> torch.Tensor:
                return x.sin()

            @staticmethod
            def backward(ctx: typing.Any, g: torch.Tensor) -> torch.Tensor:
                return factor * g

        return Own.apply

    counted = torch._dynamo.utils.counters["aot_autograd"]
    x = torch.ones(5, requires_grad=True)
    for factor, hits in ((2.0, 0), (3.0, 0), (2.0, 1)):
        torch.compiler.reset()
        counted.clear()
        either = Either(made(factor), Settings(compile="on", deterministic=False), able=True)
        (g,) = torch.autograd.grad(either(x).sum(), [x])
        assert g.tolist() == [factor] * 5
        assert either.engine == "compiled"
        assert counted["autograd_cache_hit"] == hits

"""Training that begins from a foreign checkpoint: ours, or a folder of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paribus import Factor, Study, positions, schedules, start
from paribus.engine import checkpoint
from paribus.engine.members import weights_of
from paribus.errors import Refused, SpecError
from paribus.nn.convert import from_hf_gpt2
from paribus.parts import replace
from paribus.store import Store
from paribus.study.expand import expand
from paribus.study.plan import Plan
from tests.engine import tiny


@pytest.fixture
def base(tmp_path: Path) -> Any:
    """A trained base and its file of weights."""
    m = tiny.member(1, steps=6)
    tiny.train([m])
    assert m.state is not None
    file = tmp_path / "weights"
    file.write_bytes(checkpoint.weights(weights_of(m.state[0])))
    return m, file


def test_it_goes_on_with_the_weights_and_a_fresh_optimizer(base: Any) -> None:
    """Also in a stack, whose trials begin alike and then read rows of their own."""
    m, file = base
    for path in (file, file.parent):  # the file, or the folder that holds it
        begun = [tiny.member(s, start=start(str(path), step=6), steps=1) for s in (1, 2)]
        trainer = tiny.Trainer(begun, tiny.Settings(), tiny.Data(tiny.Path("unused")))
        trainer._enter(0)
        for k, t in weights_of(m.state[0]).items():
            assert torch.equal(trainer.params[k][0], t)
            assert torch.equal(trainer.params[k][1], t)
        assert not any(t.any() for of in trainer.state.values() for t in of.values())
    task = tiny.spec().task.open(trainer.data.bind("train"), "cpu")
    batch = {k: t[None] for k, t in task.batch(2, 0, range(8)).items()}
    p = {k: t[None] for k, t in weights_of(m.state[0]).items()}
    total, count = tiny.spec().task.loss(trainer.net.core(p, batch["inputs"]), batch)
    trainer.run()
    assert trainer.curve(1)["loss"][0] == pytest.approx((total / count).item(), rel=1e-6)


def test_what_does_not_fit_is_refused(base: Any) -> None:
    _, file = base
    wide = tiny.member(1, start=start(str(file)), model=tiny.model(width=64), steps=1)
    with pytest.raises(Refused, match=r"embed.tokens is \(\d+, 32\) in the check"):
        tiny.train([wide])
    with pytest.raises(SpecError, match="is not there"):
        tiny.train([tiny.member(1, start=start("nowhere"), steps=1)])
    text = file.parent / "text.txt"
    text.write_text("some words, and no weights")
    with pytest.raises(SpecError, match=r"text\.txt is no file of weights"):
        tiny.train([tiny.member(1, start=start(str(text)), steps=1)])
    with pytest.raises(SpecError, match="goes on with the weights of the one before"):
        expand(Study("s", "?", base=tiny.spec().then("more", {"start": start(str(file))})))


def test_its_contents_enter_the_identity(base: Any, tmp_path: Path) -> None:
    m, file = base
    how = Factor("how", {"a": positions.rope(), "b": positions.rope(base=500.0)}, "model.position")

    def ids() -> list[str]:
        study = Study("s", "?", base=tiny.spec(start=start(str(file)), steps=20), factors=[how])
        plan = Plan(study, Store(tmp_path / "home"))
        plan.refuse()
        return [i.trial.id for i in plan.items]

    one = ids()
    assert one == ids()
    other = {k: t + 1 for k, t in weights_of(m.state[0]).items()}
    file.write_bytes(checkpoint.weights(other))
    assert not {*one} & {*ids()}
    plain = Study("s", "?", base=tiny.spec(steps=20), factors=[how])
    assert not {*one} & {i.trial.id for i in Plan(plain, Store(tmp_path / "home")).items}


def test_a_shared_beginning_holds_the_hash_too(base: Any, tmp_path: Path) -> None:
    _, file = base
    ends = Factor("decay", [5, 10], "schedule.decay")
    spec = tiny.spec(start=start(str(file)), steps=20, schedule=schedules.wsd(decay=10))
    (trunk,) = Plan(Study("s", "?", base=spec, factors=[ends]), Store(tmp_path)).forest.trunks
    assert "start" in trunk.data["data"]


def test_a_hugging_face_folder_goes_on_with_its_own_loss(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocab = tiny.spec().task.io().vocab
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(config).eval()
    hf.save_pretrained(tmp_path / "hf", safe_serialization=True)
    model, _ = from_hf_gpt2(hf)
    m = tiny.member(3, model=model, start=start(str(tmp_path / "hf")), steps=2)
    trainer = tiny.train([m])
    source, seed = trainer.open(0)[0]
    batch = source.batch(seed, 0, range(8))
    with torch.no_grad():
        logits = hf(batch["inputs"]).logits
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert trainer.curve(0)["loss"][0] == pytest.approx(want.item(), rel=1e-5)
    # The folder's own model is the one before: a model that differs shows it, and nothing else can.
    (found,) = trainer.summary(0)["continuity"]
    (row,) = found["batches"]
    assert (found["step"], row["largest"]) == (0, 0)
    assert row["before"] == row["after"] == pytest.approx(want.item(), rel=1e-5)
    other = tiny.member(3, model=replace(model, "temperature", 1.5, "model.temperature"),
                        start=start(str(tmp_path / "hf")), steps=1)  # fmt: skip
    (row,) = tiny.train([other]).summary(0)["continuity"][0]["batches"]
    assert row["before"] == pytest.approx(want.item(), rel=1e-5)
    assert row["after"] != row["before"]
    assert row["largest"] > 0.1

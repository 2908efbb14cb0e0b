"""A later phase says, before its first step, how far its function is from the one before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from paribus import corpora, optim, positions, scalings, schedules, tasks, tokenizers
from paribus.engine.continuity import continuity
from paribus.engine.members import Phase
from paribus.engine.train import Trainer
from paribus.looking import began
from paribus.study.expand import expand
from paribus.study.study import Study
from tests.engine import tiny

PI = positions.rope(scaling=scalings.pi(factor=2))


def text(length: int) -> Any:
    return tasks.lm(
        corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=length, eval_tokens=512
    )


def extended(position: Any, **changes: Any) -> list[Any]:
    """A base of rows of 32 tokens, then rows of 64 with another position."""
    base = tiny.spec(task=text(32), rows=4, steps=6)
    longer = {"task": text(64), "model.position": position, "rows": 2, "steps": 3, **changes}
    return [base, tiny.spec(**{"rows": 4, **longer})]


def recorded(m: Any, cache: Path) -> list[dict[str, Any]]:
    trainer = tiny.train([m], cache)
    found: list[dict[str, Any]] = trainer.summary(0)["continuity"]
    return found


def test_the_same_rope_is_the_same_function_to_the_bit(tmp_path: Path) -> None:
    (found,) = recorded(tiny.member(1, *extended(positions.rope())), tmp_path)
    assert (found["phase"], found["step"]) == ("p1", 6)
    old, new = found["batches"]
    line, _ = began([found])
    assert line.startswith("phase    p1 from step 6 on, rows of p0 (32 tokens): loss ")
    assert line.endswith("outputs equal")
    assert (old["of"], old["rows"], old["length"]) == ("p0", 4, 32)
    assert (new["of"], new["rows"], new["length"]) == ("p1", 2, 64)
    for row in (old, new):
        assert row["largest"] == 0
        assert row["before"] == row["after"] > 0


def test_a_scaling_shows_its_price_before_any_training(tmp_path: Path) -> None:
    base, longer = extended(PI)
    m = tiny.member(1, base, longer)
    (found,) = recorded(m, tmp_path)
    old = found["batches"][0]
    assert old["largest"] > 0
    assert "outputs differ by up to" in began([found])[0]
    assert old["before"] != old["after"]
    # By hand: the base trained alone, both models on the rows that it would have read next.
    alone = tiny.member(1, base)
    trainer = tiny.train([alone], tmp_path)
    source, seed = trainer.open(0)[0]
    batch = {k: t[None] for k, t in source.batch(seed, 6, range(24, 28)).items()}
    p = {k: t.detach() for k, t in trainer.params.items()}
    for spec, name in ((base, "before"), (longer, "after")):
        core = tiny.Trainer([tiny.member(1, spec)], tiny.Settings(), tiny.Data(tmp_path))
        core._enter(0)
        logits = core.net.core(p, batch["inputs"])
        want = torch.nn.functional.cross_entropy(
            logits.flatten(0, 2), batch["targets"].flatten()
        ).item()
        assert old[name] == pytest.approx(want, rel=1e-6)
    # The phase's first loss is that of its own first rows.
    curve = trainer_loss(tiny.member(1, base, longer), tmp_path)
    assert found["batches"][1]["after"] == pytest.approx(curve[6], rel=1e-6)


def trainer_loss(m: Any, cache: Path) -> list[float]:
    losses: list[float] = tiny.train([m], cache).curve(0)["loss"]
    return losses


def test_it_changes_no_number_and_survives_a_checkpoint(tmp_path: Path) -> None:
    phases = extended(PI)
    whole = tiny.member(1, *phases)
    found = recorded(whole, tmp_path)
    for stop in (6, 7, 9):  # as the phase begins, within it, at its end
        m = tiny.member(1, *phases)
        trainer = Trainer([m], tiny.Settings(), tiny.Data(tmp_path))
        trainer._enter(0)
        for step in range(stop):
            if step == 6:
                trainer._enter(1)
            trainer._advance()
        tensors, notes = trainer.snapshot(0)
        again = tiny.member(1, *phases)
        again.state = {k: t.clone() for k, t in tensors.items()}, notes
        assert recorded(again, tmp_path) == found
        assert tiny.equal(whole, again)


def test_members_of_a_stack_have_their_own(tmp_path: Path) -> None:
    members = [tiny.member(seed, *extended(PI)) for seed in (1, 2)]
    trainer = tiny.train(members, tmp_path)
    for e, seed in enumerate((1, 2)):
        alone = recorded(tiny.member(seed, *extended(PI)), tmp_path)
        mine = trainer.summary(e)["continuity"]
        assert [b["largest"] for b in mine[0]["batches"]] == [
            b["largest"] for b in alone[0]["batches"]
        ]
    assert "continuity" not in tiny.train([tiny.member(1)]).summary(0)


def test_rows_that_the_model_before_cannot_read(tmp_path: Path) -> None:
    """A table that ends: its model has no loss at the new length."""
    table = positions.learned(length=64)
    fields: dict[str, Any] = {"rows": 4, "steps": 2, "model.position": table}
    m = tiny.member(1, tiny.spec(task=text(32), **fields), tiny.spec(task=text(64), **fields))
    trainer = Trainer([m], tiny.Settings(), tiny.Data(tmp_path))
    trainer.run()
    short = tiny.spec(task=text(32), **fields)
    object.__setattr__(m.phases[0], "spec", tiny.patch(short, "model.position.length", 48))
    row = continuity(trainer)[0]["batches"][1]
    assert row["before"] is row["largest"] is None
    assert "loss none before" in began(continuity(trainer))[1]
    assert math.isfinite(row["after"])


def test_an_optimizer_of_another_kind_starts_with_state_of_its_own(tmp_path: Path) -> None:
    base = tiny.spec(steps=4, optim=optim.adamw(lr=3e-3))
    for name, new, how in (
        ("other", optim.muon_adamw(iteration="fp32", embedding_lr=0.01), "reset"),
        ("same", optim.adamw(lr=1e-3), "keep"),
    ):
        phased = base.then("more", {"optim": new, "schedule": schedules.rewarm(peak=0.2)})
        study = Study(name, "?", base=phased)
        (variant,) = expand(study).variants
        assert variant.phases[1].optim == how
        m = tiny.member(1)
        m.phases = [Phase(p.name, p.spec, p.optim) for p in variant.phases]
        losses = tiny.train([m], tmp_path).curve(0)["loss"]
        assert len(losses) == 8
        assert all(map(math.isfinite, losses))

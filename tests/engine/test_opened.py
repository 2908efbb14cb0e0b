"""What a worker opened is recorded, and data that have changed since the plan are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import arrays, parts
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker, code
from paribus.study.plan import work
from paribus.text import paths
from tests.stubs import plan_of

STUDY = """
from paribus import *
study = Study("text", "Is it the text that was planned?",
    base=Spec(model=presets.quickstart(width=32, heads=4), init={"every": init.torch_default()},
              task=tasks.lm(corpus=corpora.files(path="text.txt", validation="v.txt", test="t.txt"),
                            tokenizer=tokenizers.bytes(), length=16, eval_tokens=64),
              optim=optim.adamw(lr=1e-3), schedule=schedules.linear(), rows=4, steps=4))
"""


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    parts.use_local(None)
    paths.use_base(None)


def train(told: dict[str, Any]) -> None:
    worker = Worker(told, Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0


def test_a_worker_records_what_it_opened_and_refuses_what_has_changed(tmp_path: Path) -> None:
    for n, name in enumerate(("text", "v", "t")):
        (tmp_path / f"{name}.txt").write_text(f"{n} the quick brown fox {n}\n" * 40)
    path = tmp_path / "text.py"
    path.write_text(STUDY)
    plan = plan_of(path)
    (item,) = plan.items
    plan.store.declare(item.trial.id, item.trial.data)
    told = work(plan, plan.items, 1, base=tmp_path)
    text = (tmp_path / "text.txt").read_text()
    (tmp_path / "text.txt").write_text(text + "one more line\n")
    train(told)
    state = plan.store.state(item.trial.id)
    assert (state.state, "data have changed" in state.reason) == ("failed", True)
    (tmp_path / "text.txt").write_text(text)
    for unit in told["trials"].values():
        unit["retry"], unit["attempts"] = True, state.attempt
    train(told)
    end = plan.store.state(item.trial.id).end
    assert end is not None
    assert end["data"] == item.trial.data["data"]
    rates = arrays.unpack(end["curves"]["lr"])
    assert end["lr"] == [rates.min(), rates.max()]
    assert end["lr"][0] < end["lr"][1]
    assert end["engine"]["world"] == 1
    assert end["engine"]["code"]


def test_the_code_in_a_word() -> None:
    source = {"root": "/x", "commit": "0123456789abcdef", "dirty": False}
    assert code({"paribus": {"repository": source, "commit": source["commit"]}}).endswith(
        " 0123456789"
    )
    dirty = {**source, "dirty": True, "diff_sha256": "feedfacecafe"}
    assert code({"paribus": {"repository": dirty}}).endswith(" 0123456789+feedfa")
    same = {
        "repository": {"diff_sha256": "abcdef0"},
        "paribus": {"repository": {**source, "dirty": 1}},
    }
    assert code(same).endswith("+abcdef")
    assert " " not in code({})

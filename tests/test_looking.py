"""status and show on homes of stub attempts: what is seen is what the files say."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import grid, looking, parts
from paribus.cli import main
from paribus.standing import standing
from tests.stubs import Stub, plan_of, study_file

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    stub = Stub(plan_of(study_file(tmp_path, [0.001, 0.002], seeds=3)))
    yield stub
    stub.close()
    parts.use_local(None)


def every_state(stub: Stub) -> None:
    """A trial in each state."""
    stub.train("none-lr0.001-s1")
    stub.evaluate("none-lr0.001-s1")
    stub.train("none-lr0.001-s2")
    stub.evaluate("none-lr0.001-s2", 0)
    stub.fail("none-lr0.001-s2", 1, "RuntimeError: wrong shape")
    stub.train("none-lr0.001-s3")
    stub.refuse("none-lr0.001-s3", 0, "beyond the limit")
    running = stub.open("none-lr0.002-s1")
    running.log("resumed at step 10")
    running.log("step 40/100 loss 2.0000")
    running.describe(b'{"settings": {"device": "cuda:1"}}')
    failed = stub.open("none-lr0.002-s2")
    failed.log("Traceback (most recent call last):\n  File x.py, line 3\nValueError: boom")
    failed.end("failed", "ValueError: boom")
    stub.open("none-lr0.002-s3").end("diverged", "loss nan at step 7 of 100", step=7)
    stub.open("rope-lr0.001-s1").end("out of memory", "nothing is left to halve")
    stub.open("rope-lr0.001-s2").end("released", "stopped")
    stub.train("rope-lr0.001-s3")
    stub.store.retire(stub.items["rope-lr0.001-s3"].trial.id, "asked")
    stub.open("rope-lr0.002-s1").end("refused", "no such length")


def data_of(stub: Stub) -> dict[str, Any]:
    return standing(stub.plan.again(), "cpu")


def test_a_glyph_for_each_state_and_a_legend_of_those_that_occur(stub: Stub) -> None:
    every_state(stub)
    page = grid.text(data_of(stub), grid.Style(width=200))
    rows = {line.split()[0]: line for line in page.splitlines() if re.match(r"(none|rope)-", line)}
    assert rows["none-lr0.001"].split() == ["none-lr0.001", "■", "■", "■", "▪✗", "4/6"]
    assert rows["none-lr0.002"].split()[1:4] == ["▶40%", "✗", "≈"]
    assert rows["rope-lr0.001"].split()[1:4] == ["▲", "‖", "↻"]
    assert rows["rope-lr0.002"].split()[1:4] == ["⊘", "·", "·"]
    legend = next(line for line in page.splitlines() if line.startswith("■ done"))
    assert "blocked" not in legend
    for state in ("diverged", "out of memory", "refused", "interrupted", "retired"):
        assert state in legend


def test_glyphs_follow_what_is_finished(stub: Stub) -> None:
    stub.train("none-lr0.001-s1")
    stub.evaluate("none-lr0.001-s1")
    page = grid.text(data_of(stub), grid.Style())
    legend = [line for line in page.splitlines() if "done" in line and "■" in line]
    assert legend == ["■ done   · planned   ▪ some seeds done"]
    assert "failures" not in page


def test_plain_characters_where_the_terminal_has_no_others(stub: Stub) -> None:
    every_state(stub)
    stub.store.begin_run("stub@main", {"command": "paribus run stub.py"})
    page = grid.text(data_of(stub), grid.Style(unicode=False))
    assert page.isascii()
    assert ">40%" in page
    colored = grid.text(data_of(stub), grid.Style(color=True))
    assert ESCAPE.sub("", colored) == grid.text(data_of(stub), grid.Style())


def test_failures_are_named_and_say_their_last_lines(stub: Stub) -> None:
    every_state(stub)
    found = {f["name"]: f for f in data_of(stub)["failures"]}
    assert found["none-lr0.002-s2"]["lines"][-1] == "ValueError: boom"
    assert found["none-lr0.001-s2 copy span=8"]["reason"] == "RuntimeError: wrong shape"
    assert found["none-lr0.001-s3 copy span=4"]["state"] == "refused"
    assert found["none-lr0.002-s3"]["state"] == "diverged"
    assert "none-lr0.001-s1" not in found
    page = grid.text(data_of(stub), grid.Style())
    assert "✗ none-lr0.002-s2: failed: ValueError: boom\n" in page


def test_lost_weights_are_a_failure_only_while_evaluations_are_missing(stub: Stub) -> None:
    for name in ("none-lr0.001-s1", "none-lr0.001-s2"):
        stub.train(name)
        result = stub.store.result(stub.items[name].trial.id)
        if name.endswith("1"):
            stub.evaluate(name)
        assert result is not None
        result.weights.unlink()
    assert [f["name"] for f in data_of(stub)["failures"]] == ["none-lr0.001-s2"]


def test_what_runs_where(stub: Stub) -> None:
    every_state(stub)
    trial = stub.items["none-lr0.001-s3"]
    claim = stub.store.claim_evaluation(trial.trial.id, trial.cells[1].id, stub.worker.id)
    assert claim is not None
    rows = data_of(stub)["running"]
    trained = next(r for r in rows if r["condition"] is None)
    assert (trained["name"], trained["step"], trained["steps"]) == ("none-lr0.002-s1", 40, 100)
    assert (trained["pid"], trained["device"], trained["stuck"]) == (os.getpid(), "cuda:1", False)
    assert [r["condition"] for r in rows] == ["copy span=8", None]
    log = stub.store.trial_dir(trained["trial"]) / "attempts/1/log"
    claimed = log.parent / "claim"
    content = json.loads(claimed.read_text())
    claimed.write_text(json.dumps({**content, "at": "2020-01-01T00:00:00+00:00"}))
    os.utime(log, (time.time() - 720, time.time() - 720))
    page = grid.text(data_of(stub), grid.Style())
    assert "stuck: no step for 12 min" in page


def test_blocked_says_why(stub: Stub) -> None:
    stub.open("none-lr0.001-s1").log("step 3/100 loss 2.0")
    stub.worker.mark = "d"
    data = data_of(stub)
    assert data["trials"][0]["state"] == "blocked"
    page = grid.text(data, grid.Style())
    assert "!3%" in page
    assert "blocked: waits for the disk" in page


def test_time_rests_on_finished_trials_of_the_shape(stub: Stub) -> None:
    assert data_of(stub)["eta"] is None
    names = list(stub.items)
    stub.train(names[0], seconds=50.0, engine={"stack": 1})
    eta = data_of(stub)["eta"]
    assert eta is not None and eta["workers"] == 0
    shape = {
        n for n, i in stub.items.items() if i.trial.pack_key == stub.plan.items[0].trial.pack_key
    }
    assert eta["seconds"] == 50 * (len(names) - 1)  # of other shapes too, for want of better
    assert "finished trials of the shape" in eta["basis"]
    assert len(shape) < len(names) and "other shapes" in eta["basis"]
    for name in names[1:]:
        stub.train(name)
    assert data_of(stub)["eta"] is None  # nothing is known of evaluations yet
    stub.evaluate(names[0])
    assert data_of(stub)["eta"]["seconds"] == round(0.5 * 2 * (len(names) - 1))
    for name in names[1:]:
        stub.evaluate(name)
    assert data_of(stub)["eta"] is None


def test_many_variants_fold_into_few_lines(tmp_path: Path) -> None:
    rates = [round(1e-4 * 1.2**i, 8) for i in range(30)]
    stub = Stub(plan_of(study_file(tmp_path, rates, seeds=4)))
    stub.train(next(iter(stub.items)))
    page = grid.text(data_of(stub), grid.Style(width=120))
    stub.close()
    assert "rows: position; columns: lr" in page
    lines = page.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120
    assert sum(line.count("·") for line in lines if line.startswith("position=")) == 239


def test_json_has_it_all(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    every_state(stub)
    assert main(["status", "stub.py", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {"study", "home", "trials", "running", "failures", "runs", "eta"} <= data.keys()
    first = data["trials"][0]
    assert first.items() >= {
        "trial": "none-lr0.001-s1", "state": "done", "attempt": 1, "step": 100, "steps": 100,
        "reason": "", "evaluated": 2, "evaluations": 2,
    }.items()  # fmt: skip
    assert data["trials"][1]["conditions"] == {"copy span=4": "done", "copy span=8": "failed"}


def test_status_changes_nothing(stub: Stub, tmp_path: Path) -> None:
    every_state(stub)

    def files() -> dict[str, tuple[int, int]]:
        found = [p for p in (tmp_path / "runs").rglob("*") if "workers" not in p.parts]
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in found}

    before = files()
    assert main(["status", "stub.py"]) == 0
    assert main(["show", "stub.py", "none-lr0.002-s1"]) == 0
    assert files() == before


def test_watch_without_a_terminal_prints_once(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "stub.py", "--watch"]) == 0
    said = capsys.readouterr().out
    assert said.count("stub@main") == 1
    assert "printed once" in said


def test_watch_redraws_until_interrupted(stub: Stub, tmp_path: Path) -> None:
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "paribus", "status", "stub.py", "--watch"],
        stdout=inner, stdin=inner, stderr=inner, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
    )  # fmt: skip
    os.close(inner)
    seen = b""
    try:
        deadline = time.monotonic() + 60
        asked = False
        while time.monotonic() < deadline:
            if select.select([outer], [], [], 0.2)[0]:
                try:
                    new = os.read(outer, 65536)
                except OSError:
                    break
                if not new:
                    break
                seen += new
            if (
                b"Ctrl-C ends" in seen
                and not stub.store.state(stub.items["none-lr0.001-s1"].trial.id).attempt
            ):
                stub.train("none-lr0.001-s1")
            if b"1 done" in seen and not asked:
                process.send_signal(2)
                asked = True
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(outer)
    text = seen.decode()
    assert "12 planned" in text
    assert "1 done, 11 planned" in text
    assert text.index(looking.ALTERNATE) < text.index(looking.NORMAL)
    assert "\x1b[2J" not in text  # a cleared screen flickers


# ── show ────────────────────────────────────────────────────────────────────────────────────


def test_show_lists_attempts_records_and_provenance(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "none-lr0.001-s1"
    stub.open(name).end("released", "stopped")
    attempt = stub.open(name)
    attempt.log("resumed at step 10")
    attempt.describe(
        b'{"repository": {"commit": "abc123", "dirty": true, "diff_bytes": 9},'
        b' "packages": {"torch": "2.11.0"}, "settings": {"device": "cuda:1"}}'
    )
    attempt.finish(b"weights", {"step": 100})
    stub.evaluate(name, 0)
    assert main(["show", "stub.py", name, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    states = [(a["number"], a["state"], a["resumed_at"]) for a in data["attempts"]]
    assert states == [(1, "released", None), (2, "done", "10")]
    assert data["attempts"][1]["device"] == "cuda:1"
    assert [e["state"] for e in data["evaluations"].values()] == ["done", "planned"]
    assert data["provenance"]["commit"] == "abc123, with changes (9 bytes)"
    assert main(["show", "stub.py", name]) == 0
    text = capsys.readouterr().out
    for words in ("1  released; stopped", "2  done", "from step 10", "loss 1.5", "abc123"):
        assert words in text


def test_follow_goes_on_from_attempt_to_attempt(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "none-lr0.001-s1"
    first = stub.open(name)
    first.log("step 1/100 loss 3.0")
    later = []

    def work(_: float) -> None:
        """What happens between two looks."""
        turn = len(later)
        later.append(turn)
        if turn == 0:
            first.log("step 2/100 loss 2.0")
            first.end("released", "stopped")
        elif turn == 1:
            second = stub.open(name)
            second.log("resumed at step 2")
            second.finish(b"weights", {"step": 100})

    plan = stub.plan.again()
    assert looking._follow(plan, plan.items[0], sleep=work) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "step 1/100 loss 3.0",
        "step 2/100 loss 2.0",
        f"{name}: interrupted; waiting for it to run (Ctrl-C ends this view)",
        "── attempt 2 ──",
        "resumed at step 2",
        f"{name}: done",
    ]


def test_looking_loads_nothing_heavy(stub: Stub, tmp_path: Path) -> None:
    every_state(stub)
    code = "from paribus.cli import main; import sys; main(['status', 'stub.py']); print()\n"
    code += "print(*[m for m in ('torch', 'numpy', 'scipy', 'jinja2') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""

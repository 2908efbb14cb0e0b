"""What each kind of trouble costs: the real command, real processes.

Where only the workers are in trouble, the command itself runs in the process of the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paribus import arrays, parts
from tests.crash import planted


@pytest.fixture(scope="module")
def calm_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that is done; nothing is to be changed beside it."""
    study = planted.make(tmp_path_factory.mktemp("calm"))
    code, text = planted.run(study, report=True)
    assert code == 0, text
    return study


@pytest.fixture(scope="module")
def calm(calm_study: Path) -> dict[str, list[float]]:
    found = planted.losses(planted.plan_of(calm_study))
    parts.use_local(None)
    assert len(found) == 2
    return found


@pytest.fixture
def done(calm_study: Path, tmp_path: Path) -> Path:
    """A copy of it and of its home, to work on."""
    shutil.copytree(calm_study.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / calm_study.name


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def states(study: Path) -> list[str]:
    return [i.state.state for i in planted.plan_of(study).items]


def attempts(study: Path) -> list[list[dict[str, Any]]]:
    plan = planted.plan_of(study)
    return [[v.end or {} for v in plan.store.attempts(i.trial.id)] for i in plan.items]


def test_out_of_memory_halves_the_micro_batch(tmp_path: Path, calm: dict[str, list[float]]) -> None:
    """8 rows in memory for 3: twice a fresh process with half of them; losses stay."""
    study = planted.make(tmp_path)
    code, text = planted.run(study, plant="oom:3:")
    assert code == 0, text
    plan = planted.plan_of(study)
    for name, found in planted.losses(plan).items():
        assert found == pytest.approx(calm[name], rel=1e-5)
    for item, ends in zip(plan.items, attempts(study), strict=True):
        assert ends[-1]["engine"]["micro_batch"] == 2, item.trial.name
        assert ends[-1]["engine"]["accumulation"] == 4
        assert ends[-1]["engine"]["halvings"] == 2
    # The second trial is of another shape here, so it learns for itself.
    assert [e["state"] for e in attempts(study)[0]] == ["released", "released", "done"]
    assert "rows a pass" in text


def test_nothing_left_to_halve_is_an_outcome_that_retry_attempts_again(tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    only = ("--only", "position=none")
    code, text = planted.run(study, *only, plant="oom:0:", report=True)
    assert code == 1
    assert states(study) == ["out of memory", "planned"]
    assert "none: out of memory: out of memory with 1 rows a pass after 3 halvings" in text
    assert planted.run(study)[0] == 1  # plain run leaves it, and trains the other
    assert states(study) == ["out of memory", "done"]
    assert planted.run(study, "--retry", "oom")[0] == 0
    assert states(study) == ["done"] * 2


def test_a_stack_is_halved_first(tmp_path: Path, calm: dict[str, list[float]]) -> None:
    study = planted.make(tmp_path, seeds=4)
    more = ("--stack", "4", "--only", "position=none")
    code, text = planted.run(study, *more, plant="stack:1:")
    assert code == 0, text
    for ends in attempts(study)[:4]:
        assert ends[-1]["engine"]["stack"] == 1
        assert ends[-1]["engine"]["halvings"] == 0
        assert ends[-1]["engine"]["micro_batch"] == 8
        assert len(ends) <= 3
    result = planted.plan_of(study).items[0].look.result
    assert result is not None
    ends = planted.plan_of(study).store.attempts(result.trial)[-1].end or {}
    assert list(arrays.unpack(ends["curves"]["loss"])) == calm["none"]


@pytest.mark.parametrize("name", ["SEGV", pytest.param("ABRT", marks=pytest.mark.full)])
def test_a_worker_that_kills_itself_counts_against_its_trial(tmp_path: Path, name: str) -> None:
    study = planted.make(tmp_path)
    code, text = planted.run(study, plant=f"{name}:7:{tmp_path / 'mark'}", report=True)
    assert code == 1
    plan = planted.plan_of(study)
    assert [i.state.state for i in plan.items] == ["failed", "done"]
    assert f"its worker died of SIG{name}" in plan.items[0].state.reason
    assert f"none: failed: its worker died of SIG{name}" in text
    assert planted.run(study, "--retry")[0] == 0
    assert states(study) == ["done", "done"]


@pytest.mark.parametrize(("kind", "said"), [("exit", "SystemExit: 3"), ("leave", "exit code 0")])
def test_a_trial_that_ends_its_worker_has_failed(tmp_path: Path, kind: str, said: str) -> None:
    study = planted.make(tmp_path)
    told = tmp_path / "told"
    tell = f'echo "$PARIBUS_EVENT $PARIBUS_TRIAL" >> {told}'
    code, text = planted.run(study, "--on-event", tell, plant=f"{kind}:7:{tmp_path / 'mark'}")
    assert code == 1, text
    plan = planted.plan_of(study)
    assert [i.state.state for i in plan.items] == ["failed", "done"]
    assert said in plan.items[0].state.reason
    wait_for(lambda: told.exists() and told.read_text().split("\n")[:2] == ["failed none", "done "])


@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_a_kill_from_outside_costs_nothing(
    tmp_path: Path, name: str, calm: dict[str, list[float]]
) -> None:
    study = planted.make(tmp_path)
    code, text = planted.run(study, plant=f"{name}:7:{tmp_path / 'mark'}")
    assert code == 0, text
    assert planted.losses(planted.plan_of(study)) == calm
    first = attempts(study)[0]
    assert [e["state"] for e in first] == ["fenced" if name == "KILL" else "released", "done"]


def test_a_trial_that_hangs_is_timed_out(tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    code, _ = planted.run(study, "--timeout", "4s", plant=f"hang:7:{tmp_path / 'mark'}")
    assert code == 1
    plan = planted.plan_of(study)
    assert [i.state.state for i in plan.items] == ["failed", "done"]
    assert "timed out: no step for" in plan.items[0].state.reason


def test_the_same_error_twice_and_fail_fast(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    study = planted.make(tmp_path / "first", seeds=2)
    code, text = planted.run(study, plant="raise:3:")
    assert code == 1
    assert states(study) == ["failed"] * 4
    assert "the same error came twice; --fail-fast would stop here" in text
    other = tmp_path / "other"
    other.mkdir()
    study = planted.make(other, seeds=2)
    code, text = planted.run(study, "--fail-fast", plant="raise:3:")
    assert code == 1
    assert states(study)[:2] == ["failed", "failed"]
    assert set(states(study)[2:]) <= {"planned", "interrupted"}


def test_an_io_error_in_the_data_is_waited_for(
    tmp_path: Path, calm: dict[str, list[float]]
) -> None:
    study = planted.make(tmp_path)
    code, text = planted.run(study, plant=f"disk:7:{tmp_path / 'mark'}")
    assert code == 0, text
    assert planted.losses(planted.plan_of(study)) == calm
    assert "No space left on device" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [("INT", 130), ("TERM", 75), pytest.param("USR1", 75, marks=pytest.mark.full)],
)
def test_a_signal_to_the_run_leaves_a_checkpoint(
    tmp_path: Path, name: str, expected: int, calm: dict[str, list[float]]
) -> None:
    study = planted.make(tmp_path)
    process = planted.start(study, plant="slow:150:")
    wait_for(lambda: any(s == "running" for s in states(study)))
    time.sleep(1.0)
    process.send_signal(getattr(signal, f"SIG{name}"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == expected, out + err
    plan = planted.plan_of(study)
    assert plan.items[0].state.state == "interrupted"
    assert plan.items[0].state.last_step > 0
    assert attempts(study)[0][0]["state"] == "released"
    assert planted.run(study)[0] == 0
    assert planted.losses(planted.plan_of(study)) == calm


def test_stop_after_and_stop(tmp_path: Path, calm: dict[str, list[float]]) -> None:
    study = planted.make(tmp_path)
    for seconds in (5, 8, 12):  # a busy machine takes longer to begin
        code, text = planted.run(study, "--stop-after", f"{seconds}s", plant="slow:400:")
        assert code == 75, text
        if states(study)[0] == "interrupted":
            break
    assert states(study)[0] == "interrupted"
    process = planted.start(study, plant="slow:400:")
    wait_for(lambda: "running" in states(study))
    done = subprocess.run(
        [*planted.command(study)[:3], "stop", str(study)], capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert planted.run(study)[0] == 0
    assert planted.losses(planted.plan_of(study)) == calm
    log = (tmp_path / "runs" / "studies" / "planted@main" / "run.log").read_text()
    assert "stopped: the time is over" in log
    assert "stopped: asked to stop" in log


def test_detached_it_survives_and_tells(tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    told = tmp_path / "told"
    code, text = planted.run(
        study, "--detach", "--on-event", f'echo "$PARIBUS_EVENT $PARIBUS_TRIAL" >> {told}'
    )
    assert code == 0
    assert "goes on without this terminal" in text
    wait_for(lambda: states(study) == ["done", "done"], 90)
    wait_for(lambda: told.exists() and "done" in told.read_text())
    log = (tmp_path / "runs" / "studies" / "planted@main" / "run.log").read_text()
    assert "none: done" in log


def test_force_trains_exactly_the_chosen_again(done: Path) -> None:
    study = done
    plan = planted.plan_of(study)
    before = [plan.store.result(i.trial.id) for i in plan.items]
    code, text = planted.run(study, "--force", "--only", "position=rope")
    assert code == 2
    assert "confirm with --yes" in text
    code, text = planted.run(study, "--force", "--only", "position=rope", "--yes")
    assert code == 0, text
    after = [plan.store.result(i.trial.id) for i in plan.items]
    numbers = [(b.number, a.number) for b, a in zip(before, after, strict=True) if a and b]
    assert numbers == [(1, 1), (1, 2)]
    assert all(a and b and a.end["weights"] == b.end["weights"]
               for a, b in zip(after, before, strict=True))  # fmt: skip
    assert before[1] is not None
    assert before[1].weights.exists()  # what was replaced is kept
    # One evaluation alone: superseded, kept, nothing trained.
    rope = plan.items[1].trial.id
    folder = after[1].evaluations if after[1] else done
    records = sorted(p.name for p in folder.iterdir())
    assert planted.run(study, "--force", "--only", "position=rope,span=4", "--yes")[0] == 0
    assert len(plan.store.attempts(rope)) == 2
    now = sorted(p.name for p in folder.iterdir())
    assert len(now) == len(records) + 1
    assert set(records) < set(now)


def test_limit_and_provenance(tmp_path: Path) -> None:
    study = planted.make(tmp_path, seeds=2)
    assert planted.run(study, "--limit", "1", report=True)[0] == 75  # there is more to do
    assert states(study) == ["done", "planned", "planned", "planned"]
    plan = planted.plan_of(study)
    (view,) = plan.store.attempts(plan.items[0].trial.id)
    about = json.loads((view.path / "provenance").read_text())
    assert about["engine"]["torch"]
    assert "packages" in about
    assert any("--limit" in word for word in about["command"])


def test_two_runs_share_the_work(tmp_path: Path) -> None:
    study = planted.make(tmp_path, seeds=3)
    other = planted.start(study, plant="slow:30:")
    code, text = planted.run(study, plant="slow:30:")
    out, err = other.communicate(timeout=120)
    assert [code, other.returncode] == [0, 0], text + out + err
    workers = set()
    plan = planted.plan_of(study)
    for item in plan.items:
        (view,) = plan.store.attempts(item.trial.id)
        assert view.claim is not None
        workers.add(view.claim["pid"])
    assert len(workers) == 2


def test_the_home_moves_to_no_other_place(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home below a link or another working directory is the same home."""
    assert planted.run(done)[0] == 0
    monkeypatch.chdir(done.parent.parent)
    assert planted.run(done)[0] == 0
    assert [len(a) for a in attempts(done)] == [1, 1]


WSD = """
from paribus import *
decay = Factor("decay", [0.2, 0.4, 0.6], "schedule.decay")
span = Factor("span", [4, 8], "task.span")
study = Study("trunks", "When should the decay start?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=16),
              optim=optim.adamw(lr=3e-3), schedule=schedules.wsd(decay=0.2), rows=8, steps=50),
    factors=[decay], seeds=2, evaluate=[Eval("copy", over=[span], every=10)])
"""


def test_trunks_are_trained_once_and_change_no_bit(tmp_path: Path) -> None:
    """Of 50 steps decays begin at 40, 30 and 20: for each seed 20 + 10 + 20 + 20 + 30 steps."""
    together, apart = tmp_path / "together", tmp_path / "apart"
    ends: list[list[dict[str, Any]]] = []
    for folder, more in ((together, []), (apart, ["--no-trunks"])):
        folder.mkdir()
        study = folder / "trunks.py"
        study.write_text(WSD)
        plan = planted.plan_of(study)
        told = plan.data()
        assert planted.run(study, *more)[0] == 0
        plan = planted.plan_of(study)
        results = [plan.store.result(i.trial.id) for i in plan.items]
        ends.append([r.end for r in results if r is not None])
        if not more:
            assert (told["steps"], told["steps_saved"], told["trunks"]) == (200, 100, 4)
            trained = 0
            for unit in plan.store.trials():
                (view,) = plan.store.attempts(unit)
                log = (view.path / "log").read_text()
                _, found, rest = log.partition("resumed at step ")
                start = int(rest.split()[0]) if found else 0
                assert view.end is not None
                trained += view.end["step"] - start
            assert trained == told["steps"]
    for a, b in zip(*ends, strict=True):
        for what in ("weights", "curves", "checks", "tokens", "targets", "step"):
            assert a[what] == b[what], what
        assert a["parent"]
        assert b["parent"] is None
    text = (together / "runs" / "studies" / "trunks@main" / "results.csv").read_text()
    assert ends[0][0]["parent"] in text


def memory_group() -> Path:
    """A control group with little memory; skips, loudly, where none can be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if "memory" not in kinds.split(","):
            continue
        for place in (f"/sys/fs/cgroup/memory{path}", "/sys/fs/cgroup/memory"):
            group = Path(place) / f"paribus-test-{os.getpid()}"
            try:
                group.mkdir()
                (group / "memory.limit_in_bytes").write_text(str(1_200_000_000))
                return group
            except OSError:
                continue
    pytest.skip("NO MEMORY CONTROL GROUP (v1) HERE: killing by the kernel is not tested")


def test_the_host_runs_out_of_memory(tmp_path: Path, calm: dict[str, list[float]]) -> None:
    """The kernel kills the worker: evidence enough to go on with half the rows."""
    group = memory_group()
    try:
        study = planted.make(tmp_path)
        inside = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        done = subprocess.run(
            [*inside, *planted.command(study, "--only", "position=none")],
            env={**os.environ, "PLANT": "hog:4:"}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "killed by the kernel" in done.stderr
        first, last = attempts(study)[0]
        assert first["state"] == "released"
        assert last["engine"]["micro_batch"] == 4
        found = list(arrays.unpack(last["curves"]["loss"]))
        assert found == pytest.approx(calm["none"], rel=1e-5)
    finally:
        group.rmdir()


SHARED = """
from paribus import *
position = Factor("position", LEVELS, "model.position")
study = Study("NAME", "?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=16),
              optim=optim.adamw(lr=3e-3), schedule=schedules.cosine(warmup=2), rows=8, steps=8),
    factors=[position], evaluate=[Eval("copy")])
"""


def test_shared_trials_and_revisions(tmp_path: Path) -> None:
    """A trial of two studies is trained once; another revision of a part reruns what uses it."""
    here = tmp_path / "parts" / "positions"
    here.mkdir(parents=True)
    shipped = planted.SHIPPED.parents[1] / "nn" / "positions" / "alibi.py"
    mine = here / "mine.py"
    text = shipped.read_text().replace("class Alibi(", "class Mine(")
    mine.write_text(text)
    studies = {
        "one": '{"none": None, "rope": positions.rope(), "mine": positions.mine()}',
        "two": '{"rope": positions.rope(), "mine": positions.mine(), "alibi": positions.alibi()}',
    }
    for name, levels in studies.items():
        study = tmp_path / f"{name}.py"
        study.write_text(SHARED.replace("LEVELS", levels).replace("NAME", name))
        code, said = planted.run(study)
        assert code == 0, said
    store = planted.plan_of(tmp_path / "one.py").store
    assert len(store.trials()) == 4
    assert all(len(store.attempts(t)) == 1 for t in store.trials())
    assert planted.plan_of(tmp_path / "two.py").shared() == 2

    mine.write_text(text + "\n# another revision\n")
    plan = planted.plan_of(tmp_path / "one.py")
    assert [i.trial.name for i in plan.to_train()] == ["mine"]
    assert planted.run(tmp_path / "one.py")[0] == 0
    assert len(store.trials()) == 5
    assert all(len(store.attempts(t)) == 1 for t in store.trials())


def test_a_revision_of_a_shipped_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paribus import positions

    study = tmp_path / "one.py"
    levels = '{"none": None, "rope": positions.rope(), "alibi": positions.alibi()}'
    study.write_text(SHARED.replace("LEVELS", levels).replace("NAME", "one"))
    before = {i.trial.name: i.trial.id for i in planted.plan_of(study).items}
    monkeypatch.setattr(type(positions.rope()), "revision", 77)
    after = {i.trial.name: i.trial.id for i in planted.plan_of(study).items}
    assert [n for n in before if before[n] != after[n]] == ["rope"]


def test_status_says_what_a_run_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that another user's process fills, as nvidia-smi would tell it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*query-gpu*) echo '0, GPU-1234, NVIDIA H200, 143771, 140000, 99, 580.1';;\n"
        "esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    study = planted.make(tmp_path)
    process = planted.start(study, "--gpus", "0", "--until", "6s")
    try:
        status = [*planted.command(study)[:3], "status", str(study)]

        def waits() -> bool:
            done = subprocess.run(status, capture_output=True, text=True, timeout=60)
            return "waits: GPU 0:" in done.stdout and "in use by another process" in done.stdout

        wait_for(waits)
    finally:
        _, text = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert "waiting: GPU 0:" in text

"""The doctor finds each planted fault and names it; a healthy home and machine are fine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest

from paribus import doctor
from paribus.cli import main
from paribus.doctor import contents, home, machine
from paribus.doctor.finding import Finding
from paribus.store import Store, init_home

REPO = Path(__file__).parents[1]
RECORD = {"metrics": {"loss": 1.5}, "status": "done"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A home with a trial that is done and evaluated, one that was given back, and their study."""
    store = Store(tmp_path / "runs")
    init_home(store.home)
    study_file = tmp_path / "norm.py"
    study_file.write_text("study = 1\n")
    worker = store.new_worker()
    store.declare("t1", {"lr": 0.1})
    attempt = store.open("t1", worker.id)
    assert attempt is not None
    attempt.log("begins")
    attempt.seal(5, {"state": b"s" * 1000}, {})
    attempt.finish(b"w" * 1000, {"step": 10}, keep=1)
    claim = store.claim_evaluation("t1", "c1", worker.id)
    assert claim is not None
    claim.publish(RECORD)
    store.declare("t2", {"lr": 0.2})
    attempt = store.open("t2", worker.id)
    assert attempt is not None
    attempt.seal(3, {"state": b"s" * 500, "notes": b"{}"}, {})
    attempt.seal(6, {"state": b"S" * 500, "notes": b"{}"}, {})
    attempt.end("released", "asked to stop")
    worker.close()
    record = {"file": str(study_file), "trials": [{"name": "key-s1", "id": "t1"}]}
    store.write_study("norm@small", {**record, "registration": {"h": 1}}, {"trials": 1})
    return store


def place(store: Store, trial: str = "t1") -> Path:
    return store.trial_dir(trial) / "attempts" / "1"


def findings(store: Store) -> list[Finding]:
    return list(home.check_home(store.home))


def wrong(store: Store) -> list[str]:
    """Notes and failures."""
    return [f"{f.level} {f.text}" for f in findings(store) if f.level != "ok"]


def only(store: Store) -> str:
    """The one thing that is wrong."""
    (text,) = wrong(store)
    return text


def shape(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


# ── healthy ─────────────────────────────────────────────────────────────────────────────────────


def test_a_healthy_home(store):
    before = shape(store.home)
    assert wrong(store) == []
    assert shape(store.home) == before  # nothing stays behind
    said = {f.about: f.text for f in findings(store)}
    assert said["trials"] == "1 done, 1 interrupted"
    assert "O_EXCL, hard links, fsync, publishing in" in said["writing"]
    assert said["hashes"].startswith("6 files")


def test_no_home_is_fine(tmp_path):
    (finding,) = home.check_home(tmp_path / "no" / "runs")
    assert finding.level == "ok" and "the first `paribus run` makes it" in finding.text
    assert not (tmp_path / "no").exists()


def test_the_verb(store, capsys):
    began = time.monotonic()
    assert main(["doctor", "--home", str(store.home), "--json"]) == 0
    assert time.monotonic() - began < 120
    data = json.loads(capsys.readouterr().out)
    assert data["failed"] == 0 and data["home"] == str(store.home)
    assert {"python", "torch", "memory", "GPUs", "writing"} <= {c["about"] for c in data["checks"]}
    assert {c["level"] for c in data["checks"]} <= {"ok", "note"}


def test_the_verb_in_words(store, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "check_machine", lambda: iter([Finding("python", "ok", "3.12")]))
    assert doctor.do_doctor(Namespace(home=str(store.home), json=False)) == 0
    (store.trial_dir("t1") / "attempts/1/end").write_text("{")
    assert doctor.do_doctor(Namespace(home=str(store.home), json=False)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "machine" and lines[1].split() == ["ok", "python", "3.12"]
    assert any(line.startswith("  FAILED  files        trials/t1/attempts/1/end") for line in lines)
    assert lines[-1].endswith("checks: 1 failed, 0 with a note")
    monkeypatch.setenv("PARIBUS_HOME", str(store.home))
    assert doctor.do_doctor(Namespace(home=None, json=False)) == 1


# ── damaged files ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "then"),
    [
        ("trials/t1/spec.json", "the next run writes it again"),
        ("trials/t1/attempts/1/claim", "nothing is lost"),
        ("trials/t2/attempts/1/end", "goes on from its last checkpoint"),
        ("trials/t1/attempts/1/evaluations/c1.1", "the evaluation is done again"),
        ("studies/norm@small/study.json", "registers the study anew"),
        ("studies/norm@small/plan.json", "the next run writes it again"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "empty", "binary", "no object"])
def test_a_damaged_file_is_named(store, path, then, damage):
    file = store.home / path
    whole = file.read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "empty": b"", "binary": b"\xff\x00", "no object": b"[]"}
    file.write_bytes(bad[damage])
    text = only(store)
    heals = any(word in path for word in ("spec.json", "plan.json", "c1.1"))
    level = "note" if heals else "FAILED"
    assert text.startswith(f"{level} {path} is damaged; ")
    assert then in text
    if path.startswith("trials/t1/attempts"):  # what is said to help helps
        file.unlink()
        assert wrong(store) == []
        assert store.state("t1").state == "done"


def test_a_damaged_end_deleted_goes_on_from_the_checkpoint(store):
    (place(store, "t2") / "end").write_bytes(b"{")
    assert "FAILED" in only(store)
    (place(store, "t2") / "end").unlink()
    worker = store.new_worker()
    # This very process claimed it; a new worker's name is another owner who lives.
    assert store.state("t2").last_step == 6
    worker.close()


def test_a_damaged_record_deleted_is_evaluated_again(store):
    (place(store) / "evaluations" / "c1.1").write_bytes(b'{"metrics": {"lo')
    assert "c1.1 is damaged" in only(store)
    (place(store) / "evaluations" / "c1.1").unlink()
    worker = store.new_worker()
    assert store.claim_evaluation("t1", "c1", worker.id) is not None
    worker.close()


def test_a_corrupt_manifest_and_damaged_checkpoints(store):
    steps = place(store, "t2") / "checkpoints"
    (steps / "6" / "manifest").write_bytes(b'{"step": 6, "files": {"sta')
    assert "attempts/1/checkpoints/6/manifest is damaged: passed over" in only(store)
    (steps / "3" / "state").write_bytes(b"short")
    assert any("3/state has 5 bytes instead of 500: passed over" in t for t in wrong(store))
    (steps / "3" / "state").write_bytes(b"x" * 500)
    assert any("3/state is not what was sealed: passed over" in t for t in wrong(store))
    (steps / "3" / "state").unlink()
    assert any("3/state is missing: passed over" in t for t in wrong(store))
    assert not any(t.startswith("FAILED") for t in wrong(store))


def test_weights(store):
    (place(store) / "weights").write_bytes(b"v" * 1000)
    assert only(store).startswith("FAILED trials/t1/attempts/1/weights is not what was sealed")
    (place(store) / "weights").unlink()
    text = only(store)
    assert text.startswith("note key-s1 (trials/t1/attempts/1): its weights are gone")
    assert "--retry lost" in text


def test_what_is_not_verified_is_said(store, monkeypatch):
    monkeypatch.setattr(contents, "HASH_SECONDS", 0.0)
    assert "6 not, for want of time" in only(store)


def test_many_findings_are_shortened(store, monkeypatch):
    monkeypatch.setattr(contents, "SHOWN", 3)
    for i in range(10):
        store.declare(f"u{i}", {"i": i})
        (store.trial_dir(f"u{i}") / "spec.json").write_bytes(b"")
    assert wrong(store)[-1] == "note … and 7 more" and len(wrong(store)) == 4


# ── left behind ─────────────────────────────────────────────────────────────────────────────────


def test_temporary_files_of_killed_writers(store):
    young, old = place(store) / ".end-0123", place(store) / "evaluations" / ".c2.1-4567"
    young.write_bytes(b"x")
    assert wrong(store) == []  # somebody may be writing it
    old.write_bytes(b"x" * 3000)
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    text = only(store)
    assert "1 temporary files of killed writers, 3 KB" in text and ".c2.1-4567" in text
    assert "paribus gc" in text


def test_what_a_killed_doctor_left_is_removed(store):
    left = store.home / ".doctor-0123"
    left.mkdir()
    findings(store)
    assert left.exists()  # it may still be at work
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    assert wrong(store) == [] and not left.exists()


CLAIM = """
import sys, time
from pathlib import Path
from paribus.store import Store
store = Store(Path(sys.argv[1]))
worker = store.new_worker()
attempt = store.open("t2", worker.id)
worker.step, worker.mark = 7, sys.argv[2]
worker.beat()
print("ready", flush=True)
sys.stdin.read()
"""


def claimed(store: Store, mark: str = "-") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(store.home), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_a_lost_owner(store):
    process = claimed(store)
    assert wrong(store) == []
    process.kill()
    process.communicate()
    first, second = wrong(store)
    assert f"process {process.pid} on" in first and "is gone; the next run goes on" in first
    assert "1 files of workers that were killed" in second


def test_workers_that_are_blocked_stopped_or_silent(store):
    process = claimed(store, "d")
    try:
        assert "waits for the disk, at step 7; it goes on by itself" in only(store)
        os.kill(process.pid, 19)
        while contents._letter(process.pid) != "T":
            time.sleep(0.01)
        assert f"is stopped, at step 7; kill -CONT {process.pid}" in only(store)
        beat = next(p for p in (store.home / "workers").iterdir() if str(process.pid) in p.name)
        os.kill(process.pid, 18)
        while contents._letter(process.pid) == "T":
            time.sleep(0.01)
        os.utime(beat, (time.time() - 1200, time.time() - 1200))
        assert "has given no sign of life for 20 min" in only(store)
        os.utime(beat)
        beat.write_bytes(beat.read_bytes().replace(b"d", b"-", 1))
        for name in ("claim", "checkpoints"):
            path = store.trial_dir("t2") / "attempts" / "2" / name
            if path.exists():
                os.utime(path, (time.time() - 9000, time.time() - 9000))
        assert "has written nothing for 150 min" in only(store)
    finally:
        process.kill()
        process.communicate()


def test_a_study_file_that_moved(store, tmp_path):
    (tmp_path / "norm.py").rename(tmp_path / "new.py")
    assert "norm@small: its study file is no longer at" in only(store)


# ── where it lies ───────────────────────────────────────────────────────────────────────────────


def test_a_newer_format(store):
    (store.home / ".paribus").write_text("Results of paribus.\nformat 99\n")
    text = wrong(store)[0]
    assert text.startswith("FAILED") and "99" in text and "upgrade" in text
    assert all(f.about not in ("trials", "writing") for f in findings(store))  # not looked at


def test_a_home_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    (finding,) = home.check_home(tmp_path / "file")
    assert finding.level == "FAILED"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    assert any("files of others" in f.text for f in home.check_home(tmp_path / "thesis"))


SHOW = """
import sys
from pathlib import Path
from paribus.doctor.home import check_home
for f in check_home(Path(sys.argv[1])):
    print(f.level, f.about, f.text)
"""


def mounted(folder: Path, *mount: str) -> str:
    """What the doctor says of a folder after a mount in a namespace of its own (root only)."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting needs root")
    script = " && ".join([*mount, 'exec "$0" "$@"'])
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, "-c", SHOW, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_read_only_home(store):
    if os.geteuid() == 0:
        where = str(store.home)
        said = mounted(
            store.home, f"mount --bind {where} {where}", f"mount -o remount,bind,ro {where}"
        )
    else:
        store.home.chmod(0o555)
        said = "\n".join(f"{f.level} {f.about} {f.text}" for f in findings(store))
        store.home.chmod(0o755)
    assert "FAILED writing" in said and "results can be read" in said
    assert "ok trials 1 done, 1 interrupted" in said  # it is looked at all the same
    assert "ok files" in said


def test_a_small_tmpfs(store):
    where = str(store.home)
    said = mounted(store.home, f"mount -t tmpfs -o size=4m tmpfs {where}")
    assert "FAILED space" in said and "paribus gc" in said
    assert "note file system tmpfs: results are gone when the machine restarts" in said


def test_a_disk_that_cannot_link(store, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    said = [f for f in findings(store) if f.level == "FAILED"]
    assert len(said) == 1 and "hard links: Operation not permitted" in said[0].text
    assert not list(store.home.glob(".doctor*"))


def test_file_systems(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nsrv:/x /data nfs4 rw 0 0\nsrv:/y /da\\040ta lustre rw 0 0\n"
        "tmpfs /data/fast tmpfs rw 0 0\n"
    )
    for path, kind in {
        "/home/x": "ext4", "/data/runs": "nfs4", "/data": "nfs4", "/database": "ext4",
        "/da ta/runs": "lustre", "/data/fast/runs": "tmpfs",
    }.items():  # fmt: skip
        assert home.file_system(Path(path), mounts) == kind, path
    assert home.file_system(Path("/"), tmp_path / "none") == ""


def test_a_home_on_a_network(store, monkeypatch):
    monkeypatch.setattr(home, "file_system", lambda path: "nfs4")
    assert "found by their beats" in only(store)


# ── the machine ─────────────────────────────────────────────────────────────────────────────────


def test_versions_are_those_of_the_package():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    needed = dict(d.split(">=") for d in project["dependencies"])
    extra = dict(d.split(">=") for d in project["optional-dependencies"]["hf"])
    assert needed == machine.NEEDED and extra == machine.WANTED
    low, high = (".".join(map(str, v)) for v in machine.PYTHONS)
    assert project["requires-python"] == f">={low},<{high}"


def test_old_and_missing_packages(monkeypatch):
    monkeypatch.setitem(machine.NEEDED, "numpy", "99.0")
    monkeypatch.setitem(machine.NEEDED, "no-such-package", "1.0")
    said = [f.text for f in machine._versions() if f.level == "FAILED"]
    assert len(said) == 2
    assert "older than 99.0: pip install -U 'numpy>=99.0'" in said[0]
    assert said[1].startswith("no-such-package is not installed")
    assert machine._numbers("2.11.0+cu128") > machine._numbers("2.9.1")
    assert machine._numbers("2.11.0a0+git") >= machine._numbers("2.11")


def test_torch_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.99: cannot open')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = machine._torch(0)
    assert finding.level == "FAILED" and "libcudart.so.99" in finding.text
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)\n")
    monkeypatch.setattr(machine, "TORCH_SECONDS", 0.5)
    (finding,) = machine._torch(0)
    assert finding.level == "FAILED" and "did not answer in 0.5 s" in finding.text


def cgroup(root: Path, lines: str, files: dict[str, str]) -> None:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(lines)
    for name, content in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_limits_of_control_groups(tmp_path):
    one, two, host, none = (tmp_path / name for name in ("v1", "v2", "host", "none"))
    cgroup(
        two,
        "0::/user/job\n",
        {
            "memory.max": "max\n",
            "user/memory.max": "4000000\n",
            "user/job/memory.max": "9000000\n",
            "user/job/cpu.max": "250000 100000\n",
            "user/cpu.max": "max 100000\n",
        },
    )
    assert (machine.memory_limit(two), machine.cpu_limit(two)) == (4_000_000, 2.5)
    cgroup(
        one,
        "9:memory:/job\n4:cpu,cpuacct:/job\n",
        {
            "memory/job/memory.limit_in_bytes": "5000000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu/job/cpu.cfs_quota_us": "150000\n",
            "cpu/job/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert (machine.memory_limit(one), machine.cpu_limit(one)) == (5_000_000, 1.5)
    # In a container the path is the host's, and its own limits lie at the top.
    cgroup(host, "0::/system/docker-77\n", {"memory.max": "7000000\n"})
    assert machine.memory_limit(host) == 7_000_000
    assert machine.memory_limit(none) is None and machine.cpu_limit(none) is None


def test_a_busy_gpu_and_a_broken_driver(monkeypatch):
    from paribus.launch.gpus import Gpu

    monkeypatch.setattr(machine, "_torch", lambda expected: iter(()))
    shown = [Gpu(0, "GPU-a", "H200", 150 * 10**9, 60 * 10**9), Gpu(1, "GPU-b", "A100", 0, 0)]
    monkeypatch.setattr(machine, "look", lambda: (shown, ""))
    said = [f"{f.level} {f.text}" for f in machine._gpus()]
    assert said[0].startswith("ok H200, 60 GB of 150 GB in use")
    assert "note GPU 0: 60 GB in use by another process: run waits" in said[1]
    assert "size not said" in said[2]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in said[3]
    monkeypatch.setattr(machine, "look", lambda: ([], "nvidia-smi: driver/library mismatch"))
    assert [f.level for f in machine._gpus()] == ["FAILED"]

"""What is kept of where a run comes from, in real git repositories."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from paribus.store import provenance
from paribus.store.provenance import collect, environment, read_diff, repository


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git that neither reads the tester's settings nor finds a repository above the folder."""
    (tmp_path / "gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    (folder / "studies").mkdir(parents=True)
    (folder / "studies" / "norm.py").write_text("study = 1\n")
    (folder / "model.py").write_text("width = 64\n")
    (folder / ".gitignore").write_text("*.pt\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content: what a program that writes nothing leaves as it was."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_clean_repository(repo):
    about = collect(repo / "studies" / "norm.py", ["paribus", "run", "norm.py"])
    source = about["repository"]
    assert source["commit"] == git(repo, "rev-parse", "HEAD")
    assert (source["root"], source["branch"]) == (str(repo), "main")
    assert (source["dirty"], source["diff"], source["untracked"]) == (False, None, [])
    assert source["diff_truncated"] is False and source["reason"] == ""
    assert read_diff(about) == ""
    assert about["command"] == ["paribus", "run", "norm.py"]
    assert json.loads(json.dumps(about)) == about


def test_the_diff_makes_the_working_tree_again(repo, tmp_path):
    (repo / "model.py").write_text("width = 128\n")
    git(repo, "add", "model.py")
    (repo / "studies" / "norm.py").write_text("study = 2  # naïve\n")
    (repo / "new.py").write_text("staged = True\n")
    git(repo, "add", "new.py")
    (repo / "notes").mkdir()
    (repo / "notes" / "a b.txt").write_text("not tracked")
    (repo / "weights.pt").write_text("ignored")
    about = collect(repo / "studies" / "norm.py", [])
    source = about["repository"]
    assert source["dirty"] is True
    assert (source["untracked"], source["untracked_count"]) == (["notes/"], 1)
    diff = read_diff(about)
    assert source["diff_bytes"] == len(diff.encode())
    assert source["diff_sha256"] == hashlib.sha256(diff.encode()).hexdigest()

    git(tmp_path, "clone", "-q", str(repo), "again")
    (tmp_path / "change.diff").write_bytes(diff.encode())
    git(tmp_path / "again", "apply", str(tmp_path / "change.diff"))
    for name in ("model.py", "studies/norm.py", "new.py"):
        assert (tmp_path / "again" / name).read_bytes() == (repo / name).read_bytes()


def test_settings_of_the_person_do_not_change_the_diff(repo, tmp_path):
    (repo / "model.py").write_text("width = 128\n")
    plain = repository(repo / "studies")
    with open(tmp_path / "gitconfig", "a") as file:
        file.write(
            "[diff]\nnoprefix = true\nrelative = true\nexternal = /bin/false\nmnemonicPrefix = 1\n"
            "[color]\nui = always\n[core]\npager = less\nfsmonitor = /bin/false\n"
        )
    assert repository(repo / "studies") == plain


def test_git_writes_nothing(repo):
    # Newer times without newer content make `git status` refresh the index.
    for path in (repo / "model.py", repo / "studies" / "norm.py"):
        os.utime(path, ns=(2_000_000_000 * 10**9, 2_000_000_000 * 10**9))
    before = files(repo)
    assert repository(repo)["dirty"] is False
    assert files(repo) == before


def test_a_long_diff_is_cut_loudly_and_hashed_whole(repo):
    lines = "".join(f"line {i} with something in it\n" for i in range(40_000))
    (repo / "model.py").write_text(lines)
    source = repository(repo)
    assert source["diff_truncated"] is True
    assert source["diff_bytes"] > len(lines)
    whole = subprocess.run(
        ["git", "diff", "--full-index", "HEAD"], cwd=repo, capture_output=True, check=True
    ).stdout
    assert source["diff_sha256"] == hashlib.sha256(whole).hexdigest()
    text = read_diff(source)
    assert whole.decode().startswith(text[: provenance.DIFF_LIMIT])
    assert "[cut here: 262144 of" in text.splitlines()[-1]
    assert len(json.dumps(source)) < 2 * provenance.DIFF_LIMIT


def test_a_binary_file_is_named_with_its_hash(repo):
    (repo / "table.bin").write_bytes(bytes(range(256)) * 4000)
    git(repo, "add", "table.bin")
    git(repo, "commit", "-qm", "second")
    (repo / "table.bin").write_bytes(bytes(reversed(range(256))) * 4000)
    text = read_diff(repository(repo))
    assert "Binary files a/table.bin and b/table.bin differ" in text
    assert git(repo, "hash-object", "table.bin") in text and len(text) < 1000


def test_many_untracked_names_are_counted(repo, monkeypatch):
    monkeypatch.setattr(provenance, "UNTRACKED_LIMIT", 3)
    for i in range(5):
        (repo / f"scratch{i}.txt").write_text("")
    source = repository(repo)
    assert len(source["untracked"]) == 3 and source["untracked_count"] == 5
    assert source["dirty"] is False


def test_a_repository_without_a_commit(tmp_path):
    git(tmp_path, "init", "-q", "young")
    (tmp_path / "young" / "a.py").write_text("a = 1\n")
    git(tmp_path / "young", "add", "a.py")
    source = repository(tmp_path / "young")
    assert source["commit"] is None and "no commit" in source["reason"]
    assert source["dirty"] is True and "+a = 1" in read_diff(source)


def test_no_repository_and_no_git(tmp_path, monkeypatch):
    source = repository(tmp_path)
    assert source["commit"] is None and "not a git repository" in source["reason"]
    assert read_diff(source) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    about = collect(tmp_path / "study.py", [])
    assert about["repository"]["reason"] == "git is not installed"
    assert about["repository"]["diff_truncated"] is None


def test_a_git_that_hangs(repo, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    assert repository(repo)["reason"] == "git did not answer in 0.2 s"


def test_a_diff_that_does_not_end_is_said(repo, tmp_path, monkeypatch):
    (repo / "model.py").write_text("width = 128\n")
    real = subprocess.run(["which", "git"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(
        f'#!/bin/sh\n{real} "$@"\ncase "$*" in *" diff "*) sleep 60;; esac\n'
    )
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 1.0)
    source = repository(repo)
    assert source["diff_truncated"] is True and source["diff_sha256"] is None
    assert "did not answer" in source["reason"] and "+width = 128" in read_diff(source)


def test_the_repository_of_a_hook_is_not_taken(repo, tmp_path, monkeypatch):
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert repository(repo)["root"] == str(repo)


def test_the_nearest_lock_file(repo):
    def lock() -> dict[str, str] | None:
        found = collect(repo / "studies" / "norm.py", [])["lock"]
        return found and {**found, "file": os.path.relpath(found["file"], repo)}

    (repo.parent / "requirements.txt").write_text("of another project")  # above the repository
    assert lock() is None
    (repo / "requirements.txt").write_text("torch")
    (repo / "uv.lock").write_text("version = 1")
    digest = hashlib.sha256(b"version = 1").hexdigest()
    assert lock() == {"file": "uv.lock", "sha256": digest}
    (repo / "studies" / "requirements.txt").write_text("torch")
    assert lock()["file"] == "studies/requirements.txt"


def test_environment_without_secrets():
    given = {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "OMP_NUM_THREADS": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_DEBUG": "INFO",
        "SLURM_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "3",
        "PARIBUS_HOME": "/data/runs",
        "PYTHONHASHSEED": "0",
    }
    hidden = {
        "HF_TOKEN": "x", "WANDB_API_KEY": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": "/home/ada",
        "TORCH_API_KEY": "x", "NCCL_AUTH": "x", "PARIBUS_TOKEN": "x", "SLURM_JWT": "x",
        "TORCH_MIRROR": "https://ada:password@example.org", "MY_CUDA_HOME": "x",
    }  # fmt: skip
    assert environment({**given, **hidden}) == given


def test_paribus_python_and_packages(repo):
    about = collect(repo / "studies" / "norm.py", [])
    assert set(about["packages"]) >= {"numpy", "msgspec"}
    assert about["python"]["version"] and about["host"] and about["user"]
    own = about["paribus"]
    assert own["version"]
    if own["repository"] is not None:  # these tests run from a checkout, or from an installation
        assert own["commit"] == own["repository"]["commit"]
        assert (Path(own["repository"]["root"]) / "pyproject.toml").is_file()

"""Where a run comes from: the code, the versions, the command, the machine.

`collect` is called once a run; its answer is JSON and is put into every attempt (see
Attempt.describe).  It never fails and never hangs: what cannot be known is null with a reason.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paribus._version import __version__
from paribus.outside import Answer, ask
from paribus.store.owners import now

DIFF_LIMIT = 256 * 1024
"""Bytes of a diff that are kept; its hash is of all of it."""

UNTRACKED_LIMIT = 1000
"""Names of untracked files that are kept; all are counted."""

GIT_SECONDS = 20.0

PACKAGES = (
    "torch numpy scipy msgspec safetensors triton flash-attn transformers datasets tokenizers "
    "pyarrow accelerate kernels torchao jinja2 matplotlib nvidia-cudnn-cu12 nvidia-cudnn-cu13 "
    "nvidia-cublas-cu12 nvidia-cublas nvidia-nccl-cu12 nvidia-nccl-cu13 mkl"
).split()

LOCKS = ("uv.lock", "poetry.lock", "pdm.lock", "pixi.lock", "constraints.txt", "requirements.txt")

_VARIABLES = re.compile(
    r"(CUDA|CUBLAS|CUDNN|NCCL|PYTORCH|TORCH|TORCHINDUCTOR|TRITON|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS"
    r"|DNNL|ONEDNN|ATEN|NVIDIA|PARIBUS|VECLIB|MALLOC|SLURM_ARRAY)_\w+"
    r"|PYTHONHASHSEED|PYTHONPATH|LD_PRELOAD|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_DEFAULT_ENV"
    r"|TOKENIZERS_PARALLELISM|HF_HUB_OFFLINE|HF_DATASETS_OFFLINE"
    r"|SLURM_(JOB_ID|JOB_PARTITION|NODELIST|PROCID|CPUS_PER_TASK|RESTART_COUNT)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|(^|_)(API|ACCESS|PRIVATE)?_?KEY")


def collect(study_file: Path, command: Sequence[str]) -> dict[str, Any]:
    """What made the results of this run, as JSON.

    repository: of the study file, see `repository`.  paribus: {version, commit (of an installation
    from a repository), repository (if it runs from a checkout, else null)}.  python, platform,
    host, user, folder, command, at.  packages: name -> version of those installed.  lock: {file,
    sha256} of the nearest lock file, or null.  environment: the variables that change numbers or
    devices, without anything that looks like a secret.  gpus: {driver, names}, or null.
    """
    study_file = Path(study_file).absolute()
    source = repository(study_file.parent)
    return {
        "at": now(),
        "study": str(study_file),
        "command": list(command),
        "folder": os.getcwd(),
        "repository": source,
        "paribus": _paribus(source),
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "platform": {"system": platform.platform(), "machine": platform.machine()},
        "host": socket.gethostname(),
        "user": _user(),
        "packages": packages(),
        "lock": _lock(study_file.parent, source["root"]),
        "environment": environment(os.environ),
        "gpus": _gpus(),
    }


def read_diff(about: Mapping[str, Any]) -> str:
    """The diff in what `collect` (or `repository`) returned: "" if there is none.

    One that was cut ends with a line that says so.  Bytes that are no UTF-8 are replaced.
    """
    source = about.get("repository", about) or {}
    if not source.get("diff"):
        return ""
    text = zlib.decompress(base64.b64decode(source["diff"])).decode(errors="replace")
    if source.get("diff_truncated"):
        text += f"\n[cut here: {DIFF_LIMIT} of {source['diff_bytes']} bytes were kept]\n"
    return text


# ── the code ────────────────────────────────────────────────────────────────────────────────────


def repository(folder: Path) -> dict[str, Any]:
    """The git repository in which `folder` lies; nothing is written into it.

    commit, branch; dirty: whether tracked files differ from the commit, staged or not; diff: that
    difference as zlib in base64 (null if there is none), of at most `DIFF_LIMIT` bytes, with
    diff_bytes, diff_sha256 (of all of it; null if it could not be read to its end) and
    diff_truncated; binary files are named there with their hashes.  untracked: names of files and
    folders that git neither tracks nor ignores, the first `UNTRACKED_LIMIT` of untracked_count.
    Without git, a repository or a commit, these are null and `reason` says why.
    """
    keys = "root commit branch dirty diff diff_bytes diff_sha256 diff_truncated untracked"
    about: dict[str, Any] = dict.fromkeys([*keys.split(), "untracked_count"])
    about["reason"] = ""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top.trouble:
        about["reason"] = top.trouble
        return about
    about["root"] = top.out.decode(errors="surrogateescape").rstrip("\n")
    root = Path(about["root"])
    about["root"] = str(root).encode(errors="replace").decode()
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    base = commit.text
    if commit.trouble:
        about["reason"] = "the repository has no commit yet"
        base = _git(root, "hash-object", "-t", "tree", os.devnull).text  # the empty tree
    else:
        about["commit"] = base
        about["branch"] = _git(root, "symbolic-ref", "--short", "--quiet", "HEAD").text or None
    _compare(about, root, base)
    return about


def _compare(about: dict[str, Any], root: Path, base: str) -> None:
    """Fill in how the working tree differs from `base`."""
    diff = _git(
        root, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
        "--no-relative", "--full-index", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/",
        base, "--", keep=DIFF_LIMIT,
    )  # fmt: skip
    if diff.trouble:
        about["reason"] = f"the diff is not whole: {diff.trouble}"
    if diff.size or not diff.trouble:
        about["dirty"] = bool(diff.size)
        about["diff_bytes"] = diff.size
        about["diff_sha256"] = diff.sha256 or None
        about["diff_truncated"] = bool(diff.trouble) or diff.size > DIFF_LIMIT
    if diff.size:
        about["diff"] = base64.b64encode(zlib.compress(diff.out, 9)).decode()
    others = _git(root, "ls-files", "--others", "--exclude-standard", "--directory",
                  "--no-empty-directory", "-z", keep=8 << 20)  # fmt: skip
    if others.trouble:
        about["reason"] = about["reason"] or f"untracked files: {others.trouble}"
        return
    names = [n for n in others.out.decode(errors="replace").split("\0") if n]
    about["untracked"], about["untracked_count"] = names[:UNTRACKED_LIMIT], len(names)


def _git(folder: Path, *arguments: str, keep: int = 1 << 20) -> Answer:
    """git that writes nothing (no index refresh, no daemon), asks nothing and ends in time."""
    settings = ("core.fsmonitor=false", "diff.autoRefreshIndex=false", "core.quotePath=false")
    options = [part for setting in settings for part in ("-c", setting)]
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat"}
    # In a hook these name the repository of the hook.
    unset = dict.fromkeys(("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"))
    command = ["git", "--no-pager", *options, *arguments]
    return ask(command, cwd=folder, environment={**quiet, **unset}, seconds=GIT_SECONDS, keep=keep)


def _paribus(study: Mapping[str, Any]) -> dict[str, Any]:
    folder = Path(__file__).resolve().parents[1]
    about: dict[str, Any] = {"version": __version__, "commit": None, "repository": None}
    with suppress(Exception):  # an installation's notes may be missing, or anything
        told = importlib.metadata.distribution("paribus").read_text("direct_url.json")
        about["commit"] = json.loads(told or "{}").get("vcs_info", {}).get("commit_id")
    # In a repository but not part of it: an environment's folder inside somebody's project.
    if not _git(folder, "ls-files", "--error-unmatch", "--", "__init__.py").trouble:
        source = repository(folder)
        if source["root"] == study["root"]:
            source = {"root": source["root"], "commit": source["commit"], "dirty": source["dirty"]}
        about["repository"] = source
        about["commit"] = source["commit"]
    return about


# ── the machine ─────────────────────────────────────────────────────────────────────────────────


def packages() -> dict[str, str]:
    """Name -> version of the packages of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(Exception):  # not installed, or its notes are damaged
            found[name] = importlib.metadata.version(name)
    return found


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that change numbers or devices; none whose name or value looks like a secret."""
    return {
        name: value
        for name, value in sorted(variables.items())
        if _VARIABLES.fullmatch(name) and not _SECRET.search(name) and "://" not in value
    }


def _lock(folder: Path, root: str | None) -> dict[str, str] | None:
    """The nearest lock file, from `folder` up to the repository's root."""
    for place in (folder, *folder.parents):
        for name in LOCKS:
            with suppress(OSError), open(place / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return {"file": str(place / name), "sha256": digest}
        if root is not None and place.resolve() == Path(root).resolve():
            break
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return str(os.getuid())


def _gpus() -> dict[str, Any] | None:
    answer = ask(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"])
    rows = [line.split(",", 1) for line in answer.text.splitlines() if "," in line]
    if answer.trouble or not rows:
        return None
    return {"driver": rows[0][0].strip(), "names": [row[1].strip() for row in rows]}

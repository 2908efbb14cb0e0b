"""Is this machine fit: packages, memory, folders, GPUs, torch in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paribus.doctor.finding import Finding, failed, fine, note, said
from paribus.launch.gpus import busy, look
from paribus.outside import ask
from paribus.store import owners

PYTHONS = ((3, 11), (3, 14))  # from, below
NEEDED = {
    "torch": "2.11",
    "numpy": "2.0",
    "msgspec": "0.19",
    "safetensors": "0.5",
    "jinja2": "3.1",
    "matplotlib": "3.9",
    "scipy": "1.14",
}
WANTED = {"pyarrow": "18", "tokenizers": "0.21", "datasets": "3", "transformers": "4.48"}
TORCH_SECONDS = 120.0  # its first import from a network disk takes a minute

_TORCH = """
import json, time
began = time.monotonic()
import torch
about = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": [], "why": ""}
def multiply(device):
    a = torch.ones(64, 64, device=device)
    wrong = "" if (a @ a).sum().item() == 64.0**3 else "a matrix product came out wrong"
    return wrong
def tried(device, name):
    try:
        wrong, full = multiply(device), False
    except Exception as error:
        wrong = (str(error).strip().splitlines() or [type(error).__name__])[0]
        full = isinstance(error, torch.OutOfMemoryError)
    about["devices"].append({"device": device, "name": name, "wrong": wrong, "full": full})
tried("cpu", "")
try:
    torch.cuda.init()
    for i in range(torch.cuda.device_count()):
        tried(f"cuda:{i}", torch.cuda.get_device_name(i))
except Exception as error:
    about["why"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
if torch.backends.mps.is_available():
    tried("mps", "")
about["seconds"] = time.monotonic() - began
print(json.dumps(about))
"""


def check_machine() -> Iterator[Finding]:
    """The checks that need no home, the quick ones first."""
    yield from _versions()
    yield _processes()
    yield _cores()
    yield from _memory()
    yield from _folders()
    yield _files()
    yield fine("clock", f"{owners.now()}; time stamps are for people, nothing is decided by them")
    yield from _gpus()


# ── software ────────────────────────────────────────────────────────────────────────────────────


def _versions() -> Iterator[Finding]:
    have, (low, high) = sys.version_info[:2], PYTHONS
    text = f"{platform.python_version()} in {sys.prefix}"
    if low <= have < high:
        yield fine("python", text)
    else:
        valid = " … ".join(f"{a}.{b}" for a, b in (low, (high[0], high[1] - 1)))
        yield failed("python", f"{text}; paribus needs {valid}")
    there: list[str] = []
    extra: list[str] = []
    for name, least in {**NEEDED, **WANTED}.items():
        try:
            version = importlib.metadata.version(name)
        except Exception:  # an installation's notes can be damaged in many ways
            version = ""
        needed = name in NEEDED
        if version and _numbers(version) >= _numbers(least):
            (there if needed else extra).append(f"{name} {version}")
        elif version:
            text = f"{name} {version} is older than {least}: pip install -U '{name}>={least}'"
            yield (failed if needed else note)("packages", text)
        elif needed:
            yield failed("packages", f"{name} is not installed: pip install '{name}>={least}'")
    yield fine("packages", ", ".join(there))
    if extra:
        yield fine("for text", ", ".join(extra))
    else:
        yield note("for text", "none of the text packages: pip install 'paribus[hf]' for corpora")


def _numbers(version: str) -> tuple[int, ...]:
    """ "2.11.0+cu128" -> (2, 11, 0): the release, without its suffix."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in match[0].split(".")) if match else ()


# ── the machine ─────────────────────────────────────────────────────────────────────────────────


def _processes() -> Finding:
    """Claims name their process: can this system tell two of them apart?"""
    place = owners.place()
    if place["boot"]:
        inside = "" if place["machine"] else "; no machine id (a container)"
        return fine("processes", f"host {place['host']}{inside}")
    return failed("processes", "the system shows no boot id: no work can be claimed; mount /proc")


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    text = f"{cores} of {os.cpu_count()}"
    if threads:
        text += f"; OMP_NUM_THREADS={threads} (workers take --threads instead)"
    share = cpu_limit()
    if share is not None and cores and share < cores:
        workers = max(1, int(share))
        return note("cores", f"{text}, but the cgroup allows {share:g}: --workers {workers}")
    return fine("cores", text)


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Cores that the control group may use at a time, None for all of them."""
    found = []
    for folder, version in _groups("cpu", root):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            found.append(int(quota) / int(period))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min((limit for limit in found if limit > 0), default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the control group may use, the least of its own limit and its parents'."""
    found = []
    for folder, version in _groups("memory", root):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        try:
            found.append(int((folder / name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min((limit for limit in found if limit < 1 << 60), default=None)  # v1: none is 2**63


def _groups(controller: str, root: Path) -> Iterator[tuple[Path, int]]:
    """(folder, version) of this process's control groups up to the root, version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            tops = [(root / "sys/fs/cgroup", 2), (root / "sys/fs/cgroup/unified", 2)]
        elif controller in controllers.split(","):
            tops = [(root / "sys/fs/cgroup" / controller, 1)]
        else:
            continue
        for top, version in tops:
            # In a container the path may be the host's, which is not there: the top stays.
            own = Path(path.lstrip("/"))
            for part in (own, *own.parents):
                if (top / part).is_dir():
                    yield top / part, version


def _memory() -> Iterator[Finding]:
    try:
        text = Path("/proc/meminfo").read_text()
        about = {k: int(v) * 1024 for k, v in re.findall(r"(\w+):\s+(\d+) kB", text)}
        total, free = about["MemTotal"], about["MemAvailable"]
    except (OSError, KeyError):  # not Linux
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    text = f"{said(free)} free of {said(total)}"
    if limit is not None and limit < total:
        text += f"; the cgroup allows {said(limit)}"
        free = min(free, limit)
    if free < 2e9:
        yield note("memory", f"{text}: a worker needs about 1 GB, so start few (--workers 1)")
    else:
        yield fine("memory", text)


def _folders() -> Iterator[Finding]:
    if Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free
        if free < 256e6:
            text = f"{said(free)} free: NCCL between GPUs needs more (docker: --shm-size=2g)"
            yield note("/dev/shm", text)
        else:
            yield fine("/dev/shm", f"{said(free)} free")
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"paribus")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        text = f"no folder for temporary files can be written ({error.strerror}): set TMPDIR"
        yield failed("temporary", text)
        return
    if free < 1e9:
        text = f"{said(free)} free in {folder}: compiled code may not fit; set TMPDIR"
        yield note("temporary", text)
    else:
        yield fine("temporary", f"{said(free)} free in {folder}")


def _files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = "without limit" if soft == resource.RLIM_INFINITY else f"{soft} open files at a time"
    if 0 <= soft < 1024:
        return note("ulimit -n", f"{text}: many workers need more; ulimit -n {min(hard, 4096)}")
    return fine("ulimit -n", text)


# ── GPUs and torch ──────────────────────────────────────────────────────────────────────────────


def _gpus() -> Iterator[Finding]:
    found, trouble = look()
    if trouble:
        yield failed("GPUs", trouble)
    elif not found and Path("/dev/nvidia0").exists():
        text = "there is /dev/nvidia0, but nvidia-smi shows none: CUDA_VISIBLE_DEVICES or driver"
        yield note("GPUs", text)
    elif not found:
        yield fine("GPUs", "no NVIDIA GPU: workers use the CPU")
    for gpu in found:
        size = f"{said(gpu.used)} of {said(gpu.total)} in use" if gpu.total else "size not said"
        load = f", {gpu.load} % busy" if gpu.load is not None else ""
        yield fine(f"GPU {gpu.index}", f"{gpu.name}, {size}{load}, driver {gpu.driver or '?'}")
        if reason := busy(gpu):
            yield note(f"GPU {gpu.index}", f"{reason}: run waits for it, or give --share-gpus")
    models = {gpu.name for gpu in found}
    if len(models) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        text = f"{' and '.join(sorted(models))}: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or other "
        yield note("GPUs", text + "programs number them otherwise than nvidia-smi")
    yield from _torch(len(found))


def _torch(expected: int) -> Iterator[Finding]:
    """A process of its own imports torch and multiplies on every device."""
    answer = ask([sys.executable, "-c", _TORCH], seconds=TORCH_SECONDS)
    try:
        about = json.loads(answer.text.splitlines()[-1])
    except (ValueError, IndexError):
        yield failed("torch", f"{answer.trouble or 'torch said nothing'}: install it anew")
        return
    text = f"{about['version']}, CUDA {about['cuda'] or 'none'}, ready in {about['seconds']:.1f} s"
    devices = [d["device"] for d in about["devices"]]
    seen = sum(device.startswith("cuda") for device in devices)
    if expected and not seen:
        yield failed("torch", f"{text}: sees no GPU ({about['why']}); mend driver or torch build")
    else:
        yield fine("torch", f"{text}, {' '.join(devices)}")
    if expected and 0 < seen != expected:
        yield note("torch", f"sees {seen} GPUs where nvidia-smi shows {expected}")
    for device in about["devices"]:
        if device["full"]:
            yield note(device["device"], "is full: no room for a 64 × 64 matrix product")
        elif device["wrong"]:
            yield failed(device["device"], f"a matrix product failed: {device['wrong']}")

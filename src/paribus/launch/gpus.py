"""What GPUs there are and who uses them, asked of nvidia-smi.  Torch-free.

A GPU's number here is torch's: its position among those that CUDA_VISIBLE_DEVICES names, or in bus
order where it is not set.  Processes that use GPUs of different models must therefore be started
with CUDA_DEVICE_ORDER=PCI_BUS_ID: otherwise CUDA puts the fastest first.
"""

from __future__ import annotations

import csv
import os
import pwd
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from paribus.errors import SpecError
from paribus.outside import ask

MIB, GIB = 1 << 20, 1 << 30
SECONDS = 15.0  # for each call of nvidia-smi: without its daemon it may take seconds
_FIELDS = "index,uuid,name,memory.total,memory.used,utilization.gpu,driver_version"


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use.

    index: torch's number.  total, used: bytes; 0 where nvidia-smi does not say (a MIG slice, no
    permission).  processes: (pid, bytes, user) each, the user "" where the process is not to be
    seen from here (another container's); empty in most containers.  load: percent of the time that
    some kernel ran, None where it is not said.  driver: its version.
    """

    index: int
    uuid: str
    name: str
    total: int
    used: int
    processes: tuple[tuple[int, int, str], ...] = ()
    load: int | None = None
    driver: str = ""


def gpus() -> list[Gpu]:
    """The visible GPUs in torch's order; none where nvidia-smi is missing or fails."""
    return look()[0]


def look() -> tuple[list[Gpu], str]:
    """(the visible GPUs, what is wrong with the driver or with CUDA_VISIBLE_DEVICES, in a line).

    A machine without nvidia-smi has no GPUs and nothing wrong."""
    answer = ask(["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"],
                 seconds=SECONDS)  # fmt: skip
    if answer.trouble.endswith("is not installed"):
        return [], ""
    if answer.trouble:
        return [], answer.trouble
    users = _processes()
    found = []
    for row in _rows(answer.text):
        if len(row) == 7 and row[0].isdigit():
            index, uuid, name, total, used, load, driver = row
            found.append(
                Gpu(int(index), uuid, name, _number(total) * MIB, _number(used) * MIB,
                    users.get(uuid, ()), int(load) if load.isdigit() else None, driver)
            )  # fmt: skip
    if not found:
        said = answer.text.splitlines()[:1]
        nothing = not said or said[0].startswith("No devices")
        return [], "" if nothing else f"nvidia-smi: {said[0]}"
    return _visible(sorted(found, key=lambda g: g.index), os.environ.get("CUDA_VISIBLE_DEVICES"))


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]


def _number(text: str) -> int:
    """A number, 0 for what nvidia-smi puts in brackets: [N/A], [Insufficient Permissions] …"""
    return int(text) if text.isdigit() else 0


def _processes() -> dict[str, tuple[tuple[int, int, str], ...]]:
    answer = ask(["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory",
                  "--format=csv,noheader,nounits"], seconds=SECONDS)  # fmt: skip
    found: dict[str, list[tuple[int, int, str]]] = {}
    for row in _rows(answer.text) if not answer.trouble else ():
        if len(row) == 3 and row[1].isdigit():
            uuid, pid, used = row
            found.setdefault(uuid, []).append((int(pid), _number(used) * MIB, _user(int(pid))))
    return {uuid: tuple(sorted(rows, key=lambda r: -r[1])) for uuid, rows in found.items()}


def _user(pid: int) -> str:
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return ""
    with suppress(KeyError):
        return pwd.getpwuid(owner).pw_name
    return str(owner)


# ── CUDA_VISIBLE_DEVICES ────────────────────────────────────────────────────────────────────────


def _visible(found: list[Gpu], wanted: str | None) -> tuple[list[Gpu], str]:
    """The GPUs that CUDA shows, in its order and numbered anew, by CUDA's own rules: the list ends
    at the first name that is none, and a GPU named twice leaves nothing."""
    if wanted is None:
        return found, ""
    chosen: list[Gpu] = []
    for name in (part.strip() for part in wanted.split(",")):
        gpu = _named(name, found)
        if gpu is None:
            ends = not name or name.startswith("-")  # the ways of saying: none, or no more
            wrong = f"CUDA_VISIBLE_DEVICES={wanted}: no GPU {name!r} here; CUDA stops reading there"
            return chosen, "" if ends else wrong
        if gpu.uuid in [g.uuid for g in chosen]:
            return [], f"CUDA_VISIBLE_DEVICES={wanted}: {name!r} is named twice, so CUDA shows none"
        chosen.append(replace(gpu, index=len(chosen)))
    return chosen, ""


def _named(name: str, found: list[Gpu]) -> Gpu | None:
    if name.isdigit():
        return next((g for g in found if g.index == int(name)), None)
    if name.startswith("GPU-"):  # CUDA takes any beginning that names one GPU alone
        fitting = [g for g in found if g.uuid.startswith(name)]
        return fitting[0] if len(fitting) == 1 else None
    if name.startswith("MIG-"):
        return _slice(name, found)
    return None


def _slice(name: str, found: list[Gpu]) -> Gpu:
    """A MIG slice: nvidia-smi says neither what it uses nor who does, only what it is called.

    Its size stands in the name of its profile, such as 3g.20gb."""
    where: Gpu | None = None
    for line in ask(["nvidia-smi", "-L"], seconds=SECONDS).text.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            where = next((g for g in found if g.index == int(match[1])), None)
        elif match := re.match(r"\s+MIG (\S+)\s.*\(UUID: (MIG-[^)]+)\)", line):
            profile, uuid = match.groups()
            if uuid.startswith(name):
                size = re.search(r"(\d+)gb", profile)
                model = f"{where.name} MIG {profile}" if where else f"MIG {profile}"
                return Gpu(0, uuid, model, int(size[1]) * GIB if size else 0, 0)
    return Gpu(0, name, "MIG slice", 0, 0)


# ── choosing ────────────────────────────────────────────────────────────────────────────────────


def choose(text: str | None, found: Sequence[Gpu]) -> list[int]:
    """The numbers that ``--gpus`` asks for.

    "0,1": these.  "auto:2": two, those that nobody uses first, then the emptiest.  "auto" and None:
    all that nobody uses, else the emptiest; None gives [] where there is no GPU.  Raises SpecError
    for anything else, and for a number that is not there.
    """
    there = [g.index for g in found]
    if not found:
        if text is None:
            return []
        raise SpecError(f"--gpus {text}: no GPU is visible here; `paribus doctor` says why")
    best = sorted(found, key=lambda g: (bool(busy(g)), g.used if busy(g) else 0, g.index))
    if text is None or text == "auto":
        free = [g.index for g in best if not busy(g)]
        return sorted(free) or [best[0].index]
    if match := re.fullmatch(r"auto:([1-9]\d*)", text):
        if (n := int(match[1])) > len(found):
            raise SpecError(f"--gpus {text}: there are {len(found)}; give auto:{len(found)}")
        return sorted(g.index for g in best[:n])
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SpecError(f"--gpus {text!r}: give numbers, such as 0,1, or auto, or auto:2")
    numbers = [int(part) for part in parts]
    for n in numbers:
        if n not in there:
            raise SpecError(f"--gpus {text}: no GPU {n} here; valid: {', '.join(map(str, there))}")
    if len(set(numbers)) < len(numbers):
        raise SpecError(f"--gpus {text}: a GPU is named twice; --per-gpu gives it several workers")
    return numbers


def groups(numbers: Sequence[int], size: int, asked: str) -> list[list[int]]:
    """GPUs in groups of `size`, in their order: ``--gpus-per-trial``.  Raises SpecError where they
    do not divide."""
    if len(numbers) % size:
        whole = len(numbers) // size * size
        advice = f"give {whole} or {whole + size}" if whole else f"give {size}"
        raise SpecError(
            f"--gpus-per-trial {size}: --gpus {asked} are {len(numbers)}, no whole groups; {advice}"
        )
    return [list(numbers[i : i + size]) for i in range(0, len(numbers), size)]


def busy(gpu: Gpu, own: Collection[int] = (), allowance: int = GIB) -> str:
    """Why `gpu` should not be used: "GPU 1: 60 GB in use by python (pid 4242, user ada)".

    "" when what is used beyond the processes `own` is at most `allowance` bytes.  Processes of
    other containers cannot be told from one's own: ask before starting one's own there.
    """
    mine = sum(used for pid, used, _ in gpu.processes if pid in own)
    others = [p for p in gpu.processes if p[0] not in own]
    listed = sum(used for _, used, _ in others)
    used = max(gpu.used - mine, listed)
    if gpu.processes and not others and not all(used for _, used, _ in gpu.processes):
        return ""  # all of them are one's own, and what they use is not said
    if used <= allowance:
        return ""
    text = f"GPU {gpu.index}: {used / 1e9:.0f} GB in use by "
    seen = [p for p in others if p[2]]
    # Who holds little of it is not who fills it: that one is hidden.
    if not seen or (listed < used / 2 and all(used for _, used, _ in others)):
        return text + "another process"
    pid, _, user = seen[0]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{text}{_name(pid)} (pid {pid}, user {user}){more}"


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"


def share(text: str | None) -> float | None:
    """``--gpu-memory``: "40%" or "0.4" is 0.4 of each GPU's memory.  Raises SpecError."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text, re.ASCII)
    part = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < part <= 1:
        raise SpecError(f"--gpu-memory {text!r}: give a share of each GPU, such as 40% or 0.4")
    return part

"""The processes that train one trial together: what they sum, and how they begin and end as one.

Each takes its own part of a step's rows.  Losses, counts and gradients are summed, so a step
computes the same whatever the number of ranks, but for the order of its sums.  Rank 0 leads: it
alone holds attempts, looks at the stop flag and writes; the others follow it from job to job.

Small words go through gloo on the CPU, tensors through NCCL on CUDA.  Every agreement is one
operation of one form, so a rank that fails, or a leader that ends the job, can say so wherever the
others wait.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paribus.errors import ParibusError, Refused, SpecError
from paribus.store import owners

LOST = 78  # exit code: another rank is gone, so this one ends too
BUCKET = 32 << 20  # bytes that are summed at a time; a larger tensor alone
WATCH = 1.0  # seconds between looks at the other processes
GRACE = 3.0  # seconds that a rank has to end by itself when another one is gone
FOREVER = timedelta(days=365)  # a follower waits for its next job as long as it takes

_LEAVE, _STEP, _TOGETHER, _SAME, _END, _FAILED = range(1, 7)  # why ranks meet


class Gone(BaseException):
    """Another rank died, or said nothing for too long.  No error of a trial, so nothing that
    catches errors catches it: the process ends, and its attempts are lost as by a kill."""


class Left(Exception):
    """The leader has ended the job that a follower is at."""


@dataclass(frozen=True)
class _Answer:
    """What all ranks said: whether any failed, leaves or stops, and whether all gave one value."""

    failed: bool
    leave: bool
    stop: bool
    equal: bool


class Ranks:
    """One process of a trial's, and its way to the others.

    Attributes:
        world: how many there are; with one, every method returns at once.
        rank: this one's number; 0 leads.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self._data: Any = None  # the group that sums tensors
        self._idle: Any = None  # the group through which jobs come
        self._watch: _Watch | None = None
        self._scratch: dict[torch.dtype, Tensor] = {}

    def part(self, n: int) -> range:
        """This rank's share of n things in a row; the first ranks take one more where n does not
        divide."""
        each, more = divmod(n, self.world)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    # ── what is the same on all of them ──

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor over the ranks, in place, in its own dtype.

        They are added bucket by bucket after the backward pass, not within it: a compiled step
        gives all gradients at once (bench/ddp.py measures what the sum takes).
        """
        if self.world == 1:
            return
        import torch.distributed as dist

        self.room(tensors)
        for bucket in _buckets(tensors):
            if _as_it_lies(bucket):
                flat, parts = bucket[0], []
            else:
                sizes = [t.numel() for t in bucket]
                flat = self._scratch[bucket[0].dtype][: sum(sizes)]
                parts = list(zip(bucket, flat.split(sizes), strict=True))
            for t, part in parts:
                part.view(t.shape).copy_(t)
            with _met():
                dist.all_reduce(flat, group=self._data)
            for t, part in parts:
                t.copy_(part.view(t.shape))

    def room(self, tensors: Sequence[Tensor]) -> None:
        """Take the memory that ``sum`` needs, where its want can still be told to the others."""
        for bucket in _buckets(tensors) if self.world > 1 else ():
            size, dtype = sum(t.numel() for t in bucket), bucket[0].dtype
            there = self._scratch.get(dtype)
            if not _as_it_lies(bucket) and (there is None or there.numel() < size):
                self._scratch[dtype] = bucket[0].new_empty(size)

    def gather(self, mine: Any) -> list[Any]:
        """Every rank's object, in their order."""
        if self.world == 1:
            return [mine]
        import torch.distributed as dist

        out: list[Any] = [None] * self.world
        with _met():
            dist.all_gather_object(out, mine)
        return out

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is raised inside on one rank is raised on all of them."""
        if self.world == 1:
            yield
            return
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            mine = error
        self._meet(_TOGETHER, mine)

    def agree(self, stop: bool, alive: Sequence[bool]) -> tuple[bool, list[bool]]:
        """The leader's word before a step: whether to stop, and which members are still trained."""
        if self.world == 1:
            return stop, list(alive)
        answer = self._meet(_STEP, stop=stop and not self.rank, value=sum(alive))
        if not answer.equal:  # an attempt of the leader's was ended by another process
            alive = self.gather(list(alive))[0]
        return answer.stop, list(alive)

    def same(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise unless all ranks hold these tensors in the same bits."""
        if self.world > 1 and not self._meet(_SAME, value=_digest(tensors)).equal:
            raise ParibusError("the ranks hold different weights: this is a defect; please report")

    def _meet(
        self, why: int, mine: Exception | None = None, stop: bool = False, value: int = 0
    ) -> _Answer:
        """Meet the others; raises what any of them has to say."""
        answer = self._exchange(why, failed=mine is not None, stop=stop, value=value)
        if answer.leave:
            raise Left
        if answer.failed:
            told = self.gather(None if mine is None else _told(self.rank, mine))
            raise mine or _again(next(t for t in told if t))
        return answer

    def _exchange(
        self, why: int, *, failed: bool = False, stop: bool = False, value: int = 0
    ) -> _Answer:
        import torch.distributed as dist

        word = torch.tensor([why, -why, failed, why == _LEAVE, stop, value, -value])
        with _met():
            dist.all_reduce(word, op=dist.ReduceOp.MAX)
        most, least, broken, leave, stops, high, low = word.tolist()
        if most != -least and not broken and not leave:
            raise Gone("the ranks are out of step: this is a defect; please report")
        return _Answer(bool(broken), bool(leave), bool(stops), high == -low)

    # ── jobs ──

    @contextmanager
    def job(self, kind: str, about: Mapping[str, Any]) -> Iterator[None]:
        """The leader's: what the others do meanwhile; they are free at its end, however it ends."""
        if self.world == 1:
            yield
            return
        self._send((kind, dict(about)))
        try:
            yield
        except Gone:
            raise
        except BaseException:
            self._exchange(_LEAVE)
            raise
        self._exchange(_LEAVE)

    def follow(self, do: Mapping[str, Callable[[dict[str, Any]], None]]) -> None:
        """A follower's: do the leader's jobs, by their kind, until there are no more."""
        while (job := self._send(None)) is not None:
            wrong = None
            try:
                do[job[0]](job[1])
            except Left:
                continue
            except Exception as error:  # all ranks', or this one's: then the others hear of it
                wrong = _told(self.rank, error)
                if not wrong[0]:
                    traceback.print_exc()
            while not self._exchange(_FAILED if wrong else _END, failed=wrong is not None).leave:
                self.gather(wrong)

    def _send(self, job: Any) -> Any:
        import torch.distributed as dist

        box = [job]
        with _met():
            dist.broadcast_object_list(box, src=0, group=self._idle)
        return box[0]

    def close(self) -> None:
        """Let the others go; to be called between jobs."""
        if self.world == 1:
            return
        import torch.distributed as dist

        if self._watch is not None:
            self._watch.stop()
        if self.rank == 0:
            self._send(None)
        dist.destroy_process_group()
        self.world = 1


ALONE = Ranks()


def join(meet: Path, rank: int, world: int, device: str, patience: float) -> Ranks:
    """The ranks of one machine, once all of them are there.

    Args:
        meet: a folder of their own, in which they find each other; it is removed then.
        patience: seconds without a word after which another rank is taken for lost.
    """
    import torch.distributed as dist

    here = "lo" if sys.platform == "linux" else "lo0"
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, here)  # they are of one machine: no network is needed
    wait = timedelta(seconds=patience)
    out = Ranks(rank, world)
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    with _met():
        store = _store(Path(meet), rank, world, wait)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=wait)
        out._data = dist.new_group(backend="nccl" if cuda else "gloo", timeout=wait)
        out._idle = dist.new_group(backend="gloo", timeout=FOREVER)
    out.sum([torch.zeros(1, device=device)])  # NCCL takes its memory now, not within a step
    if rank == 0:
        shutil.rmtree(meet, ignore_errors=True)  # all have met
    out._watch = _Watch([c for r, c in enumerate(out.gather(owners.identity("rank"))) if r != rank])
    return out


def _store(meet: Path, rank: int, world: int, wait: timedelta) -> Any:
    """The leader listens at a port that the system chooses, and leaves its number in the folder."""
    from torch.distributed import TCPStore

    file = meet / "port"
    make = partial(TCPStore, "127.0.0.1", world_size=world, timeout=wait, wait_for_workers=False)
    if rank == 0:
        store = make(port=0, is_master=True)
        (meet / "port.new").write_text(str(store.port))
        os.replace(meet / "port.new", file)
        return store
    end = time.monotonic() + wait.total_seconds()
    while not file.exists():
        if time.monotonic() > end or not meet.exists():
            raise Gone("the leader did not begin")
        time.sleep(0.02)
    return make(port=int(file.read_text()), is_master=False)


@contextmanager
def _met() -> Iterator[None]:
    """What the libraries raise when another rank is gone, as ``Gone``."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # connection closed, or timed out
        raise Gone(" ".join(str(error).split())[:300]) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, cut by their sizes alone, so that all ranks cut alike."""
    bucket: list[Tensor] = []
    size = 0
    for t in tensors:
        own = t.numel() * t.element_size()
        if bucket and (size + own > BUCKET or t.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(t)
        size += own
    if bucket:
        yield bucket


def _as_it_lies(bucket: Sequence[Tensor]) -> bool:
    """Whether a bucket is summed without being put together: a large tensor without gaps."""
    return len(bucket) == 1 and bucket[0].is_contiguous()


def _digest(tensors: Mapping[str, Tensor]) -> int:
    """A number of the bits of tensors."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        t.detach().contiguous().view(whole[t.element_size()]).sum(dtype=torch.int64)
        for _, t in sorted(tensors.items())
    ]
    out = 0
    for x in torch.stack(sums).tolist():
        out = (out * 1_000_003 + x) % (1 << 61)
    return out


def _told(rank: int, error: Exception) -> tuple[str, str, Any]:
    """An exception for the other ranks: its kind, words, and number of a system's error."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "memory", str(error), None
    if isinstance(error, OSError):
        return "system", f"rank {rank}: {error.strerror or error}", error.errno
    if isinstance(error, ParibusError):
        kind = "Refused" if isinstance(error, Refused) else type(error).__name__
        return kind, str(error), None
    return "", f"rank {rank}: {type(error).__name__}: {error}", None


def _again(told: tuple[str, str, Any]) -> Exception:
    kind, text, number = told
    if kind == "memory":
        return torch.OutOfMemoryError(text)
    if kind == "system":
        return OSError(number, text)
    known: dict[str, type[ParibusError]] = {"SpecError": SpecError, "Refused": Refused}
    return known.get(kind, ParibusError)(text)


class _Watch(threading.Thread):
    """Ends this process when another rank's is gone: in the middle of a sum on a GPU nothing else
    would, and a follower must not outlive its leader."""

    def __init__(self, others: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(name="watch", daemon=True)
        self._others, self._over = others, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(WATCH):
            if any(owners.judge(claim)[0] for claim in self._others):
                if self._over.wait(GRACE):
                    return
                os._exit(LOST)

    def stop(self) -> None:
        self._over.set()

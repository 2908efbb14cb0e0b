"""The processes of one trial, seen as one: a leader and its followers, of one machine.

They find each other through a folder of their own and a port that the system chooses.  When one
dies the others end; what that costs the trial is decided by the death that came first.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

LOST = 78  # exit code of a rank that ends because another one is gone
GRACE = 5.0  # seconds to end by itself after another rank did


class Group:
    """As a ``Popen`` of the leader.

    Args:
        world: how many ranks.
        start: starts one, told this.
        told: what all are told; each its rank besides.

    Attributes:
        pid: the leader's.
        returncode: the code that decides what their end means; None while any runs.
    """

    def __init__(
        self,
        world: int,
        start: Callable[[Mapping[str, Any]], subprocess.Popen[bytes]],
        told: Mapping[str, Any],
    ) -> None:
        self._meet = tempfile.mkdtemp(prefix="paribus-ranks-")
        self._ranks = [start({**told, "meet": self._meet, "rank": r}) for r in range(world)]
        self._first: float | None = None  # when the first of them ended
        self._killed: set[int] = set()
        self.pid = self._ranks[0].pid
        self.returncode: int | None = None

    @property
    def streams(self) -> list[tuple[IO[bytes], bool]]:
        """What they say, and whether it is events: those of the leader."""
        return [
            (stream, rank == 0 and stream is p.stdout)
            for rank, p in enumerate(self._ranks)
            for stream in (p.stdout, p.stderr)
            if stream is not None
        ]

    def poll(self) -> int | None:
        """The deciding code once all have ended; those that outlive another are ended, too."""
        if self.returncode is None:
            codes = [p.poll() for p in self._ranks]
            # A follower ends well when the leader has let it go.
            over = codes[0] is not None or any(codes[1:])
            if over and self._first is None:
                self._first = time.monotonic()
            if self._first is not None and time.monotonic() - self._first > GRACE:
                self._kill_what_runs()
                codes = [p.wait() for p in self._ranks]
            if all(c is not None for c in codes):
                self._end([int(c) for c in codes if c is not None])
        return self.returncode

    def _end(self, codes: list[int]) -> None:
        shutil.rmtree(self._meet, ignore_errors=True)  # where they never met
        own = [c for r, c in enumerate(codes) if r not in self._killed and c != LOST]
        ended_leader = codes[0] != LOST and 0 not in self._killed
        wrong = [c for c in own if c]
        # Where none says more than that another is gone, it is as if they had been killed.
        self.returncode = codes[0] if ended_leader else wrong[0] if wrong else -signal.SIGKILL

    def _kill_what_runs(self) -> None:
        for rank, p in enumerate(self._ranks):
            if p.poll() is None:
                self._killed.add(rank)
                p.kill()

    def wait(self) -> int:
        """Until all have ended; the deciding code."""
        while (code := self.poll()) is None:
            time.sleep(0.05)
        return code

    def send_signal(self, number: int) -> None:
        """To the leader, which tells the others; SIGKILL to each."""
        for p in self._ranks if number == signal.SIGKILL else self._ranks[:1]:
            if p.poll() is None:
                p.send_signal(number)

    def terminate(self) -> None:
        """Ask them to checkpoint and end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End them at once."""
        self.send_signal(signal.SIGKILL)

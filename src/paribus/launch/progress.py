"""What the person sees: one line that changes in a terminal, plain lines in a log."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

EVERY = 60.0  # seconds between lines of progress where nothing can be redrawn


class Progress:
    """Shows events on `out` and appends its lines to run.log.

    Attributes:
        failed: lines of what went wrong, for the end.
    """

    def __init__(self, total_steps: Mapping[str, int], log: Path | None, out: Any = None) -> None:
        self.out = out or sys.stderr
        self.out = getattr(self.out, "shown", self.out)  # what it logs is written here
        self.live = self.out.isatty()
        self.log = log
        if _same_file(self.out, log):  # detached: its terminal is run.log
            self.out = open(os.devnull, "w")  # noqa: SIM115
        self.total = dict(total_steps)
        self.at: dict[str, int] = {}
        self.now: dict[int, str] = {}
        self.finished = 0
        self.began = time.monotonic()
        self._first: dict[str, int] = {}
        self._drawn = time.monotonic()
        self._who = f"[{socket.gethostname()}:{os.getpid()}]"

    def event(self, e: Mapping[str, Any]) -> None:
        kind, worker = e.get("event"), e.get("worker", 0)
        if kind == "step":
            for t in e["trials"]:
                self._first.setdefault(t, 0 if e["step"] < 50 else e["step"])
                self.at[t] = e["step"]
            loss = next((x for x in e["loss"] if x is not None), None)
            more = f"+{len(e['trials']) - 1}" if len(e["trials"]) > 1 else ""
            shown = f" loss {loss:.3f}" if loss is not None else ""
            self.now[worker] = f"{e['name']}{more} {e['step']}/{e['total']}{shown}"
            if not self.live and time.monotonic() - self._drawn > EVERY:
                self._drawn = time.monotonic()
                self.line(f"{' · '.join(self.now.values())} · ETA {self.eta()}")
        elif kind == "end":
            if e["trial"] in self.total:
                self.finished += 1
                self.at[e["trial"]] = self.total[e["trial"]]
            self.line(
                f"{e['name']}: {e['state']}" + (f" ({e['reason']})" if e.get("reason") else "")
            )
        elif kind == "evaluated":
            self.now[worker] = f"{e['name']} {e['condition']}"
        elif kind in ("blocked", "waiting", "less", "leaves"):
            self.now[worker] = str(e["reason"])
            if kind != "leaves":
                name = f"{e['name']}: " if e.get("name") else ""
                what = "" if kind == "less" else f"{kind}: "
                self.line(f"worker {worker}: {name}{what}{e['reason']}")
        elif kind == "idle":
            self.now[worker] = str(e["reason"])
            self.note(f"worker {worker}: {e['reason']}")
        elif kind == "unblocked":
            self.line(f"worker {worker}: goes on")
        elif kind in ("failed", "error", "fenced"):
            words = [str(e[k]) for k in ("name", "condition", "reason") if e.get(k)]
            self.line(f"{kind}: {': '.join(words)}")
        self.draw()

    def line(self, text: str) -> None:
        if self.live:
            self.out.write("\r\x1b[K")
        share = f"[{self.finished}/{len(self.total)}]"
        with suppress(OSError, ValueError):  # a terminal that is gone stops nothing
            self.out.write(f"{share} {time.monotonic() - self.began:5.0f} s  {text}\n")
            self.out.flush()
        self.note(text)

    def note(self, text: str) -> None:
        """A line of run.log alone; a disk that refuses stops nothing."""
        if self.log is not None:
            at = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            with suppress(OSError), open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{at} {self._who} {text}\n")

    def eta(self) -> str:
        done = sum(self.at.get(t, 0) - self._first.get(t, 0) for t in self.total)
        left = sum(n - self.at.get(t, 0) for t, n in self.total.items())
        elapsed = time.monotonic() - self.began
        if done <= 0 or elapsed < 2:
            return "…"
        seconds = int(elapsed * left / done)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def draw(self) -> None:
        if not self.live or time.monotonic() - self._drawn < 0.2:
            return
        self._drawn = time.monotonic()
        width = shutil.get_terminal_size().columns - 1
        who = " · ".join(self.now[w] for w in sorted(self.now))
        text = f"[{self.finished}/{len(self.total)} trials] {who} · ETA {self.eta()}"
        with suppress(OSError, ValueError):
            self.out.write("\r\x1b[K" + text[:width])
            self.out.flush()

    def close(self) -> None:
        if self.live:
            with suppress(OSError, ValueError):
                self.out.write("\r\x1b[K")
                self.out.flush()


class _Echo:
    """A stream whose lines are also appended to a log, once its folder is there.

    Attributes:
        shown: the stream itself.
    """

    def __init__(self, shown: Any, log: Path) -> None:
        self.shown, self.log = shown, log
        self._held = ""

    def write(self, text: str) -> int:
        self._held += text
        if self._held.endswith("\n"):
            self.keep()
        return int(self.shown.write(text))

    def keep(self) -> None:
        """Append what was said so far; a disk that refuses stops nothing."""
        if self._held and self.log.parent.is_dir():
            with suppress(OSError), open(self.log, "a", encoding="utf-8") as file:
                file.write(self._held)
            self._held = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shown, name)


@contextmanager
def kept(log: Path) -> Iterator[None]:
    """Whatever is printed goes into the log too, where its folder comes to be."""
    before = sys.stdout, sys.stderr
    mine = [s if _same_file(s, log) else _Echo(s, log) for s in before]
    sys.stdout, sys.stderr = mine
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for echo in mine:
            if isinstance(echo, _Echo):
                echo.keep()


def _same_file(out: Any, log: Path | None) -> bool:
    with suppress(OSError, ValueError):
        return log is not None and os.path.samestat(os.fstat(out.fileno()), log.stat())
    return False

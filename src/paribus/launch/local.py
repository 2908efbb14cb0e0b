"""Workers as processes of this machine.

The launcher starts and stops workers and shows what they say; the store holds all truth.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STOPPED = 75
EVERY = 60.0  # seconds between lines of progress in a log


@dataclass
class Outcome:
    """How the workers ended: exit codes, the last words of those that broke."""

    codes: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stopped: bool = False


def run(
    work: Mapping[str, Any],
    settings: Mapping[str, Any],
    devices: Sequence[str],
    on_event: Callable[[dict[str, Any]], None],
    on_tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Start one worker a device slot, follow them to their end.  Ctrl-C and SIGTERM ask them to
    stop: they checkpoint and exit."""
    outcome = Outcome()
    selector = selectors.DefaultSelector()
    workers: dict[int, subprocess.Popen[bytes]] = {}
    noise: dict[int, list[str]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.get("threads", 1))}
    for i, device in enumerate(devices):
        process = subprocess.Popen(
            [sys.executable, "-m", "paribus.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone
        )
        assert process.stdin and process.stdout and process.stderr
        told = {"work": _rotated(work, i, len(devices)), "settings": {**settings, "device": device}}
        process.stdin.write(json.dumps(told).encode())
        process.stdin.close()
        workers[i], noise[i] = process, []
        for stream in (process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, (i, stream is process.stdout, [b""]))

    def stop(*_: Any) -> None:
        outcome.stopped = True
        for process in workers.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        while selector.get_map():
            for key, _ in selector.select(timeout=0.5):
                _read(key, selector, noise, on_event)
            on_tick()
        for i, process in workers.items():
            code = process.wait()
            outcome.codes.append(code)
            if code not in (0, STOPPED):
                last = [line for line in noise[i] if line.strip()][-1:] or ["no last words"]
                outcome.errors.append(f"worker {i + 1} ended with code {code}: {last[0].strip()}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in workers.values():
            if process.poll() is None:
                process.terminate()
    return outcome


def _rotated(work: Mapping[str, Any], i: int, n: int) -> dict[str, Any]:
    """The packs from worker i's share on, so that workers do not all knock at the same door."""
    packs = list(work["packs"])
    return {**work, "packs": packs[i::n] + [p for j, p in enumerate(packs) if j % n != i]}


def _read(
    key: selectors.SelectorKey,
    selector: selectors.BaseSelector,
    noise: dict[int, list[str]],
    on_event: Callable[[dict[str, Any]], None],
) -> None:
    i, is_events, rest = key.data
    chunk = os.read(key.fd, 1 << 16)
    if not chunk:
        selector.unregister(key.fileobj)
        return
    *lines, rest[0] = (rest[0] + chunk).split(b"\n")
    for line in lines:
        text = line.decode(errors="replace")
        if is_events and text.startswith("{"):
            try:
                on_event({**json.loads(text), "worker": i + 1})
                continue
            except json.JSONDecodeError:
                pass
        noise[i].append(text)


def preflight(work: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """Two steps of each distinct graph in a process of its own; 0, or 2 with the reasons said."""
    done = subprocess.run(
        [sys.executable, "-m", "paribus.engine.preflight"],
        input=json.dumps({"work": work, "settings": settings}).encode(),
        capture_output=True,
        check=False,
    )
    failed = 0
    for line in done.stdout.decode().splitlines():
        finding = json.loads(line)
        if finding["failed"]:
            failed = 2
            print(f"paribus: {finding['name']}: {finding['text']}", file=sys.stderr)
    if done.returncode:
        last = done.stderr.decode().strip().splitlines()[-1:] or ["no last words"]
        print(f"paribus: preflight ended with code {done.returncode}: {last[0]}", file=sys.stderr)
        return 2 if done.returncode > 0 else 1
    return failed


class Progress:
    """What the person sees: one line that changes in a terminal, plain lines in a log."""

    def __init__(self, total_steps: Mapping[str, int], out: Any = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self.total = dict(total_steps)
        self.at: dict[str, int] = {}
        self.now: dict[int, str] = {}
        self.finished = self.evaluated = self.work_done = 0
        self.began = time.monotonic()
        self._first: dict[str, int] = {}
        self._drawn = time.monotonic()

    def event(self, e: dict[str, Any]) -> None:
        kind = e.get("event")
        if kind == "step":
            for t in e["trials"]:
                self._first.setdefault(t, 0 if e["step"] < 50 else e["step"])
                self.at[t] = e["step"]
            loss = next((x for x in e["loss"] if x is not None), None)
            more = f"+{len(e['trials']) - 1}" if len(e["trials"]) > 1 else ""
            shown = f" loss {loss:.3f}" if loss is not None else ""
            self.now[e["worker"]] = f"{e['name']}{more} {e['step']}/{e['total']}{shown}"
            if not self.live and time.monotonic() - self._drawn > EVERY:
                self._drawn = time.monotonic()
                self.line(f"{' · '.join(self.now.values())} · ETA {self.eta()}")
        elif kind == "end":
            self.finished += 1
            self.at[e["trial"]] = self.total.get(e["trial"], 0)
            self.line(
                f"{e['name']}: {e['state']}" + (f" ({e['reason']})" if e.get("reason") else "")
            )
        elif kind == "evaluated":
            self.evaluated += 1
            self.now[e["worker"]] = f"{e['name']} {e['condition']}"
        elif kind in ("failed", "error", "fenced"):
            self.line(" ".join(str(v) for k, v in e.items() if k not in ("event", "worker")))
        if self.live:
            self.draw()

    def line(self, text: str) -> None:
        if self.live:
            self.out.write("\r\x1b[K")
        share = f"[{self.finished}/{len(self.total)}]"
        self.out.write(f"{share} {time.monotonic() - self.began:5.0f} s  {text}\n")
        self.out.flush()

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
        import shutil

        width = shutil.get_terminal_size().columns - 1
        who = " · ".join(self.now[w] for w in sorted(self.now))
        text = f"[{self.finished}/{len(self.total)} trials] {who} · ETA {self.eta()}"
        self.out.write("\r\x1b[K" + text[:width])
        self.out.flush()

    def close(self) -> None:
        if self.live:
            self.out.write("\r\x1b[K")
            self.out.flush()

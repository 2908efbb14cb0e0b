"""A resident worker: looks for work, claims it, trains and evaluates, until nothing is left.

All truth is in the store; what is printed (one JSON object a line) is for the eye.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from paribus import parts
from paribus import spec as specs
from paribus.engine import checkpoint
from paribus.engine.budget import OutOfMemory
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.settings import Settings, apply
from paribus.engine.train import Hooks, Member, Phase, StackTooLarge, Stopped, Trainer, weights_of
from paribus.errors import ParibusError, Refused, SpecError
from paribus.store import DiskError, Fenced, Store
from paribus.text import paths
from paribus.text.data import Data

STOPPED = 75


class Worker:
    """Attributes:
    work: the resolved plan, plain data: packs of trial ids, each trial's conditions.
    """

    def __init__(self, work: Mapping[str, Any], settings: Settings) -> None:
        self.work, self.settings = work, settings
        self.store = Store(Path(work["home"]))
        self.id = self.store.new_worker()
        self.data = Data(Path(work["home"]) / "cache")
        self.stopping = False
        self.parent = os.getppid()
        self._opened: dict[str, Any] = {}
        self._said = 0.0
        parts.use_local(Path(work["local"]) if work.get("local") else None)
        paths.use_base(Path(work["base"]) if work.get("base") else Path.cwd())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def stop(self) -> bool:
        """Whether to end cleanly: asked to, or the controller is gone."""
        return self.stopping or os.getppid() != self.parent

    def say(self, **event: Any) -> None:
        try:
            print(json.dumps(event), flush=True)
        except (BrokenPipeError, ValueError):
            self.stopping = True

    # ── the loop ──

    def run(self) -> int:
        apply(self.settings)
        for pack in self.work["packs"]:
            if self.stop():
                return STOPPED
            try:
                self.train(pack)
                self.evaluate_all(pack)
            except Stopped:
                return STOPPED
        return STOPPED if self.stop() else 0

    def members(self, pack: Sequence[str]) -> Iterator[Member]:
        """Claim those of a pack that are free."""
        for trial in pack:
            before = self.store.state(trial)
            if before.state in ("failed", "out of memory") and not self.work["trials"][trial].get(
                "retry"
            ):
                continue
            attempt = self.store.open(trial, self.id)
            if attempt is None:
                continue
            m = member(self.store.spec(trial), trial, self.work["trials"][trial]["name"])
            m.attempt = attempt
            if (found := attempt.resume()) is not None:
                m.state = checkpoint.decode(found.files)
                attempt.log(f"resumed at step {m.step}")
            yield m

    def train(self, pack: Sequence[str]) -> None:
        groups: dict[int, list[Member]] = {}
        for m in self.members(pack):  # after a crash members may stand at different steps
            groups.setdefault(m.step, []).append(m)
        waiting = sorted(groups.values(), key=len, reverse=True)
        while waiting:
            group = waiting.pop(0)
            trainer = Trainer(group, self.settings, self.data, self._hooks(group))
            try:
                self._train(trainer, group)
            except StackTooLarge:
                half = (len(group) + 1) // 2
                waiting[:0] = [group[:half], group[half:]]
            except Stopped:
                for m in [*group, *(m for g in waiting for m in g)]:
                    if m.attempt is not None:
                        m.attempt.end("released", "stopped")
                raise

    def _train(self, trainer: Trainer, group: list[Member]) -> None:
        try:
            trainer.run()
            self._finish(trainer, group)
        except (Stopped, StackTooLarge):
            raise
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            self._end(trainer, group, "out of memory", str(error).split("\n")[0])
        except Refused as error:
            self._end(trainer, group, "refused", str(error))
        except Fenced as error:
            self.say(event="fenced", reason=str(error))
        except DiskError:
            raise
        except Exception as error:
            import traceback

            for m in group:
                if m.attempt is not None:
                    m.attempt.log(traceback.format_exc())
            self._end(trainer, group, "failed", f"{type(error).__name__}: {error}")

    def _end(self, trainer: Trainer, group: list[Member], state: str, reason: str) -> None:
        for m in group:
            if m.attempt is not None:
                m.attempt.end(state, reason[:500], step=trainer.step)
                self.say(event="end", trial=m.trial, name=m.name, state=state, reason=reason[:500])

    def _finish(self, trainer: Trainer, group: list[Member]) -> None:
        for e, m in enumerate(group):
            if m.attempt is None or m.state is None or m.reason is not None:
                continue
            try:
                content = checkpoint.weights(weights_of(m.state[0]))
                m.attempt.finish(content, trainer.summary(e))
                self.say(event="end", trial=m.trial, name=m.name, state="done")
            except Fenced as error:
                self.say(event="fenced", trial=m.trial, reason=str(error))

    # ── progress, interval evaluations ──

    def _hooks(self, group: list[Member]) -> Hooks:
        told = self.work["trials"][group[0].trial]["conditions"]
        at_times = [c["key"] for c in told if c["every"] and c["spec"]]
        intervals = [self._setting(group[0].trial, key) for key in at_times]

        def check(trainer: Trainer) -> list[dict[str, float]]:
            rows: list[dict[str, float]] = [{} for _ in group]
            for s in intervals:
                if trainer.step % (s.every or 1):
                    continue
                each = [self._setting(m.trial, s.key).spec for m in group]
                with torch.no_grad():
                    found = evaluate(
                        trainer.params, each, s, self.data, self.settings, self._opened
                    )
                for row, record in zip(rows, found, strict=True):
                    row |= {f"{s.key} {k}": v["value"] for k, v in record["metrics"].items()}
            return rows

        return Hooks(
            stop=self.stop,
            progress=lambda t: self._progress(t, group),
            every=sorted({s.every for s in intervals if s.every}),
            evaluate=check if intervals else None,
        )

    def _progress(self, trainer: Trainer, group: list[Member]) -> None:
        now = time.monotonic()
        if now - self._said < 1.0 and trainer.step < trainer.total:
            return
        self._said = now
        loss = trainer.curves["loss"][-1].tolist()
        self.say(
            event="step", trials=[m.trial for m in group], name=group[0].name, step=trainer.step,
            total=trainer.total, loss=[x if x == x else None for x in loss],
        )  # fmt: skip
        for e, m in enumerate(group):
            if m.attempt is not None:
                m.attempt.log(f"step {trainer.step}/{trainer.total} loss {loss[e]:.4f}")

    # ── evaluations ──

    def _setting(self, trial: str, key: str) -> Setting:
        (c,) = [c for c in self.work["trials"][trial]["conditions"] if c["key"] == key]
        spec = specs.load(c["spec"])
        by, n = tuple(c["by"]), c["examples"]
        return Setting(c["id"], c["key"], spec, c["split"], n, by, c["every"])

    def evaluate_all(self, pack: Sequence[str]) -> None:
        """Every missing evaluation of the pack's finished trials."""
        for trial in pack:
            result = self.store.result(trial)
            if result is None:
                continue
            have = self.store.evaluations(trial)
            wanted = [c for c in self.work["trials"][trial]["conditions"] if c["id"] not in have]
            if not wanted or self.store.weights_lost(trial):
                continue  # the launcher says what was lost
            params = {
                k: t[None].to(self.settings.device)
                for k, t in checkpoint.read_weights(result.weights).items()
            }
            for c in wanted:
                if self.stop():
                    raise Stopped
                self._evaluate(trial, c, params)

    def _evaluate(self, trial: str, c: Mapping[str, Any], params: dict[str, Any]) -> None:
        claim = self.store.claim_evaluation(trial, c["id"], self.id)
        if claim is None:
            return
        name = self.work["trials"][trial]["name"]
        with claim:
            try:
                if c.get("refused"):
                    raise Refused(c["refused"])
                setting = self._setting(trial, c["key"])
                (record,) = evaluate(
                    params, [setting.spec], setting, self.data, self.settings, self._opened
                )
            except (Refused, SpecError) as error:
                record = {"status": "refused", "reason": str(error), "condition": c["id"]}
            except Exception as error:
                claim.fail(f"{type(error).__name__}: {error}"[:500])
                self.say(event="failed", trial=trial, name=name, condition=c["key"],
                         reason=str(error)[:300])  # fmt: skip
                return
            claim.publish({**record, "key": c["key"]})
            self.say(event="evaluated", trial=trial, name=name, condition=c["key"])


def member(data: Mapping[str, Any], trial: str, name: str) -> Member:
    """A trial's stored spec as a member of a stack."""
    phases = [Phase(p["name"], specs.load(p["spec"]), p["optim"]) for p in data["phases"]]
    return Member(trial, name, int(data["seed"]), phases)


def main() -> int:
    """``python -m paribus.engine.worker``; work and settings come as JSON on standard input."""
    told = json.load(sys.stdin)
    try:
        return Worker(told["work"], Settings(**told["settings"])).run()
    except ParibusError as error:
        print(json.dumps({"event": "error", "reason": str(error)}), flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""A rank that follows: it trains and evaluates in step with the leader, and writes nothing."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from paribus.engine import checkpoint
from paribus.engine.budget import OutOfMemory
from paribus.engine.evaluate import evaluate
from paribus.engine.hooks import Hooks
from paribus.engine.intervals import checker, every, intervals
from paribus.engine.judging import loaded, setting
from paribus.engine.members import Member, Stopped, member
from paribus.engine.ranks import Ranks
from paribus.engine.resident import Resident
from paribus.engine.settings import Settings
from paribus.engine.train import Trainer


class Follower(Resident):
    """Does the leader's jobs until there are no more.  Signals are the leader's to answer."""

    def __init__(self, work: Mapping[str, Any], settings: Settings) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        super().__init__(work, settings)
        self._weights: tuple[str, dict[str, Any]] = "", {}

    def run(self, ranks: Ranks) -> int:
        self.ranks = ranks
        ranks.follow({"train": self._train, "evaluate": self._evaluate})
        ranks.close()
        return 0

    def _member(self, unit: str, files: Mapping[str, Path] | None) -> Member:
        told = self.work["trials"][unit]
        m = member(self.store.spec(told["like"] or unit), unit, told["name"], told["until"])
        m.state = checkpoint.decode(files) if files else None
        return m

    def _train(self, about: dict[str, Any]) -> None:
        group = [self._member(unit, files) for unit, files in about["members"]]
        watched = intervals(self, group)
        hooks = Hooks(every=every(watched), evaluate=checker(self, group, watched))
        micro, halvings = about["less"]
        trainer = Trainer(group, self.settings, self.data, hooks, micro, halvings, self.ranks)
        try:
            with suppress(Stopped):
                trainer.run()
        except OutOfMemory as error:
            raise torch.OutOfMemoryError(str(error)) from None

    def _evaluate(self, about: dict[str, Any]) -> None:
        if self._weights[0] != about["weights"]:
            self._weights = about["weights"], loaded(Path(about["weights"]), self.settings.device)
        s = setting(about["condition"])
        evaluate(
            self._weights[1], [s.spec], [about["seed"]], s,
            self.data, self.settings, self.opened, self.ranks,
        )  # fmt: skip

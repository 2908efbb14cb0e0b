"""What every process that trains has, whether it leads or follows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.engine.evaluate import Setting
from paribus.engine.judging import setting
from paribus.engine.ranks import ALONE, Ranks
from paribus.engine.settings import Settings
from paribus.store import Store
from paribus.text import paths
from paribus.text.data import Data


class Resident:
    """Attributes:
    work: the resolved plan, plain data: packs of unit ids, what each unit is, its conditions.
    opened: sources that are open, by task and split.
    ranks: the processes that train one trial together with this one.
    """

    ranks: Ranks = ALONE

    def __init__(self, work: Mapping[str, Any], settings: Settings) -> None:
        self.work, self.settings = work, settings
        self.store = Store(Path(work["home"]))
        self.data = Data(Path(work["home"]) / "cache")
        self.opened: dict[str, Any] = {}
        local, base = (Path(work[k]) if work.get(k) else None for k in ("local", "base"))
        parts.use_local(local, base)
        paths.use_base(base or Path.cwd())

    def setting(self, trial: str, key: str) -> Setting:
        """A condition of a trial, by its key."""
        (c,) = [c for c in self.work["trials"][trial]["conditions"] if c["key"] == key]
        return setting(c)

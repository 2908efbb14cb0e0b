"""What the options ask for: a study, its home, some of its cells, a device.  Torch-free."""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from paribus.errors import SpecError, nearest
from paribus.spec import Model, at
from paribus.store import Store, find_home
from paribus.study import registered, source
from paribus.study.expand import Trial, Variant
from paribus.study.factors import Factor
from paribus.study.plan import Cell, Item, Plan
from paribus.study.study import Study


def opened(o: Namespace) -> tuple[source.Source, Store]:
    """The study that the options name, and its home."""
    found = source.load(o.study, scale=o.scale, seeds=o.seeds)
    if o.home:
        home = Path(o.home).expanduser().absolute()
        if home.exists() and not home.is_dir():
            raise SpecError(f"--home {o.home}: this is a file, not a folder")
    else:
        home = find_home(None if found.shipped else found.path)
    return found, Store(home)


def planned(o: Namespace) -> tuple[source.Source, Plan]:
    """The study as it would be run."""
    found, store = opened(o)
    plan = _checked(Plan, found.study, store)
    for v in plan.expansion.variants:
        _patterns(v)
    return found, plan


def _patterns(variant: Variant) -> None:
    """Refuse patterns of ``freeze`` that match no parameter, or leave none."""
    from paribus.nn.declare import declare
    from paribus.nn.freeze import trained_paths

    for p in variant.phases:
        if isinstance(p.spec.model, Model) and p.spec.freeze:
            try:
                trained_paths(declare(p.spec.model), p.spec.freeze)
            except SpecError as error:
                raise SpecError(f"{variant.name}: {error}") from None


def to_read(o: Namespace) -> tuple[source.Source, Plan]:
    """The study as its results are read, where its text is another one, too; that is told."""
    found, store = opened(o)
    plan = _checked(registered.reading, found.study, store)
    if plan.note:
        print(f"note: {plan.note}", file=sys.stderr, flush=True)
    return found, plan


def _checked(make: Callable[[Study, Store], Plan], s: Study, store: Store) -> Plan:
    """The plan, with its hypotheses verified against the grid."""
    from paribus.study import hypotheses

    gc.disable()  # of ten thousand trials nothing is garbage yet: looking for it takes a tenth
    try:
        plan = make(s, store)
        hypotheses.verify({**s.hypotheses, **s.criteria, **s.checks}, plan.record)
        _check_names(plan.record)
    finally:
        gc.enable()
    return plan


def _check_names(record: dict[str, Any]) -> None:
    """The primary metric and the columns, before anything runs."""
    metrics = record["metrics"]
    if metrics and record["primary"] not in metrics:
        raise SpecError(
            f"primary: no metric {record['primary']!r}; {nearest(record['primary'], metrics)}"
        )
    from paribus.analysis.records import COLUMNS
    from paribus.parts import hints
    from paribus.spec import load as load_spec

    known = [*COLUMNS, *(f["name"] for f in record["factors"]), *metrics]
    spec = load_spec(next(iter(record["variants_info"].values()))["spec"][-1]["spec"])
    for part in (record["columns"] or "").split(",") if record["columns"] else ():
        name, _, path = (p.strip() for p in part.partition("="))
        for place in (p.strip() for p in (path or name).split("/")):
            if place.replace(".", "", 1).isdigit():
                continue
            if "." in place or place in hints(type(spec)):
                at(spec, place)
            elif place not in known:
                raise SpecError(f"columns: no column {place!r}; {nearest(place, known)}")


@dataclass(frozen=True)
class Chosen:
    """The cells that ``--only`` leaves.

    Attributes:
        keys: conditions, where evaluation factors were named; None: all of them.
    """

    items: list[Item]
    keys: frozenset[str] | None = None

    def cells(self, item: Item) -> list[Cell]:
        return [c for c in item.cells if self.keys is None or c.condition.key in self.keys]


def chosen(plan: Plan, only: list[str]) -> Chosen:
    """``--only position=rope,alibi,seed=1``: the cells that have one of the levels given of each
    factor."""
    items, conditions = plan.items, plan.expansion.conditions
    factors = {f.name: f for f in plan.study.factors}
    axes = {f.name: f for f in plan.study.condition_factors()}
    for name, levels in _levels(only).items():
        if name == "seed":
            items = [i for i in items if str(i.trial.seed) in levels]
        elif name == "variant":
            known = {i.trial.variant.name for i in plan.items}
            for level in levels:
                if level not in known:
                    raise SpecError(f"--only variant={level}: no such one; {nearest(level, known)}")
            items = [i for i in items if i.trial.variant.name in levels]
        elif name == "evaluation":
            conditions = [c for c in conditions if c.evaluation.name in levels]
        elif name in factors:
            tags = {_tag(factors[name], level) for level in levels}
            items = [i for i in items if i.trial.variant.tags[name] in tags]
        elif name in axes:
            tags = {_tag(axes[name], level) for level in levels}
            conditions = [c for c in conditions if c.tags.get(name) in tags]
        else:
            names = ["seed", "variant", "evaluation", *factors, *axes]
            raise SpecError(f"--only {name!r}: no factor {name!r}; {nearest(name, names)}")
    if not items or (not conditions and plan.expansion.conditions):
        raise SpecError(f"--only {','.join(only)}: chooses no trial")
    whole = len(conditions) == len(plan.expansion.conditions)
    return Chosen(items, None if whole else frozenset(c.key for c in conditions))


def _levels(only: list[str]) -> dict[str, list[str]]:
    """Factor -> the levels asked for; a word without = is one more of the factor before it."""
    out: dict[str, list[str]] = {}
    name = ""
    for text in ",".join(only).split(",") if only else []:
        left, equals, right = text.partition("=")
        if equals or not name:
            name = left
        out.setdefault(name, []).append(right if equals or left == name else left)
    return out


def _tag(factor: Factor, level: str) -> str:
    tags = [lv.tag for lv in factor.levels]
    return factor.level(level if level in tags else value(level)).tag


def value(text: str) -> Any:
    """What an option says: JSON, or else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


RETRY = {
    "failed": "failed",
    "oom": "out of memory",
    "out of memory": "out of memory",
    "lost": "lost",
    "refused": "refused",
}


def retried(text: str | None) -> frozenset[str]:
    """The states that ``--retry STATE,…`` attempts again."""
    if text is None:
        return frozenset()
    if text == "all":
        return frozenset(RETRY.values())
    out = set()
    for name in text.split(","):
        if name == "diverged":
            raise SpecError("--retry diverged: divergence is a result; --force trains it again")
        if name not in RETRY:
            raise SpecError(f"--retry {name!r}; {nearest(name, RETRY)}")
        out.add(RETRY[name])
    return frozenset(out)


_NUMBER = r"(\d+(?:\.\d+)?)"
_SPAN = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s?)?")


def seconds(text: str, option: str, *, clock: bool = False) -> float:
    """``3h50m``, ``90s``, ``90`` in seconds; with ``clock`` also ``14:30``, the time from now."""
    if clock and (at := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text)):
        now = datetime.now()
        then = now.replace(hour=int(at[1]), minute=int(at[2]), second=0, microsecond=0)
        return (then - now).total_seconds() % 86400
    found = _SPAN.fullmatch(text)
    if not text or not found or not any(found.groups()):
        more = ", or a time of day such as 14:30" if clock else ""
        raise SpecError(f"{option} {text!r}: write a duration such as 3h50m, 9m or 90s{more}")
    return sum(float(n) * s for n, s in zip(found.groups(), (86400, 3600, 60, 1), strict=True) if n)


def device_of(o: Namespace) -> str:
    """The device asked for, else what workers will find, guessed without torch."""
    if o.device:
        if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", o.device):
            raise SpecError(f"--device {o.device!r}: valid: cpu, mps, cuda, cuda:0, cuda:1 …")
        return "cuda:0" if o.device == "cuda" else str(o.device)
    if os.path.exists("/dev/nvidia0") or os.path.exists("/dev/nvidiactl"):
        return "cuda:0"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"


def free_memory(device: str) -> int | None:
    """Bytes that are free on a device now; None where that is not known without torch."""
    kind, _, number = device.partition(":")
    if kind == "cuda":
        from paribus.launch.gpus import gpus

        return next((g.total - g.used for g in gpus() if g.index == int(number or 0)), None)
    from paribus.doctor import memory_limit

    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:  # not Linux
        return None
    free = int(found[1]) * 1024 if found else None
    limit = memory_limit()
    return free if limit is None or free is None else min(free, limit)


def same_options(o: Namespace) -> str:
    """The options that name the same study in the same home."""
    given = {"scale": o.scale, "seeds": o.seeds, "home": o.home}
    return "".join(f" --{k} {shlex.quote(str(v))}" for k, v in given.items() if v is not None)


def command(o: Namespace, trial: Trial) -> str:
    """The command that runs one trial of the study that the options name."""
    only = f"variant={trial.variant.name},seed={trial.seed}"
    return f"paribus run {o.study}{same_options(o)} --only {only}"


def a_file(output: str | None, study: str) -> None:
    """Refuse a folder where a table is to be written."""
    if output and (Path(output).is_dir() or output.endswith("/")):
        inside = Path(output) / "results.csv"
        raise SpecError(
            f"-o {output}: a file is wanted, and this is a folder: name one in it ({inside}); "
            f"paribus report {study} -o DIR fills a folder"
        )


def suffix(output: str | None, known: Iterable[str], more: str = "") -> str:
    """What a file's name ends with, without the dot; "" where nothing tells a format."""
    found = Path(output or "").suffix[1:].lower()
    if found and found not in known:
        names = ", ".join(f".{k}" for k in known)
        raise SpecError(f"-o {output}: no format is called .{found}; known: {names}{more}")
    return found

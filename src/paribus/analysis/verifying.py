"""Verification: every value of a bundle from the sums of its items, every verdict from the values.

Reads plain data alone.  Nothing of a bundle is executed, and torch is not needed.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from paribus.analysis import bundle, gaps, records
from paribus.analysis.bundle import Bundle
from paribus.errors import ParibusError, SpecError

if TYPE_CHECKING:
    import numpy as np

CLOSE = 1e-9  # relative: items are summed in another order than where they were made
ITEMS = 1 << 27  # of an evaluation

_BROKEN = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError
)  # fmt: skip
JUDGED = (
    "verdict effect low high level p p_adjusted p_flips n agree dz per_seed smallest_effect "
    "seeds_needed missing post_hoc threshold items_se"
).split()
"""What of a verdict is compared; its words may change between versions."""


@dataclass
class Report:
    """What verification found.

    Attributes:
        differences: what is not what the bundle says, a line each; empty: all is equal.
        verdicts: {"name", "kind", "verdict" (as recomputed), "said", "differences"} each.
        unchecked: what could not be checked, a line each.
        gaps: trials of which something had been removed before the bundle was made.
        counts: how many files, values, rows and verdicts were checked.
    """

    manifest: Mapping[str, Any]
    differences: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    registration: str = ""

    @property
    def equal(self) -> bool:
        return not self.differences and not any(v["differences"] for v in self.verdicts)


def verify(packed: Bundle) -> Report:
    """Check a bundle.  SpecError, one line, if it is damaged so that nothing can be said."""
    report = Report(packed.manifest)
    packed.check()
    report.differences += packed.wrong
    report.counts["files"] = len(packed.manifest["files"])
    try:
        _Check(packed, report).all()
    except ParibusError:
        raise
    except _BROKEN as error:
        said = f"{type(error).__name__}: {error}"
        raise SpecError(
            f"{packed.path} cannot be verified: its files make no sense ({said})"
        ) from None
    return report


class _Check:
    def __init__(self, packed: Bundle, report: Report) -> None:
        self.packed, self.report = packed, report
        self.study: dict[str, Any] = packed.json("study.json")

    def all(self) -> None:
        self._registration()
        looks = bundle.looks(self.study, self._read)
        self._trials(looks)
        self._weights()
        rows = records.rows(None, self.study, looks)  # type: ignore[arg-type]
        rows = json.loads(json.dumps(rows))
        self._rows(rows)
        self._verdicts(rows)
        self._rest()

    # ── the registration ──

    def _registration(self) -> None:
        from paribus.study.record import registration_hash

        said = self.packed.manifest.get("registration")
        real = self.report.registration = registration_hash(self.study)
        told = self.study.get("registration_hash")
        if said != real:
            self.report.differences.append(
                f"registration: its hash is {real}, the manifest says {said}"
            )
        if not told or told == real:
            return
        if why := self.packed.manifest.get("registration_changed"):
            self.report.unchecked.append(f"the hash {told} of the registration: {why}")
        else:
            text = f"registration: its hash is {real}, study.json says {told}"
            self.report.differences.append(text)

    # ── values ──

    @cached_property
    def _read(self) -> dict[str, Any]:
        """Every file of the trials that rows are made from; the items of records are let go."""
        found: dict[str, Any] = {}
        self.report.counts["values"] = 0
        keys = {(t["id"], c): (t["name"], k) for t in self.study["trials"]
                for k, c in t["cells"].items()}  # fmt: skip
        for name in self.packed.names("trials/"):
            parts = name.split("/")
            if parts[-1] in ("state.json", "end.json"):
                found[name] = self.packed.json(name)
            elif len(parts) == 4 and parts[2] == "evaluations":
                record = self.packed.json(name)
                cell = keys.get((parts[1], parts[3].removesuffix(".json")))
                if cell is None:
                    self.report.unchecked.append(f"{name}: no cell of the study")
                    continue
                self._values(" at ".join(cell), record)
                found[name] = {k: v for k, v in record.items() if k not in ("items", "groups")}
        return found

    def _values(self, where: str, record: dict[str, Any]) -> None:
        """Compare a record with the sums of its items, whose values it has afterwards."""
        if record.get("status") != "done":
            return
        sums = {}
        for metric, packed in (record.get("items") or {}).items():
            sums[metric] = _totals(packed)
        for metric, said in record["metrics"].items():
            info = self.study["metrics"].get(metric, {})
            total = sums.get(info.get("of") or metric)
            if total is None:
                self.report.unchecked.append(f"{where}: {metric} has no sums that can be read")
                continue
            self.report.counts["values"] += 1
            value = _value(total, info.get("transform"))
            if not _close(value, said["value"]) or not _close(total[1], said["count"]):
                self.report.differences.append(
                    f"{where}: {metric} is {said['value']} over {said['count']}, its items say "
                    f"{value} over {total[1]}"
                )
                said["value"], said["count"] = value, total[1]
        self._slices(where, record, sums)

    def _slices(
        self, where: str, record: Mapping[str, Any], sums: Mapping[str, tuple[float, float] | None]
    ) -> None:
        """The labels of items are not in the records, so of slices only the whole is checked: their
        sums and counts add up to those of all items, where a metric is no slice's own."""
        whole: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for name, values in (record.get("slices") or {}).items():
            for metric, said in values.items():
                alone = self.study["metrics"].get(metric, {}).get("within")
                if said["value"] is not None and metric in sums and not alone:
                    part = (said["value"] * said["count"], said["count"])
                    whole.setdefault((name.partition("=")[0], metric), []).append(part)
        for (by, metric), parts in whole.items():
            total = sums[metric]
            found = (math.fsum(p[0] for p in parts), math.fsum(p[1] for p in parts))
            if total is None or not math.isfinite(total[0]):
                continue
            if not _close(found[1], total[1]) or not _close(found[0], total[0]):
                text = f"{where}: the slices of {metric} by {by} do not add up to all items"
                self.report.differences.append(text)

    # ── trials ──

    def _trials(self, looks: Mapping[str, Any]) -> None:
        for trial in self.study["trials"]:
            look = looks[trial["id"]]
            if f"trials/{trial['id']}/state.json" not in self.packed:
                self.report.differences.append(
                    f"{trial['name']}: the study declares it and nothing of it is in the bundle"
                )
        known = [g for g in gaps.gaps(self.study, looks) if looks[g.id].state.state != "removed"]
        self.report.gaps += [str(g) for g in known]
        for trial in self.study["trials"]:
            look = looks[trial["id"]]
            evaluated = look.records or look.failed or not trial["cells"]
            if look.result is not None and not evaluated:
                self.report.unchecked.append(f"{trial['name']}: done, and not evaluated")

    def _weights(self) -> None:
        there = [n for n in self.packed.names("trials/") if n.endswith("/weights")]
        for name in there:
            end = self._read.get(name.replace("/weights", "/end.json")) or {}
            told = self.packed.manifest["files"].get(name, {}).get("sha256")
            if end.get("weights") != told:
                text = f"{name}: other weights than those that were evaluated"
                self.report.differences.append(text)
        if not there and self.report.counts["values"]:
            self.report.unchecked.append(
                "that the sums of the items are those of the models: that takes the weights "
                "(bundle --weights) and an evaluation"
            )

    # ── rows and verdicts ──

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        said = self.packed.json("rows.jsonl")
        self.report.counts["rows"] = len(said)

        def key(r: Mapping[str, Any]) -> tuple[Any, ...]:
            axes = [f["name"] for f in self.study["factors"] if f["kind"] == "condition"]
            return (r["trial"], r["evaluation"], *(r.get(a) for a in axes), r["slice"], r["metric"])

        ours, theirs = ({key(r): r for r in found} for found in (rows, said))
        columns = {name for r in said for name in r}  # an older version had fewer
        for k in ours.keys() | theirs.keys():
            where = f"rows.jsonl: {' '.join(str(x) for x in k if x not in (None, ''))}"
            if k not in theirs:
                self.report.differences.append(f"{where}: the row is gone")
            elif k not in ours:
                self.report.differences.append(f"{where}: no record has this row")
            else:
                self.report.differences += [
                    f"{where}: {name} is {theirs[k].get(name)!r}, the records say {value!r}"
                    for name, value in ours[k].items()
                    if name in columns and not _same(value, theirs[k].get(name))
                ]

    def _verdicts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from paribus.analysis.verdicts import verdicts

        found = {(v.kind, v.name): v.data() for v in verdicts(self.study, rows, self._items)}
        said = {(v["kind"], v["name"]): v for v in self.packed.json("verdicts.json")}
        for key in [*found, *(k for k in said if k not in found)]:
            ours, theirs = found.get(key), said.get(key)
            entry = {"name": key[1], "kind": key[0], "verdict": (ours or {}).get("verdict")}
            entry["said"] = (theirs or {}).get("verdict")
            if ours is None or theirs is None:
                which = "the registration has no such claim" if ours is None else "it is gone"
                entry["differences"] = [which]
            else:
                entry["differences"] = list(_unlike(ours, json.loads(json.dumps(theirs))))
            self.report.verdicts.append(entry)
        self.report.counts["verdicts"] = len(found)

    def _items(self, trial: str, condition: str, metric: str) -> Any:
        """(sums, counts, groups) of an evaluation's items, for the errors of verdicts."""
        name = f"trials/{trial}/evaluations/{condition}.json"
        if name not in self.packed:
            return None
        record = self.packed.json(name)
        packed = (record.get("items") or {}).get(metric)
        if packed is None:
            return None
        groups = record.get("groups")
        try:
            sums, counts = _array(packed["sum"]), _array(packed["count"])
            return sums, counts, None if groups is None else _array(groups)
        except (KeyError, TypeError, ValueError, zlib.error):
            return None

    def _rest(self) -> None:
        if any(n.startswith("report/") for n in self.packed.names()):
            self.report.unchecked.append("the report: it is a picture; what it shows was checked")
        if any(n.startswith("sources/") for n in self.packed.names()):
            self.report.unchecked.append("the sources: they are not executed")
        self.report.differences.sort()


def _unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for name in JUDGED:
        if name in theirs and not _same(ours.get(name), theirs[name]):
            yield f"{name}: the bundle says {theirs[name]!r}, it is {ours.get(name)!r}"
    a, b = ours.get("parts") or [], theirs.get("parts") or []
    if len(a) != len(b):
        yield f"parts: the bundle has {len(b)}, there are {len(a)}"
    for i, (x, y) in enumerate(zip(a, b, strict=False), 1):
        yield from (f"part {i}, {line}" for line in _unlike(x, y))


# ── numbers ─────────────────────────────────────────────────────────────────────────────────


def _totals(packed: Mapping[str, Any]) -> tuple[float, float] | None:
    """(sum, count) over the items of a metric; None where they cannot be read."""
    try:
        s, c = _array(packed["sum"]), _array(packed["count"])
    except (KeyError, TypeError, ValueError, zlib.error):
        return None
    if len(s) != len(c):
        return None
    # What was not finite stands as the largest numbers.
    total = math.inf if len(s) and float(abs(s).max()) >= 1e308 else float(s.sum())
    return total, float(c.sum())


def _array(text: str) -> np.ndarray[Any, Any]:
    """What `arrays.pack` made, without trust in its size."""
    import numpy

    reader = zlib.decompressobj()
    raw = reader.decompress(base64.b64decode(text, validate=True), 8 * ITEMS)
    if reader.unconsumed_tail or not reader.eof or len(raw) % 8:
        raise ValueError("no array")
    return numpy.frombuffer(raw, "<f8")


def _value(total: tuple[float, float], transform: str | None) -> float | None:
    if not total[1]:
        return None
    value = total[0] / total[1]
    if transform == "exp":
        value = math.exp(value) if value < 700 else math.inf
    return value if math.isfinite(value) else None


def _close(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-12)


def _same(a: Any, b: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
    return bool(a == b)

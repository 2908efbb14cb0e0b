"""What a probe found of one model, and how two models differ on the same questions.

An item's share of a ratio R = Σ s / Σ c is u = (s − R c) / Σ c; the error of R over questions is
√(Σ n · var(u)), variance and number within each level of the first slice (a task's questions are
drawn from its own).  Of two models the shares are subtracted first.  Of right and wrong answers
McNemar's exact test stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paribus import arrays
from paribus.analysis import curves
from paribus.analysis.items import discordant, mcnemar
from paribus.analysis.tables import to_csv
from paribus.analysis.unrecorded import of_model, value
from paribus.contracts import Metric
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.readers import Curve

Data = Mapping[str, Any]

KEPT = ("metrics", "slices", "anchors", "size", "realised", "seconds", "engine", "items", "labels")
ALSO = ("groups", "about", "tables")  # where a probe tells them


def data(
    model: Data,
    probe: Data,
    changes: Sequence[Data],
    records: Sequence[Data],
    curve: Curve | None = None,
) -> dict[str, Any]:
    """All of it, with each question's sums and counts, the errors over questions, and what is told
    along the probe's axis."""
    each: list[dict[str, Any]] = []
    for c, record in zip(changes, records, strict=True):
        kept = {k: record[k] for k in KEPT} | {k: record[k] for k in ALSO if record.get(k)}
        each.append({"changes": dict(c), **kept, "errors": _errors(kept)})
        if curve is not None:
            each[-1]["curves"] = [x.data() for x in curves.told(kept, curve)]
    return {**model, "recorded": False, "probe": dict(probe), "conditions": each}


def error(shares: Any, strata: Any, groups: Any = None) -> float | None:
    """The standard error of a sum of shares drawn within strata; None where one has a single
    item.  Items of one group (parts of a sequence) are one draw."""
    variance = 0.0
    for level in sorted(set(strata)):
        at = strata == level
        mine = shares[at]
        if groups is not None:
            mine = np.bincount(np.unique(groups[at], return_inverse=True)[1], mine)
        if len(mine) < 2:
            return None
        variance += len(mine) * float(mine.var(ddof=1))
    return math.sqrt(variance)


def shares(condition: Data, metric: str, at: Any = None) -> Any:
    """Each item's share u of a metric, of those items alone."""
    pair = condition["items"][metric]
    s, c = (arrays.unpack(pair[k]) for k in ("sum", "count"))
    s, c = (s, c) if at is None else (s[at], c[at])
    total = c.sum() or 1.0  # of items that count nothing no share is anything
    return (s - s.sum() / total * c) / total


def levels(condition: Data) -> Iterator[tuple[str, Any]]:
    """Each level of each slice as it is called, and which items are its."""
    for by, labels in condition["labels"].items():
        own = np.asarray(labels)
        for level in dict.fromkeys(labels):
            yield f"{by}={level}", own == level


def strata(condition: Data) -> Any:
    """The label of each item in the first slice."""
    for labels in condition["labels"].values():
        return np.asarray(labels)
    return np.zeros(condition["size"])


def _errors(condition: Data) -> dict[str, Any]:
    of, groups = strata(condition), _groups(condition)
    every = condition["items"]
    out: dict[str, Any] = {"": {m: error(shares(condition, m), of, groups) for m in every}}
    for name, at in levels(condition):
        own = None if groups is None else groups[at]
        out[name] = {m: error(shares(condition, m, at), of[at], own) for m in every}
    return out


def _groups(condition: Data) -> Any:
    packed = condition.get("groups")
    return None if packed is None else arrays.unpack(packed)


# ── two models ──────────────────────────────────────────────────────────────────────────────


def compared(found: Data, other: Data) -> list[dict[str, Any]]:
    """Of each condition, first minus second: over all items and within each level of a slice."""
    if found["probe"]["part"] != other["probe"]["part"]:
        raise SpecError(f"--against: it was asked {other['probe']['part']}, another probe")
    theirs = other["conditions"]
    out = []
    for i, a in enumerate(found["conditions"]):
        b = theirs[i if len(theirs) == len(found["conditions"]) else 0]
        if a["labels"] != b["labels"] or a["size"] != b["size"]:
            raise SpecError("--against: the other model was asked other questions")
        rows = {"": _compare(a, b, None)}
        out.append({"model": other["name"], "rows": rows | {n: _compare(a, b, at)
                                                            for n, at in levels(a)}})  # fmt: skip
    return out


def _compare(a: Data, b: Data, at: Any) -> dict[str, Any]:
    of = strata(a) if at is None else strata(a)[at]
    out: dict[str, Any] = {}
    for metric in a["items"]:
        pairs = []
        for x in (a, b):
            s, c = (arrays.unpack(x["items"][metric][k]) for k in ("sum", "count"))
            pairs.append((s, c) if at is None else (s[at], c[at]))
        gap = pairs[0][0].sum() / pairs[0][1].sum() - pairs[1][0].sum() / pairs[1][1].sum()
        moved = shares(a, metric, at) - shares(b, metric, at)
        groups = _groups(a)
        groups = groups if groups is None or at is None else groups[at]
        out[metric] = {"difference": float(gap), "error": error(moved, of, groups)}
        hits = [s for s, _ in pairs]
        if all(set(np.unique(h)) <= {0.0, 1.0} and (c == 1).all()
               for h, (_, c) in zip(hits, pairs, strict=True)):  # fmt: skip
            only = discordant(*(h.tolist() for h in hits))
            out[metric] |= {"only": list(only), "p": mcnemar(*only).exact}
    return out


# ── shown ───────────────────────────────────────────────────────────────────────────────────


def csv(*each: Data) -> str:
    """A row for all items of each condition, and one for each level of a slice, of each probe."""
    return to_csv([row for found in each for row in _rows(found)])


def _rows(found: Data) -> list[dict[str, Any]]:
    model = {k: v for k, v in found.items() if k not in ("recorded", "conditions", "weights",
                                                         "probe", "against")}  # fmt: skip
    rows = []
    for i, c in enumerate(found["conditions"]):
        parts = [("", c["metrics"], c["size"])]
        parts += [(n, c["slices"].get(n, {}), int(at.sum())) for n, at in levels(c)]
        for name, metrics, n in parts:
            row = {**model, "probe": found["probe"]["part"], "slice": name, "items": n}
            row |= {k: v if isinstance(v, str) else value(v) for k, v in c["changes"].items()}
            for m, told in metrics.items():
                row |= {m: told["value"], f"{m} error": c["errors"][name][m]}
            if name == "":
                row |= {f"{m} of {k}": v for m, of in c["anchors"].items() for k, v in of.items()}
            for m, d in (
                found.get("against", [{}] * (i + 1))[i].get("rows", {}).get(name, {}).items()
            ):
                row |= {f"{m} difference": d["difference"], f"{m} difference error": d["error"]}
                row |= {f"{m} p": d["p"]} if "p" in d else {}
            rows.append(row)
    return rows


def lines(
    found: Data,
    labels: Sequence[str],
    metrics: Mapping[str, Metric],
    curve: Curve | None = None,
) -> list[str]:
    """A table for each condition: all items, and each level of a slice; of a probe with an axis the
    places on it, and what is told along it."""
    out = [of_model(found), f"probe {found['probe']['part']}"]
    against = found.get("against") or [None] * len(labels)
    for label, c, two in zip(labels, found["conditions"], against, strict=True):
        engine = c["engine"]
        notes = "; ".join(f"{k}: {value(v)}" for k, v in c["realised"].items() if k != "not run")
        out += ["", f"{label}   {engine['device']}, {engine['kernel']}, {c['seconds']:g} s", notes]
        out += [*_not_run(c["realised"].get("not run", {})), ""]
        head = ["", "items", *metrics]
        names = [("all", "", c["metrics"], c["size"])]
        names += [(n, n, c["slices"].get(n, {}), int(at.sum())) for n, at in levels(c)
                  if curve is None or n.startswith(_shown(c, curve))]  # fmt: skip
        if two:
            head += [f"{m} − {two['model']}" for m in metrics] + ["p"]
        rows = [head]
        for shown, name, values, n in names:
            row = [shown, str(n)]
            row += [
                _with(values.get(m, {}).get("value"), c["errors"][name].get(m)) for m in metrics
            ]
            if two:
                told = two["rows"][name]
                row += [_with(told[m]["difference"], told[m]["error"], "+") for m in metrics]
                p = [told[m]["p"] for m in metrics if "p" in told[m]]
                row.append(f"{p[0]:.3g}" if p else "–")
            rows.append(row)
        sizes = [max(len(r[i]) for r in rows) for i in range(len(head))]
        out += ["  ".join([r[0].ljust(sizes[0]), *(x.rjust(n) for x, n in zip(r[1:], sizes[1:],
                strict=True))]).rstrip() for r in rows]  # fmt: skip
        if curve is not None and c.get("curves"):
            out += ["", *curves.lines(c["curves"], curve.axis), "intervals: 95 %, over items"]
        for m, of in c["anchors"].items():
            known = ", ".join(f"{k} {v:.4f}" for k, v in of.items())
            out += ["", f"{m} of others on the same tasks: {known}"]
    out += ["", "± is the standard error over items, of a difference that of the same items"]
    if found.get("against"):
        out.append("p is McNemar's, exact; seeds are another matter")
    return out


def _not_run(missing: Mapping[str, str]) -> list[str]:
    """Cells that were not asked, and why; of many the first and the last."""
    said = [f"{name} ({why})" for name, why in missing.items()]
    if len(said) > 4:
        said = [*said[:2], f"… {len(said) - 3} more …", said[-1]]
    return [f"not run: {'; '.join(said)}"] if said else []


def _shown(condition: Data, curve: Curve) -> str:
    """With what the levels begin that stand in the table."""
    several = curve.by is not None and len({*condition["labels"].get(curve.by, ())}) > 1
    return "cell=" if several else f"{curve.axis}="


def _with(x: float | None, spread: float | None, sign: str = "") -> str:
    if x is None:
        return "–"
    return f"{x:{sign}.4f}" + ("" if spread is None else f" ± {spread:.4f}")

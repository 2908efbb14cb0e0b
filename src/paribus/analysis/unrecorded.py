"""What ``paribus evaluate`` found, which is not recorded: plain data, a CSV, lines of text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paribus.analysis.tables import to_csv
from paribus.contracts import Metric

Data = Mapping[str, Any]

ADVICE = "not recorded; declare it as a condition (evaluate=, in the study file) to record it"
KEPT = ("split", "metrics", "baselines", "size", "realised", "seconds", "engine")
BINS = 6  # of a histogram that are shown; of more, their range and mean


def data(model: Data, changes: Sequence[Data], records: Iterable[Data]) -> dict[str, Any]:
    """Everything but the sums of single items.

    Args:
        changes: of each condition, path -> value.
    """
    each = [
        {"changes": dict(c), **{k: r[k] for k in KEPT}, "shown": r.get("shown", [])}
        for c, r in zip(changes, records, strict=True)
    ]
    return {**model, "recorded": False, "conditions": each}


def csv(found: Data) -> str:
    """A row for each condition, a column for each metric."""
    model = {k: v for k, v in found.items() if k not in ("recorded", "conditions", "weights")}
    rows = []
    for c in found["conditions"]:
        row = {**model, "split": c["split"]}
        row |= {path: v if isinstance(v, str) else value(v) for path, v in c["changes"].items()}
        row |= {k: m["value"] for k, m in c["metrics"].items()}
        row |= {f"{k} counted": m["count"] for k, m in c["metrics"].items()}
        row["items"] = c["size"]
        row |= {_trivial(name, k): v for name, k, v in _baselines(c)}
        row["realised"] = json.dumps(c["realised"])
        row |= {k: c["engine"][k] for k in ("device", "kernel", "torch")}
        rows.append({**row, "seconds": c["seconds"]})
    return to_csv(rows)


def lines(found: Data, labels: Sequence[str], metrics: Mapping[str, Metric]) -> list[str]:
    """A line for each condition, with what its rows held where conditions differ in that.

    Args:
        metrics: of all tasks, in the order in which they are shown.
    """
    conditions = found["conditions"]
    there = {k for c in found["conditions"] for k in c["metrics"]}
    metrics = {k: m for k, m in metrics.items() if k in there or m.of in there} or metrics
    units = [f"{k} in {m.unit}" for k, m in metrics.items() if m.unit]
    trivial = list(dict.fromkeys((name, k) for c in conditions for name, k, _ in _baselines(c)))
    differs, same = _realised([c["realised"] for c in conditions])
    first = next(iter(metrics.values()))
    counted = "tokens" if first.unit.endswith("/token") else "counted"
    head = ["", *metrics, counted, "items", *(_trivial(*t) for t in trivial)]
    rows = [head]
    for label, c in zip(labels, conditions, strict=True):
        counts = [m["count"] for k, m in c["metrics"].items() if k in metrics]
        known = {(name, k): v for name, k, v in _baselines(c)}
        rows.append(
            [
                label,
                *(_number(c["metrics"].get(k, {}).get("value")) for k in metrics),
                _whole(counts[0]) if counts else "–",
                _whole(c["size"]),
                *(_number(known.get(t)) for t in trivial),
            ]
        )
    sizes = [max(len(r[i]) for r in rows) for i in range(len(head))]
    after = ["", *differs] if any(differs) else [""] * len(rows)
    one = conditions[0]
    return [
        of_model(found),
        f"{one['split']} split; {', '.join(units) or 'no units'}; {one['engine']['device']}, "
        f"{one['engine']['kernel']}",
        "",
        *(_line(row, sizes, more) for row, more in zip(rows, after, strict=True)),
        *(["", f"rows held: {same}"] if same else []),
        *(line for c, to in zip(conditions, labels, strict=True) for line in _each(c, to)),
        "",
        ADVICE,
    ]


def of_model(found: Data) -> str:
    """Which weights it was."""
    if found["attempt"] is None:
        return f"{found['name']}   weights {found['sha256'][:12]}"
    return (
        f"{found['name']} ({found['trial']})   attempt {found['attempt']}, step {found['step']}, "
        f"weights {found['sha256'][:12]}"
    )


def _each(condition: Data, label: str) -> list[str]:
    """What each item asks and what is answered, where a condition has few."""
    shown = condition["shown"]
    if not shown:
        return []
    head = ["", *shown[0]]
    rows = [[str(n), *map(_cell, row.values())] for n, row in enumerate(shown, 1)]
    sizes = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    numbers = [isinstance(v, float) or v is None for v in shown[0].values()]
    return [
        "",
        f"items of {label}",
        *(
            "  ".join(
                c.rjust(n) if right else c.ljust(n)
                for c, n, right in zip(row, sizes, [True, *numbers], strict=True)
            ).rstrip()
            for row in [head, *rows]
        ),
    ]


def _cell(v: Any) -> str:
    return v if isinstance(v, str) else _number(v)


def value(v: Any) -> str:
    """A value as it is written on the command line; a part without settings by its name."""
    if isinstance(v, str):
        return v
    if isinstance(v, dict) and v.keys() == {"part"}:
        return str(v["part"])
    return json.dumps(v, separators=(",", ":"), ensure_ascii=False)


def _line(cells: Sequence[str], sizes: Sequence[int], more: str) -> str:
    first, *others = cells
    shown = [first.ljust(sizes[0]), *(c.rjust(n) for c, n in zip(others, sizes[1:], strict=True))]
    return "  ".join([*shown, more]).rstrip()


def _baselines(condition: Data) -> list[tuple[str, str, float]]:
    """(baseline, metric, value) of each trivial baseline."""
    return [(n, k, v) for n, of in condition["baselines"].items() for k, v in of.items()]


def _trivial(name: str, metric: str) -> str:
    return f"{name} {metric}"


def _number(x: float | None) -> str:
    if x is None:
        return "–"
    return f"{x:.4f}" if x == 0 or 1e-3 <= abs(x) < 1e6 else f"{x:.4g}"


def _whole(x: float) -> str:
    return f"{x:,.0f}".replace(",", " ")


def _realised(each: Sequence[Data]) -> tuple[list[str], str]:
    """What rows held: of each condition where they differ in it, and what all have in common."""
    same = {k: v for k, v in each[0].items() if all(k in e and e[k] == v for e in each)}
    return [_told({k: v for k, v in e.items() if k not in same}) for e in each], _told(same)


def _told(realised: Data) -> str:
    return "; ".join(f"{k} {_short(v)}" for k, v in realised.items() if v not in (0, {}, ""))


def _short(v: Any) -> str:
    """A number, a histogram {what: how often}, a hash."""
    if isinstance(v, Mapping):
        if len(v) <= BINS or not all(re.fullmatch(r"\d+", str(k)) for k in v):
            return ", ".join(f"{k} (×{_whole(n)})" for k, n in v.items())
        n = sum(v.values())
        mean = sum(int(k) * times for k, times in v.items()) / n
        return f"{min(map(int, v))} … {max(map(int, v))} (×{_whole(n)}, mean {mean:.3g})"
    if isinstance(v, str) and re.fullmatch(r"[0-9a-f]{16,}", v):
        return v[:12]
    return _whole(v) if isinstance(v, int) and not isinstance(v, bool) else str(v)

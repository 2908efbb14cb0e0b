"""`paribus status` as text: a grid of glyphs, what runs, what failed, what is free.

Takes the plain data of `standing`; knows nothing else.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

Data = Mapping[str, Any]

GLYPHS = {  # state: glyph, in ASCII, colour
    "done": ("■", "#", "32"),
    "running": ("▶", ">", "36"),
    "planned": ("·", ".", "2"),
    "waiting": ("↻", "r", "33"),
    "interrupted": ("‖", "|", "33"),
    "blocked": ("!", "!", "35"),
    "diverged": ("≈", "~", "33"),
    "failed": ("✗", "x", "31"),
    "out of memory": ("▲", "M", "31"),
    "refused": ("⊘", "-", "34"),
    "partly": ("▪", "+", "36"),
}
LEGEND = {"waiting": "retired, waits to be trained again", "partly": "some seeds done"}
ROWS = 48  # variants above which the last factors become columns
FOLDED = 100  # rows that a grid may have
FAILURES = 20  # that are shown


@dataclass(frozen=True)
class Style:
    """How to print: `unicode` glyphs or ASCII, in `color` or not, up to `width` columns."""

    unicode: bool = True
    color: bool = False
    width: int = 100

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """What a stream can show."""
        terminal = stream.isatty()
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        width = shutil.get_terminal_size().columns if terminal else 120
        return cls(unicode, terminal and not plain, width)

    def glyph(self, state: str, text: str = "") -> str:
        """The state's glyph, with a text that shares its colour."""
        wide, narrow, color = GLYPHS.get(state, ("?", "?", "31"))
        shown = (wide if self.unicode else narrow) + text
        return f"\x1b[{color}m{shown}\x1b[0m" if self.color else shown

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.color else text

    @property
    def dot(self) -> str:
        return " · " if self.unicode else " | "


def text(data: Data, style: Style) -> str:
    """The whole page."""
    blocks = [
        _head(data, style),
        _grid(data, style),
        _legend(data, style),
        _trunks(data, style),
        _running(data, style),
        _failures(data, style),
        _gaps(data, style),
        _space(data),
        _runs(data, style),
    ]
    return "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block))) + "\n"


def _head(data: Data, style: Style) -> Iterator[str]:
    yield style.bold(data["study"]) + f"   {data['question']}"
    yield f"home      {data['home']}"
    if data["note"]:
        yield f"note      {data['note']}"
    counts = ", ".join(f"{n:,} {state}" for state, n in data["counts"].items())
    yield f"trials    {len(data['trials']):,}: {counts}"
    if data["evaluations"]:
        yield f"evaluate  {data['evaluated']:,} of {data['evaluations']:,} cells done"
    eta = data["eta"]
    if eta is not None and eta["workers"]:
        who = "1 worker" if eta["workers"] == 1 else f"{eta['workers']} workers"
        yield f"time      about {span(eta['seconds'])} left with {who}; basis: {eta['basis']}"
    elif eta is not None:
        yield f"time      about {span(eta['seconds'])} of work; basis: {eta['basis']}; nothing runs"


# ── the grid ────────────────────────────────────────────────────────────────────────────────


def _kind(trial: Data) -> str:
    return "waiting" if trial["retired"] and trial["state"] == "planned" else str(trial["state"])


def _grid(data: Data, style: Style) -> Iterator[str]:
    variants: dict[str, list[Data]] = {}
    for t in data["trials"]:
        variants.setdefault(t["variant"], []).append(t)
    if len(variants) <= ROWS or not data["factors"]:
        yield from _by_variant(data, variants, style)
    else:
        yield from _folded(data, style)


def _by_variant(data: Data, variants: Mapping[str, list[Data]], style: Style) -> Iterator[str]:
    """A row a variant: a glyph a seed, then a glyph a condition where they are few."""
    rows = [[_seed(t, style) for t in trials] for trials in variants.values()]
    shown = [[len(_bare(t)) for t in trials] for trials in variants.values()]
    columns = max(map(len, rows))
    sizes = [max((r[k] for r in shown if k < len(r)), default=1) for k in range(columns)]
    name = max(len("variant"), *map(len, variants))
    few = 1 < len(data["conditions"]) <= 12
    seeds = " ".join(" " * s for s in sizes)
    title = "seeds" if len(seeds) >= 5 else ""
    width = max(len(seeds), len(title))
    yield f"{'variant':{name}}  {title:{width}}  {'conditions' if few else ''}".rstrip()
    for (variant, trials), cells, bare in zip(variants.items(), rows, shown, strict=True):
        line = " ".join(c + " " * (s - n) for c, s, n in zip(cells, sizes, bare, strict=False))
        length = sum(sizes[: len(cells)]) + len(cells) - 1
        done, of = (sum(t[k] for t in trials) for k in ("evaluated", "evaluations"))
        marks = "".join(_condition(trials, c, style) for c in data["conditions"]) if few else ""
        count = f"{done}/{of}" if of else ""
        padding = " " * (width - length)
        yield f"{variant:{name}}  {line}{padding}  {marks}  {count}".rstrip()
    if few:
        yield f"conditions, from the left: {', '.join(data['conditions'])}"


def _bare(trial: Data) -> str:
    """What a seed's cell shows, the glyph as one character."""
    share = f"{100 * trial['step'] // max(1, trial['steps'])}%"
    return "?" + (share if trial["state"] in ("running", "blocked") else "")


def _seed(trial: Data, style: Style) -> str:
    return style.glyph(_kind(trial), _bare(trial)[1:])


def _condition(trials: Sequence[Data], key: str, style: Style) -> str:
    """One glyph for a condition over the seeds: what failed or runs shows first."""
    states = [t["conditions"][key] for t in trials if key in t["conditions"]]
    if not states:
        return " "
    for state in ("failed", "running"):
        if state in states:
            return style.glyph(state)
    if len(set(states)) == 1:
        return style.glyph(states[0])
    return style.glyph("partly")


def _folded(data: Data, style: Style) -> Iterator[str]:
    """Rows by the first factors, columns by the last ones, seeds beside each other."""
    factors, trials = data["factors"], data["trials"]

    def key(t: Data, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(t["levels"][f] or "" for f in names)

    split = len(factors) - 1
    while split > 0 and len({key(t, factors[:split]) for t in trials}) > FOLDED:
        split -= 1
    above, across = factors[:split], factors[split:]
    rows: dict[tuple[str, ...], dict[tuple[str, ...], list[Data]]] = {}
    for t in trials:
        rows.setdefault(key(t, above), {}).setdefault(key(t, across), []).append(t)
    columns = list(dict.fromkeys(k for row in rows.values() for k in row))
    labels = ["/".join(x for x in k if x) for k in columns]
    sizes = [
        max(len(label), *(len(row.get(k, ())) for row in rows.values()))
        for label, k in zip(labels, columns, strict=True)
    ]
    names = [" ".join(f"{f}={x}" for f, x in zip(above, k, strict=True) if x) for k in rows]
    first = max(map(len, [*names, " ".join(above)]))
    count = len(f"{max(len(r) for r in rows.values()):,}") + 14
    yield f"rows: {', '.join(above) or 'all'}; columns: {', '.join(across)}; a glyph a seed"
    for block in _blocks(sizes, style.width - first - count):
        heads = "  ".join(f"{labels[k]:{sizes[k]}}" for k in block)
        yield f"{'':{first}}  {heads}  evaluated"
        for name, row in zip(names, rows.values(), strict=True):
            cells = [row.get(columns[k], []) for k in block]
            marks = "  ".join(
                "".join(style.glyph(_kind(t)) for t in c) + " " * (sizes[k] - len(c))
                for k, c in zip(block, cells, strict=True)
            )
            done, of = (sum(t[k] for c in cells for t in c) for k in ("evaluated", "evaluations"))
            yield f"{name:{first}}  {marks}  {f'{done}/{of}' if of else ''}".rstrip()


def _blocks(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Columns in groups that fit."""
    out: list[list[int]] = [[]]
    for k, size in enumerate(sizes):
        if out[-1] and sum(sizes[i] + 2 for i in out[-1]) + size > room:
            out.append([])
        out[-1].append(k)
    return out


def _legend(data: Data, style: Style) -> Iterator[str]:
    """The glyphs that occur, in the order of the table above."""
    seen = {_kind(t) for t in data["trials"]}
    variants = len({t["variant"] for t in data["trials"]})
    if variants <= ROWS and 1 < len(data["conditions"]) <= 12:
        by: dict[tuple[str, str], set[str]] = {}
        for t in data["trials"]:
            for key, state in t["conditions"].items():
                by.setdefault((t["variant"], key), set()).add(state)
        for states in by.values():
            first = states & {"failed", "running"}
            seen |= first or (states if len(states) == 1 else {"partly"})
    line, length = "", 0
    for state in (s for s in GLYPHS if s in seen):
        words = LEGEND.get(state, state)
        if length + len(words) + 5 > style.width:
            yield line
            line, length = "", 0
        line += ("   " if length else "") + f"{style.glyph(state)} {words}"
        length += len(words) + 5
    yield line


# ── below the grid ──────────────────────────────────────────────────────────────────────────


def _trunks(data: Data, style: Style) -> Iterator[str]:
    if data["trunks"]:
        yield style.bold("shared beginnings")
    for t in data["trunks"]:
        reason = f"  {t['reason']}" if t["state"] in ("failed", "blocked") else ""
        yield (
            f"  {style.glyph(t['state'])} {t['trunk']}  {t['state']}  "
            f"{t['step']:,}/{t['steps']:,}  for {t['children']}{reason}"
        )


def _running(data: Data, style: Style) -> Iterator[str]:
    rows = data["running"]
    if not rows:
        return
    yield style.bold("what runs where")
    name = max(len(r["name"]) for r in rows)
    for r in rows:
        place = style.dot.join(
            str(x) for x in (r["host"], f"process {r['pid']}", r.get("device")) if x
        )
        if r["condition"] is not None:
            mark = style.glyph("running")
            yield f"  {mark} {r['name']:{name}}  evaluates {r['condition']}  {place}"
            continue
        rate = r["steps_per_second"]
        speed = f"  {rate:.3g} steps/s" if rate else ""
        share = f"{100 * r['step'] // max(1, r['steps'])}%"
        line = f"  {style.glyph(r['state'])} {r['name']:{name}}  {share:>4}  "
        yield f"{line}{r['step']:,}/{r['steps']:,}{speed}  {place}"
        if r["reason"]:
            yield f"      blocked: {r['reason']}"
        if r["stuck"]:
            yield f"      stuck: no step for {span(r['quiet_seconds'])}"


def _failures(data: Data, style: Style) -> Iterator[str]:
    found = data["failures"]
    if not found:
        return
    yield style.bold("failures")
    for f in found[:FAILURES]:
        yield f"  {style.glyph(f['state'])} {f['name']}: {f['state']}: {f['reason']}"
        yield from (f"      {line[: style.width - 6]}" for line in f["lines"])
    if len(found) > FAILURES:
        yield f"  … {len(found) - FAILURES:,} more; --json has all of them"


def _gaps(data: Data, style: Style) -> Iterator[str]:
    found = data["gaps"]
    if found:
        yield style.bold("removed by hand")
    yield from (f"  {line}" for line in found[:FAILURES])
    if len(found) > FAILURES:
        yield f"  … {len(found) - FAILURES:,} more; --json has all of them"


def _space(data: Data) -> Iterator[str]:
    disk, memory = data["disk"], data["memory"]
    if disk:
        yield f"disk      {size(disk['needed'])} needed, {size(disk['free'])} free"
    if memory and memory["needed"]:
        free = f"; {size(memory['free'])} free on {memory['device']}" if memory["free"] else ""
        yield f"memory    {size(memory['needed'])} for a step of the largest trial{free}"


def _runs(data: Data, style: Style) -> Iterator[str]:
    if data["runs"]:
        yield style.bold("runs")
    for r in data["runs"]:
        gone = {True: "", False: "  gone", None: "  cannot be seen from here"}[r["alive"]]
        command = f"  {r['command']}" if r.get("command") else ""
        yield f"  process {r['pid']} on {r['host']} since {r['at']}{command}{gone}"
        if r.get("waits") and r["alive"] is not False:
            yield f"    waits: {r['waits']}"


def span(seconds: float) -> str:
    """``12 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(n: float) -> str:
    """``1.5 GB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"

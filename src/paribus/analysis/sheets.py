"""A table as it is shown: rows with their factors, cells with spread and n, the best marked.

Pages, Markdown and LaTeX are written from the same sheet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from paribus.analysis.cells import Results, Row
from paribus.analysis.compared import Difference, best, differences, need, trivial
from paribus.analysis.stats import Sample
from paribus.analysis.tables import Entry, Table, Trivial, ends, fixed, laid, places, spanned, table
from paribus.errors import SpecError
from paribus.study.measures import Node

TRIVIAL = "≤"
"""Marks a mean that is no better than a trivial baseline's."""

ITEMS = "items"
"""Begins the line of how many items each slice holds."""

WAITING = ("planned", "running", "blocked", "interrupted")


@dataclass(frozen=True)
class Cell:
    """A mean over ``n`` of ``of`` seeds; ``mean`` is "" where no seed has a value.

    ``states`` says what became of seeds without one: "1 diverged, 2 running".
    """

    mean: str = ""
    sd: str = ""
    n: int = 0
    of: int = 0
    states: str = ""
    best: bool = False
    trivial: bool = False
    seeds: str = ""  # "1: 3.21, 2: 3.25"
    difference: Difference | None = None

    @property
    def whole(self) -> bool:
        return self.n == self.of

    @property
    def waits(self) -> bool:
        """Whether what is missing is still to come."""
        return all(part.split(" ", 1)[-1] in WAITING for part in self.states.split(", "))

    @property
    def count(self) -> str:
        """ "3", or "2/3"."""
        return str(self.n) if self.whole else f"{self.n}/{self.of}"


@dataclass(frozen=True)
class Line:
    """``kind``: variant, imported, trivial or items; ``cells``: None where a condition is not its
    own."""

    kind: str
    name: str
    levels: tuple[str, ...]
    cells: tuple[Cell | None, ...]
    index: int = -1  # of the variant in the study
    reference: bool = False  # of the baseline arm
    against: str = ""  # the variant of the baseline arm that it is held against


@dataclass(frozen=True)
class Sheet:
    """``factors``: columns of their own, where more than one tells variants apart; ``groups``:
    (title, labels) of the columns."""

    table: Table
    factors: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    lines: tuple[Line, ...]
    hidden: int = 0  # variants of a tuning grid that were not chosen

    @property
    def compared(self) -> bool:
        """Whether there are differences to a baseline arm."""
        return any(c and c.difference for line in self.lines for c in line.cells)

    @cached_property
    def decimals(self) -> int | None:
        """Of differences: as many as the values have, and more where an interval's half needs
        them for two digits."""
        found = [c.difference for line in self.lines for c in line.cells if c and c.difference]
        halves = sorted((d.high - d.low) / 2 for d in found
                        if d.low is not None and d.high is not None and d.high > d.low)  # fmt: skip
        sizes = halves or sorted(abs(d.mean) for d in found if d.mean)
        own = self.table.decimals
        if own is None or not sizes:
            return own
        return max(own, min(places(sizes[len(sizes) // 2], 2), 9))

    @property
    def marked(self) -> bool:
        return any(c and c.best for line in self.lines for c in line.cells)

    @property
    def trivial(self) -> bool:
        return any(c and c.trivial for line in self.lines for c in line.cells)

    def of(self, kind: str) -> Iterator[Line]:
        return (line for line in self.lines if line.kind == kind)


def sheet(study: Node, t: Table, among: Collection[str] | None = None) -> Sheet:
    """The table as a sheet; ``among``: the variants that are shown (default: all)."""
    shown = [v["name"] for v in study["variants"]] if among is None else among
    levels = {v["name"]: v["levels"] for v in study["variants"]}
    factors = [f["name"] for f in study["factors"] if f["kind"] == "variant"]
    factors = factors if len(factors) > 1 else []
    compared, d = differences(study, t, shown), t.decimals
    marks = [best(t, k, shown) for k in range(len(t.columns))]
    order = {v["name"]: i for i, v in enumerate(study["variants"])}
    lines = []
    for name, row in t.rows:
        if name not in shown:
            continue
        against, apart = compared.get(name, ("", (None,) * len(row)))
        cells = tuple(
            _cell(e, d, name in marks[k], not t.slices and trivial(t, k, name), apart[k])
            if e
            else None
            for k, e in enumerate(row)
        )
        tags = tuple("–" if levels[name].get(f) is None else str(levels[name][f]) for f in factors)
        lines.append(Line("variant", name, tags, cells, order[name], name in t.reference, against))
    for name, row in t.imports:
        cells = tuple(_cell(e, d) if e else None for e in row)
        lines.append(Line("imported", name, (), cells))
    for name, values in t.baselines:
        cells = tuple(None if v is None else Cell(spanned(v, d), n=1, of=1) for v in values)
        lines.append(Line("trivial", name, (), cells))
    for name, values in t.items:
        counts = tuple(None if v is None else Cell(counted(v), n=1, of=1) for v in values)
        lines.append(Line("items", f"{ITEMS} {name}".rstrip(), (), counts))
    hidden = len(t.rows) - sum(line.kind == "variant" for line in lines)
    return Sheet(t, tuple(factors), _groups(t), tuple(lines), hidden)


def counted(value: Trivial) -> str:
    """ "1300", or "40…140" where variants have numbers of their own."""
    return "…".join(f"{x:.0f}" for x in ends(value))


def _cell(
    e: Entry,
    decimals: int | None,
    marked: bool = False,
    low: bool = False,
    apart: Difference | None = None,
) -> Cell:
    if not e.by_seed:
        return Cell(of=e.planned, states=e.lost)
    s = Sample(e.values)
    several = (
        "" if s.n < 2 else ", ".join(f"{k}: {fixed(v, decimals)}" for k, v in e.by_seed.items())
    )
    return Cell(
        fixed(s.mean, decimals), fixed(s.sd, decimals) if s.n > 1 else "", s.n, e.planned, e.lost,
        marked, low, several, apart,
    )  # fmt: skip


def _groups(t: Table) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Columns of one factor under its name; others by their labels."""
    found: list[tuple[str, list[str]]] = []
    several = len({c["evaluation"] for c in t.conditions}) > 1
    for c, label in zip(t.conditions, t.columns, strict=True):
        own = {f: tag for f, tag in c["levels"].items() if tag is not None}
        title = next(iter(own)) if len(own) == 1 else ""
        if title and several:
            title = f"{c['evaluation']}: {title}"
        text = str(next(iter(own.values()))) if title else label
        if found and found[-1][0] == title:
            found[-1][1].append(text)
        else:
            found.append((title, [text]))
    return tuple((title, tuple(labels)) for title, labels in found)


def told(
    study: Node,
    records: Iterable[Row],
    metric: str | None,
    apart: bool,
    form: str,
    imports: Sequence[Mapping[str, Any]] = (),
    sliced: bool = False,
) -> str:
    """A metric's table as text, Markdown or LaTeX; ``apart``: differences to the baseline arm;
    ``sliced``: a table for each condition with slices, a column a slice."""
    from paribus.analysis import slices

    if apart:
        need(study)
    results = Results(study, records)
    if not sliced:
        return _told(study, results, table(study, results, metric, imports=imports), apart, form)
    found = [_told(study, results, t, apart, form) for t in slices.tables(results, metric)]
    if not found:
        raise SpecError(
            f"study {study['name']!r} has no results by slice: Eval(..., by=(...)) names slices"
        )
    return "\n\n".join(found)


def _told(study: Node, results: Results, t: Table, apart: bool, form: str) -> str:
    if form == "text" and not apart:
        return laid(t, t.texts(), "1 seed" if t.n == 1 else f"mean ± sd over {t.n} seeds")
    s = sheet(study, t, {study["variants"][i]["name"] for i in results.chosen})
    if form == "markdown":
        return f"{title(t)}, {t.better} is better\n\n{markdown(s, apart)}"
    if form == "latex":
        return latex(s, apart)
    lines = [[line.name, *(plain(s, c, True) for c in line.cells)]
             for line in s.of("variant") if line.against]  # fmt: skip
    return laid(t, lines, "difference to the baseline arm [95% interval], paired by seed")


# ── as text for other programs ──────────────────────────────────────────────────────────────


def title(t: Table) -> str:
    """ "loss (nats/token)"."""
    name = f"{t.metric} ({t.unit})" if t.unit else t.metric
    return f"{name} by slice of {t.slices}" if t.slices else name


def heads(s: Sheet) -> list[str]:
    first = list(s.factors) or ["variant"]
    return first + [f"{g}={x}" if g else x for g, labels in s.groups for x in labels]


def firsts(s: Sheet, line: Line, mark: str = "") -> list[str]:
    """The leading columns of a line; ``mark`` follows the name of the baseline arm."""
    if line.kind != "variant" or not s.factors:
        name = line.name + (mark if line.reference else "")
        return [name] + [""] * (len(s.factors) - 1)
    return [*line.levels[:-1], line.levels[-1] + (mark if line.reference else "")]


def plain(s: Sheet, cell: Cell | None, apart: bool = False) -> str:
    """A cell as one line of text: its value, or its difference to the baseline arm."""
    if cell is None:
        return ""
    if apart:
        d = cell.difference
        if d is None:
            return ""
        count = "" if d.n == d.of else f" ({d.n}/{d.of})"
        return "; ".join(x for x in (d.text(s.decimals) + count, d.share()) if x)
    if not cell.mean:
        return cell.states or "–"
    text = f"{TRIVIAL} " * cell.trivial + cell.mean + (f" ± {cell.sd}" if cell.sd else "")
    if cell.whole:
        return text
    return f"{text} ({cell.count}{'; ' if cell.states else ''}{cell.states})"


def markdown(s: Sheet, apart: bool = False, mark: str = " (baseline)") -> str:
    """A table of GitHub's Markdown: best within noise bold, what is no arm of the study italic."""
    n = max(1, len(s.factors))
    out = [_md(heads(s)), _md(["---"] * n + ["---:"] * len(s.table.columns))]
    for line in s.lines:
        if apart and (line.kind != "variant" or not any(c and c.difference for c in line.cells)):
            continue
        cells = []
        for cell in line.cells:
            text = escaped(plain(s, cell, apart))
            cells.append(f"**{text}**" if text and _bold(cell, apart) else text)
        lead = [escaped(x) for x in firsts(s, line, mark)]
        if line.kind != "variant":
            lead = [f"*{lead[0]}*", *lead[1:]]
        out.append(_md(lead + cells))
    return "\n".join(out)


def _md(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Characters that Markdown reads otherwise, and line ends."""
    for c in "\\`*_<>|[]":
        text = text.replace(c, "\\" + c)
    return text.replace("\n", " ").replace("\r", " ")


TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$", "≤": r"$\leq$", "–": "--", "…": r"\dots{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "×": r"$\times$", "→": r"$\to$",
    "\n": " ", "\r": " ",
}  # fmt: skip


def tex(text: Any) -> str:
    """Text for LaTeX; the template compiles with any engine where it is ASCII."""
    return "".join(TEX.get(c, c) for c in str(text))


def latex(s: Sheet, apart: bool = False, label: str = "") -> str:
    """A table for papers, with booktabs: the best set bold, spread and n in every cell."""
    n = max(1, len(s.factors))
    out = [
        "% needs \\usepackage{booktabs}; Chinese: xelatex or lualatex with xeCJK or ctex",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_caption(s, apart)}}}",
        *([f"\\label{{{label}}}"] if label else []),
        f"\\begin{{tabular}}{{{'l' * n}{'r' * len(s.table.columns)}}}",
        r"\toprule",
    ]
    if any(group for group, _ in s.groups):
        spans = [f"\\multicolumn{{{len(labels)}}}{{c}}{{{tex(g)}}}" for g, labels in s.groups]
        out.append(" & ".join([""] * n + spans) + r" \\")
    names = list(s.factors) or ["variant"]
    out.append(" & ".join(map(tex, names + [x for _, ls in s.groups for x in ls])) + r" \\")
    last = ""
    for line in s.lines:
        if apart and (line.kind != "variant" or not any(c and c.difference for c in line.cells)):
            continue
        if line.kind != last:
            out.append(r"\midrule")
            last = line.kind
        lead = [tex(x) for x in firsts(s, line, " (baseline)")]
        if line.kind != "variant":
            lead[0] = f"\\emph{{{lead[0]}}}"
        cells = [_tex_cell(s, cell, apart) for cell in line.cells]
        out.append(" & ".join(lead + cells) + r" \\")
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex_cell(s: Sheet, cell: Cell | None, apart: bool) -> str:
    text = tex(plain(s, cell, apart))
    if not text or not _bold(cell, apart):
        return text
    mean, sign, rest = text.partition(" [" if apart else " $\\pm$ ")
    return f"\\textbf{{{mean}}}{sign}{rest}"


def _bold(cell: Cell | None, apart: bool) -> bool:
    """Among the best; of differences: beyond 0."""
    if cell is None or not apart:
        return cell is not None and cell.best
    return cell.difference is not None and cell.difference.clear


def _caption(s: Sheet, apart: bool) -> str:
    t = s.table
    text = f"{title(t)}, {t.better} is better; "
    if apart:
        text += "difference to the baseline arm with 95 % t-interval, paired by seed. Bold: "
        text += "beyond 0 at a false discovery rate of 5 % over the table"
    else:
        text += f"mean ± standard deviation over {t.n} seeds" if t.n > 1 else "1 seed"
    if s.marked and not apart:
        text += ". Bold: best within noise (paired difference to the best mean: "
        text += "95 % t-interval includes 0)"
    if s.trivial and not apart:
        text += f". {TRIVIAL}: no better than a trivial baseline"
    return tex(text + ".")

"""The paper that figures are drawn on: style, words in two languages, SVG, PNG and PDF.

Words that are not data are drawn between two invisible characters, so that the same drawing can be
given in English, in Chinese, or as SVG that follows the page's switch of language.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from paribus.analysis.plots.fonts import BASE, FALLBACK, cover
from paribus.analysis.words import say
from paribus.study.measures import COUNTS

# Okabe and Ito's palette (2008), which stays apart under the common forms of colour blindness,
# without its yellow, which is too light for lines; then dashes tell further lines apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#111111")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
INK, GREY, FAINT, GRID, PAPER = "#202124", "#5f6368", "#9aa0a6", "#eceff1", "#ffffff"
VERDICTS = {
    "supported": "#1a7f4b", "met": "#1a7f4b", "refuted": "#b42318", "not met": "#b42318",
    "inconclusive": "#9a6700",
}  # fmt: skip
WIDTH = 7.6  # inches
ROW = 0.19  # inches of a legend's row
OTHERS = "other arms"  # a label: those that lack the factor that colours tell

# What a colour is called in the style sheet of the page, which has a light and a dark one.
NAMES = {
    INK: "ink", GREY: "soft", FAINT: "edge", GRID: "grid", PAPER: "card",
    **{c: f"c{i}" for i, c in enumerate(COLOURS)},
    VERDICTS["supported"]: "good", VERDICTS["refuted"]: "bad", VERDICTS["inconclusive"]: "open",
}  # fmt: skip

STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # ticks say what they are
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6,
    "hatch.color": FAINT,
    "path.simplify_threshold": 0.5,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: searchable, small
    "pdf.fonttype": 42,  # outlines that journals accept
}
OPEN, CLOSE = "\u2062", "\u2063"  # invisible, without width, and in the base font
_WORD = re.compile(f"{OPEN}(.*?){CLOSE}", re.S)


@contextmanager
def styled(style: Mapping[str, Any] | None = None) -> Iterator[None]:
    """matplotlib's settings are global: whatever draws does it in here."""
    import matplotlib

    with matplotlib.rc_context(dict(style or {})):
        yield


class Canvas:
    """A figure and its axes, ``axes[line][column]``; to be made and drawn within `styled`.

    Args:
        name: of the figure; ids of the SVG carry it.
        size: width and height in inches.
        families: fonts, as `fonts.cover` finds them.
        more: of matplotlib's ``Figure.subplots``.
    """

    def __init__(
        self,
        name: str,
        size: tuple[float, float],
        lines: int = 1,
        columns: int = 1,
        families: Sequence[str] = (BASE,),
        **more: Any,
    ) -> None:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.name, self.said = name, dict[str, str]()
        self.far = set[str]()  # trivial baselines that the axes leave out
        self.style = {**STYLE, "font.family": list(families), "svg.hashsalt": name}
        matplotlib.rcParams.update(self.style)  # `styled` puts back what was before
        self.figure: Any = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.axes: Any = self.figure.subplots(lines, columns, squeeze=False, **more)

    @property
    def ax(self) -> Any:
        return self.axes[0][0]

    def word(self, key: str, **values: Any) -> str:
        """A phrase of the strings, which follows the language."""
        english = say(f"fig_{key}", "en", **values)
        self.said[english] = say(f"fig_{key}", "zh", **values)
        return f"{OPEN}{english}{CLOSE}"

    def states(self, text: str) -> str:
        """States of trials, "1 diverged, 2 running", which follow the language."""
        from paribus.analysis.report import states

        self.said[text] = states.said(text, "zh")
        return f"{OPEN}{text}{CLOSE}"

    # ── what comes out ──────────────────────────────────────────────────────────────────────

    def inline(self, label: str = "") -> str:
        """SVG for the inside of a page: its words in both languages, its colours the page's."""
        svg = self._draw("svg", "none").decode()  # the page is seen through it
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
        svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)  # HTML implies them
        svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # would be the whole page's
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # "axes_1": the same in every figure
        svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
        svg = re.sub(r"(?:font-)?family: ?[^;\"]*;? ?", "", svg)  # the page's own
        svg = re.sub(r"(font: (?:[\w.]+ )*[\d.]+px)[^;\"]*", r"\1 var(--sans)", svg)
        svg = re.sub(r"#[0-9a-f]{6}", lambda m: _variable(m[0]), svg)
        svg = _WORD.sub(lambda m: self._both(m[1]), _rounded(svg))
        label = html.escape(label or self.name)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()

    def svg(self, lang: str = "en") -> str:
        """SVG as a file of its own."""
        svg = self._draw("svg").decode()
        svg = svg.replace(f"'{BASE}'", FALLBACK)
        return _WORD.sub(lambda m: self._one(m[1], lang), _rounded(svg[svg.index("<svg") :]))

    def png(self, lang: str = "en") -> bytes:
        return self._plain("png", lang)

    def pdf(self, lang: str = "en") -> bytes:
        return self._plain("pdf", lang)

    def _both(self, english: str) -> str:
        chinese = self.said.get(html.unescape(english), english)
        return (
            f'<tspan class="en">{english}</tspan><tspan class="zh">{html.escape(chinese)}</tspan>'
        )

    def _one(self, english: str, lang: str) -> str:
        chinese = html.escape(self.said.get(html.unescape(english), english))
        return chinese if lang == "zh" else english

    def _plain(self, kind: str, lang: str) -> bytes:
        """Drawn with its words in one language; afterwards they are as they were."""
        from matplotlib.text import Text

        texts = [t for t in self.figure.findobj(Text) if OPEN in t.get_text()]
        before = [(t, t.get_text(), t.get_fontfamily()) for t in texts]
        if lang == "zh":
            fonts = dict.fromkeys([*self.style["font.family"], *cover(self.said.values())[0]])
        for text, said, _ in before:
            text.set_text(_WORD.sub(lambda m: self.said[m[1]] if lang == "zh" else m[1], said))
            if lang == "zh":
                text.set_fontfamily(list(fonts))
        try:
            return self._draw(kind)
        finally:
            for text, said, families in before:
                text.set_text(said)
                text.set_fontfamily(families)

    def _draw(self, kind: str, paper: str = PAPER) -> bytes:
        raw = io.BytesIO()
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with styled(self.style), warnings.catch_warnings():
            # What no font has is said in the report; a label that leaves no room is cut.
            warnings.filterwarnings("ignore", "Glyph|constrained_layout", UserWarning)
            self.figure.savefig(
                raw, format=kind, dpi=160, metadata=dates.get(kind), facecolor=paper
            )
        return raw.getvalue()


def _variable(colour: str) -> str:
    return f"var(--{NAMES[colour]})" if colour in NAMES else colour


def _rounded(svg: str) -> str:
    """A tenth of a point is finer than any screen; half the file is decimals otherwise."""

    def short(match: re.Match[str]) -> str:
        x = float(match[0])
        return f"{x:.1f}".removesuffix(".0") if abs(x) >= 10 else f"{x:.2f}".rstrip("0").rstrip(".")

    svg = re.sub(r"<[^>]+>", lambda m: re.sub(r"-?\d+\.\d{3,}", short, m[0]), svg)
    svg = re.sub(r" ?\n(?=[MLCQz] )", " ", svg)
    return re.sub(r"(?<=>)\s+(?=<)", "\n", svg)


# ── small things that several figures need ──────────────────────────────────────────────────


def direct(ax: Any, ends: Iterable[tuple[float, str, str]]) -> None:
    """Labels (height, text, colour) at the right ends of the lines, pushed apart where they would
    overlap, as little as possible."""
    found = sorted(ends)
    if not found:
        return
    low, high = ax.get_ylim()
    turn = -1 if low > high else 1
    log = ax.get_yscale() == "log"
    places = [float(ax.transLimits.transform(ax.transScale.transform((1, y)))[1]) if log
              else (y - low) / (high - low) for y, _, _ in found][::turn]  # fmt: skip
    gap = 0.056 * 4.2 / ax.figure.get_figheight()
    for (y, label, colour), place in zip(found[::turn], spread(places, gap), strict=True):
        ax.annotate(short(label, 36), (1, y), xycoords=("axes fraction", "data"),
                    xytext=(1.015, place), textcoords="axes fraction", color=colour,
                    va="center", fontsize=9.5, annotation_clip=False)  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places moved apart to at least ``gap``, groups kept around their middle."""
    groups: list[list[float]] = []  # [sum of what the first place would be, count]
    for i, place in enumerate(places):
        groups.append([place - i * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    firsts = [total / count for total, count in groups for _ in range(int(count))]
    return [first + i * gap for i, first in enumerate(firsts)]


def legend(canvas: Canvas, count: int, ax: Any = None, grow: bool = False) -> None:
    """Below the figure, in columns: on the right it would leave no room for the lines."""
    handles, labels = (ax or canvas.ax).get_legend_handles_labels()
    below(canvas, handles, labels, count, grow)


def below(
    canvas: Canvas,
    handles: Sequence[Any],
    labels: Sequence[str],
    count: int = 7,
    grow: bool = False,
) -> None:
    """A legend of its own handles.

    Args:
        grow: the figure is as much higher as the legend has more rows than two.
    """
    labels = [canvas.word("other_arms") if x == OTHERS else short(x, 60) for x in labels]
    room = 105 * canvas.figure.get_figwidth() / WIDTH  # characters
    columns = max(1, min(count, int(room / (max(map(len, labels), default=1) + 7))))
    canvas.figure.legend(handles, labels, loc="outside lower left", ncols=columns)
    if grow and (rows := math.ceil(len(labels) / columns)) > 2:
        canvas.figure.set_figheight(canvas.figure.get_figheight() + ROW * (rows - 2))


def short(text: str, most: int = 40) -> str:
    """A name that leaves room for the figure."""
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    return f"{cut if cut.count(OPEN) == cut.count(CLOSE) else cut.replace(OPEN, '')}…"


def quantity(canvas: Canvas, metric: str, unit: str, better: str) -> str:
    """ "loss (nats/token), lower is better"."""
    shown = metric.replace("_", " ") + (f" ({unit})" if unit else "")
    return f"{shown}, {canvas.word(better)}"


def counted(canvas: Canvas, axis: str) -> str:
    """The axis of a probe: of tokens, or of what it is called after."""
    return axis if axis in COUNTS else canvas.word("tokens", axis=axis)

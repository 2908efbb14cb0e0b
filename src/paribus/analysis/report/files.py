"""The files beside the page: figures with their data, and tables for papers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from paribus.analysis import sheets
from paribus.analysis.plots import plain
from paribus.analysis.tables import to_csv

if TYPE_CHECKING:
    from paribus.analysis.report import Told


def figures(told: Told, lang: str) -> Iterator[tuple[str, bytes]]:
    """(path in report/, content): each figure as SVG and PNG, and what it is drawn from."""
    for d in told.drawn:
        yield f"figures/{d.name}.svg", d.canvas.svg(lang).encode()
        yield f"figures/{d.name}.png", d.canvas.png(lang)
        yield f"figures/{d.name}.csv", to_csv(d.rows).encode()


def paper(told: Told) -> Iterator[tuple[str, bytes]]:
    """(path in report/, content): figures as PDF, tables as LaTeX; in English."""
    for d in told.drawn:
        yield f"paper/{d.name}.pdf", d.canvas.pdf("en")
    for s in told.context()["sheets"]:
        metric = s.table.metric
        if of := s.table.slices:
            metric = f"{metric}-slices-{plain(of)}"
        yield f"paper/{metric}.tex", sheets.latex(s, label=f"tab:{metric}").encode()
        if s.compared:
            text = sheets.latex(s, apart=True, label=f"tab:{metric}-differences")
            yield f"paper/{metric}-differences.tex", text.encode()

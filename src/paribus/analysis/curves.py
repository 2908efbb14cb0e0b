"""What a probe's record says along its axis: accuracies, gains, spans and windows.

A probe tells by its `Curve` which slice is the axis, which metric is drawn, and which are the
control and the gain; the record tells the model's window and field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paribus import arrays
from paribus.analysis import spans
from paribus.analysis.items import mcnemar
from paribus.lazy import numpy as np
from paribus.readers import Curve
from paribus.study.measures import COUNTS

Data = Mapping[str, Any]
DRAWS, FITS = 1000, 200  # resamplings of items; of those that fit a form


class Point(NamedTuple):
    """A place on the axis; intervals are 95 %, over items.

    Attributes:
        x: tokens, or what the axis is called after.
        y: (mean, low, high) by metric, and "normalised", the accuracy corrected for the control.
        items: so many.
    """

    x: float
    y: dict[str, tuple[float, float, float]]
    items: int


class Told(NamedTuple):
    """One curve.

    Attributes:
        name: the level of the slice that tells curves apart; "": there is one.
        points: in order of the axis.
        spans: "L50", "L90" by the form, "isotonic L50" …; "effective window" where there is a gain.
        fit: the parameters of the form and its deviance; None: too few lengths, or none needed.
        ratios: of the effective window to the direct one, and to the field.
        paired: McNemar's (only copied, only control, p) of whole items.
    """

    name: str
    points: list[Point]
    spans: dict[str, spans.Span]
    fit: dict[str, float] | None
    ratios: dict[str, float]
    paired: tuple[int, int, float] | None

    def data(self) -> dict[str, Any]:
        return {
            "curve": self.name,
            "points": [{"x": p.x, "items": p.items, **p.y} for p in self.points],
            "spans": {k: s.data() for k, s in self.spans.items()},
            "fit": self.fit,
            "ratios": self.ratios,
            "paired": self.paired,
        }


def told(condition: Data, curve: Curve, draws: int = DRAWS) -> list[Told]:
    """Every curve of a condition that holds its items and their labels."""
    labels = condition["labels"]
    if curve.axis not in labels:
        return []
    axis = np.array([float(x) for x in labels[curve.axis]])
    own = np.array(labels[curve.by]) if curve.by else np.full(len(axis), "")
    out = []
    for name in dict.fromkeys(own.tolist()):
        xs = sorted({*axis[own == name].tolist()})
        at = [(own == name) & (axis == x) for x in xs]
        out.append(_one(condition, curve, str(name), xs, at, draws))
    return out


def _one(
    condition: Data, curve: Curve, name: str, xs: list[float], at: Sequence[Any], draws: int
) -> Told:
    names = [m for m in (curve.metric, curve.control, curve.gain) if m is not None]
    pairs = {m: tuple(arrays.unpack(condition["items"][m][k]) for k in ("sum", "count"))
             for m in names}  # fmt: skip
    items = [
        (np.array([pairs[m][0][a] for m in names]), np.array([pairs[m][1][a] for m in names]))
        for a in at
    ]
    here = np.array([s.sum(1) / np.maximum(c.sum(1), 1e-12) for s, c in items]).T

    def every(y: Any) -> Any:
        """[metrics, lengths], the normalised accuracy at last."""
        return np.vstack([y, spans.corrected(y[0], y[1])]) if curve.control else y

    bounds = spans.interval(items, lambda y: every(y).ravel().tolist(), draws)
    shown, values = [*names, *(["normalised"] if curve.control else [])], every(here)
    points = [
        Point(
            x,
            {m: (float(values[j, i]), *bounds[j * len(xs) + i]) for j, m in enumerate(shown)},
            int(a.sum()),
        )
        for i, (x, a) in enumerate(zip(xs, at, strict=True))
    ]
    realised = condition["realised"]
    chance = realised.get("chance", {}).get(name, 0.0)
    found, form = _spans(xs, items, here, curve, chance, draws)
    ratios: dict[str, float] = {}
    if curve.gain is not None:
        j = names.index(curve.gain)
        low = [bounds[j * len(xs) + i][0] for i in range(len(xs))]
        window = found["effective window"] = spans.effective(xs, here[j].tolist(), low)
        for of in ("window", "field") if curve.axis not in COUNTS else ():
            if window.value is not None and realised.get(of):
                ratios[of] = window.value / realised[of]
    return Told(name, points, found, form, ratios, _paired(condition, at))


def _spans(
    xs: list[float], items: Sequence[Any], here: Any, curve: Curve, chance: float, draws: int
) -> tuple[dict[str, spans.Span], dict[str, float] | None]:
    def guess(y: Any) -> Any:
        """γ along the axis: what the control gets, else what guessing gets."""
        g = y[1] if curve.control is not None else np.full(len(xs), chance)
        return np.clip(g, 0.0, 1 - 1e-6)

    n = [s.shape[1] for s, _ in items]
    out: dict[str, spans.Span] = {}
    form = None
    if len(xs) >= 3:
        form = spans.fit(xs, np.clip(here[0], 0, 1) * n, n, guess(here))
        first = [spans.fitted(xs, here[0] * n, n, guess(here), q, form) for q in spans.LEVELS]
        if any(s.value is not None for s in first):
            bounds = spans.interval(items, lambda y: _fits(xs, y, n, guess(y), form), FITS)
            first = [_with(s, b) for s, b in zip(first, bounds, strict=True)]
        out |= {f"L{100 * q:.0f}": s for q, s in zip(spans.LEVELS, first, strict=True)}
    plain = [spans.crossing(xs, here[0], guess(here), q) for q in spans.LEVELS]
    if any(s.value is not None for s in plain):

        def crossed(y: Any) -> list[float]:
            return [spans.end(spans.crossing(xs, y[0], guess(y), q)) for q in spans.LEVELS]

        bounds = spans.interval(items, crossed, draws)
        plain = [_with(s, b) for s, b in zip(plain, bounds, strict=True)]
    out |= {f"isotonic L{100 * q:.0f}": s for q, s in zip(spans.LEVELS, plain, strict=True)}
    if form is None or all(s.value is None for s in out.values()):
        return out, None
    return out, {"alpha": form.alpha, "beta": form.beta, "lapse": form.lapse,
                 "deviance": form.deviance, "free": form.free}  # fmt: skip


def _fits(xs: list[float], y: Any, n: list[int], guess: Any, start: Any) -> list[float]:
    k = np.clip(y[0], 0, 1) * n
    form = spans.fit(xs, k, n, guess, start)
    return [spans.end(spans.fitted(xs, k, n, guess, q, form)) for q in spans.LEVELS]


def _with(span: spans.Span, bounds: tuple[float, float]) -> spans.Span:
    return spans.Span(span.value, span.censored, *bounds) if span.value is not None else span


def _paired(condition: Data, at: Sequence[Any]) -> tuple[int, int, float] | None:
    """McNemar's test of whole items with and without what is to be remembered."""
    if not {"whole", "whole_control"} <= condition["items"].keys():
        return None
    a, b = (arrays.unpack(condition["items"][m]["sum"]) for m in ("whole", "whole_control"))
    every = np.any(np.array(at), 0)
    only = int((a > b)[every].sum()), int((a < b)[every].sum())
    return *only, mcnemar(*only).exact


# ── in words ────────────────────────────────────────────────────────────────────────────────


def lines(found: Sequence[Data], axis: str) -> list[str]:
    """A line for each curve, from its data."""
    out = []
    for c in found:
        said = [f"{k} {spans.Span(**s)}" for k, s in c["spans"].items()]
        if (f := c["fit"]) is not None:
            said.append(f"fit: α {f['alpha']:.4g}, β {f['beta']:.3g}, λ {f['lapse']:.3g}, "
                        f"deviance {f['deviance']:.3g} of {f['free']:.0f} free")  # fmt: skip
        said += [f"effective/{'direct' if k == 'window' else 'theoretical'} {v:.3g}"
                 for k, v in c["ratios"].items()]  # fmt: skip
        if c["paired"] is not None:
            a, b, p = c["paired"]
            said.append(f"whole items: {a:.0f} with memory alone, {b:.0f} without alone, p {p:.3g}")
        out.append(f"{c['curve'] or axis}: " + "; ".join(said))
    return out

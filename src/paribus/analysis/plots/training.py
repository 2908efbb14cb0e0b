"""Figures along training: loss, realised learning rate, evaluations on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.cells import condition_label
from paribus.analysis.plots.canvas import COLOURS, DASHES, Canvas, below, direct, legend
from paribus.analysis.plots.lines import DIRECT
from paribus.analysis.plots.material import SINGLE, Look, Material, Point, finite

LINES = 400  # single curves that one figure holds
THICK = 60  # points of a curve where there are many curves
PANELS = 8
WIDE = 4  # times as large: values that are drawn by ratios


def losses(m: Material) -> list[Point]:
    """{"trial", "variant", "n", "step", "y"}, a point each; [] where there are too many curves.  Of
    many variants the mean over seeds, where all seeds of the variant are as far."""
    curves = {t: c for t, c in m.curves.get("loss", {}).items() if m.of.get(t) in m.chosen}
    if len(curves) > LINES:
        return []
    single = len(m.chosen) <= SINGLE
    shown = {
        trial: _averaged([p for p in points if math.isfinite(p[1])], 200 if single else THICK)
        for trial, points in curves.items()
    }
    of: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for trial, points in shown.items():
        of.setdefault(m.of[trial], {})[trial] = points
    out = []
    for variant, trials in of.items():
        steps = {tuple(x for x, _ in points) for points in trials.values()}
        joined = not single and len(steps) == 1 and len(trials) == m.planned[variant]
        if joined:
            trials = {"": [(p[0][0], math.fsum(y for _, y in p) / len(p))
                           for p in zip(*trials.values(), strict=True)]}  # fmt: skip
        n = m.planned[variant] if joined else 1
        out += [{"trial": trial, "variant": variant, "n": n, "step": x, "y": y}
                for trial, points in trials.items() for x, y in points]  # fmt: skip
    return out


def _averaged(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many points, each the mean of its neighbours, at the last one's step."""
    k = max(1, math.ceil(len(points) / most))
    parts = [points[i : i + k] for i in range(0, len(points), k)]
    return [(p[-1][0], math.fsum(y for _, y in p) / len(p)) for p in parts]


def _thinned(points: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many points, the last one among them."""
    step = max(1, math.ceil(len(points) / most))
    return points[::-step][::-1]


def draw_losses(points: Sequence[Point], m: Material) -> Canvas:
    from matplotlib.collections import LineCollection

    canvas = m.canvas("curves", (7.6, 4.0))
    ax = canvas.ax
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for p in points:
        curves.setdefault(p["variant"], {}).setdefault(p["trial"], []).append((p["step"], p["y"]))
    ends: dict[str, tuple[list[float], str]] = {}
    single = len(curves) <= SINGLE
    for variant, trials in curves.items():
        look = m.looks[variant]
        width, alpha = (1.0, 0.8) if single else (0.8, 0.7)
        ax.add_collection(LineCollection(
            list(trials.values()), colors=look.colour, linestyles=[look.dash], linewidths=width,
            alpha=alpha))  # fmt: skip
        last, _ = ends.setdefault(look.label, ([], look.colour))
        last += [c[-1][1] for c in trials.values()]
    _limits(ax, [(p["step"], p["y"]) for p in points])
    ax.set_xlabel(canvas.word("step"))
    ax.set_ylabel(canvas.word("training_loss"))
    if len(ends) <= DIRECT and single:
        direct(ax, [(math.fsum(y) / len(y), g, c) for g, (y, c) in ends.items()])
    else:
        _looks_below(canvas, {m.looks[v].label: m.looks[v] for v in curves})
    return canvas


def _limits(ax: Any, points: Sequence[tuple[float, float]]) -> None:
    """All of the end and most of the start: the first steps fall from far above."""
    xs, ys = [p[0] for p in points], sorted(p[1] for p in points)
    low, high = ys[0], ys[-1]
    if len(ys) >= 40 and high > low:
        high = min(high, low + 1.6 * (ys[int(0.97 * len(ys))] - low))
    margin = 0.04 * (high - low or 1.0)
    ax.set_xlim(0, max(xs) or 1)
    ax.set_ylim(low - margin, high + margin)


def _looks_below(canvas: Canvas, looks: Mapping[str, Look]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=k.colour, linestyle=k.dash, lw=1.8) for k in looks.values()]
    below(canvas, lines, list(looks))


# ── learning rate ───────────────────────────────────────────────────────────────────────────


def rates(m: Material) -> list[Point]:
    """Each distinct course of the learning rate: {"schedule", "variants", "trials", "step", "y"}.
    A trial that has not ended has the beginning of another one's, and counts with it."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    own = {t: c for t, c in m.curves.get("lr", {}).items() if m.of.get(t) in m.chosen and c}
    found = {t: tuple((x, float(f"{y:.6g}")) for x, y in c) for t, c in own.items()}
    for trial, curve in sorted(found.items(), key=lambda p: -p[1][-1][0]):
        longer = next((c for c in groups if _begins(c, curve)), curve)
        groups.setdefault(longer, []).append(trial)
    order = {t: i for i, t in enumerate(m.of)}
    out = []
    ranked = sorted(groups.items(), key=lambda g: min(order[t] for t in g[1]))
    for i, (curve, trials) in enumerate(ranked):
        names = list(dict.fromkeys(m.of[t] for t in sorted(trials, key=order.__getitem__)))
        shown = ", ".join(names[:3]) + (f" … ({len(names)})" if len(names) > 3 else "")
        for x, y in _thinned(curve, 200):
            out.append({"schedule": i, "variants": shown, "all": len(names) == len(m.chosen),
                        "trials": len(trials), "step": x, "y": y})  # fmt: skip
    return out


def _begins(long: Sequence[tuple[float, float]], short: Sequence[tuple[float, float]]) -> bool:
    if long == short:
        return True
    known = dict(long)
    return short[-1][0] < long[-1][0] and all(known.get(x) == y for x, y in short)


def draw_rates(points: Sequence[Point], m: Material) -> Canvas:
    canvas = m.canvas("learning-rate", (7.6, 2.9))
    ax, ends = canvas.ax, []
    groups: dict[int, list[Point]] = {}
    for p in points:
        groups.setdefault(p["schedule"], []).append(p)
    for i, mine in groups.items():
        colour = COLOURS[i % len(COLOURS)]
        label = canvas.word("all_variants") if mine[0]["all"] else mine[0]["variants"]
        ax.plot([p["step"] for p in mine], [p["y"] for p in mine], color=colour, lw=1.6,
                linestyle=DASHES[i // len(COLOURS) % len(DASHES)], label=label)  # fmt: skip
        ends.append((mine[-1]["y"], label, colour))
    ax.set_xlabel(canvas.word("step"))
    ax.set_ylabel(canvas.word("lr"))
    ax.set_xlim(0)
    ax.set_ylim(0)
    if len(groups) > 1:
        legend(canvas, 4, grow=True)
    return canvas


# ── evaluations on the way ──────────────────────────────────────────────────────────────────


def intervals(m: Material) -> list[Point]:
    """{"panel", "variant", "kind": "seed" or "mean", "trial", "step", "y"}: a panel for each
    condition that was evaluated during training, of the primary metric, else of the first that it
    has.  A mean is there where all seeds of the variant have a value, never over those left."""
    metrics = dict.fromkeys([m.study["primary"], *m.study["metrics"]])
    out: list[Point] = []
    for c in m.study["conditions"]:
        for metric in metrics:
            key = f"{c['key']} {metric}"
            label = f"{c['evaluation']} {condition_label(c)}" if c["levels"] else c["key"]
            panel = [
                {"panel": f"{label}: {metric}", "kind": "seed", "variant": m.of[trial],
                 "trial": trial, "step": r["step"], "y": r[key]}
                for trial, rows in m.checks.items() if m.of.get(trial) in m.chosen
                for r in rows if finite(r.get(key))
            ]  # fmt: skip
            if panel:
                out += panel + _means(m, panel)
                break
    return out


def _wide(ax: Any, ys: Sequence[float]) -> None:
    """By ratios, where values fall to a small part of what they were, as perplexities do."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if min(ys) > 0 and max(ys) > WIDE * min(ys):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _means(m: Material, panel: Sequence[Point]) -> list[Point]:
    at: dict[tuple[str, float], list[float]] = {}
    for p in panel:
        at.setdefault((p["variant"], p["step"]), []).append(p["y"])
    return [
        {"panel": panel[0]["panel"], "kind": "mean", "variant": variant, "trial": "", "step": step,
         "y": math.fsum(ys) / len(ys)}
        for (variant, step), ys in sorted(at.items(), key=lambda p: p[0][1])
        if len(ys) == m.planned[variant]
    ]  # fmt: skip


def draw_intervals(points: Sequence[Point], m: Material) -> Canvas:
    from matplotlib.collections import LineCollection

    panels = list(dict.fromkeys(p["panel"] for p in points))[:PANELS]
    columns = m.across(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    canvas = m.canvas("training", (7.6, 0.7 + 2.5 * lines), lines, columns)
    flat = [ax for line in canvas.axes for ax in line]
    single = len({p["variant"] for p in points}) <= SINGLE
    for ax, panel in zip(flat, panels, strict=False):
        curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for p in (p for p in points if p["panel"] == panel):
            curves.setdefault((p["variant"], p["trial"]), []).append((p["step"], p["y"]))
        means = {v for v, trial in curves if not trial}
        if not single:  # of many variants the means alone, where there are any
            curves = {k: c for k, c in curves.items() if not k[1] or k[0] not in means}
        groups: dict[tuple[str, bool], list[tuple[str, list[tuple[float, float]]]]] = {}
        for (variant, trial), curve in curves.items():
            groups.setdefault((m.looks[variant].label, not trial), []).append((variant, curve))
        for (_, thick), mine in groups.items():
            look = m.looks[mine[0][0]]
            width, alpha = (1.8 if single else 1.0, 1.0) if thick else (0.7, 0.4)
            ax.add_collection(LineCollection([c for _, c in mine], colors=look.colour, alpha=alpha,
                                             linestyles=[look.dash], linewidths=width))  # fmt: skip
            if alone := [c[0] for _, c in mine if len(c) == 1]:
                ax.plot(*zip(*alone, strict=True), "o", color=look.colour, ms=3.4)
        ax.autoscale_view()
        _wide(ax, [p["y"] for p in points if p["panel"] == panel])
        ax.set_title(panel)
        ax.set_xlabel(canvas.word("step"))
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    looks = {m.looks[p["variant"]].label: m.looks[p["variant"]] for p in points}
    if len(looks) > 1:
        _looks_below(canvas, looks)
    return canvas

"""Figures in a report: what stands under each, and why one is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paribus.analysis import spanned
from paribus.analysis.plots import DRAWN, Drawn, Material, along, heat, plain
from paribus.analysis.plots.axes import axis_of, learning
from paribus.analysis.plots.canvas import styled
from paribus.analysis.words import arm, say

LANGUAGES = ("en", "zh")
LEVEL = "90%"  # of the intervals in figures
SLIM = 2000  # points of a figure that is drawn twice


def caption(d: Drawn, m: Material, lang: str) -> str:
    """A figure's text: what it shows, and how to read what is special about it."""
    facts: dict[str, Any] = {"metric": m.study["primary"], "level": LEVEL}
    if d.name == "heat":
        rows, columns, _ = heat.axes_of(m) or ("", "", "")
        facts |= {"rows": rows, "columns": columns}
    if d.name == "tuning":
        facts["rule"] = next(f["tuned"] for f in m.study["factors"] if f.get("tuned"))
    axis = learning(m) if d.name == "learning" else axis_of(m)
    facts["axis"] = axis.name if axis else ""
    sliced = d.name.startswith("slices-")
    if d.caption in ("cap_probe", "cap_spans", "cap_state"):
        known = map(spanned.name, spanned.conditions(m.results))
        kind = d.name.partition("-")[0]
        facts["evaluation"] = next(n for n in known if f"{kind}-{plain(n)}" == d.name)
        told = next(c["curve"] for c in spanned.conditions(m.results)
                    if spanned.name(c) == facts["evaluation"])  # fmt: skip
    parts = [] if sliced else [say(d.caption, lang, **facts)]
    if d.name in ("primary", "learning"):
        if axis and axis.trained:
            parts = [say("cap_learning", lang, **facts)]
            if m.study.get("baseline") and say("fig_reference") not in d.canvas.said:
                parts.append(say("cap_baseline", lang, arm=arm(m.study["baseline"], lang)))
        parts += _primary(d, m, lang)
    elif d.name == "heat":
        if over := heat.averaged(m):
            parts.append(say("cap_over", lang, over=", ".join(over)))
        if apart := heat.uneven(m):
            parts.append(say("cap_uneven", lang, over=", ".join(apart)))
        if any(p["n"] < p["of"] for p in d.rows):
            parts.append(say("cap_hatched", lang))
    elif d.name == "curves":
        if m.coloured is not None:
            parts.append(say("cap_colours", lang, factor=m.coloured["name"]))
        if any(p["n"] > 1 for p in d.rows):
            parts[0] = say("cap_curves_mean", lang)
    elif sliced:
        parts = _slices(d, m, lang)
    elif d.caption == "cap_probe":
        parts += [say("cap_probe_control", lang)] if told["gain"] else []
        parts += (
            [say("cap_probe_marks", lang)] if any(along.marks(m, told["axis"]).values()) else []
        )
    elif d.caption in ("cap_spans", "cap_state"):
        parts += _spans(d, lang)
    elif d.name == "parameters" and any(p["n"] > 1 for p in d.rows):
        parts.append(say("cap_merged", lang))
    elif d.name == "cost" and d.rows[0]["cost"] == "seconds":
        parts.append(say("cap_shared", lang))
    return ("" if lang == "zh" else " ").join(parts)


def slim(d: Drawn, m: Material) -> str:
    """The figure once more, as SVG for the width of a phone; "" where it is so large that it would
    weigh more than it is worth."""
    if len(d.rows) > SLIM:
        return ""
    with styled():
        canvas = d.draw(d.rows, m.slim)
    return canvas.inline(caption(d, m, "en"))


def _primary(d: Drawn, m: Material, lang: str) -> list[str]:
    means = [p for p in d.rows if p["kind"] == "mean"]
    parts = []
    if any(p["low"] is not None for p in means):
        bands = "cap_bands" if any(p["kind"] == "seed" for p in d.rows) else "cap_bands_only"
        if len({p["panel"] for p in means}) > 1:
            bands = "cap_bands_only"
        parts.append(say(bands if axis_of(m) else "cap_rows", lang, level=LEVEL))
    elif means:
        parts.append(say("cap_seeds", lang))
    if any(p["n"] < p["of"] for p in means):
        parts.append(say("cap_hollow", lang))
    if gone := sum(p["kind"] == "missing" for p in d.rows):
        parts.append(say("cap_gap", lang, n=gone, all=gone + len(means)))
    there = {p["series"] for p in means}
    if none := dict.fromkeys(p["series"] for p in d.rows if p["kind"] == "missing"
                             and p["series"] not in there):  # fmt: skip
        names = list(none)
        shown = ", ".join(names[:6]) + (f" … ({len(names)})" if len(names) > 6 else "")
        parts.append(say("cap_none", lang, names=shown))
    if any(p["kind"] == "train" for p in d.rows):
        parts.append(say("cap_train", lang))
    if any(p["kind"] == "imported" for p in d.rows):
        parts.append(say("cap_imported", lang))
    if d.canvas.far:
        parts.append(say("cap_far", lang, names=", ".join(sorted(d.canvas.far))))
    return parts


def _slices(d: Drawn, m: Material, lang: str) -> list[str]:
    means = [p for p in d.rows if p["kind"] == "mean"]
    parts = [say("cap_slices", lang, metric=means[0]["metric"])]
    if any(p["low"] is not None for p in means):
        parts.append(say("cap_rows_only", lang, level=LEVEL))
    if any(p["kind"] == "baseline" for p in d.rows):
        parts.append(say("cap_sliced_trivial", lang))
    if (axis := axis_of(m)) and axis.trained:
        levels = ", ".join(axis.values)
        parts.append(say("cap_along", lang, factor=axis.name, levels=levels))
    if any(p["n"] < p["of"] for p in means):
        parts.append(say("cap_hollow", lang))
    return parts


def _spans(d: Drawn, lang: str) -> list[str]:
    arms = [p for p in d.rows if p.get("kind") != "seed"]
    parts = []
    if d.caption == "cap_state":
        effective = arms[0]["span"] != "L50"
        parts.append(say("cap_state_effective" if effective else "cap_state_half", lang,
                         level=LEVEL))  # fmt: skip
    else:
        if any(p["effective"] or p["effective censored"] for p in arms):
            parts.append(say("cap_spans_effective", lang, level=LEVEL))
        if any(p["window"] or p["field"] for p in arms):
            parts.append(say("cap_spans_marks", lang))
    if any(x and k.endswith("censored") for p in d.rows for k, x in p.items()):
        parts.append(say("cap_beyond", lang))
    if any(p["n"] < p["of"] for p in arms):
        parts.append(say("cap_hollow", lang))
    return parts


def absent(m: Material, drawn: Sequence[Drawn], lang: str) -> str:
    """Why there is no main figure; "" where there is one, or nothing to draw yet."""
    if not m.any or any(d.name in ("primary", "heat") for d in drawn):
        return ""
    return say("no_figure", lang, n=len(m.chosen), most=DRAWN)


def stands_in(m: Material, drawn: Sequence[Drawn]) -> bool:
    """Whether a heat map stands in the place of lines."""
    return bool(drawn) and drawn[0].name == "heat"


def without_font(m: Material, lang: str) -> str:
    """Which characters come out as boxes in PNG and PDF; "" where none does."""
    missing = m.fonts.missing
    return say("no_font", lang, characters=missing[:40]) if missing else ""

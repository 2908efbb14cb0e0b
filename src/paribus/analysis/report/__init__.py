"""The report: one HTML file that stands alone, in English and Chinese, made from records alone.

Nothing in it is fetched: styles and figures are inline, the language is switched by CSS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paribus.analysis.cells import Row
    from paribus.analysis.verdicts import Verdict
    from paribus.study.measures import Node

LANGUAGES = ("en", "zh")
ENGINE = ("engine", "kernel", "device", "dtype", "threads", "micro_batch", "torch")
BUDGET = ("tokens", "steps", "rows", "flops", "parameters")
DRAWN = 200  # variants beyond which no figure tells them apart, and drawing takes minutes
Curves = Mapping[str, Sequence[tuple[int, float]]]


def render(
    study: Node,
    records: Iterable[Row],
    verdicts: Sequence[Verdict] | None = None,
    figures: Mapping[str, str] | None = None,
    curves: Curves | None = None,
    provenance: Mapping[str, Any] | None = None,
    *,
    checks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    lang: str = "en",
) -> str:
    """The report as HTML.

    Args:
        verdicts: default: computed here.
        figures: title -> SVG; default: the primary metric against the conditions.
        curves: trial name -> [(step, loss)].
        checks: trial name -> evaluations during training, each {"step": …, "<condition key>
            <metric>": value}.
        provenance: name -> text; ``date`` heads the page, ``commands`` is a list to repeat it.
        lang: which language shows first.
    """
    import jinja2
    from markupsafe import Markup

    from paribus.analysis import settings, words
    from paribus.analysis.verdicts import verdicts as judge

    rows = list(records)
    given = dict(provenance or {})
    judged = judge(study, rows) if verdicts is None else list(verdicts)
    shown = [_said(v) for v in judged]
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FileSystemLoader(folder),
    )
    pictures = _figures(study, rows, figures, curves, checks)
    trials = _trials(study, rows)
    return environment.get_template("report.html.j2").render(
        study=study,
        lang=lang,
        css=Markup((folder / "style.css").read_text(encoding="utf-8")),
        say=words.say,
        number=words.number,
        label=_label,
        how={g: words.how(judged, g) for g in LANGUAGES},
        hypotheses=[h for h in shown if h["v"].kind == "hypothesis"],
        checks=[h for h in shown if h["v"].kind == "check"],
        criteria=[h for h in shown if h["v"].kind == "criterion"],
        any=any(r.get("value") is not None for r in rows),
        done=sum(t["status"] == "done" for t in trials),
        tables=_tables(study, rows),
        figures=[{**f, "svg": Markup(f["svg"])} for f in pictures],
        fairness=_fairness(study, rows),
        settings=settings.differences(study),
        trials=trials,
        outcomes=_outcomes(rows),
        excluded=[
            {"levels": _levels(s["levels"]), "reason": s["reason"]} for s in study["skipped"]
        ],
        provenance={"date": given.pop("date", "")},
        commands=given.pop("commands", []),
        details=[(k, _flat(v)) for k, v in given.items()],
    )


# ── verdicts ────────────────────────────────────────────────────────────────────────────────


def _said(v: Verdict) -> dict[str, Any]:
    from paribus.analysis import words

    numbers = []
    if v.p is not None:
        numbers.append(f"p = {words.p_value(v.p)}".replace("= <", "<"))
        numbers.append(f"Holm p = {words.p_value(v.p_adjusted)}".replace("= <", "<"))
        if v.p_flips is not None:
            numbers.append(f"sign-flip p = {words.p_value(v.p_flips)}".replace("= <", "<"))
    if v.dz is not None and v.n > 1:
        numbers.append(f"d_z = {words.number(v.dz)}")
    if v.kind == "hypothesis" and v.n:
        numbers.append(f"n = {v.n}")
    return {
        "v": v,
        "claim": {g: words.claim(v.claim, v.better, v.unit, g) for g in LANGUAGES},
        "effect": {g: words.effect(v, g) for g in LANGUAGES},
        "reason": {g: words.reason(v, g) for g in LANGUAGES},
        "about": {g: words.about(v, g) for g in LANGUAGES},
        "seeds": {g: words.seeds(v, g) for g in LANGUAGES},
        "numbers": numbers,
        "parts": [_said(p) for p in v.parts],
        "strip": _strip(v) if v.kind == "hypothesis" else None,
    }


def _strip(v: Verdict) -> dict[str, Any] | None:
    """Positions of a small drawing: the interval, the seeds and zero."""
    from paribus.analysis.words import number

    if v.effect is None:
        return None
    seeds = list(v.per_seed.values())
    ends = [x for x in (v.low, v.high) if x is not None and math.isfinite(x)]
    points = [0.0, v.effect, *seeds, *ends]
    low, high = min(points), max(points)
    width = (high - low) or 1.0

    def x(value: float) -> float:
        return round(10 + 170 * (value - low) / width, 1)

    def inside(position: float) -> float:
        return min(max(position, 24.0), 166.0)

    return {
        "zero": x(0.0),
        "zero_text": x(0.0),
        "dot": x(v.effect),
        "dot_text": inside(x(v.effect)),
        "apart": abs(inside(x(v.effect)) - x(0.0)) > 30,
        "low": x(ends[0]) if len(ends) == 2 else None,
        "high": x(ends[1]) if len(ends) == 2 else None,
        "seeds": [x(s) for s in seeds] if len(seeds) > 1 else [],
        "label": number(v.effect),
    }


# ── results ─────────────────────────────────────────────────────────────────────────────────


def _tables(study: Node, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The primary metric, and others that were measured and are no mere transform of one."""
    from paribus.analysis.tables import table

    seen = {r["metric"] for r in rows if r.get("value") is not None}
    others = [m for m, info in study["metrics"].items() if m in seen and not info.get("transform")]
    out = []
    for metric in dict.fromkeys([study["primary"], *others]):
        t = table(study, rows, metric)
        lost = [[bool(e and not e.values) for e in row] for _, row in t.rows]
        lost += [[False] * len(t.columns) for _ in t.baselines]
        texts = [
            [line[0], *({"text": c, "lost": x} for c, x in zip(line[1:], flags, strict=True))]
            for line, flags in zip(t.texts(mark=""), lost, strict=True)
        ]
        out.append(
            {
                "metric": metric,
                "unit": t.unit,
                "better": t.better,
                "n": t.n,
                "columns": t.columns,
                "texts": texts,
                "variants": len(t.rows),
                "reference": t.reference,
            }
        )
    return out


def _figures(
    study: Node,
    rows: Sequence[Row],
    figures: Mapping[str, str] | None,
    curves: Curves | None,
    checks: Mapping[str, Sequence[Mapping[str, Any]]] | None,
) -> list[dict[str, Any]]:
    from paribus.analysis import plots
    from paribus.analysis.words import say

    out: list[dict[str, Any]] = []
    if figures is None and len(study["variants"]) > DRAWN:
        return out
    if figures is not None:
        out += [
            {"svg": svg, "title": dict.fromkeys(LANGUAGES, title), "primary": False}
            for title, svg in figures.items()
        ]
    elif any(r.get("value") is not None for r in rows):
        title = {g: say("figure_primary", g, metric=study["primary"]) + "." for g in LANGUAGES}
        out.append({"svg": plots.primary(study, rows), "title": title, "primary": True})
    if curves:
        of = {t["name"]: study["variants"][t["variant"]]["name"] for t in study["trials"]}
        title = {g: say("curves", g) + "." for g in LANGUAGES}
        out.append({"svg": plots.learning(curves, of), "title": title, "primary": False})
    if checks and (svg := plots.intervals(study, checks)):
        title = {g: say("intervals", g) for g in LANGUAGES}
        out.append({"svg": svg, "title": title, "primary": False})
    return [{**f, "svg": _inline(f["svg"])} for f in out]


def _inline(svg: str) -> str:
    """An SVG for the inside of a page: no metadata, and no namespaces, which HTML implies."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    return re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)


# ── what is equal, and what became of the trials ────────────────────────────────────────────


def _fairness(study: Node, rows: Sequence[Row]) -> dict[str, list[tuple[str, str]]]:
    """Budgets and engines by variant, sorted into what is equal and what differs."""
    equal: list[tuple[str, str]] = [("seeds_of", ", ".join(map(str, study["seeds"])))]
    differs: list[tuple[str, str]] = []
    infos = study.get("variants_info", {})
    for key in BUDGET:
        values = {name: info[key] for name, info in infos.items() if info.get(key) is not None}
        _sort(key, {n: _big(v) for n, v in values.items()}, equal, differs)
    for key in ENGINE:
        by_variant: dict[str, set[str]] = {}
        for row in rows:
            if row.get("value") is not None and row.get(key) is not None:
                by_variant.setdefault(row["variant"], set()).add(str(row[key]))
        _sort(key, {n: ", ".join(sorted(v)) for n, v in by_variant.items()}, equal, differs)
    return {"equal": equal, "differs": differs}


def _sort(
    key: str,
    values: Mapping[str, str],
    equal: list[tuple[str, str]],
    differs: list[tuple[str, str]],
) -> None:
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) == 1:
        equal.append((key, next(iter(groups))))
    elif groups:
        few = [f"{value} ({', '.join(who[:3])}{' …' if len(who) > 3 else ''})"
               for value, who in groups.items()]  # fmt: skip
        differs.append((key, "; ".join(few[:6]) + (" …" if len(few) > 6 else "")))


def _label(key: str) -> Any:
    """A name of the fairness table in both languages; others are column names."""
    from markupsafe import Markup

    from paribus.analysis.report.strings import STRINGS

    key = f"{key}_budget" if key in BUDGET and key != "parameters" else key
    if key not in STRINGS["en"]:
        return key.replace("_", " ")
    return Markup('<span class="en">{}</span><span class="zh">{}</span>').format(
        *(STRINGS[g][key] for g in LANGUAGES)
    )


def _trials(study: Node, rows: Sequence[Row]) -> list[dict[str, Any]]:
    by_trial: dict[str, list[Row]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], []).append(row)
    out = []
    for trial in study["trials"]:
        mine = by_trial.get(trial["name"], [])
        # A trial is done where one of its cells has a value; another cell may still be refused.
        best = next((r for r in mine if r["status"] == "done"), mine[0] if mine else {})
        keys = ("step", "tokens", "seconds", "device")
        status = best.get("status", "planned")
        out.append(
            {"trial": trial["name"], "id": trial["id"], "status": status}
            | {k: best.get(k) for k in keys}
        )
    return out


def _outcomes(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Cells that ended without a value, each trial once for the same reason."""
    seen: dict[tuple[str, str, str], int] = {}
    for row in rows:
        if row.get("value") is None and row["status"] not in ("planned", "running"):
            key = (row["trial"], row["status"], row.get("reason") or "")
            seen[key] = seen.get(key, 0) + 1
    return [
        {"where": trial + (f" ({n})" if n > 1 else ""), "status": status, "reason": reason}
        for (trial, status, reason), n in seen.items()
    ]


def _levels(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in levels.items() if v is not None)


def _big(x: Any) -> str:
    return f"{x:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(x, int) else f"{x:.4g}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

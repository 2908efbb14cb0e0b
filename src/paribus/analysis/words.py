"""Claims and verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paribus.analysis.strings import STRINGS

if TYPE_CHECKING:
    from paribus.analysis.verdicts import Verdict


def say(key: str, lang: str = "en", **values: Any) -> str:
    return STRINGS[lang][key].format(**values)


# ── numbers ─────────────────────────────────────────────────────────────────────────────────


def number(x: float | None, scale: float | None = None) -> str:
    """Three significant digits of ``scale`` (default: of the number itself), a real minus sign."""
    if x is None or not math.isfinite(x):
        return "–" if x is None or math.isnan(x) else "∞" if x > 0 else "\N{MINUS SIGN}∞"
    if x == int(x) and abs(x) < 1e6 and scale is None:
        text = str(int(x))
    else:
        size = abs(x if scale is None else scale) or abs(x) or 1.0
        if not 1e-4 <= size < 1e6:
            text = f"{x:.3g}"
        else:
            text = f"{x:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0") if p < 1e-2 else f"{p:.3f}".lstrip("0")


# ── claims ──────────────────────────────────────────────────────────────────────────────────


def arm(levels: Mapping[str, Any] | None, lang: str = "en") -> str:
    def one(factor: str, tags: Any) -> str:
        shown = ["none" if t is None else str(t) for t in tags]
        return f"{factor}={shown[0]}" if len(shown) == 1 else f"{factor}∈{{{', '.join(shown)}}}"

    return " & ".join(one(f, t) for f, t in (levels or {}).items()) or say("every_arm", lang)


def measure(node: Any, lang: str = "en") -> str:
    if not isinstance(node, dict):
        return f"{node:g}"
    op = node["op"]
    if op == "metric":
        extra = [node[k] for k in ("evaluation", "slice") if node[k]]
        said = f"{node['metric']} ({', '.join(extra)})" if extra else str(node["metric"])
        return say("best_step", lang, of=said) if node.get("best") else said
    if op in "+-*/":
        a, b = (measure(n, lang) for n in node["args"])
        return f"[{a}] {op.replace('-', '−').replace('*', '×')} [{b}]"
    of = measure(node["of"], lang)
    if op == "prefer":
        return of
    if op == "at":
        return say("at", lang, of=of, levels=arm(node["arm"], lang))
    over = ", ".join(node["over"])
    if node.get("by"):
        over = STRINGS[lang][node["by"]].format(over)
    return say(op, lang, of=of, over=over)


def claim(node: Mapping[str, Any], better: str = "lower", unit: str = "", lang: str = "en") -> str:
    """A hypothesis or criterion as a sentence without its full stop."""
    form = node["claim"]
    if form == "stated":
        return str(node["text"])
    if form == "at_least":
        every = node["u"] == len(node["parts"])
        parts = "; ".join(claim(p, better, unit, lang) for p in node["parts"])
        return say("every" if every else form, lang, u=node["u"], m=len(node["parts"]), parts=parts)
    said = {
        "arm": arm(node["arm"], lang),
        "than": arm(node.get("than"), lang),
        "on": measure(node["on"], lang),
        "better": say(better, lang),
        "factors": " & ".join(node["arm"]),
        "within": node.get("within", ""),
        "for_arm": say("for_arm", lang, arm=arm(node["arm"], lang)) if node["arm"] else "",
    }
    by = node.get("by", 0)
    said["by"] = say("by", lang, by=_amount(by, unit)) if by else ""
    if form == "criterion":
        bounds = [_bound(node, side, lang) for side in ("below", "above") if node.get(side)
                  is not None]  # fmt: skip
        said["bounds"] = say("and", lang).join(bounds)
        form = "criterion_than" if node.get("than") else form
    elif form in ("increasing", "decreasing"):
        sign = "" if form == "increasing" or not by else "\N{MINUS SIGN}"
        said["edge"] = f"{sign}{_amount(by, unit)}" if by else "0"
    where = say("where", lang, where=arm(node["where"], lang)) if node["where"] else ""
    return say("better_claim" if form == "better" else form, lang, **said) + where


def _amount(by: Any, unit: str) -> str:
    return str(by) if isinstance(by, str) else f"{by:g} {unit}".strip()


def _bound(node: Mapping[str, Any], side: str, lang: str) -> str:
    bound = node[side]
    if isinstance(bound, dict) and "percent" in bound:
        text = f"{bound['percent']:g} %"
    elif isinstance(bound, dict):
        text = say("baseline_of", lang, name=bound["baseline"])
    else:
        text = f"{bound:g}"
    margin = say("less_margin", lang, by=f"{node['by']:g}") if node["by"] else ""
    return say(side, lang, bound=text) + margin


# ── verdicts ────────────────────────────────────────────────────────────────────────────────


def effect(v: Verdict, lang: str = "en") -> str:
    """The estimate with its interval, in the metric's unit and in per cent of perplexity."""
    if v.effect is None:
        return ""
    known = v.low is not None and v.high is not None and math.isfinite(v.high - v.low)
    scale = max(abs(v.effect), (v.high - v.low) / 10) if known else None  # type: ignore[operator]
    text = f"{number(v.effect, scale)} {v.unit}".strip()
    if v.kind == "criterion" or (v.kind == "check" and v.threshold):
        return f"{text} {v.threshold}"
    if known:
        ends = {"low": number(v.low, scale), "high": number(v.high, scale)}
        text += f", {say('interval', lang, level=f'{v.level:.0%}', **ends)}"
    if v.ppl_percent is not None:
        share = v.ppl_percent[0]
        shown = f"{'+' if share > 0 else ''}{number(share, max(abs(share), 1))} %"
        text += f" ({shown} PPL)" if v.nats else f" ({shown})"
    return text


def reason(v: Verdict, lang: str = "en") -> str:
    if not v.why:
        return ""
    facts: dict[str, Any] = {"alpha": f"{v.alpha:.3g}".lstrip("0"), **v.facts}
    facts |= {k: p_value(facts[k]) for k in ("p", "raw") if isinstance(facts.get(k), float)}
    text = say(f"why_{v.why}", lang, **facts).replace("= <", "<")
    if v.verdict == "inconclusive" and v.smallest_effect is not None:
        seen = number(v.smallest_effect)
        text += "; " + say("needs", lang, effect=f"{seen} {v.unit}".strip())
        n = v.seeds_needed
        text += "; " + (say("needs_n", lang, n=n) if n else say("needs_many", lang))
    if v.verdict == "missing" and v.missing:
        text += ": " + "; ".join(v.missing[:3]) + (" …" if len(v.missing) > 3 else "")
    return text


def about(v: Verdict, lang: str = "en") -> str:
    """Which comparison of a joint claim the figures are those of."""
    if v.about is None:
        return ""
    if v.claim["claim"] != "best":
        return say("about", lang, about=claim(v.about, v.better, v.unit, lang))
    return say("about", lang, about=arm(v.about["than"], lang))


def seeds(v: Verdict, lang: str = "en") -> str:
    """What the reader must know of the seeds: added after a look, or fewer than registered."""
    if v.added_seeds:
        text = say("added_seed" if v.added_seeds == 1 else "added_seeds", lang, n=v.added_seeds)
        if v.before is None:
            return text
        first = say(v.before.verdict, lang)
        if v.before.effect is not None:
            first += f", {number(v.before.effect)} {v.before.unit}".rstrip()
        key = "earlier_seeds" if v.before.added_seeds else "first_seeds"
        text += say(key, lang, first=first)
        return text + (f"; {seeds(v.before, lang)}" if v.before.added_seeds else "")
    if v.dropped and v.verdict != "missing":
        return say("dropped", lang, n=v.dropped)
    if v.registered_seeds and v.n:
        return say("fewer_seeds", lang, n=v.n, all=v.registered_seeds)
    return ""


def beside(v: Verdict, lang: str = "en") -> list[str]:
    """What stands beside a test and decides nothing: the look, the noise of the evaluation items,
    the rank test and the power law of a slope."""
    out = [say(v.late, lang)] if v.late else []
    if v.looks:
        seeds_ = ", ".join(map(str, v.looks))
        out.append(say("look", lang, k=v.look, n=len(v.looks), seeds=seeds_))
    if v.tries > 1 and v.p is not None:
        out.append(say("tries", lang, k=v.tries))
    if v.items_se is not None:
        key = "items_matter" if v.items_matter and v.n > 1 else "items_se"
        out.append(say(key, lang, se=f"{number(v.items_se)} {v.unit}".strip()))
    if v.trend is not None:
        falls = say("falls" if v.trend["falls"] else "rises", lang)
        page = say("page", lang, p=p_value(v.trend["page_p"]), falls=falls)
        out.append(page.replace("= <", "<"))
        if (law := v.trend["power_law"]) is not None:
            error = f"{100 * law['error']:+.1f} %".replace("-", "\N{MINUS SIGN}")
            out.append(say("power_law", lang, alpha=number(law["alpha"]), error=error))
    if v.test != "paired_t" and v.p is not None:
        out.append(say(v.test, lang))
    return out


def how(found: Sequence[Verdict], lang: str = "en") -> str:
    """How effects and intervals are to be read, once for all of them."""
    v = next((v for v in found if v.kind == "hypothesis" and v.effect is not None), None)
    if v is None:
        return ""
    alpha = f"{v.alpha:.3g}".lstrip("0")
    return say("how", lang, level=f"{v.level:.0%}", alpha=alpha)


def lines(found: Sequence[Verdict], lang: str = "en") -> str:
    """Every verdict's line, and how they are read."""
    last = how(found, lang)
    return "\n".join([*(line(v, lang) for v in found), *([last] if last else [])])


def line(v: Verdict, lang: str = "en") -> str:
    """One line of the terminal."""
    bits = [effect(v, lang)] if v.effect is not None else []
    if v.kind == "hypothesis" and v.n > 1:
        bits += [say("agree", lang, signs=v.signs)]
    elif v.kind == "hypothesis" and v.n and not v.added_seeds:
        bits += [say("seed", lang)]
    bits += [seeds(v, lang)]
    bits += [about(v, lang)] if v.about is not None and v.effect is not None else []
    bits += [reason(v, lang), *beside(v, lang)]
    mark = f" [{say('post_hoc', lang)}]" if v.post_hoc else ""
    return f"{v.name}: {say(v.verdict, lang)}{mark} — " + "; ".join(b for b in bits if b)

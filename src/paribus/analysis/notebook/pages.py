"""The notebook in words: one list of blocks a day, shown as Markdown or as HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from paribus.analysis.notebook.strings import (
    Text,
    join,
    ranges,
    same,
    say,
    span,
    state,
    stretch,
    title,
)

MARK = "paribus notebook"
MANY = 40  # lines of one kind on a page
Data = Mapping[str, Any]


class Block(NamedTuple):
    """A piece of a page.

    kind: study, items, table, note or line.
    head: its title.
    lines: the lines of a list; below a table.
    rows: of a table, the first one its head.
    about: of a note, its data; of a study, its question.
    """

    kind: str
    head: Text
    lines: Sequence[Text] = ()
    rows: Sequence[Sequence[Text]] = ()
    about: Any = None
    warn: Sequence[Text] = ()


def blocks(day: Data) -> list[Block]:
    """What stands on a day's page."""
    out = [b for study in day["studies"] for b in _study(day["day"], study)]
    if day["others"]:
        out.append(Block("line", say("others", n=day["others"])))
    if day["notes"]:
        out.append(Block("heading", say("notes")))
        out += [_note(n) for n in day["notes"]]
    return out


def _study(day: str, s: Data) -> Iterator[Block]:
    work = say("work", span=span(s["work_seconds"]))
    yield Block("study", same(s["study"]), (work,), about=s["question"])

    def items(key: str, of: Sequence[Any], line: Callable[[Any], Text]) -> Iterator[Block]:
        if of:
            lines = [{g: _safe(t) for g, t in line(x).items()} for x in of[:MANY]]
            if len(of) > MANY:
                lines.append(say("more", n=len(of) - MANY))
            yield Block("items", say(key), lines)

    yield from items("running", s["running"], lambda t: say(
        "one_running", trial=t["trial"], since=_clock(t["parts"][-1][0], day)))  # fmt: skip
    yield from items("finished", s["ended"], lambda v: _ended(v, day))
    yield from items("came_out", s["sentences"], sentence)
    yield from items("verdicts", s["verdicts"], _verdict)
    yield from items("failed", [*s["failed"], *s["cells"]], lambda t: say(
        "one_failed", trial=t["trial"], state=state(t["state"]),
        reason=t["reason"] or "–"))  # fmt: skip
    yield from items("stopped", s["stopped"], lambda t: say(
        "one_stopped", trial=t["trial"], at=_clock(t["parts"][-1][1], day),
        reason=t["reason"] or say("none")))  # fmt: skip
    yield from items("went_on", _grouped(s["went_on"]), same)
    yield from items("joined", s["joined"], lambda t: say(
        "one_joined", trial=t["trial"], gap=span(t["gap_seconds"]),
        parts=", ".join(f"{_clock(a, day)}–{_clock(b, day)}" for a, b in t["parts"])))  # fmt: skip
    yield from items("removed", s["removed"], same)
    if s["table"]:
        yield _table(s["table"])


def _grouped(trials: Sequence[Data]) -> list[str]:
    """Names on lines of a readable length."""
    names = [t["trial"] for t in trials]
    return [", ".join(names[i : i + 8]) for i in range(0, len(names), 8)]


def _ended(v: Data, day: str) -> Text:
    trials = v["trials"]
    times = [p for t in trials for part in t["parts"] for p in part]
    seeds = [t["seed"] for t in trials if t["seed"] is not None]
    which = say("seeds" if len(seeds) > 1 else "seed", seeds=ranges(seeds)) if seeds else same("")
    first, last = (_clock(f(times), day) for f in (min, max))
    return say("finished_one", variant=v["variant"], n=len(trials), seeds=which,
               first=first, last=last)  # fmt: skip


def _verdict(v: Data) -> Text:
    from paribus.analysis import words

    before, now = ({g: words.say(v[k], g) for g in ("en", "zh")} for k in ("before", "now"))
    line = {g: t.partition(" — ")[2] for g, t in v["line"].items()}
    said = say("verdict", before=before, now=now, line=line)
    return join(same(f"{v['name']}: "), said)


def sentence(s: Data) -> Text:
    """What came out for a variant, against its baseline where that is."""
    from paribus.analysis.words import number

    metric = f"{s['metric']} "
    where = same("")
    if s["where"]:
        over = s["where"].startswith("mean over")
        place = say("conditions", n=s["where"].split()[2]) if over else same(s["where"])
        where = say("over" if over else "at", where=place)
    effect = s.get("effect")
    if effect is None:
        name = say("is_baseline", variant=s["variant"]) if s["is_baseline"] else s["variant"]
        scale = 10 * s["sd"] or None  # two digits of the spread
        spread = say("spread", sd=number(s["sd"], scale)) if s["n"] > 1 else same("")
        mean = f"{number(s['mean'], scale)} {s['unit']}".rstrip()
        out = say("only_mean", variant=name, metric=s["metric"], mean=mean, where=where,
                  n=_seeds(s["n"]), spread=spread)  # fmt: skip
        if s.get("waits"):
            out = join(out, say("waits", baseline=s["baseline"]))
        return out
    low, high = s.get("low"), s.get("high")
    scale = None if low is None else 5 * (high - low) or None  # two digits of the half width
    shown = f"{number(effect, scale)} {s['unit']}".rstrip()
    given: dict[str, Any] = {
        "variant": s["variant"], "baseline": s["baseline"], "metric": metric.strip(),
        "effect": shown, "where": where,
    }  # fmt: skip
    if not s["paired"]:
        return say("unpaired", **given)
    if low is None:
        return say("one_seed", **given)
    if high - low <= 1e-12 * abs(effect):
        return say("constant", **given, n=s["paired"])
    ends = {"low": number(low, scale), "high": number(high, scale)}
    return say("against", **given, **ends, level=f"{s['level']:.0%}", n=_seeds(s["paired"]))


def _seeds(n: int) -> Text:
    return say("n_seed") if n == 1 else say("n_seeds", n=n)


def _table(t: Data) -> Block:
    head = [say("variant"), *(same(c) for c in t["columns"])]
    rows = [head, *([same(c) for c in row] for row in t["rows"][:MANY])]
    name = f"{t['metric']} ({t['unit']})" if t["unit"] else t["metric"]
    several = say("several", n=t["seeds"]) if t["seeds"] > 1 else say("single")
    query = t["query"]
    variants = query["variants"]
    shown = ", ".join(variants[:6]) + (f" … ({len(variants)})" if len(variants) > 6 else "")
    lines = [say("query", **{**query, "variants": shown}, records=t["records"], hash=t["hash"])]
    if len(t["rows"]) > MANY:
        lines.insert(0, say("more", n=len(t["rows"]) - MANY))
    warn = [say("confound", line=c["line"]) for c in t["confounds"]]
    caption = say("table", metric=name, better=say(t["better"]), several=several)
    return Block("table", caption, lines, rows, warn=warn)


def _note(n: Data) -> Block:
    if "damaged" in n:
        return Block("line", say("damaged", id=n["id"]))
    head = same(f"{n['id']} · {n['clock']}")
    if n["status"]:
        head = join(head, same(" · "), say(n["status"]))
    then = [
        say("said", status=say(t["status"]), id=t["id"])
        if t["status"]
        else say("mentioned", id=t["id"])
        for t in n["then"]
    ]
    return Block("note", head, then, about=n)


def _clock(at: str, day: str) -> str:
    """``09:00``; of another day with its date."""
    when = datetime.fromisoformat(at)
    text = when.strftime("%H:%M")
    return text if when.date().isoformat() == day else f"{when.date().isoformat()} {text}"


def calendar(book: Data) -> list[tuple[str, Any]]:
    """("day", day) and ("nothing", [first, last]) in their order."""
    entries = [(d["day"], "day", d) for d in book["days"]]
    entries += [(first, "nothing", [first, last]) for first, last in book["nothing"]]
    return [(kind, about) for _, kind, about in sorted(entries, key=lambda e: e[0])]


# ── Markdown ────────────────────────────────────────────────────────────────────────────────


def markdown(book: Data, lang: str) -> str:
    """All days as text for a terminal or a file."""
    out = [f"# {say('title')[lang]}", ""]
    out += [say("made", made=book["made"][:16].replace("T", " "), home=book["home"],
                zone=book["zone"])[lang], ""]  # fmt: skip
    for line in book["broken"]:
        out += [say("broken", line=_safe(line))[lang], ""]
    found = calendar(book)
    if not found:
        out += [say("empty")[lang], ""]
    for kind, about in found:
        if kind == "nothing":
            out += [f"*{say('nothing', days=stretch(*about))[lang]}*", ""]
        else:
            out += [_markdown_day(about, lang), ""]
    return "\n".join(out).rstrip() + "\n"


def _markdown_day(day: Data, lang: str) -> str:
    work = say("work", span=span(day["work_seconds"]))[lang]
    zone = say("day_zone", zone=day["zone"])[lang]
    out = [f"## {title(day['day'])[lang]}", "", f"{work} · {zone}", ""]
    for b in blocks(day):
        head = _safe(b.head[lang])
        if b.kind == "study":
            out += [f"### {head}", "", _safe(b.about), "", f"{b.lines[0][lang]}", ""]
        elif b.kind == "heading":
            out += [f"### {head}", ""]
        elif b.kind == "items":
            out += [f"**{head}**", "", *(f"- {_safe(line[lang])}" for line in b.lines), ""]
        elif b.kind == "table":
            out += [f"**{head}**", "", *_grid([[c[lang] for c in row] for row in b.rows]), ""]
            out += [f"⚠ {_safe(w[lang])}\n" for w in b.warn]
            out += [f"{_safe(line[lang])}\n" for line in b.lines]
        elif b.kind == "note":
            out += [*_markdown_note(b, head, lang), ""]
        else:
            out += [head, ""]
    return "\n".join(out).rstrip()


def _markdown_note(b: Block, head: str, lang: str) -> Iterator[str]:
    n = b.about
    text = [_safe(line) for line in n["text"].splitlines()]
    if n["withdrawn"]:
        text = [f"~~{line}~~" if line.strip() else line for line in text]
    on = ", ".join(o["name"] for o in n["on"])
    about = [say("on", on=_safe(on))[lang]] if on else []
    yield f"- **{head}**" + "".join(f" · {x}" for x in [*about, *(t[lang] for t in b.lines)])
    yield from (f"  {line}" for line in ["", *text])


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns stand below each other."""
    cells = [[_safe(c).replace("|", "\\|") for c in row] for row in rows]
    sizes = [max(_width(c) for c in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [c + " " * (sizes[0] - _width(c)) if i == 0 else " " * (sizes[i] - _width(c)) + c
                  for i, c in enumerate(row)]  # fmt: skip
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * sizes[0], *("-" * (n - 1) + ":" for n in sizes[1:])]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _safe(text: str) -> str:
    """Somebody's words on one line, without what a terminal would obey."""
    shown = re.sub(r"\s+", " ", text) if "\n" in text or "\t" in text else text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


# ── files ───────────────────────────────────────────────────────────────────────────────────


def files(book: Data, lang: str) -> dict[str, str]:
    """File name -> content: an index and a page a day, as HTML and as Markdown."""
    import jinja2
    from markupsafe import Markup

    here = Path(__file__).parent
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FileSystemLoader(here),
    )
    css = (here.parent / "report" / "style.css").read_text(encoding="utf-8")
    template = environment.get_template("page.html.j2")
    given = {
        "css": Markup(css), "lang": lang, "say": say, "title": title, "stretch": stretch,
        "span": span, "book": book, "mark": MARK, "made": book["made"][:16].replace("T", " "),
    }  # fmt: skip
    mark = f"<!-- {MARK} -->\n\n"
    shown = [(k, {**a, "summary": summary(a)} if k == "day" else a) for k, a in calendar(book)]
    out = {
        "index.html": template.render(**given, day=None, blocks=[], calendar=shown),
        "index.md": mark + _markdown_index(book, lang),
    }
    for day in book["days"]:
        out[f"{day['day']}.html"] = template.render(
            **given, day=day, blocks=blocks(day), calendar=[]
        )
        out[f"{day['day']}.md"] = f"{mark}{_markdown_day(day, lang)}\n"
    return out


def summary(day: Data) -> Text:
    """What a day is in a line of the index."""
    parts = []
    for s in day["studies"]:
        n = sum(len(v["trials"]) for v in s["ended"])
        bits = [join(say("finished"), same(f" {n}"))] if n else []
        for key in ("failed", "running", "stopped"):
            if s[key]:
                bits.append(join(say(key), same(f" {len(s[key])}")))
        text = join(*(join(same(", " if i else ": "), b) for i, b in enumerate(bits)))
        parts.append(join(same(s["study"]), text) if bits else same(s["study"]))
    if day["notes"]:
        parts.append(join(say("notes"), same(f" {len(day['notes'])}")))
    return join(*(join(same(" · " if i else ""), p) for i, p in enumerate(parts)))


def _markdown_index(book: Data, lang: str) -> str:
    out = [f"# {say('title')[lang]}", ""]
    out += [say("made", made=book["made"][:16].replace("T", " "), home=book["home"],
                zone=book["zone"])[lang], "", say("work_note")[lang], ""]  # fmt: skip
    for kind, about in calendar(book):
        if kind == "nothing":
            out.append(f"- *{say('nothing', days=stretch(*about))[lang]}*")
        else:
            day = about["day"]
            link = f"[{title(day)[lang]}]({day}.md)"
            out.append(f"- {link}: {_safe(summary(about)[lang])}")
    return "\n".join(out) + "\n"

"""The report as GitHub's Markdown: the same content, compact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paribus.analysis import sheets, words
from paribus.analysis.report import facts, pictures, states
from paribus.analysis.words import say

if TYPE_CHECKING:
    from paribus.analysis.report import Told

LISTED = 60  # trials that are listed one by one; of more only those without a result


def page(told: Told, lang: str, folder: str) -> str:
    """Sections, parted by empty lines."""
    c = told.context()
    parts = [
        *_head(told, c, lang),
        *_answer(told, c, lang, folder),
        *_learned(c, lang),
        *_results(c, lang),
        *_spans(c, lang),
        *_pictures(told, c, lang, folder),
        *_claims(c, lang),
        *_registration(c, lang),
        *_audit(c, lang),
        *_trials(c, lang),
        *_origin(c, lang),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _head(told: Told, c: dict[str, Any], lang: str) -> Iterator[str]:
    study = c["study"]
    yield f"# {_md(study['question'])}"
    bits = [
        f"`{study['instance']}`",
        _done(c, lang),
    ]
    yield " · ".join([*bits, c["date"]] if c["date"] else bits)
    if c["lacking"][lang]:
        yield f"> {_md(c['lacking'][lang])}"


def _done(c: dict[str, Any], lang: str) -> str:
    said = say("states_note", lang, done=c["done"], all=len(c["trials"]))
    return f"{said} {c['ended'][lang]}".rstrip()


def _answer(told: Told, c: dict[str, Any], lang: str, folder: str) -> Iterator[str]:
    yield f"## {say('answer', lang)}"
    hypotheses = c["groups"][0][1]
    if not hypotheses:
        yield say("no_hypotheses", lang)
    yield "\n".join(_verdict(h, lang) for h in hypotheses)
    if hypotheses and c["how"][lang]:
        yield f"<sub>{_md(c['how'][lang])}</sub>"
    if not c["any"]:
        yield say("none_yet", lang)
    if told.drawn and told.drawn[0].name in ("primary", "heat"):
        yield from _picture(told, told.drawn[0], lang, folder)
    if why := pictures.absent(told.material, told.drawn, lang):
        yield why


def _verdict(h: dict[str, Any], lang: str) -> str:
    v = h["v"]
    mark = f" ({say('post_hoc', lang)})" if v.post_hoc else ""
    said = f"- **{_md(v.name)}: {say(v.verdict, lang)}**{mark} — {_md(h['claim'][lang])}"
    bits = [h["effect"][lang]] if h["effect"][lang] else []
    if v.n > 1 and v.kind == "hypothesis":
        bits.append(say("agree", lang, signs=v.signs))
    bits += [h[k][lang] for k in ("seeds", "about", "reason", "beside")]
    bits = [_md(b) for b in bits if b]
    return said + (f"\n  {'; '.join(bits)}" if bits else "")


def _results(c: dict[str, Any], lang: str) -> Iterator[str]:
    yield f"## {say('result', lang)}"
    reference = " " + say("reference", lang)
    for s in (_spoken(s, lang) for s in c["sheets"]):
        t = s.table
        by = f" {say('by_slice', lang, of=t.slices)}" if t.slices else ""
        yield f"### {_md(sheets.title(replace(t, slices='')) + by)}"
        yield sheets.markdown(s, mark=reference)
        notes = [say(f"better_{t.better}", lang)]
        notes += [say("table_note_md", lang, n=t.n)] if t.n > 1 else [
            say("table_note_one", lang), say("no_set", lang)]  # fmt: skip
        notes += [say("best_note", lang)] if s.marked else []
        notes += [say("trivial_note", lang)] if s.trivial else []
        notes += [say("baselines_note", lang)] if t.baselines else []
        notes += [say("items_note", lang)] if t.items else []
        notes += [say("imported_note", lang)] if t.imports else []
        notes += [say("hidden_note", lang, n=s.hidden)] if s.hidden else []
        yield f"<sub>{' '.join(notes)}</sub>"
        if s.compared:
            of = next(d.percent_of for line in s.lines for x in line.cells
                      if x and (d := x.difference))  # fmt: skip
            yield _details(
                say("view_differences", lang),
                sheets.markdown(s, apart=True, mark=reference)
                + f"\n\n<sub>{say('diff_note', lang, of=say('of_ppl' if of else 'of_mean', lang))}"
                "</sub>",
            )


def _spans(c: dict[str, Any], lang: str) -> Iterator[str]:
    if not c["spans"]:
        return
    yield f"## {say('spans', lang)}"
    heads = [say("probe", lang), say("curve", lang), say("variant", lang), "n"]
    table = _table(
        [*heads, *c["spans"][0].cells()],
        [[s.evaluation, s.curve or "–", s.variant, f"{s.seeds}/{s.planned}", *s.cells().values()]
         for s in c["spans"]],
    )  # fmt: skip
    yield table if len(c["spans"]) <= 12 else _details(say("spans", lang), table)
    yield f"<sub>{say('spans_note', lang)}</sub>"


def _learned(c: dict[str, Any], lang: str) -> Iterator[str]:
    if not (found := c["learned"]):
        return
    yield f"## {say('learned', lang)}"
    colon = say("colon", lang)
    yield "\n".join(f"- **{_md(s[lang].arms)}**{colon}{_md(str(s[lang]))}"
                    for s in found["said"])  # fmt: skip
    yield f"<sub>{_md(found['note'][lang])}</sub>"


def _spoken(s: sheets.Sheet, lang: str) -> sheets.Sheet:
    """The sheet with the states of its cells in the language."""
    lines = []
    for line in s.lines:
        cells = [x and replace(x, states=states.said(x.states, lang)) for x in line.cells]
        name = line.name
        if line.kind == "items":
            name = say("items", lang) + name.removeprefix(sheets.ITEMS)
        lines.append(replace(line, name=name, cells=tuple(cells)))
    return replace(s, lines=tuple(lines))


def _pictures(told: Told, c: dict[str, Any], lang: str, folder: str) -> Iterator[str]:
    others = [d for d in told.drawn if d is not told.drawn[0] or d.name not in ("primary", "heat")]
    warnings = [
        f"> {say('tuning_edge', lang, factor=e['factor'], level=e['level'], arm=_md(e['arm']))}"
        for e in c["edges"]
    ]
    if (others and folder) or warnings:
        yield f"## {say('figure', lang)}"
    for d in others if folder else ():
        yield from _picture(told, d, lang, folder)
    yield from warnings
    if said := pictures.without_font(told.material, lang):
        yield f"<sub>{_md(said)}</sub>"


def _picture(told: Told, d: Any, lang: str, folder: str) -> Iterator[str]:
    if folder:
        text = pictures.caption(d, told.material, lang)
        files = f"[SVG]({folder}/{d.name}.svg) · [CSV]({folder}/{d.name}.csv)"
        yield f"![{d.name}]({folder}/{d.name}.png)"
        yield f"<sub>{_md(text)} {files}</sub>"


def _claims(c: dict[str, Any], lang: str) -> Iterator[str]:
    names = {"hypothesis": "hypotheses", "check": "checks", "criterion": "criteria"}
    for kind, group in c["groups"]:
        if not group:
            continue
        yield f"## {say(names[kind], lang)}"
        if kind == "hypothesis":
            yield say("seen_all" if c["seen_all"] else "hypotheses_note", lang)
        rows = []
        for h in group:
            v = h["v"]
            late = say("post_hoc", lang) if v.post_hoc else ""
            late = say("amended", lang, at=v.registered[:10]) if v.registered else late
            evidence = [h["effect"][lang], "; ".join(h["numbers"]), late]
            evidence += [] if h["effect"][lang] else [h["reason"][lang]]
            rows.append([v.name, h["claim"][lang], say(v.verdict, lang),
                         "; ".join(e for e in evidence if e)])  # fmt: skip
        heads = ["", *(say(k, lang) for k in ("claim", "verdict", "evidence"))]
        yield _table(heads, rows)


def _registration(c: dict[str, Any], lang: str) -> Iterator[str]:
    study = c["study"]
    yield f"## {say('hash', lang)}"
    if study.get("registration_hash"):
        line = say("hash_line", lang, at=study.get("registered") or "–",
                   seen=study.get("seen_at_registration", 0))  # fmt: skip
        yield f"{line} `{study['registration_hash']}`"
    else:
        when = study.get("registered")
        yield f"{say('registered', lang)}: {when}" if when else say("hash_no", lang)
    lines = []
    for a in c["amendments"]:
        parts = [say(f"am_{k}", lang, names=_md(a[k]))
                 for k in ("added", "changed", "removed", "seeds") if a[k]]  # fmt: skip
        text = "; ".join(parts) or say("am_nothing", lang)
        lines.append(f"- {say('amendment', lang, at=a['at'] or '–', seen=a['seen'])}: {text}")
    yield "\n".join(lines)
    yield f"<sub>{say('anchor', lang)}</sub>"


def _audit(c: dict[str, Any], lang: str) -> Iterator[str]:
    yield f"## {say('audit', lang)}"
    lines = [f"- **{say('level_' + f['level'], lang)}**: {_md(f['text'][lang])}"
             for f in c["findings"]]  # fmt: skip
    yield "\n".join(lines) or say("audit_none", lang)
    found = c["fairness"]
    lines = [f"- {_label(k, lang)}: {_md(v)}" for k, v in found["differs"]]
    yield f"**{say('differs', lang)}**\n\n" + "\n".join(lines) if lines else ""
    same = "; ".join(f"{_label(k, lang)} {_md(v)}" for k, v in found["equal"])
    yield f"**{say('equal', lang)}**: {same}"
    entries = [
        [", ".join(d.variants[:4]) + (f" … ({len(d.variants)})" if len(d.variants) > 4 else ""),
         d.reference, "; ".join(d.settings) or say("none", lang)] for d in c["settings"]
    ]  # fmt: skip
    if entries:
        heads = [say("variant", lang), say("against", lang, name="…"), say("settings", lang)]
        yield _details(say("settings", lang), _table(heads, entries))


def _trials(c: dict[str, Any], lang: str) -> Iterator[str]:
    yield f"## {say('trials', lang)}"
    yield _done(c, lang)
    shown = [t for t in c["trials"] if len(c["trials"]) <= LISTED or not t["whole"]]
    rows = [[t["trial"], states.state(t["status"], lang), t["cells"], facts.big(t["step"]),
             facts.big(t["tokens"]), words.number(t["seconds"]), t["device"] or "–",
             t["id"][:10]] for t in shown]  # fmt: skip
    keys = ("trial", "state", "cells_of", "steps", "tokens", "seconds", "device")
    table = _table([*(say(k, lang) for k in keys), "id"], rows)
    yield _details(f"{say('trials', lang)} ({len(rows)})", table) if rows else ""
    for key, lines in (
        ("gaps", list(c["gaps"])),
        ("outcomes", [f"{o['where']}: {states.state(o['status'], lang)}"
                      + (f" ({o['said'][lang]})" if o["reason"] else "")
                      for o in c["outcomes"]]),
        ("excluded", [f"{e['levels']}: {e['reason']}" for e in c["excluded"]]),
    ):  # fmt: skip
        if lines:
            yield f"### {say(key, lang)}"
            yield "\n".join(f"- {_md(line)}" for line in lines)
    if c["imports"]:
        yield f"### {say('imports', lang)}"
        yield "\n".join(
            f"- *{_md(a['name'])}*: {say('import_source', lang)} {_md(a.get('source') or '–')}; "
            f"{say('import_unknown', lang)}: "
            f"{_md(', '.join(a.get('unknown') or ()) or say('import_nothing', lang))}"
            for a in c["imports"]
        )


def _origin(c: dict[str, Any], lang: str) -> Iterator[str]:
    yield f"## {say('provenance', lang)}"
    lines = [
        ("paribus", c["study"]["paribus"]),
        *((k, v) for k, v in c["details"] if k != "paribus"),
    ]
    yield "\n".join(f"- {_md(k)}: {_md(v)}" for k, v in [*lines, *c["environment"]])
    if c["packages"]:
        yield _details(say("packages", lang),
                       ", ".join(f"{k} {v}" for k, v in c["packages"].items()))  # fmt: skip
    if c["commands"]:
        fence = "\n".join(["```sh", *c["commands"], "```"])
        yield f"### {say('reproduce', lang)}\n\n{fence}\n\n<sub>{say('reproduce_note', lang)}</sub>"


def _label(key: str, lang: str) -> str:
    from paribus.analysis.strings import STRINGS

    key = f"{key}_budget" if key in facts.BUDGET and key != "parameters" else key
    return STRINGS[lang].get(key, key.replace("_", " "))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_md(x) for x in row] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _details(title: str, inner: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{inner}\n\n</details>"


def _md(text: Any) -> str:
    return sheets.escaped(str(text))

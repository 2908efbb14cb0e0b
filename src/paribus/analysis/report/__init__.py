"""The report: one HTML file that stands alone, in English and Chinese, made from records alone;
and the same as Markdown.

Nothing in it is fetched: styles and figures are inline, the language is switched by CSS.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paribus.analysis.report import facts

if TYPE_CHECKING:
    import jinja2

    from paribus.analysis.cells import Row
    from paribus.analysis.plots import Drawn, Material
    from paribus.analysis.spanned import Spanned
    from paribus.analysis.verdicts import Verdict
    from paribus.study.finding import Finding
    from paribus.study.measures import Node

HERE = Path(__file__).parent
LANGUAGES = facts.LANGUAGES
HEAVY = (
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "scipy.special",
)  # fmt: skip


@functools.cache
def _template() -> jinja2.Template:
    """The page; compiling it takes 0.1 s."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(HERE),
    )
    return environment.get_template("report.html.j2")


def ready() -> threading.Thread:
    """Begin to load what a page is made with, which takes a second: a run does while its workers
    load torch.  Whatever is wrong with it is said when the page is made."""

    def load() -> None:
        with suppress(Exception):
            for name in HEAVY:
                importlib.import_module(name)
            _template()

    thread = threading.Thread(target=load, name="paribus report")
    thread.start()
    return thread


class Told:
    """Everything that a report tells, in whatever form.

    Args:
        study, records: the study's record and its rows.
        verdicts: default: computed here.
        curves: "loss" and "lr" -> trial name -> [(step, value)].
        checks: trial name -> evaluations during training, each {"step": …, "<condition key>
            <metric>": value}.
        audits: trial name -> the audit of its parameters, as `nn.freeze.audit` makes it.
        findings: of the audit of the study.
        imports: arms that were measured elsewhere.
        gaps: lines about trials that were removed by hand.
        provenance: name -> text; ``date`` heads the page, ``commands`` is a list to repeat it,
            ``packages`` name -> version.
    """

    def __init__(
        self,
        study: Node,
        records: Iterable[Row],
        verdicts: Sequence[Verdict] | None = None,
        *,
        curves: Mapping[str, Mapping[str, Any]] | None = None,
        checks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        audits: Mapping[str, Mapping[str, Any]] | None = None,
        findings: Sequence[Finding] = (),
        imports: Sequence[Mapping[str, Any]] = (),
        gaps: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        from paribus.analysis.plots import Material, figures
        from paribus.analysis.verdicts import verdicts as judge

        self.study, self.rows = study, list(records)
        self.verdicts = judge(study, self.rows) if verdicts is None else list(verdicts)
        self.material: Material = Material(
            study, self.rows, self.verdicts, curves, checks, imports, audits
        )
        self.drawn: list[Drawn] = list(figures(self.material))
        self.findings, self.imports, self.gaps = findings, imports, gaps
        self.provenance = dict(provenance or {})

    @property
    def spans(self) -> list[Spanned]:
        """How far each arm's memory reaches, along each probe that has an axis."""
        return self.material.spans

    def context(self) -> dict[str, Any]:
        """What the template of the page and the Markdown are filled with."""
        from paribus.analysis import settings, words
        from paribus.analysis.plots import tuning
        from paribus.analysis.report import judged, states
        from paribus.analysis.sheets import WAITING

        study, rows = self.study, self.rows
        about = dict(self.provenance)
        shown = judged.shown(study, self.verdicts)
        trials = facts.trials(study, rows)
        tuned = next((d.rows for d in self.drawn if d.name == "tuning"), [])
        lost = facts.lacking(study, rows) if self.material.any else {}
        lacking = ", ".join(f"{n} {state}" for state, n in lost.items())
        over = sum(t["status"] not in ("done", *WAITING) for t in trials)
        return {
            "study": study,
            "words": words,
            "how": {g: words.how(self.verdicts, g) for g in LANGUAGES},
            "groups": [
                (kind, [h for h in shown if h["v"].kind == kind])
                for kind in ("hypothesis", "check", "criterion")
            ],
            "any": self.material.any,
            "done": sum(t["status"] == "done" for t in trials),
            "lacking": {
                g: words.say("waiting", g, states=states.said(lacking, g)) if lacking else ""
                for g in LANGUAGES
            },
            "ended": {
                g: words.say("ended" if over > 1 else "ended_one", g, n=over) if over else ""
                for g in LANGUAGES
            },
            "stated": states.both,
            "sheets": self._sheets(),
            "learned": self._learned(),
            "spans": self.spans if self.material.any else [],
            "edges": tuning.edges(tuned),
            "findings": self._findings(),
            "fairness": facts.fairness(study, rows),
            "settings": settings.differences(study),
            "trials": trials,
            "waiting": WAITING,
            "outcomes": facts.outcomes(rows),
            "gaps": self.gaps,
            "imports": self.imports,
            "excluded": [
                {"levels": facts.levels(s["levels"]), "reason": s["reason"]}
                for s in study["skipped"]
            ],
            "amendments": facts.amendments(study),
            "environment": facts.environment(rows),
            "date": about.pop("date", ""),
            "commands": about.pop("commands", []),
            "packages": about.pop("packages", {}),
            "details": [(k, facts.flat(v)) for k, v in about.items() if k != "engine"],
            "seen_all": study.get("seen_at_registration", 0) >= len(study["trials"]) > 0,
        }

    def _sheets(self) -> list[Any]:
        """The primary metric, and others that were measured and are no mere transform of one."""
        from paribus.analysis import slices
        from paribus.analysis.sheets import sheet

        study, m = self.study, self.material
        seen = m.results.seen
        others = [n for n, info in study["metrics"].items()
                  if n in seen and not info.get("transform")]  # fmt: skip
        first, *more = dict.fromkeys([study["primary"], *others])
        tables = [m.table(first), *slices.tables(m.results), *map(m.table, more)]
        return [sheet(study, t, m.chosen) for t in tables]

    def _learned(self) -> dict[str, Any] | None:
        """What each arm learned against the trivial baselines: sentences, how to read them, and
        every comparison."""
        from paribus.analysis import telling
        from paribus.analysis.learned import learned

        found = learned(self.material) if self.material.any else None
        if found is None:
            return None
        said = {g: telling.sentences(found, self.material, g) for g in LANGUAGES}
        return {
            "said": [dict(zip(LANGUAGES, pair, strict=True))
                     for pair in zip(*said.values(), strict=True)],
            "note": {g: telling.note(found, g) for g in LANGUAGES},
            "compared": telling.compared(found),
            "better": found.better,
            "metric": found.metric,
        }  # fmt: skip

    def _findings(self) -> list[dict[str, Any]]:
        """The gravest first; an accepted one last."""
        if not self.findings:
            return []
        from paribus.analysis.findings import say

        rank = {"refuse": 0, "warn": 1, "note": 2, "accepted": 3}
        found = [
            {
                "level": "accepted" if f.accepted else f.level,
                "text": {g: say(f, g) for g in LANGUAGES},
            }
            for f in self.findings
        ]
        return sorted(found, key=lambda f: rank[f["level"]])

    def html(self, lang: str = "en") -> str:
        """One page; ``lang``: which language shows first."""
        from markupsafe import Markup

        from paribus.analysis.report import pictures

        m = self.material
        context = self.context()
        words = context["words"]
        shown = [
            {
                "name": d.name,
                "svg": Markup(d.canvas.inline(pictures.caption(d, m, "en"))),
                "slim": Markup(pictures.slim(d, m)),
                "caption": {g: pictures.caption(d, m, g) for g in LANGUAGES},
                "main": d.name in ("primary", "heat") and i == 0,
            }
            for i, d in enumerate(self.drawn)
        ]
        return _template().render(
            **context,
            lang=lang,
            css=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            say=words.say,
            number=words.number,
            big=facts.big,
            label=_label,
            figures=shown,
            absent={g: pictures.absent(m, self.drawn, g) for g in LANGUAGES},
            no_font={g: pictures.without_font(m, g) for g in LANGUAGES},
        )

    def markdown(self, lang: str = "en", folder: str = "") -> str:
        """The same, compact; ``folder``: where the figures lie, "" where they were not written."""
        from paribus.analysis.report.markdown import page

        return page(self, lang, folder)


def render(
    study: Node,
    records: Iterable[Row],
    verdicts: Sequence[Verdict] | None = None,
    *,
    lang: str = "en",
    **more: Any,
) -> str:
    """The report as HTML; ``more`` as in `Told`."""
    return Told(study, records, verdicts, **more).html(lang)


def render_markdown(
    study: Node,
    records: Iterable[Row],
    verdicts: Sequence[Verdict] | None = None,
    *,
    lang: str = "en",
    folder: str = "",
    **more: Any,
) -> str:
    """The report as GitHub's Markdown; ``more`` as in `Told`."""
    return Told(study, records, verdicts, **more).markdown(lang, folder)


def _label(key: str) -> Any:
    """A name of the fairness table in both languages; others are column names."""
    from markupsafe import Markup

    from paribus.analysis.strings import STRINGS

    key = f"{key}_budget" if key in facts.BUDGET and key != "parameters" else key
    if key not in STRINGS["en"]:
        return key.replace("_", " ")
    return Markup('<span class="en">{}</span><span class="zh">{}</span>').format(
        *(STRINGS[g][key] for g in LANGUAGES)
    )

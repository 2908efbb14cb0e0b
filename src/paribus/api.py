"""``paribus.load("quickstart").results()``: a study's results in Python, without torch."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from paribus import arrays
from paribus.analysis import kept, listing, records
from paribus.errors import SpecError
from paribus.store import Store, find_home
from paribus.store.scan import Look
from paribus.store.studies import redefined
from paribus.study import registered
from paribus.study.plan import Plan
from paribus.study.record import results_seen

REPORT = "report/report.html"


def load(study: str, *, scale: str | None = None, home: str | Path | None = None) -> Loaded:
    """The study named by file or by the name of a shipped one, laid beside its results.

    Args:
        scale: which scale of it; default: the study's first.
        home: where results live; default: $PARIBUS_HOME, else runs/.
    """
    from paribus import parts
    from paribus.study import source

    before = parts.local_folder_or_base()
    try:
        found = source.load(study, scale=scale)
        where = Path(home) if home else find_home(None if found.shipped else found.path)
        plan = registered.reading(found.study, Store(where))
        if plan.note:
            warnings.warn(plan.note, stacklevel=2)
        return Loaded.of(plan)
    finally:
        parts.use_local(before)


def _amend(record: dict[str, Any], stored: dict[str, Any], seen: int) -> None:
    """What was registered first is judged as it was; an edit is an amendment at once."""
    first, now = stored["registration"], json.loads(json.dumps(record["registration"]))
    amendments = list(record["amendments"] or [])
    if (amendments[-1]["registration"] if amendments else first) != now:
        amendments.append({"at": "", "registration": now, "results_seen": seen})
    for section in ("hypotheses", "criteria", "checks"):  # in the order of the file
        names = [*record["registration"][section], *first[section]]
        first[section] = {n: first[section][n] for n in names if n in first[section]}
    record["registration"], record["amendments"] = first, amendments
    # Arms and conditions that mean something else than when they were registered.
    record["redefined"] = sorted(redefined(stored.get("definitions", {}), record["definitions"]))


def pilots(plan: Plan) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(record, rows) of the study and then of its other scales, as far as there are results: what
    tells how much its contrasts spread over seeds."""
    out = []
    if any(i.done for i in plan.items):
        mine = Loaded.of(plan)
        out.append((mine.study, mine._rows))
    for instance in plan.store.studies():
        if instance.startswith(f"{plan.study.name}@") and instance != plan.study.instance:
            record = plan.store.read_study(instance)
            if record is not None:
                out.append((record, records.rows(plan.store, record)))
    return out


class Loaded:
    """A study and its records."""

    def __init__(
        self, store: Store, study: dict[str, Any], looks: dict[str, Look] | None = None
    ) -> None:
        self.store, self.study = store, study
        self.looks = records.looks(store, study) if looks is None else looks
        self._items: dict[tuple[str, str], tuple[dict[str, Any], str | None]] = {}

    def provenance(self) -> dict[str, Any]:
        """What the report says of where the results come from."""
        s = self.study
        engines = {
            str(r[k])
            for r in self._rows
            for k in ("device", "torch", "python")
            if r.get(k) is not None
        }
        data: dict[str, str] = {}
        for t in s["trials"]:
            if (self.store.trial_dir(t["id"]) / "spec.json").is_file():
                data |= self.store.spec(t["id"])["data"]
        return {
            "date": (s.get("registered") or "")[:10],
            "commands": [f"paribus run {s['name']} --scale {s['scale']}"],
            "paribus": s["paribus"],
            "engine": ", ".join(sorted(engines)),
            **data,
            "home": self.store.home.name,
            "registered": s.get("registered") or "not yet",
        }

    @classmethod
    def of(cls, plan: Plan) -> Loaded:
        record = dict(plan.record)
        stored = plan.store.read_study(plan.study.instance) or {}
        for key in ("amendments", "registered", "registration_hash"):
            record[key] = stored.get(key)
        record["seen_at_registration"] = stored.get("seen_at_registration", 0)
        record["seen_trials"] = stored.get("seen_trials", [])
        record["ended"] = plan.store.ended(plan.study.instance)
        seen = results_seen(plan, stored) if stored else 0
        if seen or record["amendments"]:
            _amend(record, stored, seen)
        for key in ("baselines", "baseline_slices"):
            record[key] = {
                cid: found[key]
                for i in plan.items
                for cid, found in i.look.records.items()
                if found.get(key)
            }
        return cls(plan.store, record, {i.trial.id: i.look for i in plan.items})

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return records.rows(self.store, self.study, self.looks)

    def results(self) -> list[dict[str, Any]]:
        """Tidy rows, as pandas and polars take them."""
        return records.typed(self._rows, self.study)

    def verdicts(self) -> list[Any]:
        return list(self._verdicts)

    @cached_property
    def _verdicts(self) -> list[Any]:
        from paribus.analysis import verdicts

        return verdicts.verdicts(self.study, self._rows, self.items)

    def items(self, trial: str, condition: str, metric: str) -> Any:
        """(sums, counts, groups or None) of a metric by evaluation item, [items] each; None where
        they are not there.

        Args:
            trial, condition: their ids.
            metric: one that the task scores, not one that is derived from it.
        """
        if (trial, condition) not in self._items:
            record = self.store.evaluation(trial, condition) or {}
            self._items[trial, condition] = record.get("items", {}), record.get("groups")
        items, groups = self._items[trial, condition]
        found = items.get(metric)
        if found is None:
            return None
        try:
            sums, counts = (arrays.unpack(found[k]) for k in ("sum", "count"))
            return sums, counts, None if groups is None else arrays.unpack(groups)
        except (ValueError, zlib.error):  # damaged: there is no error of items, the value stands
            return None

    @cached_property
    def ends(self) -> dict[str, dict[str, Any]]:
        """Trial name -> how its result ended, without curves."""
        found = {t["name"]: self.looks[t["id"]].result for t in self.study["trials"]}
        return {name: dict(result.end) for name, result in found.items() if result}

    def findings(self) -> list[Any]:
        """What the audit found, of what was declared and of what was realised."""
        return list(self._findings)

    @cached_property
    def _findings(self) -> list[Any]:
        from paribus.analysis.realised import realised
        from paribus.study.audit import declared

        return [*declared(self.study), *realised(self.study, self._rows, self.ends)]

    def imports(self) -> list[dict[str, Any]]:
        """Arms that were made elsewhere, see `paribus import`."""
        return self.store.imports(self.study["instance"])

    def verdict_text(self) -> str:
        """A block a hypothesis: the verdict, the effect with its interval, the reason."""
        from paribus.analysis import words

        return words.lines(self.verdicts()) or "no hypotheses"

    def learned(self) -> list[dict[str, Any]]:
        """Each variant at each judged condition against each trivial baseline: the difference, its
        interval, and how it stands; exploratory."""
        found = self._learned[0]
        return records.typed(found.data(), self.study) if found else []

    def learned_text(self, lang: str = "en") -> str:
        """What each arm learned, a line an arm, and how to read it; "" without baselines."""
        from paribus.analysis import telling

        found, material = self._learned
        if found is None:
            return ""
        return f"{telling.lines(found, material, lang)}\n{telling.note(found, lang)}"

    @cached_property
    def _learned(self) -> tuple[Any, Any]:
        from paribus.analysis.learned import learned
        from paribus.analysis.plots import Material

        material = Material(self.study, self._rows)
        return (learned(material) if material.any else None), material

    def table(
        self,
        metric: str | None = None,
        *,
        differences: bool = False,
        slices: bool = False,
        form: str = "text",
    ) -> str:
        """A metric's pivot: variants by conditions.

        Args:
            metric: default: the study's primary one.
            differences: to the baseline arm, in place of the values.
            slices: a column a slice, in place of conditions; a table for each with slices.
            form: "text", "markdown" or "latex".
        """
        from paribus.analysis import sheets

        return sheets.told(
            self.study, self._rows, metric, differences, form, self.imports(), slices
        )

    def csv(
        self, wide: bool = False, metric: str | None = None, *, differences: bool = False
    ) -> str:
        """Tidy rows as CSV; ``wide``: a column a metric, by the study's ``columns=``."""
        from paribus.analysis import tables

        if wide:
            found = tables.wide(self.study, self._rows)
            return tables.to_csv(records.typed(found, self.study))
        return tables.to_csv(self._chosen(metric, differences))

    def recipe(self) -> str:
        """A row a variant with the columns of a diary of training recipes (batch, schedule,
        perplexities, GPU-hours), and what else was not the same in all of them; Markdown."""
        from paribus.analysis import recipe

        return recipe.markdown(self.study, self._rows)

    def to_json(self, metric: str | None = None, *, differences: bool = False) -> str:
        from paribus.analysis import tables

        return tables.to_json(self._chosen(metric, differences))

    def parquet(self, metric: str | None = None, *, differences: bool = False) -> bytes:
        """Tidy rows as Parquet; needs pyarrow (pip install paribus[text])."""
        from paribus.analysis import tables

        return tables.to_parquet(self._chosen(metric, differences))

    def _chosen(self, metric: str | None, differences: bool) -> list[dict[str, Any]]:
        """Rows of one metric, or of all; or its differences to the baseline arm."""
        from paribus.analysis import compared, tables

        if differences:
            found = compared.of_study(self.study, self._rows, metric)
            return records.typed(found, self.study)
        if metric is not None:
            tables.need(self.study, metric)
        return records.typed(tables.of_metric(self._rows, metric, self.study), self.study)

    @cached_property
    def _mark(self) -> str:
        return kept.mark({**self.study, "imports": self.imports()}, self.looks)

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return kept.load(self.store, self.study["instance"], self._mark)

    def text(self) -> str:
        """Table and verdicts, as `paribus run` prints them."""
        return self._text

    @cached_property
    def _text(self) -> str:
        made: str | None = self._kept.get("text")
        return made or "\n\n".join(
            filter(None, [self.table(), self.verdict_text(), self._warned()])
        )

    def _warned(self, most: int = 5) -> str:
        """The warnings of the audit, as far as a terminal has room for them."""
        from paribus.analysis import findings

        found = [findings.line(f) for f in self.findings() if f.level != "note"]
        more = [f"… and {len(found) - most} more, in the report"] if len(found) > most else []
        return "\n".join([*found[:most], *more])

    def markdown(self, lang: str = "en") -> str:
        """The report as GitHub's Markdown, without figures."""
        return str(self._told.markdown(lang))

    def write_report(
        self,
        path: str | Path | None = None,
        *,
        lang: str = "en",
        always: bool = False,
        everything: bool = False,
        paper: bool = False,
    ) -> Path:
        """Write the self-contained report where something has changed, and results.csv,
        completed.txt and errors.txt where they differ.

        Files that hold more results than are at hand stay: that is an error, or with a path they
        are passed over.

        Args:
            path: a file of its own (.html, or .md for Markdown); default: in the study's folder.
            always: also where nothing has changed.
            everything: also report.md and report/figures/ (SVG, PNG and CSV).
            paper: also report/paper/ (PDF figures, LaTeX tables).
        """
        instance = self.study["instance"]
        folder = self.store.study_dir(instance)
        place = Path(path) if path else folder / REPORT
        as_before = self._kept.get("lang") == lang and kept.untouched(self._kept, folder)
        if as_before and path is None and not (always or everything or paper):
            return place
        apart = path is not None and not (everything or paper)
        files = {} if apart and self._fewer() else self.write_lists()
        head = f'<head>\n<meta name="records" content="{self._mark} {lang}">'
        html = b"" if always else _content(place)
        if path is not None and place.suffix.lower() == ".md":
            self.store.write_derived(place, self.markdown(lang).encode())
        elif head.encode() not in html[:2000]:
            html = self._html(lang).replace("<head>", head, 1).encode()
            self.store.write_derived(place, html)
        if path is None:
            text, files[REPORT] = self.text(), html
            kept.save(self.store, instance, self._mark, text, lang, files)
        for name, content in self._beside(lang, everything, paper):
            self.store.write_derived(folder / "report" / name, content)
        return place

    def check_outputs(self, folder: str | Path) -> None:
        """SpecError where `write_outputs` would write over what it has not written itself."""
        from paribus.analysis.report import outputs

        outputs.check(Path(folder), self.study["instance"])

    def write_outputs(self, folder: str | Path, *, lang: str = "en") -> list[Path]:
        """Write tables, verdicts, all results as JSON and the figures as PNG into a folder of your
        own; the files.  Those that it wrote there for this study are made anew, any other of these
        names is an error."""
        from paribus.analysis.report import outputs

        made = outputs.files(self._told, self.table(), self.verdict_text(), lang)
        outputs.check(Path(folder), self.study["instance"], made)
        for name, content in made.items():
            self.store.write_derived(Path(folder) / name, content)
        return [Path(folder) / name for name in made]

    def _beside(self, lang: str, everything: bool, paper: bool) -> Iterator[tuple[str, bytes]]:
        """What lies beside the page: (path in report/, content) each."""
        from paribus.analysis.report import files

        if everything:
            yield "report.md", self._told.markdown(lang, "figures").encode()
            yield from files.figures(self._told, lang)
        if paper:
            yield from files.paper(self._told)

    def write_lists(self) -> dict[str, bytes]:
        """Write results.csv, completed.txt and errors.txt where they differ; their contents."""
        if why := self._fewer():
            raise SpecError(why)
        files = {
            "results.csv": self.csv().encode(),
            "completed.txt": listing.completed(self.study, self.looks).encode(),
            "errors.txt": listing.errors(self.study, self.looks).encode(),
        }
        for name, content in files.items():
            self.store.write_derived(self.store.study_dir(self.study["instance"]) / name, content)
        return files

    def _fewer(self) -> str:
        """Why the study's files are not to be written: they hold more than they would then, for of
        the study as it is registered there are more results than of the one at hand; else "".

        After an edit, with other seeds or other parts the trials are others; a run registers them.
        """
        instance = self.study["instance"]
        stored = self.store.read_study(instance) or {"trials": []}
        there, here = (
            {t["id"]: {*t["cells"].values()} for t in s["trials"]} for s in (stored, self.study)
        )
        if all(here.get(trial, set()) >= cells for trial, cells in there.items()):
            return ""
        looks = {**records.looks(self.store, stored), **self.looks}
        was, now = (registered.counted(t.items(), looks.__getitem__) for t in (there, here))
        if now[0] >= was[0] and now[1] >= was[1]:
            return ""
        return (
            f"{instance} is registered in {self.store.home} with other trials than it has here: "
            f"of those {was[0]} are trained, with {was[1]} evaluations, of these {now[0]}, with "
            f"{now[1]}. So results.csv, completed.txt, errors.txt and the report are left as they "
            "are; -o FILE writes a report elsewhere, and `paribus run` registers the study as it "
            "is here"
        )

    def report_notes(self, *, everything: bool = True, paper: bool = False) -> list[str]:
        """What a person should know of a report that was written: where else it is, and what its
        figures could not show."""
        from paribus.analysis.report import pictures

        folder = self.store.study_dir(self.study["instance"]) / "report"
        n = len(self._told.drawn)
        out = [f"also {folder / 'report.md'} and {n} figures in {folder / 'figures'}"]
        out = out if everything else []
        out += [f"also {folder / 'paper'}: PDF figures and LaTeX tables"] if paper else []
        said = pictures.without_font(self._told.material, "en")
        return [*out, *([f"note: {said}"] if said else [])]

    @cached_property
    def _told(self) -> Any:
        from paribus.analysis import gaps, report

        return report.Told(
            self.study,
            self._rows,
            self.verdicts(),
            curves=records.curves(self.store, self.study),
            checks=records.checks(self.study, self.looks),
            audits={n: e["parameters"] for n, e in self.ends.items() if e.get("parameters")},
            findings=self.findings(),
            imports=self.imports(),
            gaps=[str(g) for g in gaps.gaps(self.study, self.looks)],
            provenance={**self.provenance(), "packages": self._packages()},
        )

    def _html(self, lang: str) -> str:
        return str(self._told.html(lang))

    def _packages(self) -> dict[str, str]:
        """Versions of the packages that the first trial with a result ran with."""
        for trial in self.study["trials"]:
            if self.looks[trial["id"]].result is not None:
                for attempt in reversed(self.store.attempts(trial["id"])):
                    with suppress(OSError, ValueError):
                        about = json.loads(_content(attempt.path / "provenance") or b"{}")
                        return dict(about.get("packages") or {})
        return {}


def _content(place: Path) -> bytes:
    return place.read_bytes() if place.is_file() else b""

"""``paribus.load("quickstart").results()``: a study's results in Python, without torch."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from paribus.analysis import kept, listing, records
from paribus.store import Store, find_home
from paribus.store.scan import Look
from paribus.study.plan import Plan

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
        return Loaded.of(Plan(found.study, Store(where)))
    finally:
        parts.use_local(before)


class Loaded:
    """A study and its records."""

    def __init__(
        self, store: Store, study: dict[str, Any], looks: dict[str, Look] | None = None
    ) -> None:
        self.store, self.study = store, study
        self.looks = records.looks(store, study) if looks is None else looks

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
        for key in ("amendments", "registered"):
            record[key] = stored.get(key)
        first, now = stored.get("registration"), json.loads(json.dumps(record["registration"]))
        if first and first != now:
            # What was registered first is judged as it was; an edit is an amendment at once.
            amendments = list(record["amendments"] or [])
            if (amendments[-1]["registration"] if amendments else first) != now:
                seen = sum(i.done for i in plan.items)
                amendments.append({"at": "", "registration": now, "results_seen": seen})
            for section in ("hypotheses", "criteria", "checks"):  # in the order of the file
                names = [*record["registration"][section], *first[section]]
                first[section] = {n: first[section][n] for n in names if n in first[section]}
            record["registration"], record["amendments"] = first, amendments
        record["baselines"] = {
            cid: found["baselines"]
            for i in plan.items
            for cid, found in i.look.records.items()
            if found.get("baselines")
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

        return verdicts.verdicts(self.study, self._rows)

    def verdict_text(self) -> str:
        """A block a hypothesis: the verdict, the effect with its interval, the reason."""
        from paribus.analysis import words

        return words.lines(self.verdicts()) or "no hypotheses"

    def table(self) -> str:
        from paribus.analysis import tables

        return tables.pivot(self.study, self._rows)

    def csv(self, wide: bool = False) -> str:
        from paribus.analysis import tables

        found = tables.wide(self.study, self._rows) if wide else self._rows
        return tables.to_csv(records.typed(found, self.study))

    def to_json(self) -> str:
        from paribus.analysis import tables

        return tables.to_json(self.results())

    @cached_property
    def _mark(self) -> str:
        return kept.mark(self.study, self.looks)

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return kept.load(self.store, self.study["instance"], self._mark)

    def text(self) -> str:
        """Table and verdicts, as `paribus run` prints them."""
        return self._text

    @cached_property
    def _text(self) -> str:
        return self._kept.get("text") or f"{self.table()}\n\n{self.verdict_text()}"

    def write_report(
        self, path: str | Path | None = None, *, lang: str = "en", always: bool = False
    ) -> Path:
        """Write the self-contained report where something has changed, and results.csv,
        completed.txt and errors.txt where they differ."""
        instance = self.study["instance"]
        folder = self.store.study_dir(instance)
        place = Path(path) if path else folder / REPORT
        as_before = self._kept.get("lang") == lang and kept.untouched(self._kept, folder)
        if as_before and path is None and not always:
            return place
        files = self.write_lists()
        head = f'<head>\n<meta name="records" content="{self._mark} {lang}">'
        html = b"" if always else _content(place)
        if head.encode() not in html[:2000]:
            html = self._html(lang).replace("<head>", head, 1).encode()
            self.store.write_derived(place, html)
        if path is None:
            text, files[REPORT] = self.text(), html
            kept.save(self.store, instance, self._mark, text, lang, files)
        return place

    def write_lists(self) -> dict[str, bytes]:
        """Write results.csv, completed.txt and errors.txt where they differ; their contents."""
        files = {
            "results.csv": self.csv().encode(),
            "completed.txt": listing.completed(self.study, self.looks).encode(),
            "errors.txt": listing.errors(self.study, self.looks).encode(),
        }
        for name, content in files.items():
            self.store.write_derived(self.store.study_dir(self.study["instance"]) / name, content)
        return files

    def _html(self, lang: str) -> str:
        from paribus.analysis import report

        return report.render(
            self.study,
            self._rows,
            self.verdicts(),
            curves=records.curves(self.store, self.study),
            checks=records.checks(self.study, self.looks),
            provenance=self.provenance(),
            lang=lang,
        )


def _content(place: Path) -> bytes:
    return place.read_bytes() if place.is_file() else b""

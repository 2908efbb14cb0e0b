"""A study for others: bundles, their verification, and runs made elsewhere.  Torch-free."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from paribus import asked
from paribus._version import __version__
from paribus.analysis import anonymous, bundle, gaps
from paribus.analysis.anonymous import Scrub
from paribus.analysis.bundle import Bundle, Payload
from paribus.analysis.verdict import finite
from paribus.api import Loaded
from paribus.cli import FAILED, OK, emit
from paribus.errors import SpecError
from paribus.grid import size
from paribus.store import AttemptView, StoreError, imports, notes
from paribus.store.files import read, read_bytes
from paribus.study.record import registration_hash
from paribus.study.source import Source

SHOWN = 30  # lines of one kind in the terminal
ANONYMOUS = (
    "\nNames of machines, people, folders and addresses were replaced by words such as path-1."
)


# ── bundle ──────────────────────────────────────────────────────────────────────────────────


def do_bundle(o: Namespace) -> int:
    found, plan = asked.to_read(o)
    packing = _Packing(found, Loaded.of(plan), weights=o.weights, hide=o.anonymous)
    name = f"{packing.study['instance']}{bundle.SUFFIX}"
    place = Path(o.output or name).expanduser()
    if place.is_dir():
        place = place / name
    bundle.check_place(place, {plan.study.instance, packing.study["instance"]})
    bundle.pack(packing.payload(), packing.about(), place)
    print(f"{place}   {size(place.stat().st_size)}")
    for line in packing.missing[:SHOWN]:
        print(f"missing: {line}")
    if len(packing.missing) > SHOWN:
        print(f"… {len(packing.missing) - SHOWN} more; manifest.json has all of them")
    if packing.scrub is not None:
        _tell_scrubbed(packing.scrub)
    print(f"check it with: paribus verify {place}")
    return OK


def _tell_scrubbed(scrub: Scrub) -> None:
    said = ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in scrub.counts.items())
    print(
        f"anonymous: {said or 'no name'} replaced; names in prose are not found, so read sources/"
    )
    for name in sorted(scrub.left):
        print(f"note: {name!r} is also a word of the study, and is left where it stands")


class _Told(Loaded):
    """The study as a bundle tells it: an anonymous one without names."""

    def __init__(self, packing: _Packing, short: Mapping[str, Any]) -> None:
        super().__init__(packing.store, packing.study, bundle.looks(packing.study, short))
        self._packing = packing

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._packing.clean(super()._rows)
        return rows

    def provenance(self) -> dict[str, Any]:
        found: dict[str, Any] = self._packing.clean(super().provenance())
        if self._packing.scrub is not None:
            found.pop("home", None)
        return found

    def imports(self) -> list[dict[str, Any]]:
        arms: list[dict[str, Any]] = self._packing.clean(self.store.imports(self._packing.instance))
        return arms


class _Packing:
    """What goes into a bundle.

    Attributes:
        missing: what is not in it, a line each.
        scrub: takes names out; None if they stay.
    """

    def __init__(self, found: Source, loaded: Loaded, *, weights: bool, hide: bool) -> None:
        self.found, self.loaded, self.store = found, loaded, loaded.store
        self.weights = weights
        self.missing: list[str] = []
        self.instance = loaded.study["instance"]
        self.views = {u["id"]: [_short(v) for v in self.store.attempts(u["id"])]
                      for u in self._units()}  # fmt: skip
        self.provenances = {unit: list(self._provenances(unit)) for unit in self.views}
        self.scrub = self._scrub() if hide else None
        clean = self.scrub.data if self.scrub else _same
        self.study: dict[str, Any] = clean(json.loads(json.dumps(loaded.study)))
        self.clean = clean

    def about(self) -> dict[str, Any]:
        """The manifest's own words; after `payload`."""
        mark, told = registration_hash(self.study), self.study.get("registration_hash")
        changed = ""
        if told and told != mark:
            changed = "the grid has changed since, so it cannot be computed again"
            if self.scrub is not None:
                changed = "names were replaced in what it is the hash of"
        return {
            "study": self.study["instance"],
            "question": self.study["question"],
            "anonymous": self.scrub is not None,
            "weights": self.weights,
            "registration": mark,
            "registration_changed": changed,
            "missing": self.missing,
        }

    def payload(self) -> Payload:
        """Every file."""
        files: Payload = {}
        short: dict[str, Any] = {}  # of the trials, what rows are made from
        for trial in self.loaded.study["trials"]:
            files |= self._trial(trial, short)
        for trunk in self.loaded.study.get("trunks") or ():
            files |= self._unit(trunk["id"])
        told = _Told(self, short)
        self._tell_missing(told)
        findings = [{**f.data(), "line": _line(f)} for f in told.findings()]
        about = notes.about(notes.notes(self.store.home), self.instance, self._ids())
        if self.scrub is not None:
            about = [{k: v for k, v in note.items() if k != "author"} for note in about]
        html = told._html("en")
        files |= {
            "study.json": self.study,
            "rows.jsonl": told._rows,
            "verdicts.json": [v.data() for v in told.verdicts()],
            "findings.json": self.clean(finite(findings)),
            "imports.json": told.imports(),
            "notes.json": self.clean(about),
            "report/report.html": self.scrub.markup(html) if self.scrub else html,
            "README.txt": bundle.README.format(
                name=self.study["instance"],
                question=self.study["question"],
                version=__version__,
                anonymous=ANONYMOUS if self.scrub else "",
            ),
        }
        files |= self._sources()
        return files

    # ── trials ──

    def _units(self) -> list[dict[str, Any]]:
        return [*self.loaded.study["trials"], *(self.loaded.study.get("trunks") or ())]

    def _ids(self) -> set[str]:
        return {u["id"] for u in self._units()}

    def _trial(self, trial: Mapping[str, Any], short: dict[str, Any]) -> Payload:
        """The files of a trial; `short` takes them without what is long."""
        look, clean = self.loaded.looks[trial["id"]], self.clean
        here = f"trials/{trial['id']}"
        state, result = look.state, look.result
        told = {
            "name": trial["name"],
            "state": state.state,
            "reason": state.reason,
            "attempt": state.attempt,
            "retired": bool(result and result.retired),
            "result": result.number if result else None,
            "token": (state.end or {}).get("token"),
            "failed": look.failed,
        }
        short[f"{here}/state.json"] = clean(told)
        files = {f"{here}/state.json": clean(told), **self._unit(trial["id"])}
        number = result.number if result else state.attempt
        end = result.end if result else state.end
        if end is not None:
            short[f"{here}/end.json"] = clean(end)
            path = self.store.trial_dir(trial["id"]) / "attempts" / str(number) / "end"
            files[f"{here}/end.json"] = partial(self._load, path)
        for cid, record in look.records.items():
            if result is not None and cid in trial["cells"].values():
                name = f"{here}/evaluations/{cid}.json"
                short[name] = clean(record)
                files[name] = partial(self._record, trial["id"], cid)
        if self.weights and result is not None and result.end.get("weights"):
            if why := self.store.weights_lost(trial["id"]):
                self.missing.append(f"weights of {trial['name']}: {why}")
            else:
                files[f"{here}/weights"] = result.weights
        return files

    def _unit(self, unit: str) -> Payload:
        """Spec, attempts and provenance of a trial or a trunk; nothing where it was not begun."""
        files: Payload = {}
        spec = read(self.store.trial_dir(unit) / "spec.json")
        if spec is not None:
            files[f"trials/{unit}/spec.json"] = self.clean(spec)
        attempts = []
        of = dict(self.provenances[unit])
        for view in self.views[unit]:
            claim, end = view.claim or {}, view.end or {}
            shown = ("at",) if self.scrub else ("at", "host", "pid", "worker")
            entry: dict[str, Any] = {
                "number": view.number,
                "began": {k: claim.get(k) for k in shown},
                "ended": end.get("at"),
                "state": end.get("state", "open"),
                "reason": end.get("reason", ""),
                "retired": view.retired,
            }
            if view.number in of:
                about = of[view.number]
                if self.scrub is not None:
                    about = anonymous.provenance(about, self.scrub)
                mark = _mark(about)
                files[f"provenance/{mark}.json"] = about
                entry["provenance"] = mark
            attempts.append(entry)
        if attempts:
            files[f"trials/{unit}/attempts.json"] = self.clean(attempts)
        return files

    def _provenances(self, unit: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for view in self.views[unit]:
            with suppress(StoreError):  # nothing rests on it: a damaged one is passed over
                about = read(view.path / "provenance")
                if about is not None:
                    yield view.number, about

    def _load(self, path: Path) -> bytes:
        return bundle.encode(path.name, self.clean(read(path) or {}))

    def _record(self, trial: str, condition: str) -> bytes:
        record = self.store.evaluation(trial, condition) or {}
        return bundle.encode(condition, self.clean(record))

    # ── the rest ──

    def _sources(self) -> Payload:
        root = self.store.study_dir(self.instance) / "source"
        paths = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
        if not paths:
            paths = {self.found.path.name: self.found.path}
        elif read_bytes(root / self.found.path.name) != self.found.path.read_bytes():
            self.missing.append(
                "the study file as it is now: sources/ holds it as it was at the last run"
            )
        files: Payload = {}
        for name, path in sorted(paths.items()):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                self.missing.append(f"sources/{name}: it is not text")
                continue
            clean: Callable[[str], str] = self.scrub.text if self.scrub else _same
            files[f"sources/{clean(name)}"] = clean(text)
        return files

    def _tell_missing(self, told: Loaded) -> None:
        found = gaps.gaps(self.study, told.looks)
        gone = {gap.id for gap in found if gap.what == gaps.REMOVED}
        states: dict[str, int] = {}
        for trial in self.study["trials"]:
            look = told.looks[trial["id"]]
            if look.result is None and trial["id"] not in gone:
                states[look.state.state] = states.get(look.state.state, 0) + 1
        count = len(self.study["trials"])
        lines = [f"{n} of {count} trials: {state}" for state, n in states.items()]
        empty = [r for r in told._rows if r["value"] is None and r["status"] != "done"]
        done = [r for r in empty if told.looks[r["id"]].result is not None]
        if done:
            lines.append(f"{len(done)} evaluations of trained trials")
        lines += [str(gap) for gap in found]
        if not self.study.get("registered"):
            lines.append("a registration: the study was never run in this home")
        self.missing[:0] = lines

    # ── names ──

    def _scrub(self) -> Scrub:
        """What is known of machines, people and folders, from all records and from here."""
        names: dict[str, set[str]] = {
            "host": {socket.gethostname()},
            "user": set(),
            "folder": {self.store.home.name},
            "commit": set(),
        }
        with suppress(KeyError, OSError):
            names["user"].add(getpass.getuser())
        folders = {str(self.store.home), str(self.found.path.parent), os.getcwd(), str(Path.home())}
        for note in notes.notes(self.store.home):
            names["user"].add(str(note.get("author") or ""))
        stored = self.store.read_study(self.instance) or {}
        folders.add(str(Path(str(stored.get("file") or "/x")).parent))
        for unit in self._units():
            for view in self.views[unit["id"]]:
                names["host"].add(str((view.claim or {}).get("host") or ""))
                code = ((view.end or {}).get("engine") or {}).get("code")
                names["commit"] |= set(re.findall(r"\b[0-9a-f]{7,40}\b", str(code)))
            for _, about in self.provenances[unit["id"]]:
                names["host"].add(str(about.get("host") or ""))
                names["user"].add(str(about.get("user") or ""))
                for part in ("repository", "paribus"):
                    names["commit"].add(str((about.get(part) or {}).get("commit") or ""))
                folders |= set(_folders(about))
        names["host"] |= {host.partition(".")[0] for host in names["host"]}
        for folder in folders:
            if home := re.match(r"/(?:home|Users)/([^/]+)", folder):
                names["user"].add(home[1])
        return Scrub(names, folders - {"/"}, _keys(self.loaded.study))


def _folders(about: Mapping[str, Any]) -> Iterator[str]:
    """The folders that a provenance names."""
    source, paribus = about.get("repository") or {}, about.get("paribus") or {}
    yield from (str(x) for x in (about.get("folder"), source.get("root")) if x)
    if root := (paribus.get("repository") or {}).get("root"):
        yield str(root)
    for path in (about.get("study"), (about.get("lock") or {}).get("file")):
        if path:
            yield str(Path(str(path)).parent)


def _keys(x: Any) -> Iterator[str]:
    """Keys of plain data and names of parts: the words that files are made of."""
    if isinstance(x, Mapping):
        for key, value in x.items():
            yield str(key)
            if key == "part":
                yield str(value)
            yield from _keys(value)
    elif isinstance(x, list | tuple):
        for value in x:
            yield from _keys(value)


def _short(view: AttemptView) -> AttemptView:
    """Without the curves, which are long."""
    end = {k: v for k, v in (view.end or {}).items() if k != "curves"}
    return replace(view, end=None if view.end is None else end)


def _same(x: Any) -> Any:
    return x


def _mark(about: Mapping[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _line(finding: Any) -> str:
    from paribus.analysis import findings

    return str(findings.line(finding))


# ── verify ──────────────────────────────────────────────────────────────────────────────────


def do_verify(o: Namespace) -> int:
    from paribus.analysis.verifying import verify

    with Bundle(Path(o.bundle).expanduser()) as packed:
        report = verify(packed)
    if o.json:
        emit(
            {
                "bundle": str(o.bundle),
                "study": report.manifest.get("study"),
                "equal": report.equal,
                "registration": report.registration,
                "counts": report.counts,
                "verdicts": report.verdicts,
                "differences": report.differences,
                "gaps": report.gaps,
                "missing": report.manifest.get("missing") or [],
                "unchecked": report.unchecked,
            }
        )
        return OK if report.equal else FAILED
    for line in _verified(report):
        print(plain(line))
    return OK if report.equal else FAILED


def _verified(report: Any) -> Iterator[str]:
    """What verification found, for the terminal."""
    manifest, counts = report.manifest, report.counts
    yield f"{manifest.get('study')}   {manifest.get('question')}"
    yield f"packed by paribus {manifest.get('paribus')}, verified by {__version__}"
    said = ", ".join(f"{n:,} {what}" for what, n in counts.items())
    yield f"checked     {said}"
    yield f"registered  {report.registration} (compare it with what was published)"
    for v in report.verdicts:
        if not v["differences"]:
            yield f"same        {v['name']}: {v['verdict']}"
        for line in v["differences"]:
            yield f"DIFFERENT   {v['name']}: {line}"
    blocks = (
        ("DIFFERENT", report.differences),
        ("gap", report.gaps),
        ("missing", [m for m in manifest.get("missing") or [] if m not in report.gaps]),
        ("unchecked", report.unchecked),
    )
    for word, lines in blocks:
        yield from (f"{word:11} {line}" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            yield f"{word:11} … {len(lines) - SHOWN:,} more; --json has all of them"
    if report.equal:
        yield "all that was checked is the same"
    else:
        count = len(report.differences) + sum(len(v["differences"]) for v in report.verdicts)
        yield f"{count:,} differences: the bundle does not say what its records say"


def plain(text: str) -> str:
    """A line of somebody else's without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# ── import ──────────────────────────────────────────────────────────────────────────────────


def do_import(o: Namespace) -> int:
    from paribus.analysis import importing

    _, plan = asked.to_read(o)
    store, instance = plan.store, plan.study.instance
    path = Path(o.file).expanduser()
    if not path.is_file():
        raise SpecError(f"import: no file {o.file}")
    folder = store.study_dir(instance)
    if store.read_study(instance) is None:
        raise SpecError(f"import: {instance} is not registered in {store.home} yet; run it first")
    arms, dropped = importing.arms(plan.record, path, o.called, o.source)
    own = {v["name"] for v in plan.record["variants"]}
    for arm in arms:
        if arm["name"] in own:
            raise SpecError(
                f"import: {instance} has a variant {arm['name']!r} of its own; "
                "give the arm another name with --name"
            )
        if imports.taken(folder, arm["name"]):
            raise SpecError(
                f"import: there is an arm {arm['name']!r} already, and imports are never changed; "
                "give this one another name with --name"
            )
    for arm in arms:
        imports.add(folder, arm)
        print(
            plain(f"{arm['name']}: {len(arm['rows'])} values, as a descriptive arm of {instance}")
        )
        if arm["unknown"]:
            print(f"  unknown: {', '.join(arm['unknown'])}")
    for line in dropped:
        print(plain(f"left out: {line}"))
    print("it is shown beside the study's own arms, and is part of no test and no verdict")
    return OK

"""Runs made elsewhere, read from CSV, JSON or a bundle, and held against the study's record.

What comes of them is descriptive: an arm with the names of what nobody knows of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paribus.analysis.bundle import Bundle
from paribus.errors import SpecError, nearest
from paribus.study.measures import Node

FIELDS = (
    "data", "tokens", "steps", "seeds", "parameters", "dtype", "device", "kernel", "code",
    "evaluation set", "settings",
)  # fmt: skip
"""What should be known of a run before it is compared with another one."""

PLAIN = ("metric", "value", "evaluation", "slice", "n", "seed")
LARGEST = 1 << 28  # bytes of a file of results


def arms(
    study: Node, path: Path, name: str | None, source: str | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The arms that a file holds, and what of it was left out, a line each.

    Args:
        study: the record of the study beside whose arms they shall stand.
        name: of the arm, or of the study that a bundle is of; default: the file's, the study's.
        source: where it comes from, in words.

    Returns:
        Arms as {"name", "source", "file", "sha256", "unknown": [field], "known": {field: value},
        "rows": [{"evaluation", "slice", "metric", "value", "n"?, "seed"?, "seeds"?, "sd"?,
        <condition factor>: tag}]}.

    Raises:
        SpecError: what cannot be placed, with the line and the nearest name.
    """
    if path.stat().st_size > LARGEST and path.suffix != ".zip":
        raise SpecError(f"{path}: larger than {LARGEST >> 20} MiB; give the study's metrics alone")
    with open(path, "rb") as file:
        head = file.read(4)
        digest = hashlib.file_digest(file, "sha256") if not file.seek(0) else None
    about = {"file": path.name, "sha256": digest.hexdigest() if digest else ""}
    if head == b"PK\x03\x04":
        return _of_bundle(study, path, name, source, about)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not text; give CSV or JSON in UTF-8, or a bundle") from None
    known: dict[str, Any] = {}
    if text.lstrip()[:1] in ("[", "{"):
        given, known, told = _of_json(path, text)
        name, source = name or told.get("name"), source or told.get("source")
    else:
        given = list(_of_csv(path, text))
    rows = _placed(study, path, given)
    if any("seed" in r for r in rows):
        known["seeds"] = sorted({r["seed"] for r in rows if "seed" in r})
    arm = {
        "name": str(name or path.stem),
        "source": str(source or ""),
        **about,
        "unknown": [f for f in FIELDS if f not in known],
        "known": known,
        "rows": rows,
    }
    return [arm], []


# ── files ───────────────────────────────────────────────────────────────────────────────────


def _of_csv(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of each line; empty cells are left out."""
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval=None)
    columns = [str(c or "").strip() for c in reader.fieldnames or ()]
    if not columns or len(set(columns)) != len(columns):
        raise SpecError(f"{path}: the first line must name the columns, each once: {first[:80]!r}")
    reader.fieldnames = columns
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row:
            raise SpecError(f"{where}: more values than columns ({', '.join(columns)})")
        yield where, {k: v.strip() for k, v in row.items() if v is not None and v.strip()}


def _of_json(
    path: Path, text: str
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any], dict[str, Any]]:
    """(rows with where they stand, what is known, name and source) of a list of rows, or of an
    object with "rows" and any of name, source and `FIELDS`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: no JSON: {error}") from None
    told = {} if isinstance(content, list) else {k: v for k, v in content.items() if k != "rows"}
    rows = content if isinstance(content, list) else content.get("rows")
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise SpecError(f'{path}: give a list of objects, or an object with "rows", such a list')
    for key in told:
        if key not in (*FIELDS, "name", "source"):
            raise SpecError(f"{path}: {key!r}; {nearest(key, [*FIELDS, 'name', 'source', 'rows'])}")
    known = {f: told[f] for f in FIELDS if told.get(f) not in (None, "")}
    places = [(f"{path}, row {i}", row) for i, row in enumerate(rows, 1)]
    return (
        [(w, {k: v for k, v in r.items() if v not in (None, "")}) for w, r in places],
        known,
        told,
    )


# ── rows ────────────────────────────────────────────────────────────────────────────────────


def _placed(
    study: Node, path: Path, given: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Rows that stand at conditions of the study."""
    axes = _axes(study)
    metrics = list(study["metrics"])
    out: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], str] = {}
    for where, row in given:
        if "metric" in row or "value" in row:
            single = [row]
        else:  # one column a metric
            rest = {k: v for k, v in row.items() if k not in metrics}
            single = [{**rest, "metric": m, "value": row[m]} for m in metrics if m in row]
        for column in row:
            if column not in (*PLAIN, *axes, *metrics):
                known = [*PLAIN, *axes, *metrics]
                raise SpecError(f"{where}: no column {column!r}; {nearest(column, known)}")
        if not single:
            near = ", ".join(metrics)
            raise SpecError(f"{where}: no value: give metric and value, or a column of {near}")
        for one in single:
            placed = _row(study, axes, where, one)
            key = tuple(placed.get(k) for k in ("evaluation", "slice", "metric", "seed", *axes))
            if key in seen:
                raise SpecError(f"{where}: the same cell as {seen[key]}: {placed['metric']}")
            seen[key] = where
            out.append(placed)
    if not out:
        raise SpecError(f"{path}: no rows")
    return out


def _row(
    study: Node, axes: Mapping[str, Node], where: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    metric = str(given.get("metric", ""))
    if metric not in study["metrics"]:
        raise SpecError(f"{where}: no metric {metric!r}; {nearest(metric, study['metrics'])}")
    out: dict[str, Any] = {"slice": str(given.get("slice", "")), "metric": metric}
    out["value"] = _number(where, "value", given.get("value"))
    for name in ("n", "seed"):
        if name in given:
            x = _number(where, name, given[name])
            if x != int(x) or x < 0:
                raise SpecError(f"{where}: {name} {given[name]!r}: give a whole number")
            out[name] = int(x)
    for name, factor in axes.items():
        if name in given:
            out[name] = _tag(where, factor, given[name])
    return _at(study, where, given, out)


def _at(study: Node, where: str, given: Mapping[str, Any], out: dict[str, Any]) -> dict[str, Any]:
    """The row with its evaluation and the levels of the one condition that it can mean."""
    evaluations = list(dict.fromkeys(c["evaluation"] for c in study["conditions"]))
    fit = study["metrics"][out["metric"]].get("evaluations") or evaluations
    if (evaluation := given.get("evaluation")) is not None:
        if evaluation not in evaluations:
            raise SpecError(
                f"{where}: no evaluation {evaluation!r}; {nearest(str(evaluation), evaluations)}"
            )
        fit = [evaluation]
    at = [
        c
        for c in study["conditions"]
        if c["evaluation"] in fit
        and all(c["levels"].get(f) == out[f] for f in out if f in c["levels"])
        and all(f in c["levels"] for f in given if f in _axes(study))
    ]
    if not at:
        near = ", ".join(c["key"] for c in study["conditions"][:6])
        raise SpecError(f"{where}: no condition of the study is this one; it has: {near}")
    if len(at) > 1:
        open_ = sorted({f for c in at for f in c["levels"] if f not in out})
        if len({c["evaluation"] for c in at}) > 1:
            open_ = ["evaluation", *open_]
        near = ", ".join(c["key"] for c in at[:6])
        raise SpecError(f"{where}: say which {' and '.join(open_)}: {near}")
    levels = {f: t for f, t in at[0]["levels"].items() if t is not None}
    return {"evaluation": at[0]["evaluation"], **levels, **out}


def _axes(study: Node) -> dict[str, Node]:
    return {f["name"]: f for f in study["factors"] if f["kind"] == "condition"}


def _tag(where: str, factor: Node, given: Any) -> str:
    """The tag of a level given by its tag or its value."""
    tags = {str(level["tag"]): level["value"] for level in factor["levels"]}
    if str(given) in tags:
        return str(given)
    for tag, value in tags.items():
        try:
            if type(value) in (int, float) and float(given) == value:
                return tag
        except (TypeError, ValueError):
            continue
    near = nearest(str(given), tags)
    if all(type(v) in (int, float) for v in tags.values()):
        near = f"valid: {', '.join(tags)}"
    raise SpecError(f"{where}: {factor['name']} has no level {given!r}; {near}")


def _number(where: str, name: str, given: Any) -> float:
    try:
        if isinstance(given, bool) or given is None:
            raise ValueError
        x = float(given)
    except (TypeError, ValueError):
        hint = "; per cent as a share, such as .74" if str(given).endswith("%") else ""
        hint = hint or ("; a decimal point, please" if "," in str(given) else "")
        raise SpecError(f"{where}: {name} {given!r} is no number{hint}") from None
    if not math.isfinite(x):
        raise SpecError(f"{where}: {name} {given!r}: leave out what has no value")
    return x


# ── bundles ─────────────────────────────────────────────────────────────────────────────────


def _of_bundle(
    study: Node, path: Path, name: str | None, source: str | None, about: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """An arm for each variant of a bundle's study: its means over seeds by condition."""
    with Bundle(path) as packed:
        packed.check()
        if packed.wrong:
            raise SpecError(f"{path}: {packed.wrong[0]}; see paribus verify {path}")
        theirs, rows = packed.json("study.json"), packed.json("rows.jsonl")
    try:
        return _means(study, theirs, rows, name, source, path, about)
    except SpecError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"{path}: its files make no sense ({error}); see paribus verify") from None


def _means(
    study: Node,
    theirs: Node,
    rows: Sequence[Mapping[str, Any]],
    name: str | None,
    source: str | None,
    path: Path,
    about: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[str]]:
    from paribus.analysis.stats import Sample

    foreign = [f["name"] for f in theirs["factors"] if f["kind"] == "condition"]
    cells: dict[str, dict[tuple[Any, ...], list[Mapping[str, Any]]]] = {}
    for row in rows:
        if row["value"] is not None:
            key = (row["evaluation"], row["slice"], row["metric"], *(row.get(f) for f in foreign))
            cells.setdefault(row["variant"], {}).setdefault(key, []).append(row)
    made: list[dict[str, Any]] = []
    dropped: dict[str, None] = {}
    for variant, of in cells.items():
        placed = []
        for (evaluation, part, metric, *levels), found in of.items():
            values = Sample(tuple(float(r["value"]) for r in found))
            given = {
                "evaluation": evaluation,
                "slice": part,
                "metric": metric,
                "value": values.mean,
            }
            at = {f: t for f, t in zip(foreign, levels, strict=True) if t is not None}
            try:
                for f in at:
                    if f not in _axes(study):
                        raise SpecError(f"{path}: no factor of evaluation {f!r}")
                row = _row(study, _axes(study), str(path), {**given, **at})
            except SpecError as error:
                dropped[str(error).removeprefix(f"{path}: ")] = None
                continue
            items = sum(int(r["n"] or 0) for r in found)
            placed.append({**row, "n": items, "seeds": values.n, "sd": values.sd})
        if placed:
            known = _known(theirs, variant, [r for found in of.values() for r in found])
            made.append(
                {
                    "name": f"{name or theirs['name']}/{variant}",
                    "source": str(source or f"bundle of {theirs['instance']}"),
                    **about,
                    "unknown": [f for f in FIELDS if f not in known],
                    "known": known,
                    "rows": placed,
                }
            )
    if not made:
        why = f" ({next(iter(dropped))})" if dropped else ""
        raise SpecError(f"{path}: nothing in it is a metric at a condition of this study{why}")
    return made, list(dropped)


def _known(study: Node, variant: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a bundle tells of a variant."""
    info = study["variants_info"].get(variant, {})

    def one(column: str) -> Any:
        found = list(dict.fromkeys(str(r[column]) for r in rows if r.get(column) is not None))
        return ", ".join(found) or None

    told = {
        "data": "as in the bundle",
        "tokens": info.get("tokens"),
        "steps": info.get("steps"),
        "seeds": sorted({r["seed"] for r in rows}),
        "parameters": info.get("parameters"),
        "dtype": one("dtype"),
        "device": one("device"),
        "kernel": one("kernel"),
        "code": f"paribus {study['paribus']}" if study.get("paribus") else None,
        "evaluation set": "as in the bundle",
        "settings": "as in the bundle",
    }
    return {k: v for k, v in told.items() if v is not None}

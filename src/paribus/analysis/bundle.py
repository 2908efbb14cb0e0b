"""Bundles: a study as one zip file, made from its records, and read again without trust.

What a bundle holds stands in `README`, which lies in it.  Equal contents make equal bytes: names
are sorted and times are fixed.  Reading never unpacks anything to disk and executes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from paribus._version import __version__
from paribus.errors import SpecError
from paribus.store import Result, TrialState
from paribus.store.scan import Look

FORMAT = 1
SUFFIX = ".paribus.zip"
MANIFEST = "manifest.json"
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows

# No honest bundle is larger; a hostile one is refused before it is read.
LOADED = 1 << 30  # bytes of a file that is taken into memory
RATIO = 400  # of unpacked to packed bytes, of the whole

README = """\
{name}
{question}

This is a bundle of paribus: everything that a study's tables and verdicts were made from. Check it
with `paribus verify FILE`: every value is computed again from the sums of the evaluation items,
every verdict from the values and the registration. Nothing of the bundle is executed for that.

  manifest.json              size and sha256 of each file; what is missing
  study.json                 question, factors, trials, conditions; registration and amendments
  rows.jsonl                 results: one JSON object a trial, condition, metric and slice
  verdicts.json              what paribus said of each claim
  findings.json              what the audit found (where there was one)
  trials/ID/spec.json        a trial, resolved to plain data
  trials/ID/state.json       how it stood; its failed evaluations
  trials/ID/attempts.json    when it was at work
  trials/ID/end.json         how it ended, with its curves (arrays: base64 of zlib of float64)
  trials/ID/evaluations/     a record a condition, with the sums and counts of its items
  trials/ID/weights          trained weights, safetensors (only with --weights)
  provenance/                code, versions, machine and command of the attempts
  sources/                   the study file and its own parts, as text
  imports.json               runs made elsewhere, shown beside
  notes.json                 remarks about the study
  report/report.html         the report

Made by paribus {version}.{anonymous}
"""

Payload = dict[str, Any]
"""File name -> JSON value, text, the path of a file that is copied, or a function that returns
bytes (what is large is read when it is its turn)."""


# ── writing ─────────────────────────────────────────────────────────────────────────────────


def encode(name: str, content: Any) -> bytes:
    """The bytes of a file of a bundle: lines of JSON, JSON, or text as it is."""
    if isinstance(content, str):
        return content.encode()
    if name.endswith(".jsonl"):
        return "".join(f"{_json(row)}\n" for row in content).encode()
    return (_json(content) + "\n").encode()


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def pack(payload: Payload, about: Mapping[str, Any], place: Path) -> None:
    """Write a bundle, whole or not at all.

    Args:
        about: keys of the manifest besides format, version and files.
        place: the file; one that is there is replaced (see `check_place`).

    Raises:
        OSError: nothing was changed.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.parent / f".{place.name}-{secrets.token_hex(8)}"
    files = {}
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w") as packed:
                for name in sorted(payload):
                    content = payload[name]
                    if not isinstance(content, Path):
                        content = content() if callable(content) else encode(name, content)
                    files[name] = _put(packed, name, content)
                manifest = {"format": FORMAT, "paribus": __version__, **about, "files": files}
                text = json.dumps(manifest, ensure_ascii=False, sort_keys=True, indent=1)
                _put(packed, MANIFEST, text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _put(packed: zipfile.ZipFile, name: str, content: bytes | Path) -> dict[str, Any]:
    """Add a file; its size and sha256."""
    info = zipfile.ZipInfo(name, TIME)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    copied = isinstance(content, Path)
    info.compress_type = zipfile.ZIP_STORED if copied else zipfile.ZIP_DEFLATED
    size, digest = 0, hashlib.sha256()
    source = open(content, "rb") if isinstance(content, Path) else io.BytesIO(content)  # noqa: SIM115
    with source, packed.open(info, "w", force_zip64=copied) as target:
        while block := source.read(1 << 20):
            target.write(block)
            digest.update(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def check_place(place: Path, instances: Collection[str]) -> None:
    """SpecError unless nothing is there, or a bundle of the same study, which is made anew."""
    if not os.path.lexists(place):
        return
    try:
        with Bundle(place) as old:
            theirs = old.manifest.get("study")
    except SpecError:
        raise SpecError(
            f"{place} is there and is no bundle; it is left as it is: choose another name with -o"
        ) from None
    if theirs not in instances:
        raise SpecError(
            f"{place} is a bundle of {theirs}, another study; it is left as it is: choose another "
            "name with -o"
        )


# ── reading ─────────────────────────────────────────────────────────────────────────────────


class Bundle:
    """A bundle that is read; nothing in it is trusted.

    manifest: what it says of itself.
    wrong: what differs from the manifest, a line each; `check` finds it.
    Raises SpecError, one line, if the file is no bundle or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wrong: list[str] = []
        if not path.is_file():
            raise SpecError(f"no bundle {path}" if not path.exists() else f"{path}: not a file")
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise SpecError(f"{path} is no bundle, or is cut short: {error}") from None
        try:
            self._infos = self._look()
            self.manifest = self._read_manifest()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()

    def _look(self) -> dict[str, zipfile.ZipInfo]:
        """Names that could lead elsewhere, doubles and what cannot be read are refused."""
        found: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for info in self._zip.infolist():
            name, kind = info.filename, info.external_attr >> 16
            parts = name.split("/")
            if (
                re.search(r"[\\:\x00-\x1f]|^/|^~", name)
                or any(p in ("", ".", "..") for p in parts)
                or (stat.S_IFMT(kind) not in (0, stat.S_IFREG))
            ):
                raise SpecError(f"{self.path}: {name!r} is no name for a file of a bundle; refused")
            if name in found:
                raise SpecError(f"{self.path}: {name!r} is in it twice; refused")
            if info.flag_bits & 1 or info.compress_type not in (0, 8):
                raise SpecError(f"{self.path}: {name!r} is packed in a way that no bundle is")
            found[name] = info
            total += info.file_size
        size = self.path.stat().st_size
        if total > RATIO * size:
            raise SpecError(
                f"{self.path}: {size:,} bytes that unpack to {total:,}: no bundle does; refused"
            )
        return found

    def _read_manifest(self) -> dict[str, Any]:
        if MANIFEST not in self._infos:
            raise SpecError(f"{self.path} is no bundle: it holds no {MANIFEST}")
        manifest = self._parse(MANIFEST, self._bytes(MANIFEST))
        files = manifest.get("files") if isinstance(manifest, dict) else None
        if not isinstance(files, dict) or not all(_declared(f) for f in files.values()):
            raise SpecError(f"{self.path}: {MANIFEST} makes no sense; no bundle, or damaged")
        if type(manifest.get("format")) is not int or manifest["format"] > FORMAT:
            raise SpecError(
                f"{self.path}: format {manifest.get('format')!r}; this paribus ({__version__}) "
                f"reads format {FORMAT}: upgrade paribus"
            )
        found: dict[str, Any] = manifest
        return found

    def names(self, start: str = "") -> list[str]:
        """The files that are there, sorted, but the manifest."""
        return sorted(n for n in self._infos if n.startswith(start) and n != MANIFEST)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def check(self) -> None:
        """Compare every file with the manifest, block by block; `wrong` says what differs."""
        files = self.manifest["files"]
        self.wrong += [
            f"{n}: the manifest does not know it" for n in self.names() if n not in files
        ]
        for name, told in sorted(files.items()):
            if name not in self._infos:
                self.wrong.append(f"{name}: the manifest names it, and it is gone")
                continue
            size, digest = 0, hashlib.sha256()
            for block in self._blocks(name, told["size"] + 1):
                size += len(block)
                digest.update(block)
            if (size, digest.hexdigest()) != (told["size"], told["sha256"]):
                self.wrong.append(f"{name}: it is not what was packed (its sha256 differs)")

    def text(self, name: str) -> str:
        try:
            return self._bytes(name).decode()
        except UnicodeDecodeError:
            raise SpecError(f"{self.path}: {name} is damaged (not text)") from None

    def json(self, name: str) -> Any:
        """A JSON file; of lines of JSON, their list."""
        if name not in self._infos:
            raise SpecError(f"{self.path}: {name} is not in it; damaged")
        content = self._bytes(name)
        if name.endswith(".jsonl"):
            return [self._parse(name, line) for line in content.splitlines()]
        return self._parse(name, content)

    def _parse(self, name: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{self.path}: {name} is damaged ({error})") from None

    def _bytes(self, name: str) -> bytes:
        if self._infos[name].file_size > LOADED:
            raise SpecError(f"{self.path}: {name} is larger than {LOADED >> 30} GiB; refused")
        return b"".join(self._blocks(name, LOADED))

    def _blocks(self, name: str, limit: int) -> Iterator[bytes]:
        """The content of a file, at most `limit` bytes of it."""
        try:
            with self._zip.open(self._infos[name]) as file:
                while limit > 0 and (block := file.read(min(1 << 20, limit))):
                    limit -= len(block)
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise SpecError(f"{self.path}: {name} is damaged ({error})") from None


def _declared(told: Any) -> bool:
    return (
        isinstance(told, dict)
        and type(told.get("size")) is int
        and told["size"] >= 0
        and isinstance(told.get("sha256"), str)
    )


def looks(study: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, Look]:
    """trial id -> how it stood, from a bundle's files (name -> content).

    A trial of which nothing is there stands as removed.
    """
    out: dict[str, Look] = {}
    for trial in study["trials"]:
        place = f"trials/{trial['id']}"
        told = read.get(f"{place}/state.json")
        if told is None:
            reason = "nothing of it is in the bundle"
            out[trial["id"]] = Look(TrialState("removed", reason=reason), None, {}, {}, {})
            continue
        end = read.get(f"{place}/end.json")
        records = {}
        for cid in trial["cells"].values():
            record = read.get(f"{place}/evaluations/{cid}.json")
            if record is not None:
                records[cid] = record
        result = None
        if told["result"] is not None and end is not None:
            result = Result(trial["id"], told["result"], Path(place), end, told["retired"])
        token = told["token"]
        last = end if result is None else None if token is None else {"token": token}
        state = TrialState(told["state"], told["attempt"], told["reason"], last)
        out[trial["id"]] = Look(state, result, records, told["failed"], {})
    return out

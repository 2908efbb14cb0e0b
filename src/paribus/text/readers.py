"""Files of documents: each reader yields (place, bytes), the place for error messages."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec

from paribus.errors import SpecError, nearest
from paribus.text.need import need

Located = Iterator[tuple[str, bytes]]
Rows = Iterator[tuple[str, list[Any]]]


def _txt(path: Path, column: str) -> Located:
    yield path.name, path.read_bytes()


def _objects(path: Path, columns: list[str]) -> Rows:
    decode = msgspec.json.Decoder().decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                row = decode(line)
            except msgspec.DecodeError as error:
                raise SpecError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise SpecError(f"{path}:{number}: a JSON object is expected, with {columns[0]!r}")
            for column in columns:
                if column not in row:
                    raise SpecError(missing(f"{path}:{number}", column, list(row)))
            yield f"{path.name}:{number}", [row[column] for column in columns]


def _jsonl(path: Path, column: str) -> Located:
    for place, (text,) in _objects(path, [column]):
        if not isinstance(text, str):
            raise SpecError(
                f"{path.parent / place}: {column!r} holds {text!r:.40}, which is no text"
            )
        yield place, text.encode()


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    pq = need("pyarrow.parquet", f"reading {path.name}")
    try:
        file = pq.ParquetFile(path)
    except Exception as error:
        raise SpecError(f"{path}: not a parquet file: {error}") from None
    with file:
        for column in columns:
            if column not in file.schema_arrow.names:
                raise SpecError(missing(str(path), column, file.schema_arrow.names))
        yield from file.iter_batches(batch_size=256, columns=columns)


def _parquet(path: Path, column: str) -> Located:
    batches = _batches(path, [column])
    every = chain.from_iterable(texts(b.column(0), f"{path}: {column!r}") for b in batches)
    for row, text in enumerate(every, 1):
        yield f"{path.name} row {row}", text


def _records(path: Path, columns: list[str]) -> Rows:
    every = chain.from_iterable(b.to_pylist() for b in _batches(path, columns))
    for number, row in enumerate(every, 1):
        yield f"{path.name} row {number}", [row[column] for column in columns]


def _bin(path: Path, column: str) -> Located:
    size = path.stat().st_size
    if size % 2:
        raise SpecError(
            f"{path}: {size:,} bytes is odd: no file of uint16 ids, or one that is cut short"
        )
    if size:
        with path.open("rb") as file:
            # Mapped, not read: such a file may be larger than memory.
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield path.name, cast(bytes, view)


READERS: dict[str, Callable[[Path, str], Located]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".bin": _bin,
}


TABLES: dict[str, Callable[[Path, list[str]], Rows]] = {".jsonl": _objects, ".parquet": _records}


def read(path: Path, column: str) -> Located:
    """The documents of one file."""
    return READERS[path.suffix](path, column)


def rows(path: Path, columns: list[str]) -> Rows:
    """(place, values of these columns) of each row of a file."""
    return TABLES[path.suffix](path, columns)


def texts(array: Any, where: str) -> list[bytes]:
    """An Arrow column of strings as bytes; nulls are empty documents."""
    pa = need("pyarrow", "reading columns of text")
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    ):
        raise SpecError(f"{where} holds {array.type}, which is no text")
    as_bytes = array.cast(pa.large_string()).cast(pa.large_binary())
    return [text or b"" for text in as_bytes.to_pylist()]


def missing(where: str, column: str, present: list[str]) -> str:
    have = ", ".join(map(str, present))
    return f"{where}: no column {column!r}; {nearest(column, present)} (there: {have})"

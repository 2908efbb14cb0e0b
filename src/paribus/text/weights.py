"""The files that a training begins from, and their hash.  Loads no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from paribus.errors import SpecError
from paribus.spec import Start
from paribus.text import paths


def files(start: Start) -> list[Path]:
    """A file of weights, or those of a folder: of Hugging Face (config.json and .safetensors), or
    one of ours (``weights``, as an attempt's folder has it).  The configuration comes first."""
    place = paths.resolve(start.path)
    if place.is_file():
        return [place]
    if (place / "config.json").is_file() and (found := sorted(place.glob("*.safetensors"))):
        return [place / "config.json", *found]
    if (place / "weights").is_file():
        return [place / "weights"]
    why = "holds no weights" if place.is_dir() else "is not there"
    raise SpecError(
        f"start: {place} {why}; give a file of weights, an attempt's folder, or a folder of "
        "Hugging Face (config.json and .safetensors)"
    )


def fingerprint(start: Start) -> str:
    """A hash of their contents, whatever they are called."""
    every = "".join(paths.digest(p) for p in files(start))
    return hashlib.sha256(every.encode()).hexdigest()

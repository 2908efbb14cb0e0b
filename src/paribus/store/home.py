"""Where results go.

$PARIBUS_HOME, else the nearest `runs` folder with a marker, else `runs` beside the study file.
"""

from __future__ import annotations

import os
from pathlib import Path

from paribus.store.files import disk, publish

MARKER = ".paribus"


def find_home(study_file: Path | None = None, cwd: Path | None = None) -> Path:
    """Where results go; nothing is created.

    $PARIBUS_HOME if it is set; else the `runs` folder with a marker in the nearest of the study
    file's folder (without a study file: `cwd`, by default the working directory) and its parents;
    else `runs` in that folder.
    """
    if chosen := os.environ.get("PARIBUS_HOME"):
        return Path(chosen).expanduser().absolute()
    base = Path(cwd) if cwd is not None else Path.cwd()
    start = (base / study_file).resolve().parent if study_file is not None else base.resolve()
    for folder in (start, *start.parents):
        if (folder / "runs" / MARKER).exists():
            return folder / "runs"
    return start / "runs"


def init_home(path: Path) -> None:
    """Make the home and its marker, which is a line of text; nothing happens if it is there."""
    line = b"Results of paribus. This folder can be copied, moved and read anywhere.\n"
    with disk(path):
        path.mkdir(parents=True, exist_ok=True)
        if not (path / MARKER).exists():
            publish(path, MARKER, line)

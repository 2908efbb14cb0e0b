"""Folders that are whole or not there, however many processes make them at once."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def publish(folder: Path, make: Callable[[Path], None]) -> None:
    """Make ``folder`` unless it is there: filled beside it, flushed, then renamed.

    Of several processes that make it at once, one wins; its contents are a function of its name,
    so it does not matter which.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    beside.mkdir()
    try:
        make(beside)
        for file in beside.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)

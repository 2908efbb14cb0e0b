"""Optional libraries, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from paribus.errors import ParibusError


def need(module: str, who: str, extra: str = "text") -> Any:
    """The module, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ParibusError(
            f"{who} needs {library} ({error}): pip install 'paribus[{extra}]'"
        ) from None

"""Errors that a user can mend.  The command line prints their text without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParibusError(Exception):
    """A request, a file or a machine is at fault; the message says where and what to do."""


class SpecError(ParibusError, AttributeError):
    """A study, a spec or a part is wrong: exit code 2."""


class Refused(ParibusError):
    """Something cannot be measured (a length beyond a learned table): an outcome, not a crash."""


class BeyondLimit(SpecError, Refused):
    """A length beyond what a part can serve: wrong in a study's base, an outcome in a condition."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest valid one, or the list of valid ones."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid: {', '.join(names)}" if names else "there are none"

"""A finding of the audit: what is not all else equal, or cannot be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LEVELS = ("refuse", "warn", "note")


def joined(names: Sequence[str]) -> str:
    """Names as a sentence has them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


@dataclass(frozen=True)
class Finding:
    """What the audit found; the words are made of ``rule`` and ``facts`` where it is shown.

    Attributes:
        level: "refuse": nothing is run unless the study accepts it; "warn": it weakens what can be
            concluded; "note": worth knowing.
        rule: which rule found it.
        about: what it is about, the key of ``accept={about: reason}``.
        facts: what fills the sentence.
        who: the claims or variants concerned.
        accepted: the reason that the study gave; the finding is then a note.
    """

    level: str
    rule: str
    about: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    who: tuple[str, ...] = ()
    accepted: str = ""

    def data(self) -> dict[str, Any]:
        return {**asdict(self), "facts": dict(self.facts), "who": list(self.who)}

"""The states of trials and cells in the reader's language.

Records name them in English; here whole states are translated, never words within a reason.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from paribus.analysis import words
from paribus.analysis.report import facts
from paribus.analysis.strings.texts import TEXTS

if TYPE_CHECKING:
    from paribus.analysis.verdicts import Verdict

LANGUAGES = ("en", "zh")
PREFIX = "state_"
STATES = tuple(k.removeprefix(PREFIX) for k in TEXTS["en"] if k.startswith(PREFIX))
_COUNTED = re.compile(r"(\d+ )?(.+)", re.S)
_LOST = re.compile(rf": ({'|'.join(map(re.escape, STATES))})(?=$| \()")


def state(name: str, lang: str) -> str:
    """One state; what is none is given back as it is."""
    return words.say(PREFIX + name, lang) if name in STATES else name


def said(text: str, lang: str) -> str:
    """ "1 diverged, 2 running": states, counted or not."""
    if lang == "en":
        return text
    parts = [_COUNTED.fullmatch(p) for p in text.split(", ")]
    return "，".join(f"{p[1] or ''}{state(p[2], lang)}" if p else "" for p in parts)


def both(text: str) -> dict[str, str]:
    return {g: said(text, g) for g in LANGUAGES}


def reason(v: Verdict, lang: str) -> str:
    """Why a verdict is what it is; the cells that it lacks with their states translated."""
    text = words.reason(v, lang)
    if lang == "en" or v.verdict != "missing":
        return text
    for lost in v.missing:
        text = text.replace(lost, _LOST.sub(lambda m: f"：{state(m[1], lang)}", lost, count=1))
    return text.replace(f" ({facts.UNREAD})", f"（{words.say('not_evaluated', lang)}）")

"""The audit before anything runs: is all else equal, and can the claims be shown at all?

It reads the study's record alone.  Each rule says what it found; ``accept={about: reason}`` in the
study declares a difference as meant, and the finding is then a note with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from paribus.errors import nearest
from paribus.study import fairness, soundness
from paribus.study.arms import moves
from paribus.study.finding import LEVELS
from paribus.study.finding import Finding as Finding
from paribus.study.measures import Node


def declared(study: Node) -> list[Finding]:
    """What the study's record shows, before running: refusals first."""
    accept: Mapping[str, str] = study.get("accept") or {}
    found = list({f.about + f.rule: f for f in _rules(study)}.values())
    known = [f.about for f in found]
    for f in study["factors"]:  # of another scale, where a factor has more levels
        known += [f"{f['name']} moves {path}" for path in moves(f)]
    out = [_accepted(f, accept) for f in found]
    out += _unknown(accept, list(dict.fromkeys(known)))
    return sorted(out, key=lambda f: LEVELS.index(f.level))


def _rules(study: Node) -> Iterator[Finding]:
    yield from fairness.findings(study)
    yield from soundness.findings(study)


def _accepted(finding: Finding, accept: Mapping[str, str]) -> Finding:
    keys = (finding.about, finding.facts.get("root", ""))
    reason = next((r for k in keys if (r := str(accept.get(k) or "")).strip()), "")
    if not reason or finding.level == "note":
        return finding
    return replace(finding, level="note", accepted=reason)


def _unknown(accept: Mapping[str, str], known: Sequence[str]) -> Iterator[Finding]:
    """A mistyped key accepts nothing, and must not do so in silence."""
    for about, reason in accept.items():
        if about not in known:
            facts = {"nearest": nearest(about, known) if known else "", "known": list(known)}
            yield Finding("refuse", "unknown_accept", about, facts)
        elif not str(reason).strip():
            yield Finding("refuse", "no_reason", about)


def refusals(findings: Sequence[Finding]) -> list[Finding]:
    """The refusals, one for each thing that is to be accepted or changed."""
    return list({f.about: f for f in findings if f.level == "refuse"}.values())

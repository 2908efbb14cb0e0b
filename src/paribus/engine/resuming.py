"""A stack's state as one flat mapping of tensors [E, …], and back from its members' checkpoints."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from paribus.contracts import Optimizer
from paribus.engine import checkpoint
from paribus.engine.freezing import stateful
from paribus.engine.members import Member, weights_of
from paribus.store import Attempt, Fenced, at_once, settled

if TYPE_CHECKING:
    from paribus.engine.train import Trainer

# Bytes of members' states that are written side by side; while they are, each is held three times.
HELD = 1 << 28


def flat(trainer: Trainer) -> dict[str, Tensor]:
    """All tensors of a stack by kind and path."""
    out = {f"param/{k}": t for k, t in trainer.params.items()}
    for name, tensors in trainer.state.items():
        out |= {f"optim/{name}/{k}": t for k, t in tensors.items()}
    scaler = {f"scaler/{k}": t for k, t in trainer.scaler.items()}
    return out | scaler | {"targets": trainer.targets}


def restore(trainer: Trainer) -> None:
    """Everything as the members' checkpoints have it."""
    states = [m.state for m in trainer.members]
    stacked = checkpoint.stack([s[0] for s in states if s], trainer.settings.device)
    for k, t in stacked.items():
        kind, _, rest = k.partition("/")
        if kind == "param":
            trainer.params[rest] = t
        elif kind == "optim":
            name, _, path = rest.partition("/")
            trainer.state.setdefault(name, {})[path] = t
        elif kind == "scaler":
            trainer.scaler[rest] = t
        else:
            trainer.targets = t
    for e, s in enumerate(states):
        assert s is not None
        trainer.had.append(stateful(s[0]))
        notes = s[1]
        trainer.curves.restore(e, notes["curves"])
        trainer.checks[e] = list(notes["checks"])
        trainer.watched[e] = dict(notes.get("watched", {}))
        trainer.continuity[e] = list(notes.get("continuity", ()))
        trainer.best[e] = {k: (v, s) for k, (v, s) in notes["best"].items()}
        trainer.tokens[e] = float(notes["tokens"])
    first = states[0]
    assert first is not None
    trainer.seconds = float(first[1]["seconds"])


def snapshot(trainer: Trainer, e: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything of member ``e``: tensors without the trial axis, and notes."""
    tensors, notes = _uncurved(trainer, e)
    return tensors, {**notes, "curves": trainer.curves.packed(e)}


def _uncurved(trainer: Trainer, e: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same without the curves, which take long to pack where they are long."""
    notes = {
        "step": trainer.step,
        "seconds": trainer.seconds,
        "tokens": float(trainer.tokens[e]),
        "parent": trainer.members[e].parent,
        "best": {k: list(v) for k, v in trainer.best[e].items()},
        "checks": trainer.checks[e],
        "continuity": trainer.continuity[e],
        **({"watched": trainer.watched[e]} if trainer.watched[e] else {}),
    }
    return checkpoint.member(trainer.net.freezing.saved(e, flat(trainer)), e), notes


def kept(trainer: Trainer, e: int) -> dict[str, Tensor]:
    """The weights of member ``e`` that are kept: as its optimizer would have them evaluated."""
    optim = trainer.members[e].phases[-1].spec.optim
    state = trainer.net.freezing.saved(e, flat(trainer))
    if type(optim).weights is Optimizer.weights:  # the parameters themselves: no state is fetched
        state = {k: t for k, t in state.items() if k.startswith("param/")}
    return weights_of(checkpoint.member(state, e), optim)


def save(trainer: Trainer) -> float:
    """Seal the members' checkpoints, then retire their older ones: ``Trainer.save``.  Returns the
    seconds that it took, without those in which the disk refused."""
    live = [
        (e, m, m.attempt)
        for e, m in enumerate(trainer.members)
        if trainer.alive[e] and m.attempt is not None
    ]
    trainer.curves.fetch()  # not by several threads
    size = sum(t[0].nbytes for t in flat(trainer).values())
    some = max(1, HELD // size)
    write, took = trainer.hooks.write, 0.0
    for i in range(0, len(live), some):
        began = time.monotonic()
        group = live[i : i + some]
        calls = [partial(_seal, trainer, e, m, a, *_uncurved(trainer, e)) for e, m, a in group]
        tried = at_once(calls)
        took += time.monotonic() - began
        for (e, m, _), call, done in zip(group, calls, tried, strict=True):
            try:
                settled(done, call, write)
            except Fenced as error:
                trainer.alive[e], m.attempt, m.reason = False, None, str(error)
        del calls, call, tried, done  # what they hold, before more is fetched
    retained = []
    for e, m, attempt in live:
        if m.attempt is not None:
            best = {step for _, step in trainer.best[e].values()}
            retained.append(partial(attempt.retain, 1, also=sorted(best)))
    began = time.monotonic()
    tried = at_once(retained)
    took += time.monotonic() - began
    for call, done in zip(retained, tried, strict=True):
        with suppress(Fenced):
            settled(done, call, write)
    return took


def _seal(
    trainer: Trainer,
    e: int,
    m: Member,
    attempt: Attempt,
    tensors: dict[str, Tensor],
    notes: dict[str, Any],
) -> None:
    files = checkpoint.encode(tensors, {**notes, "curves": trainer.curves.packed(e)})
    attempt.seal(trainer.step, files, {"name": m.name, "trial": m.trial})

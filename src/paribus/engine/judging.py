"""A worker's evaluations: every missing condition of a finished trial, each one sealed record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from paribus import parts
from paribus import spec as specs
from paribus.engine import checkpoint
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.members import Stopped
from paribus.errors import Refused, SpecError
from paribus.spec import canonical
from paribus.store import Fenced, at_once

if TYPE_CHECKING:
    from paribus.engine.worker import Worker


def setting(c: Mapping[str, Any]) -> Setting:
    """A condition as the launcher tells it."""
    by, n = tuple(c["by"]), c["examples"]
    probe = parts.build("probes", c["probe"], c["key"]) if c.get("probe") else None
    spec = specs.load(c["spec"])
    return Setting(c["id"], c["key"], spec, c["split"], n, by, c["every"], probe=probe)


def missing(w: Worker, trial: str) -> list[dict[str, Any]]:
    """The conditions that have no record yet and whose evaluation is not given up."""
    out = []
    found = w.store.record_numbers(trial)
    for c in w.work["trials"][trial]["conditions"]:
        if not c.get("chosen", True):
            continue
        accepted, failures = found.get(c["id"], (0, 0))
        if accepted > c.get("above", 0):
            continue
        if failures > c.get("failures", 0) or (failures and not c.get("retry")):
            continue  # it failed, and trying again was not asked for
        out.append(c)
    return out


def loaded(weights: Path, device: str) -> dict[str, Tensor]:
    """Parameters [1, …] of a finished trial."""
    return {k: t[None].to(device) for k, t in checkpoint.read_weights(weights).items()}


def judge(w: Worker, trials: Sequence[str]) -> bool:
    """Evaluate what finished trials of a pack still want, those of one condition together; whether
    any could be claimed."""
    moved, weights = False, _Weights(w)
    for group in _groups(w, trials):
        if w.stop():
            raise Stopped
        with ExitStack() as held:
            claims: list[_Claimed] = []
            calls = [
                partial(w.store.claim_evaluation, t, c["id"], w.id, above=c.get("above", 0))
                for t, c in group
            ]
            tried = at_once(calls)
            for done in tried:  # before anything is asked again: they are released in any case
                if done.exception() is None and done.result() is not None:
                    held.enter_context(done.result())
            for (trial, c), done, call in zip(group, tried, calls, strict=True):
                claim = w.result(done, call)
                if claim is not None:
                    if done.exception() is not None:
                        held.enter_context(claim)
                    claims.append(_Claimed(trial, c, claim))
            moved |= bool(claims)
            if len(claims) > 1 and (records := _stacked(w, claims, weights)):
                _publish(w, claims, records)
            else:
                for one in claims:
                    _judge(w, one, weights)
    return moved


class _Claimed(NamedTuple):
    """An evaluation that this worker holds."""

    trial: str
    condition: Mapping[str, Any]
    claim: Any


class _Weights:
    """Parameters of the finished trials of a pack, read once."""

    def __init__(self, w: Worker) -> None:
        self._w, self._held = w, {}  # type: ignore[var-annotated]

    def of(self, trials: Sequence[str]) -> dict[str, Tensor]:
        """Parameters [E, …]."""
        for trial in trials:
            if trial not in self._held:
                self._held[trial] = loaded(self.path(trial), self._w.settings.device)
        each = [self._held[trial] for trial in trials]
        return each[0] if len(each) == 1 else {k: torch.cat([p[k] for p in each]) for k in each[0]}

    def path(self, trial: str) -> Path:
        result = self._w.store.result(trial)
        assert result is not None
        return result.weights


def _groups(w: Worker, trials: Sequence[str]) -> list[list[tuple[str, Mapping[str, Any]]]]:
    """(trial, condition) of what is missing; together what one program can evaluate.  Trials of a
    pack have one shape, so their conditions of one key have, where their tasks are the same."""
    groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for trial in trials:
        if w.store.result(trial) is None or w.lost(trial):
            continue  # the launcher says what was lost
        for c in missing(w, trial):
            what: list[Any] = [trial, c["id"]]  # alone
            if not (c.get("refused") or c.get("probe") or w.ranks.world > 1):
                what = [c["key"], c["spec"]["task"], c["split"], c["examples"], list(c["by"])]
            groups.setdefault(canonical(what), []).append((trial, c))
    return list(groups.values())


def _stacked(
    w: Worker, claims: Sequence[_Claimed], weights: _Weights
) -> list[dict[str, Any]] | None:
    """Records of several trials under one condition; None where they are better judged one by one,
    which says whose error it is."""
    settings = [setting(one.condition) for one in claims]
    seeds = [int(w.store.spec(one.trial)["seed"]) for one in claims]
    try:
        params = weights.of([one.trial for one in claims])
        return evaluate(
            params, [s.spec for s in settings], seeds, settings[0], w.data, w.settings, w.opened
        )
    except (Exception, SystemExit):
        return None


def _judge(w: Worker, one: _Claimed, weights: _Weights) -> None:
    trial, c, claim = one
    try:
        if c.get("refused"):
            raise Refused(c["refused"])
        s, seed, path = setting(c), int(w.store.spec(trial)["seed"]), str(weights.path(trial))
        with w.ranks.job("evaluate", {"condition": c, "seed": seed, "weights": path}):
            params = weights.of([trial])
            (record,) = evaluate(params, [s.spec], [seed], s, w.data, w.settings, w.opened, w.ranks)
    except (Refused, SpecError) as error:
        record = {"status": "refused", "reason": str(error)}
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        _told(w, one, partial(w.write, partial(claim.fail, reason)), "failed", reason=reason)
        return
    _publish(w, [one], [record])


def _publish(w: Worker, claims: Sequence[_Claimed], records: Sequence[Mapping[str, Any]]) -> None:
    calls = []
    for (_, c, claim), record in zip(claims, records, strict=True):
        calls.append(partial(claim.publish, {**record, "condition": c["id"], "key": c["key"]}))
    for one, call, done in zip(claims, calls, at_once(calls), strict=True):
        _told(w, one, partial(w.result, done, call), "evaluated")


def _told(w: Worker, one: _Claimed, write: Callable[[], Any], event: str, **more: Any) -> None:
    """Have written what came out, and say so."""
    about = {"trial": one.trial, "name": w.work["trials"][one.trial]["name"]}
    try:
        write()
        w.say(event=event, **about, condition=one.condition["key"], **more)
    except Fenced as error:  # another worker took it over: its record counts
        w.say(event="fenced", **about, reason=str(error))

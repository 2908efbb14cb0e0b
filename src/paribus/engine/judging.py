"""A worker's evaluations: every missing condition of a finished trial, each one sealed record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from paribus import parts
from paribus import spec as specs
from paribus.engine import checkpoint
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.members import Stopped
from paribus.errors import Refused, SpecError
from paribus.store import Fenced

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


def judge(w: Worker, trial: str, wanted: list[dict[str, Any]]) -> bool:
    """Evaluate conditions of a finished trial; whether any could be claimed."""
    result = w.store.result(trial)
    if result is None or w.lost(trial):
        return False  # the launcher says what was lost
    params = None
    moved = False
    for c in wanted:
        if w.stop():
            raise Stopped
        claim = w.write(
            partial(w.store.claim_evaluation, trial, c["id"], w.id, above=c.get("above", 0))
        )
        if claim is None:
            continue
        moved = True
        if params is None:
            params = loaded(result.weights, w.settings.device)
        with claim:
            _judge(w, trial, c, params, str(result.weights), claim)
    return moved


def _judge(
    w: Worker,
    trial: str,
    c: Mapping[str, Any],
    params: Mapping[str, Tensor],
    weights: str,
    claim: Any,
) -> None:
    name = w.work["trials"][trial]["name"]
    about = {"trial": trial, "name": name, "condition": c["key"]}
    try:
        try:
            if c.get("refused"):
                raise Refused(c["refused"])
            s, seed = setting(c), int(w.store.spec(trial)["seed"])
            with w.ranks.job("evaluate", {"condition": c, "seed": seed, "weights": weights}):
                (record,) = evaluate(
                    params, [s.spec], [seed], s, w.data, w.settings, w.opened, w.ranks
                )
        except (Refused, SpecError) as error:
            record = {"status": "refused", "reason": str(error), "condition": c["id"]}
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            w.write(partial(claim.fail, reason))
            w.say(event="failed", **about, reason=reason)
            return
        w.write(partial(claim.publish, {**record, "key": c["key"]}))
        w.say(event="evaluated", **about)
    except Fenced as error:  # another worker took it over: its record counts
        w.say(event="fenced", trial=trial, name=name, reason=str(error))

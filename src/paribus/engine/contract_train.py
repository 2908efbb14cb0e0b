"""What optimizers and schedules promise: E trials of a stack."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus import parts, presets, rng
from paribus.contracts import P
from paribus.engine.contract import Bench, Broken, Skip, Test, stacks
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings
from paribus.engine.train import Trainer
from paribus.engine.updating import vectors
from paribus.parts import construct, hints, raw, replace
from paribus.spec import Spec, resolve
from paribus.text.data import Data


def small(**fields: Any) -> Spec:
    """A resolved spec that trains in a blink."""
    lm = parts.get("tasks", "copying")(span=4, symbols=6)
    model = presets.quickstart(width=32, layers=1, heads=2)
    optim, schedule = (parts.get("optim", "adamw")(lr=1e-2), parts.get("schedules", "constant")())
    given = {"model": model, "task": lm, "optim": optim, "schedule": schedule}
    return resolve(Spec(**{**given, "steps": 12, "rows": 4, **fields}))


def trained(specs: list[Spec], seeds: list[int], data: Data) -> Trainer:
    members = [
        Member("contract", str(seed), seed, [Phase("train", spec, "reset")])
        for spec, seed in zip(specs, seeds, strict=True)
    ]
    trainer = Trainer(members, Settings(), data)
    trainer.run()
    return trainer


SHAPES = {"w": (3, 4), "bias": (5,), "table": (2, 3, 2)}
DECLARED = {path: P(shape, decay=path != "bias") for path, shape in SHAPES.items()}


def _normal(E: int, *path: str | int) -> dict[str, Tensor]:
    """One fp32 tensor [E, …] a shape; each trial's from its own stream."""
    out = {}
    for name, shape in SHAPES.items():
        n = int(np.prod(shape))
        each = [rng.Stream(e, "contract", name, *path).normal(n) for e in range(E)]
        out[name] = torch.from_numpy(np.stack(each)).float().view(E, *shape)
    return out


def _steps(stack: list[Any], grads: list[dict[str, Tensor]], **how: Any) -> Any:
    """(first weights, last weights, state) after one update a gradient."""
    first = _normal(len(stack), "first")
    w = {k: t.clone() for k, t in first.items()}
    state = stack[0].state(w, DECLARED)
    for step, g in enumerate(grads):
        stack[0].update(vectors(stack, step, **how), w, dict(g), state, step, DECLARED)
    return first, w, state


def _optim_state(part: Any, bench: Bench) -> str:
    w = _normal(3, "first")
    made = part.state(w, DECLARED)
    for name, tensors in made.items():
        for path, t in tensors.items():
            if path not in w:
                raise Broken(f"state {name!r} has {path!r}, which is no parameter's path")
            if t.ndim < 1 or t.shape[0] != 3:
                raise Broken(f"state {name!r} of {path!r} has shape {tuple(t.shape)}, not [E, …]")
    for path, p in DECLARED.items():
        have = sum(path in tensors for tensors in made.values())
        if part.states(p) != have:
            raise Broken(f"states() says {part.states(p)} of {path}, and state() has {have}")
    half = len(grads := [_normal(3, "grad", i) for i in range(6)]) // 2
    _, whole, _ = _steps([part] * 3, grads)
    _, w, state = _steps([part] * 3, grads[:half])
    state = {n: {k: t.clone() for k, t in s.items()} for n, s in state.items()}
    again = construct(type(part), raw(part))
    for step in range(half, 6):
        again.update(vectors([again] * 3, step), w, dict(grads[step]), state, step, DECLARED)
    if any(not torch.equal(w[k], whole[k]) for k in w):
        raise Broken("continued from its state it goes another way; keep all it needs in state()")
    return "state is [E, …] and is all there is"


def _optim_stack(part: Any, bench: Bench) -> str:
    alone: dict[tuple[Any, int], dict[str, Tensor]] = {}
    for stack in stacks(part):
        specs = [small(optim=p) for p in stack]
        whole = trained(specs, list(range(len(stack))), bench.data)
        for e, spec in enumerate(specs):
            if (spec.optim, e) not in alone:
                alone[spec.optim, e] = trained([spec], [e], bench.data).params
            for k, t in alone[spec.optim, e].items():
                if not torch.equal(t[0], whole.params[k][e]):
                    raise Broken(
                        f"trial {e} in a stack of {len(stack)} is not bit-equal to the trial "
                        f"alone: {k}; never reduce over the trial axis, and read stackable "
                        "fields from v"
                    )
    _frozen(part, bench)
    if part.elementwise:
        _flat(part)
    return "in a stack as alone, to the bit, also beside a trial that freezes"


def _flat(part: Any) -> None:
    """Many tensors given as one go as each by itself."""
    grads = [_normal(3, "grad", i) for i in range(4)]
    first, apart, _ = _steps([part] * 3, grads)
    kinds = {k: DECLARED[k].decay for k in first}
    for decay in (True, False):
        own = [k for k, d in kinds.items() if d == decay]

        def one(of: dict[str, Tensor], own: list[str] = own) -> dict[str, Tensor]:
            return {"one": torch.cat([of[k].flatten(1) for k in own], 1)}

        w, alike = one(first), {"one": P((1,), decay=decay)}
        state = part.state(w, alike)
        for step, g in enumerate(grads):
            part.update(vectors([part] * 3, step), w, one(g), state, 0, alike)
        if not torch.allclose(w["one"], one(apart)["one"], rtol=1e-6, atol=1e-8):
            raise Broken(
                "elementwise is promised, but tensors that are given as one go another way: read "
                "v and declared[…].decay alone, never the step or a tensor's shape"
            )


def _frozen(part: Any, bench: Bench) -> None:
    """A trial that freezes what its neighbour trains goes as it goes alone, and so does that."""
    specs = [small(optim=part), small(optim=part, freeze=("*.attn.q", "*.norm1.*"))]
    whole = trained(specs, [0, 1], bench.data)
    for e, spec in enumerate(specs):
        for k, t in trained([spec], [e], bench.data).params.items():
            if not torch.allclose(t[0], whole.params[k][e], rtol=1e-6, atol=1e-7):
                raise Broken(
                    f"beside a trial that freezes other parameters {k} goes another way; update "
                    "each tensor by itself"
                )


def _optim_still(part: Any, bench: Bench) -> str:
    grads = [_normal(3, "grad", i) for i in range(4)]
    first, w, _ = _steps([part] * 3, grads, factors=[0.0, 0.0, 0.0])
    for k in w:
        if not torch.equal(w[k], first[k]):
            raise Broken(
                f"with lr 0 {k} moves; every change must be times v['lr'], or another of `rates`"
            )
    # An ended trial stays in its slot with rates 0 and gradients 0, whatever its numbers are.
    ended = [{k: t * torch.tensor([1.0, 0, 1]).view(3, *[1] * (t.ndim - 1)) for k, t in g.items()}
             for g in grads]  # fmt: skip
    first, w, _ = _steps([part] * 3, ended, factors=[1.0, 0.0, 1.0])
    _, free, _ = _steps([part] * 3, grads)
    for k in w:
        if not torch.equal(w[k][1], first[k][1]):
            raise Broken(f"an ended trial (lr 0, gradients 0) moves: {k}")
        if not torch.equal(w[k][::2], free[k][::2]):
            raise Broken(f"an ended trial changes its neighbours: {k}")
        if torch.equal(w[k][0], first[k][0]):
            raise Broken(f"with lr {part.lr} and a gradient {k} does not move")
    return "lr 0 changes nothing"


def _optim_quadratic(part: Any, bench: Bench) -> str:
    w, goal = _normal(2, "first"), _normal(2, "goal")
    state, losses = part.state(w, DECLARED), []
    for step in range(40):
        g = {k: w[k] - goal[k] for k in w}
        losses.append(sum(float(t.square().sum()) for t in g.values()))
        part.update(vectors([part] * 2, step), w, g, state, step, DECLARED)
    if not losses[-1] < losses[0]:
        raise Broken(f"|w − goal|² goes from {losses[0]:.4g} to {losses[-1]:.4g} in 40 steps")
    return f"|w − goal|² from {losses[0]:.3g} to {losses[-1]:.3g}"


def _optim_decay(part: Any, bench: Bench) -> str:
    if "weight_decay" not in hints(type(part)):
        raise Skip("has no field weight_decay")
    decaying = replace(part, "weight_decay", part.weight_decay or 0.1, "weight_decay")
    still = [{k: torch.zeros_like(t) for k, t in _normal(2).items()}] * 3
    first, w, _ = _steps([decaying] * 2, still)
    for path, p in DECLARED.items():
        same = torch.equal(w[path], first[path])
        if not p.decay and not same and getattr(part, "decay", "") != "all":
            raise Broken("it decays a parameter that is declared with decay=False")
        if p.decay and not (w[path].abs() < first[path].abs()).all():
            raise Broken("with weight_decay and no gradient a declared matrix does not shrink")
    return "decays what is declared to decay"


def _pure(part: Any, bench: Bench) -> str:
    for total in (1, 2, 12, 200):
        once = [part.factor(s, total) for s in range(total)]
        back = [part.factor(s, total) for s in reversed(range(total))][::-1]
        fresh = [construct(type(part), raw(part)).factor(s, total) for s in range(total)]
        if not once == back == fresh:
            raise Broken("factor(step, total) depends on earlier calls; it must be pure")
        for s, f in enumerate(once):
            if not (np.isfinite(f) and 0 <= f <= 1 + 1e-9):
                raise Broken(f"factor({s}, {total}) = {f!r}; it must lie in 0 … 1 (lr is the peak)")
    return "pure, within 0 … 1"


def _warm_up(part: Any, bench: Bench) -> str:
    if "warmup" not in hints(type(part)):
        raise Skip("has no field warmup")
    warm = replace(part, "warmup", 4, "warmup")
    factors = [warm.factor(s, 40) for s in range(4)]
    if not all(a < b for a, b in itertools.pairwise(factors)):
        raise Broken(f"with warmup=4 the first factors are {factors}; they must rise")
    return "warm-up rises"


def _moves(part: Any, bench: Bench) -> str:
    factors = {part.factor(s, 200) for s in range(200)}
    if type(part).flat:
        return "is meant to be flat"
    if len(factors) == 1:
        raise Broken(
            f"factor(step, 200) is {factors.pop():g} at every step: it does not read `step`; one "
            "that is meant to stay the same says `flat: ClassVar[bool] = True`"
        )
    return f"from {max(factors):.3g} to {min(factors):.3g}"


def _trace(part: Any, bench: Bench) -> str:
    spec = small(schedule=part)
    curve = trained([spec], [0], bench.data).curve(0)["lr"]
    wanted = [spec.optim.lr * part.factor(s, 12) for s in range(12)]  # type: ignore[attr-defined]
    for s, (realised, meant) in enumerate(zip(curve, wanted, strict=True)):
        if realised != meant:
            raise Broken(f"step {s} of 12 was trained at lr {realised:g}, not {meant:g}")
    return "trained at lr · factor(step)"


KINDS: dict[str, dict[str, Test]] = {
    "optim": {
        "state": _optim_state, "stack": _optim_stack, "still": _optim_still,
        "quadratic": _optim_quadratic, "decay": _optim_decay,
    },
    "schedules": {"pure": _pure, "warm-up": _warm_up, "moves": _moves, "trace": _trace},
}  # fmt: skip

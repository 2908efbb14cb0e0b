"""The end of a training step: norms, clipping and the optimizer, for a stack of trials.

E trials, n numbers of a trial's parameters that are updated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paribus.contracts import Optimizer, P
from paribus.engine import checkpoint
from paribus.engine.compiled import Either
from paribus.engine.freezing import Freezing
from paribus.engine.settings import Settings
from paribus.moving import moved

State = dict[str, dict[str, Tensor]]


class Sums(NamedTuple):
    """What a step's rows gave.

    Attributes:
        loss, count: sums of losses and of targets of each trial [E].
        nominal: what the summed losses were divided by before the gradients.
        loss_scale: of fp16 [E]; None: 1.
    """

    loss: Tensor
    count: Tensor
    nominal: float
    loss_scale: Tensor | None = None

    def factor(self) -> Tensor:
        """What makes of the gradients those of the mean loss [E]."""
        scale = self.nominal / self.count
        return scale if self.loss_scale is None else scale / self.loss_scale


class Done(NamedTuple):
    """What a step found, each [E]: mean loss, gradient norm before clipping, and whether both are
    finite (or nobody asks any more)."""

    loss: Tensor
    norm: Tensor
    finite: Tensor


class Look:
    """A later look at what a step found, without waiting for what was started since.

    Attributes:
        step: how many steps there were then.
    """

    def __init__(self, step: int, done: Done, count: Tensor) -> None:
        self.step, self.done, self.count = step, done, count
        self._all = done.finite.all()
        self._ready = None
        if self._all.is_cuda:
            self._all = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(
                self._all, non_blocking=True
            )
            self._ready = torch.cuda.Event()
            self._ready.record()

    def fine(self) -> bool:
        """Whether all trials were finite; waits for that step."""
        if self._ready is not None:
            self._ready.synchronize()
        return bool(self._all)


def vectors(
    optims: Sequence[Optimizer],
    step: int,
    factors: Sequence[float] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: Any = "cpu",
) -> dict[str, Tensor]:
    """``v`` of ``Optimizer.update`` [E]: the rates, times the schedule's factors (None: 1), the
    other fields that may differ, and the step's numbers."""
    rates = optims[0].rates
    rows = {f: [float(getattr(o, f)) for o in optims] for f in sorted(optims[0].stackable | rates)}
    if factors is not None:
        for f in rates:
            rows[f] = [x * factor for x, factor in zip(rows[f], factors, strict=True)]
    rows |= {k: [x] * len(optims) for k, x in optims[0].numbers(step).items()}
    # One copy to the device a step, not one for each.
    whole = moved(torch.tensor(list(rows.values()), dtype=dtype), device)
    return dict(zip(rows, whole.unbind(), strict=True))


class Update:
    """Tensor by tensor, and the processor looks whether all is finite.

    Args:
        optims: of each trial; they differ in stackable fields alone.
        params, state: updated in place.
        clip: the largest gradient norm; None: any.

    Attributes:
        working: what a pass is to read: ``params``, or copies of them in its dtype.
    """

    late = False  # whether the step has ended before anybody looked at what it did

    def __init__(
        self,
        optims: Sequence[Optimizer],
        freezing: Freezing,
        declared: Mapping[str, P],
        params: dict[str, Tensor],
        state: State,
        clip: float | None,
    ) -> None:
        self.optims, self.freezing, self.declared = list(optims), freezing, declared
        self.params, self.state, self.clip = params, state, clip
        self.working: dict[str, Tensor] = params
        some = next(iter(params.values()))
        self.dtype, self.device = some.dtype, some.device

    def __call__(
        self,
        grads: list[Tensor],
        sums: Sums,
        alive: Sequence[bool],
        factors: Sequence[float],
        step: int,
    ) -> Done:
        """Update the trials that are alive and whose numbers are finite."""
        scale_E = sums.factor()
        loss_E = sums.loss / sums.count
        norm_E = self.freezing.norms(grads) * scale_E
        by_path = self._together(dict(zip(self.freezing.trained, grads, strict=True)))
        grads = list(by_path.values())
        finite_E = torch.isfinite(norm_E) & torch.isfinite(loss_E)
        alive_E = torch.tensor(list(alive), device=self.device)
        keep_E = finite_E & alive_E
        all_kept = bool(keep_E.all())
        factor_E = _clipped(scale_E, norm_E, self.clip).to(self.dtype)
        shapes = [(len(self.optims),) + (1,) * (g.ndim - 1) for g in grads]
        torch._foreach_mul_(grads, [factor_E.view(shape) for shape in shapes])
        if not all_kept:
            for g, shape in zip(grads, shapes, strict=True):
                g.copy_(torch.where(keep_E.view(shape), g, torch.zeros((), dtype=self.dtype)))
        before = None if all_kept else checkpoint.clone(self.state)
        v = vectors(self.optims, step, factors, dtype=self.dtype, device=self.device)
        for rate in self.optims[0].rates:
            v[rate] = torch.where(keep_E, v[rate], 0.0)
        with torch.no_grad(), self.freezing.held(self.params):
            self._change(v, by_path, step)
        if before is not None:  # what is masked out keeps its optimizer state too
            checkpoint.put_back(self.state, before, keep_E)
        return Done(loss_E, norm_E, finite_E | ~alive_E)

    def _together(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients in the pieces that are updated; they are changed in place."""
        return grads

    def _change(self, v: dict[str, Tensor], grads: Mapping[str, Tensor], step: int) -> None:
        params = {k: self.params[k] for k in grads}
        self.optims[0].update(v, params, grads, self.state, step, self.declared)


class Flat(Update):
    """The same to the bit, all that is updated alike as one tensor [E,n]: clipping and a pass of
    the optimizer are then one operation each, not one a tensor.  Norms stay those of tensors, so
    that a trial has its bits in a stack of which only some freeze a tensor.

    Parameters and optimizer state become views of these tensors.

    Args:
        low: paths that are to be tensors by themselves.
    """

    @staticmethod
    def able(optim: Optimizer, freezing: Freezing) -> bool:
        return optim.elementwise and bool(freezing.trained) and not freezing.mixed

    def __init__(self, *given: Any, low: Sequence[str] = ()) -> None:
        super().__init__(*given)
        trained, some = self.freezing.trained, next(iter(self.params.values())).detach()
        self.paths: dict[str, list[str]] = {}
        for k in trained:
            group = "decay" if self.declared[k].decay else "none"
            self.paths.setdefault(f"{group} low" if k in low else group, []).append(k)
        self.paths = {group: _aligned(own, self.params) for group, own in self.paths.items()}
        self.alike = {g: P((1,), decay=g.startswith("decay")) for g in self.paths}
        # Zeros at the end of each trial's numbers, so that the next trial's begin where a fast
        # read may begin.
        E, sizes = len(self.optims), {k: self.params[k][0].numel() for k in trained}
        short = {group: -sum(sizes[k] for k in own) % 8 for group, own in self.paths.items()}
        self.rest = {group: some.new_zeros(E, n) for group, n in short.items()}
        self.whole = self._gathered(self.params)
        self.kept = {name: self._gathered(of) for name, of in self.state.items()}
        for k in trained:
            self.params[k].requires_grad_()

    def _together(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        return {group: self._joined(group, grads) for group in self.paths}

    def _change(self, v: dict[str, Tensor], grads: Mapping[str, Tensor], step: int) -> None:
        self.optims[0].update(v, self.whole, grads, self.kept, step, self.alike)

    def _gathered(
        self, of: dict[str, Tensor], groups: Mapping[str, list[str]] | None = None
    ) -> dict[str, Tensor]:
        """One tensor [E,n] a group; what was in ``of`` becomes views of them."""
        out = {}
        for group, paths in (self.paths if groups is None else groups).items():
            out[group] = flat = self._joined(group, {k: of[k].detach() for k in paths})
            at = 0
            for k in paths:
                n = of[k][0].numel()
                of[k] = flat[:, at : at + n].view(of[k].shape)
                at += n
        return out

    def _joined(self, group: str, of: Mapping[str, Tensor]) -> Tensor:
        rest = self.rest[group].to(of[self.paths[group][0]].dtype)
        return torch.cat([*(of[k].flatten(1) for k in self.paths[group]), rest], 1)


class Fused(Flat):
    """Compiled, and without a look of the processor.  A trial that is not finite once is not
    updated again.

    Args:
        low: paths of which a pass may read a copy in ``compute``; their gradients come in it.
    """

    late = True

    def __init__(
        self, *given: Any, settings: Settings, low: Sequence[str] = (), compute: Any = None
    ) -> None:
        super().__init__(*given, low=low)
        self.working = {
            k: t.detach().to(compute) if k in low else t for k, t in self.params.items()
        }
        few = {g: own for g, own in self.paths.items() if g.endswith("low")}
        self.lower = self._gathered(self.working, few)
        for k in self.freezing.trained:
            self.working[k].requires_grad_()
        self.alive: Tensor | None = None
        self.run = Either(self._run, settings, able=True, dynamic=False)

    def __call__(
        self,
        grads: list[Tensor],
        sums: Sums,
        alive: Sequence[bool],
        factors: Sequence[float],
        step: int,
    ) -> Done:
        v = self.numbers(alive, factors, step)
        return self.apply(self.run, grads, sums, v)

    def numbers(
        self, alive: Sequence[bool], factors: Sequence[float], step: int
    ) -> dict[str, Tensor]:
        """What differs from step to step; ``alive`` is asked for at the first one alone."""
        if self.alive is None:
            self.alive = torch.tensor(list(alive), device=self.device)
        return vectors(self.optims, step, factors, dtype=self.dtype, device=self.device)

    def apply(
        self, run: Callable[..., Any], grads: list[Tensor], sums: Sums, v: dict[str, Tensor]
    ) -> Done:
        """The update, by ``run`` or what stands for it, from tensors to tensors alone."""
        by_path = dict(zip(self.freezing.trained, grads, strict=True))
        g = {group: self._joined(group, by_path) for group in self.paths}
        more = v, sums.loss, sums.factor(), sums.count, self.alive
        with torch.no_grad():
            return Done(*run(self.whole, self.lower, g, self.kept, *more))

    def _run(
        self,
        w: dict[str, Tensor],
        lower: dict[str, Tensor],
        g: dict[str, Tensor],
        state: State,
        v: dict[str, Tensor],
        loss_E: Tensor,
        scale_E: Tensor,
        count_E: Tensor,
        alive_E: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss_E = loss_E / count_E
        g = {k: x.to(self.dtype) for k, x in g.items()}
        squares = [x.square().sum(1) for x in g.values()]
        norm_E = torch.stack(squares).sum(0).sqrt() * scale_E
        finite_E = torch.isfinite(norm_E) & torch.isfinite(loss_E)
        keep_E = finite_E & alive_E
        fine_E = finite_E | ~alive_E
        factor_E = _clipped(scale_E, norm_E, self.clip).to(self.dtype)
        wide_E1 = keep_E[:, None]
        g = {k: torch.where(wide_E1, x * factor_E[:, None], 0.0) for k, x in g.items()}
        v = {**v, **{k: torch.where(keep_E, v[k], 0.0) for k in self.optims[0].rates}}
        before = {name: {k: x.clone() for k, x in of.items()} for name, of in state.items()}
        self.optims[0].update(v, w, g, state, 0, self.alike)
        for name, of in state.items():
            for k, x in of.items():
                x.copy_(torch.where(wide_E1, x, before[name][k]))
        for k, x in lower.items():
            x.copy_(w[k])
        alive_E.copy_(keep_E)
        return loss_E, norm_E, fine_E


def _clipped(scale_E: Tensor, norm_E: Tensor, clip: float | None) -> Tensor:
    return scale_E if clip is None else scale_E * (clip / (norm_E + 1e-6)).clamp(max=1.0)


def _aligned(paths: list[str], of: Mapping[str, Tensor]) -> list[str]:
    """Paths whose sizes would put those behind them off the 32 bytes of a fast read, last."""
    return sorted(paths, key=lambda k: bool(of[k][0].numel() % 8))

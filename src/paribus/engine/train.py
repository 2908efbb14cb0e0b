"""Training of a stack of trials of one shape.

E trials step together; each has its own batches, learning rate, clipping, checkpoints and end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paribus.contracts import Source
from paribus.engine import packing, resuming
from paribus.engine.adaptive import Adaptive
from paribus.engine.budget import Budget, OutOfMemory, ran_out
from paribus.engine.compiled import Either, compiles
from paribus.engine.continuity import continuity
from paribus.engine.curves import Curves
from paribus.engine.hooks import Hooks
from paribus.engine.members import Member, Stopped
from paribus.engine.net import ExternalNet, Net, make_net
from paribus.engine.ranks import ALONE, Ranks
from paribus.engine.recorded import Recorded
from paribus.engine.settings import Settings
from paribus.engine.start import initial
from paribus.engine.summary import summary_of
from paribus.engine.updating import Done, Flat, Fused, Look, Sums, Update
from paribus.errors import ParibusError, Refused
from paribus.nn.dropout import Dropout
from paribus.nn.places import Ready
from paribus.parts import dump
from paribus.rng import key
from paribus.spec import Model, canonical
from paribus.text.data import Data

# A checkpoint is due 19 times as long after the last one as that took: they take a twentieth of the
# time.  Ten minutes are the most that a loss of power is to cost for that.
APART, LONGEST = 19, 600.0


@dataclass
class Trainer:
    """Trains members of one pack key from one step on.

    Attributes:
        micro, halvings: rows a pass at most, after so many halvings; None: as the settings say.
        ranks: the processes among which a step's rows are divided; followers hold no attempts.
    """

    members: list[Member]
    settings: Settings
    data: Data
    hooks: Hooks = field(default_factory=Hooks)
    micro: int | None = None
    halvings: int = 0
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        steps = {m.step for m in self.members}
        assert len(steps) == 1, "members of a stack stand at one step"
        self.step = steps.pop()
        self.e = len(self.members)
        self.phase = -1
        self.seconds = 0.0
        self.targets = torch.zeros(self.e, dtype=torch.float64, device=self.settings.device)
        self.tokens, self._read = torch.zeros_like(self.targets), torch.zeros_like(self.targets)
        self.alive = [m.reason is None for m in self.members]
        (self.total,) = {m.total for m in self.members}
        self.curves = Curves(self.e)
        self.checks: list[list[dict[str, float]]] = [[] for _ in self.members]
        self.best: list[dict[str, tuple[float, int]]] = [{} for _ in self.members]
        self.continuity: list[list[dict[str, Any]]] = [[] for _ in self.members]
        # What schedules that look at losses have seen: phase -> values in order.
        self.watched: list[dict[str, list[float]]] = [{} for _ in self.members]
        self.scaler: dict[str, Tensor] = {}
        self.params: dict[str, Tensor] = {}
        self.state: dict[str, dict[str, Tensor]] = {}
        self.had: list[frozenset[str]] = []  # paths whose optimizer state is each member's own
        self.net: Net | ExternalNet
        self.update: Update
        self.recorded: Recorded | None = None
        self._open: Look | None = None  # the last step, not yet looked at
        self._since, self._took = time.monotonic(), 0.0  # the last checkpoint, and its seconds
        self._placed: dict[str, tuple[list[Tensor], Tensor]] = {}
        self._packs: bool | None = None  # whether rows are packed without their padding
        self._whole = False  # whether parameters and optimizer state are those of one step

    # ── phases ──

    def _enter(self, index: int) -> None:
        """Set up a phase; parameters carry over, the optimizer as the phase says."""
        phases = [m.phases[index] for m in self.members]
        self.specs = [p.spec for p in phases]
        spec = self.specs[0]
        self.first = sum(p.steps for p in self.members[0].phases[:index])
        every = self.members[0].phases
        began = max(i for i in range(index + 1) if i == 0 or every[i].optim != "keep")
        self.origin = sum(p.steps for p in every[:began])  # where the optimizer's state began
        self.net = make_net(self.specs, self.settings.device, self.settings.attention)
        if why := self.net.unable():
            raise Refused(f'kernel {self.net.kernel}: {why}; take "auto" or "sdpa"')
        fresh = self.phase == -1 and not any(m.state for m in self.members)
        if fresh:
            self.params = initial(self.net, spec, [m.seed for m in self.members])
        elif self.phase == -1:
            resuming.restore(self)
        self.phase = index
        self.adaptive = Adaptive(self)
        if index and self.state and phases[0].optim != "keep" and self.step == self.first:
            self.params = dict(every[index - 1].spec.optim.weights(self.params, self.state))
        for k, t in self.params.items():
            self.params[k] = t.detach().requires_grad_(k in self.net.trained)
        if not self.state or (phases[0].optim != "keep" and self.step == self.first):
            self.state = spec.optim.state(self._trained(), self.net.declared)
        elif self.had != self.net.freezing.own:
            empty = spec.optim.state(self._trained(), self.net.declared)
            self.state = self.net.freezing.carried(self.state, self.had, empty)
        self.had = self.net.freezing.own
        rows = spec.rows
        assert rows is not None
        own = self.ranks.part(rows)
        if not own:
            raise ParibusError(f"{rows} rows a step are too few for {self.ranks.world} ranks")
        micro = self.micro or self.settings.micro or rows
        self.budget = Budget(rows, min(micro, len(own)), self.halvings, own)
        self._packs = None
        self.sources = self.open(index)
        drawn = list(dict.fromkeys((id(source), seed) for source, seed in self.sources))
        self.draws = [drawn.index((id(source), seed)) for source, seed in self.sources]
        self.keys = Dropout.keys([m.seed for m in self.members], self.settings.device)
        able = not isinstance(self.net, ExternalNet)
        # Kernels of the flex kernel for any length are slower by half.
        shapes = False if self.net.kernel == "flex" else None
        # Of segments one after another each would be compiled anew: minutes, for little.
        whole = able and not self.net.core.looped  # type: ignore[union-attr]
        self.loss_of = Either(self._loss, self.settings, able=whole, dynamic=shapes)
        if spec.precision == "fp16" and not self.scaler:
            self.scaler = {
                "scale": torch.full((self.e,), 2.0**15, device=self.settings.device),
                "good": torch.zeros(self.e, device=self.settings.device),
            }
        self.ranks.same(self.params)
        given = (
            [s.optim for s in self.specs],
            self.net.freezing,
            self.net.declared,
            self.params,
            self.state,
            spec.clip,
        )
        flat = able and not self.scaler and Flat.able(spec.optim, self.net.freezing)
        fused = flat and compiles(self.settings)
        one = len(self.budget.pieces()) == 1 and self.ranks.world == 1
        if fused:  # what is summed, over pieces or ranks, is summed in full precision
            low = self.net.lowered() if one and isinstance(self.net, Net) else []
            self.update = Fused(*given, settings=self.settings, low=low, compute=self.net.compute)
        else:
            self.update = Flat(*given) if flat else Update(*given)
        gpu = self.settings.device.startswith("cuda")
        alone = fused and whole and one and not self._drops()
        self.recorded = Recorded(self._on_device) if alone and gpu else None
        self._open, self._placed = None, {}
        self._whole = True
        if self.step == self.first:
            for known, found in zip(self.continuity, continuity(self), strict=False):
                if found["phase"] not in [x["phase"] for x in known]:
                    known.append(found)

    def open(self, index: int) -> list[tuple[Source, int]]:
        """(source, seed) of each member; members of one task share a source."""
        opened: dict[str, Source] = {}
        out = []
        for m in self.members:
            spec = m.phases[index].spec
            task = canonical(dump(spec.task))
            if task not in opened:
                opened[task] = spec.task.open(self.data.bind("train"), self.settings.device)
            # A later phase draws its own order, so that it does not repeat the first one's.
            seed = m.seed if index == 0 else key(m.seed, "phase", index) % 2**63
            out.append((opened[task], seed))
        return out

    def weights(self) -> Mapping[str, Tensor]:
        """What of the parameters is evaluated."""
        return self.specs[0].optim.weights(self.params, self.state)

    def _trained(self) -> dict[str, Tensor]:
        return {k: self.params[k] for k in self.net.trained}

    # ── one step ──

    def _loss(
        self,
        params: dict[str, Tensor],
        batch: dict[str, Tensor],
        drop: Dropout | None,
        ready: Ready | None,
    ) -> tuple[Tensor, Tensor]:
        return self.specs[0].task.loss(self.net(params, batch, drop, ready), batch)

    def _batch(self, local: int, rows: range) -> dict[str, Tensor]:
        start = local * self.budget.rows
        spread = range(start + rows.start, start + rows.stop)
        for source in dict.fromkeys(source for source, _ in self.sources):
            source.expect([seed for own, seed in self.sources if own is source], spread)
        drawn: dict[int, dict[str, Tensor]] = {}  # arms of one seed read the same
        for n, (source, seed), m in zip(self.draws, self.sources, self.members, strict=True):
            if n not in drawn:
                own = source.batch(seed, local, spread)
                # A later phase has an order of its own, and still the trial's names.
                drawn[n] = own if seed == m.seed else source.for_trial(own, m.seed)
        batch = {k: self._stacked(k, [drawn[n][k] for n in self.draws]) for k in drawn[0]}
        B, T = batch["inputs"].shape[1:3]
        self._read += batch["valid"].sum((1, 2)) if "valid" in batch else B * T
        if self._packs is None:
            able = self.net.kernel == "flex" and not self._drops()
            self._packs = able and packing.worth(batch, self.specs[0].task.io())
        return packing.pack(batch) if self._packs else batch

    def _stacked(self, name: str, rows: list[Tensor]) -> Tensor:
        """Rows of the trials as one tensor; the same one as long as places are the same ones."""
        if name != "valid" and not name.startswith("pos."):
            return torch.stack(rows)
        had = self._placed.get(name)
        if had is None or any(a is not b for a, b in zip(had[0], rows, strict=True)):
            had = self._placed[name] = rows, torch.stack(rows)
        return had[1]

    def _gradients(
        self, local: int, drawn: tuple[dict[str, Tensor], Ready | None] | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gradients of summed losses over a nominal count, loss sums and counts [E].

        Args:
            drawn: the batch of the only piece, where it is there already.
        """
        grads: list[Tensor] = []
        sums = counts = torch.zeros((), device=self.settings.device)
        for piece in self.budget.pieces():
            batch, ready = drawn or self._drawn(local, piece)
            drop = Dropout(self.keys, self.step, piece.start) if self._drops() else None
            new, sum_E, count_E = self._pass(self.loss_of, batch, drop, ready)
            if grads:
                torch._foreach_add_(grads, new)
            else:
                grads = new
            sums, counts = sums + sum_E, counts + count_E
        self.net.freezing.clear(grads)
        return grads, sums, counts

    def _drawn(self, local: int, piece: range) -> tuple[dict[str, Tensor], Ready | None]:
        batch = self._batch(local, piece)
        return batch, self.net.prepare(batch, self.draws)

    def _pass(
        self, loss_of: Callable[..., Any], batch: Any, drop: Dropout | None, ready: Ready | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        params = self.update.working
        leaves = [params[k] for k in self.net.trained]
        sum_E, count_E = loss_of(params, batch, drop, ready)
        total = sum_E / self.nominal
        if self.scaler:
            total = total * self.scaler["scale"]
        new = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
        grads = [torch.zeros_like(p) if g is None else g for g, p in zip(new, leaves, strict=True)]
        return grads, sum_E.detach(), count_E.to(sum_E.dtype)

    def _on_device(self, batch: Any, ready: Any, v: Any) -> tuple[Tensor, ...]:
        """All that a step does with a batch, from tensors to tensors alone."""
        assert isinstance(self.update, Fused)
        loss_of, run = self.loss_of.fast, self.update.run.fast
        if loss_of is None or run is None:
            raise ParibusError("a step that is not compiled is not recorded")
        grads, sum_E, count_E = self._pass(loss_of, batch, None, ready)
        done = self.update.apply(run, grads, Sums(sum_E, count_E, self.nominal), v)
        return *done, count_E

    @property
    def engine(self) -> str:
        """What runs a step."""
        recorded = self.recorded is not None and self.recorded.on
        return self.loss_of.engine + (", CUDA graph" if recorded else "")

    def _drops(self) -> bool:
        m = self.specs[0].model
        return isinstance(m, Model) and bool(m.dropout or m.embed_dropout or m.attn_dropout)

    @property
    def nominal(self) -> float:
        """A constant near the count of a step, so that summed losses stay in range."""
        length = self.specs[0].task.io().length or 1
        return float(self.budget.rows * length)

    def _stepped(self, local: int, factors: list[float]) -> tuple[Done, Tensor]:
        """Gradients and the update: what the step found, and how many targets it had [E]."""
        drawn = None
        if self.recorded is not None and isinstance(self.update, Fused):
            (piece,) = self.budget.pieces()
            drawn = self._drawn(local, piece)
            v = self.update.numbers(self.alive, factors, self.step - self.origin)
            self._whole = False
            found = self.recorded(*drawn, v)
            if found is not None:
                self._settle()  # of the step before, while this one is at work
                return Done(*found[:3]), found[3]
            self._whole = True
        with self.ranks.together():
            grads, sums_E, counts_E = self._gradients(local, *([drawn] if drawn else []))
            summed = [*grads, sums_E, counts_E, self._read]
            self.ranks.room(summed)
        self.ranks.sum(summed)
        self._settle()
        self._whole = False
        sums = Sums(sums_E, counts_E, self.nominal, self.scaler.get("scale"))
        done = self.update(grads, sums, self.alive, factors, self.step - self.origin)
        return done, counts_E

    def _advance(self) -> None:
        local = self.step - self.first
        self._read.zero_()
        factors = self.adaptive.factors(local)
        done, counts_E = self._stepped(local, factors)
        lr_E = [
            s.optim.lr * factor  # type: ignore[attr-defined]
            for s, factor in zip(self.specs, factors, strict=True)
        ]
        self.curves.add(done.loss, lr_E, done.norm)
        self.targets += counts_E.double()
        self.tokens += self._read
        self.step += 1
        self._open = Look(self.step, done, counts_E)
        if not self.update.late:
            self._settle()
        self._whole = True

    def _settle(self) -> None:
        """See what the last step did, if that has not been looked at."""
        look, self._open = self._open, None
        if look is not None and not look.fine():
            self._judge(look)

    def _judge(self, look: Look) -> None:
        """Trials whose loss or gradient is not finite: with loss scaling a smaller scale first."""
        for e, ok in enumerate(look.done.finite.tolist()):
            if self.alive[e] and not look.count[e]:
                raise Refused(
                    f"the rows of step {look.step} hold no target of {self.members[e].name}: the "
                    "task leaves all of them out; see what it scores, or take more rows"
                )
            if ok or not self.alive[e]:
                continue
            if self.scaler and self.scaler["scale"][e] > 1:
                self.scaler["scale"][e] *= 0.5
                self.scaler["good"][e] = 0
                continue
            self.alive[e] = False
            loss = look.done.loss[e].item()
            self.members[e].reason = f"loss {loss:.4g} at step {look.step} of {self.total}"

    # ── the loop ──

    def run(self) -> None:
        """Train to the end.  Members that diverge or lose their attempt end alone.

        Raises Stopped with every member's checkpoint sealed, and OutOfMemory (with checkpoints
        where parameters and optimizer state are those of one step).
        """
        try:
            self._run()
        except Exception as error:
            if not ran_out(error):
                raise
            if self._whole:
                self.save()
            rows = len(self.ranks.part(self.members[0].phases[max(0, self.phase)].spec.rows or 1))
            micro = min(rows, self.micro or self.settings.micro or rows)
            raise OutOfMemory(self.e, micro, self.halvings) from None

    def _run(self) -> None:
        for index in range(len(self.members[0].phases)):
            end = min(self.total, sum(p.steps for p in self.members[0].phases[: index + 1]))
            if self.step >= end and not (end == self.total and self.phase == -1):
                continue
            self._enter(index)
            while self.step < end and any(self.alive):
                stop, self.alive = self.ranks.agree(self.hooks.stop(), self.alive)
                if stop:
                    self._settle()
                    self._part()
                    self.save()
                    raise Stopped
                began = time.monotonic()
                self._advance()
                self.seconds += time.monotonic() - began
                self._after_step()
            self._settle()
            self._part()
            if not any(self.alive):
                break
        if any(self.alive):
            self.ranks.same(self.params)
        for e, m in enumerate(self.members):
            if m.reason is None and m.attempt is None:  # a worker takes what it keeps from here
                m.state = self.snapshot(e)

    def _after_step(self) -> None:
        self._scale_up()
        self.adaptive.look()
        evaluates = self.hooks.evaluate is not None
        evaluates = evaluates and any(self.step % n == 0 for n in self.hooks.every)
        if evaluates:
            self._settle()
        self._part()
        improved = False
        if evaluates and self.hooks.evaluate is not None:
            self._whole = False  # a checkpoint without this step's values would lose them
            for e, row in enumerate(self.hooks.evaluate(self)):
                self.checks[e].append({"step": self.step, **row})
                improved |= self._improves(e, row)
            self._whole = True
        self.hooks.progress(self)
        s = self.settings
        if s.checkpoint_steps is not None:
            due = self.step % s.checkpoint_steps == 0
        else:
            apart = max(s.checkpoint_every, min(LONGEST, APART * self._took))
            due = time.monotonic() - self._since > apart
        if due or improved:
            self.save()

    def _part(self) -> None:
        """End the attempts of those that diverged."""
        for e, m in enumerate(self.members):
            if not self.alive[e] and m.attempt is not None and m.reason:
                end = partial(m.attempt.end, "diverged", m.reason, **self.summary(e))
                self.hooks.write(end)
                self.hooks.diverged(m)
                m.attempt = None

    def _improves(self, e: int, row: Mapping[str, float]) -> bool:
        """Note the steps at which a value that is watched was best."""
        before = dict(self.best[e])
        for name, better in self.hooks.best.items():
            value = row.get(name)
            if value is None:
                continue
            old = self.best[e].get(name)
            if old is None or (value < old[0] if better == "lower" else value > old[0]):
                self.best[e][name] = (value, self.step)
        return self.best[e] != before

    def _scale_up(self) -> None:
        if self.scaler:
            good = self.scaler["good"] = self.scaler["good"] + 1
            ripe = good >= 2000
            self.scaler["scale"] = torch.where(ripe, self.scaler["scale"] * 2, self.scaler["scale"])
            self.scaler["good"] = torch.where(ripe, torch.zeros_like(good), good)

    # ── state ──

    def snapshot(self, e: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything of member ``e``: tensors without the trial axis, and notes."""
        return resuming.snapshot(self, e)

    def save(self) -> None:
        """Seal a checkpoint of every live member, then retire the older ones.  A member whose
        attempt was ended by another process gives its slot up."""
        self._settle()
        self._took = resuming.save(self)
        self._since = time.monotonic()

    def curve(self, e: int) -> dict[str, list[float]]:
        """Loss, lr and gradient norm of every step so far."""
        return self.curves.of(e)

    def summary(self, e: int) -> dict[str, Any]:
        """What the end of an attempt of member ``e`` records."""
        return summary_of(self, e)

"""Which member of a stack trains which parameter.

Gradients are computed for what any member trains: what all of them freeze costs no product.  Where
only some freeze a tensor, their gradients are set to zero, they add nothing to the clip norm, and
the update leaves their tensors as they were; what an optimizer keeps for them is never saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from paribus.contracts import P
from paribus.nn.freeze import audit, trained_paths
from paribus.spec import Spec

State = dict[str, dict[str, Tensor]]


class Freezing:
    """The freezing of a stack, of one phase.

    Attributes:
        own: what each member trains.
        trained: what any of them trains, in the order of declaration.
        mixed: path -> members that freeze what others train.
    """

    def __init__(self, declared: Mapping[str, P], specs: Sequence[Spec]) -> None:
        self._declared, self._specs = declared, specs
        self._indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        each = {s.freeze: frozenset(trained_paths(declared, s.freeze)) for s in specs}
        self.own = [each[s.freeze] for s in specs]
        some = frozenset().union(*self.own)
        self.trained = [k for k in declared if k in some]
        frozen = {k: [e for e, own in enumerate(self.own) if k not in own] for k in self.trained}
        self.mixed = {k: members for k, members in frozen.items() if members}

    def clear(self, grads: Sequence[Tensor]) -> None:
        """Zero the gradients (in the order of ``trained``) of members that freeze the tensor."""
        for k, g in zip(self.trained, grads, strict=True):
            if k in self.mixed:
                g.index_fill_(0, self._members(k, g.device), 0.0)

    def norms(self, grads: Sequence[Tensor]) -> Tensor:
        """Gradient norm of each trial [E]; on the CPU in the bits that it has alone."""
        if grads[0].is_cuda:  # E times as many launches would be felt
            return torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
        out = []
        for e, own in enumerate(self.own):
            mine = [g[e] for k, g in zip(self.trained, grads, strict=True) if k in own]
            out.append(torch.stack(torch._foreach_norm(mine)).square().sum().sqrt())
        return torch.stack(out)

    @contextmanager
    def held(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """What a member freezes stays to the bit, whatever happens to the others' (decay too)."""
        where = {k: self._members(k, params[k].device) for k in self.mixed}
        before = {k: params[k].index_select(0, of) for k, of in where.items()}
        yield
        for k, of in where.items():
            params[k].index_copy_(0, of, before[k])

    def _members(self, path: str, device: torch.device) -> Tensor:
        """The members that freeze a path of others, on a device."""
        key = tuple(self.mixed[path]), device
        if key not in self._indices:
            self._indices[key] = torch.tensor(key[0], device=device)
        return self._indices[key]

    def carried(self, old: State, had: Sequence[frozenset[str]], fresh: State) -> State:
        """Optimizer state of what is trained now: the old one where a member has it, else fresh.

        Args:
            had: the paths whose state each member brings.
        """
        for name, of in fresh.items():
            for k in of.keys() & old.get(name, {}).keys():
                for e, has in enumerate(had):
                    if k in has:
                        of[k][e].copy_(old[name][k][e])
        return fresh

    def saved(self, e: int, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a checkpoint of member ``e``: no optimizer state of what it freezes."""
        return {
            key: t
            for key, t in flat.items()
            if not key.startswith("optim/") or key.split("/", 2)[2] in self.own[e]
        }

    def audit(self, e: int, state: State) -> dict[str, Any]:
        """What the record of member ``e`` says of its parameters."""
        found = audit(self._declared, self._specs[e].freeze)
        return {**found, "optimizer_bytes": self.state_bytes(e, state)}

    def state_bytes(self, e: int, state: State) -> int:
        """Bytes of the optimizer state of member ``e``."""
        held = (t for of in state.values() for k, t in of.items() if k in self.own[e])
        return sum(t[e].numel() * t.element_size() for t in held)


def stateful(flat: Mapping[str, Tensor]) -> frozenset[str]:
    """The paths that have optimizer state in a checkpoint."""
    return frozenset(k.split("/", 2)[2] for k in flat if k.startswith("optim/"))

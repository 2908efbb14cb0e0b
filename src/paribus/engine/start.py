"""The parameters that a stack begins with: drawn, or those of a foreign checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor

from paribus.engine import checkpoint, foreign
from paribus.engine.net import ExternalNet, Net
from paribus.errors import Refused, SpecError
from paribus.spec import Model, Spec, Start
from paribus.text import weights


def read(start: Start) -> tuple[Model | None, dict[str, Tensor]]:
    """(the model, where the checkpoint tells it; path -> tensor)."""
    found = weights.files(start)
    if found[0].name != "config.json":
        try:
            return None, checkpoint.read_weights(found[0])
        except SafetensorError as error:
            raise SpecError(f"start: {found[0]} is no file of weights ({error})") from None
    model, held = foreign.hugging_face(found[0].parent)
    return model, {k: t[0] for k, t in held.items()}


def initial(net: Net | ExternalNet, spec: Spec, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Path -> tensor [E, …].  With ``spec.start`` all trials begin with the same weights, and the
    optimizer's state is fresh."""
    if spec.start is None:
        return net.initial(seeds)
    held = read(spec.start)[1]
    step = f" (step {spec.start.step})" if spec.start.step else ""
    for path in {**net.declared, **held}:
        mine = tuple(net.declared[path].shape) if path in net.declared else None
        theirs = tuple(held[path].shape) if path in held else None
        if mine != theirs:
            raise Refused(
                f"start: {spec.start.path}{step}: {path} is {theirs} in the checkpoint and {mine} "
                "in the model; a training goes on with the same weights"
            )
    dtype = torch.float64 if spec.precision == "fp64" else torch.float32
    E = len(seeds)
    return {
        k: held[k].to(net.device, dtype)[None].repeat(E, *[1] * held[k].ndim) for k in net.declared
    }

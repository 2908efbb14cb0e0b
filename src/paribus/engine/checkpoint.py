"""Checkpoints and weights as bytes: safetensors and one JSON.  The store alone writes them.

A checkpoint is one trial's own, whatever stack it ran in: tensors lose the trial axis here and get
it back when a stack is put together, so a trial resumes into any other stack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor


def member(tensors: Mapping[str, Tensor], e: int) -> dict[str, Tensor]:
    """The slice of trial ``e`` of stacked tensors [E, …]."""
    return {k: t[e].detach().to("cpu").contiguous() for k, t in tensors.items()}


def stack(members: Sequence[Mapping[str, Tensor]], device: str) -> dict[str, Tensor]:
    """Stacked tensors [E, …] of members' tensors; zeros where a member has none (no optimizer state
    of what it freezes)."""
    like = {k: t for m in members for k, t in m.items()}
    return {
        k: torch.stack([m.get(k, torch.zeros_like(t)) for m in members]).to(device)
        for k, t in like.items()
    }


def clone(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """A copy of an optimizer's state."""
    return {name: {k: t.clone() for k, t in of.items()} for name, of in state.items()}


def put_back(
    state: Mapping[str, Mapping[str, Tensor]],
    before: Mapping[str, Mapping[str, Tensor]],
    keep_E: Tensor,
) -> None:
    """Restore the state of the trials that are not kept."""
    for e in (~keep_E).nonzero().flatten().tolist():
        for name, tensors in state.items():
            for k, t in tensors.items():
                t[e].copy_(before[name][k][e])


def encode(tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {
        "state.safetensors": save(dict(tensors)),
        "notes.json": json.dumps(notes, sort_keys=True).encode(),
    }


def decode(files: Mapping[str, Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``encode`` was given."""
    tensors = load(Path(files["state.safetensors"]).read_bytes())
    return tensors, json.loads(Path(files["notes.json"]).read_bytes())


def weights(tensors: Mapping[str, Tensor]) -> bytes:
    """The weights file of a finished trial."""
    return save(dict(tensors))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Parameter path -> tensor, without the trial axis."""
    return load(Path(path).read_bytes())

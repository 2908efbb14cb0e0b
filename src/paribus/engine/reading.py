"""What each token of a row may read, layer by layer, as plain data: a picture is drawn from it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paribus.errors import Refused, SpecError
from paribus.nn.places import Places
from paribus.spec import Model, Spec
from paribus.text.data import Data

LARGEST = 4096  # tokens whose pairs are written out


def reading(spec: Spec, cache: Path | None = None) -> dict[str, Any]:
    """What the first test example's tokens read of each other.

    Args:
        spec: resolved.
        cache: of tokens and tokenizers; None: they are made for this call alone.

    Returns:
        names: of the tokens; padding is left out.
        blocks: the first token of each block, where rows have blocks; else [].
        panels: {"layers": numbers from 0, "allowed": bool array [reading token, token read]}, one
            for all layers that agree.
    """
    if not isinstance(spec.model, Model):
        raise SpecError("an external model does not say what its tokens read")
    length = spec.task.io().length
    if length is not None and length > LARGEST:
        raise SpecError(f"rows of {length:,} tokens; up to {LARGEST:,} can be drawn")
    with tempfile.TemporaryDirectory() as scratch:
        source = spec.task.open(Data(cache or Path(scratch)).bind("test"), "cpu")
        row = {name: t[:1] for name, t in source.examples(0, 1).items()}
        named = source.token_names(0)
    T = row["inputs"].shape[1]
    valid_T = row["valid"][0].bool() if "valid" in row else torch.ones(T, dtype=torch.bool)
    given = {name[4:]: t for name, t in row.items() if name.startswith("pos.")}
    try:
        layers = Places(spec.model).seen(T, given)
    except Refused as error:
        raise SpecError(str(error)) from None
    panels: list[tuple[list[int], Tensor]] = []
    for layer, seen in enumerate(layers):
        allowed = seen.expand(1, 1, T, T)[0, 0][valid_T][:, valid_T]
        like = next((of for of, other in panels if torch.equal(other, allowed)), None)
        if like is None:
            panels.append(([layer], allowed))
        else:
            like.append(layer)
    own = {name: t[0][valid_T].tolist() for name, t in given.items()}
    return {
        "names": _names(named, own, int(valid_T.sum())),
        "blocks": _blocks(own.get("block", [])),
        "panels": [{"layers": of, "allowed": allowed.numpy()} for of, allowed in panels],
    }


def _names(named: Sequence[str], own: dict[str, list[Any]], T: int) -> list[str]:
    """The task's, or branch and time of parallel branches, or numbers."""
    if named:
        return list(named)
    if "branch" in own and "time" in own:
        return [f"{b},{t}" for b, t in zip(own["branch"], own["time"], strict=True)]
    return [str(i) for i in range(T)]


def _blocks(block: list[Any]) -> list[int]:
    return [i for i, b in enumerate(block) if i == 0 or b != block[i - 1]]

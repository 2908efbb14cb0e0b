"""Which parameters are trained, and the audit of all of them.  Loads no torch.

A frozen tensor is a parameter like any other, drawn, saved and counted; it has no gradient, no
optimizer state, no decay and no share in the clip norm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from paribus.contracts import P
from paribus.errors import SpecError
from paribus.nn.declare import group

LAYER = re.compile(r"^blocks\.(\d+)\.")


def is_frozen(path: str, freeze: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in freeze)


def trained_paths(declared: Mapping[str, P], freeze: Sequence[str]) -> list[str]:
    """Paths that are trained; a pattern that matches nothing is an error."""
    for pattern in freeze:
        if not any(fnmatchcase(path, pattern) for path in declared):
            raise SpecError(f"freeze: {pattern!r} matches no parameter; e.g. '*.attn.q'")
    out = [k for k in declared if not is_frozen(k, freeze)]
    if not out:
        raise SpecError("freeze: nothing is left to train")
    return out


def category(path: str) -> str:
    """What a parameter is: attn_q, attn_k, attn_v, attn_o, mlp_up, mlp_down (mlp_<name> of others),
    norm, embedding, position or head; a bias goes with its matrix.  Of a model of one's own:
    external."""
    try:
        kind = group(path)
    except (KeyError, IndexError):
        return "external"
    own = path.split(".")[3:4]
    if kind == "attention":
        name = own[0].removesuffix("_bias")
        return "norm" if name.endswith("_norm") else f"attn_{name}"
    return f"mlp_{own[0].removesuffix('_bias')}" if kind == "mlp" else kind


def audit(declared: Mapping[str, P], freeze: Sequence[str]) -> dict[str, Any]:
    """Every tensor, and totals.  Tensors of layers that differ in nothing else are one row, whose
    name holds a star for the layer: ``{"name": "blocks.*.attn.q", "layers": [0, 1, 2], …}``;
    ``numel`` is that of one of them."""
    trained = set(trained_paths(declared, freeze))
    rows: dict[Any, dict[str, Any]] = {}
    totals = {"total": 0, "trained": 0, "frozen": 0}
    for path, p in declared.items():
        frozen, n = path not in trained, prod(p.shape)
        totals["total"] += n
        totals["frozen" if frozen else "trained"] += n
        layer = LAYER.match(path)
        name = LAYER.sub("blocks.*.", path) if layer else path
        row = rows.setdefault(
            (name, p.shape, frozen),
            {
                "name": name,
                "category": category(path),
                "shape": list(p.shape),
                "numel": n,
                "frozen": frozen,
            },
        )
        if layer:
            row.setdefault("layers", []).append(int(layer[1]))
    return {**totals, "tensors": list(rows.values())}


def tensors(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An audit's tensors one by one, by path."""
    out = {}
    for row in found["tensors"]:
        for layer in row.get("layers", [None]):
            path = row["name"] if layer is None else row["name"].replace("*", str(layer), 1)
            out[path] = {k: v for k, v in row.items() if k not in ("name", "layers")}
    return out

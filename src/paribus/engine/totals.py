"""Per-item sums of metrics as a record holds them: totals, slices, the sums themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus import arrays
from paribus.contracts import Metric


def measured(
    items: Mapping[str, tuple[Tensor, Tensor]],
    metrics: Mapping[str, Metric],
    slices: Mapping[str, np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """Values of every metric, over all items and within slices, and the packed sums and counts."""
    totals: dict[str, Any] = {}
    for name, (s, c) in items.items():
        totals[name] = {"sum": float(s.sum()), "count": float(c.sum())}
    out: dict[str, Any] = {
        "metrics": values(totals, metrics),
        "items": {
            name: {"sum": arrays.pack(_finite(s)), "count": arrays.pack(c)}
            for name, (s, c) in items.items()
        },
        "slices": {},
    }
    for by, labels in slices.items():
        for level in sorted(set(labels.tolist())):
            at = torch.from_numpy(labels == level)
            part = {
                name: {"sum": float(s[at].sum()), "count": float(c[at].sum())}
                for name, (s, c) in items.items()
            }
            if any(total["count"] for total in part.values()):
                out["slices"][f"{by}={level}"] = values(part, metrics)
    return out


def values(
    totals: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    """Every metric as {value, count}: ratios of totals, and those derived from them."""
    out: dict[str, Any] = {}
    for name, metric in metrics.items():
        total = totals.get(metric.of or name)
        if total is None or not total["count"]:
            continue
        value = total["sum"] / total["count"]
        if metric.transform == "exp":
            value = math.exp(value) if value < 700 else math.inf
        out[name] = {
            "value": value if math.isfinite(value) else None,
            "count": total["count"],
        }
    return out


def _finite(x: Tensor) -> np.ndarray[Any, Any]:
    return np.nan_to_num(x.numpy(), nan=1e308, posinf=1e308, neginf=-1e308)

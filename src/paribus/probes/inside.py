"""Lengths of queries and keys, the largest logit and the entropy of attention, layer by layer."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import Refused


class Inside(Probe, frozen=True, kw_only=True):
    """What attention looks like on a few rows of the task, in every layer; slice ``layer``.

    ``Eval("inside", probes.inside(), every=500, by=("layer",))`` follows it as the model trains:
    whether keys grow (and the attention sharpens with them), whether logits blow up, whether heads
    collapse onto single keys.  A value over all layers is their mean.

    query_norm, key_norm: mean length over heads and tokens, before any norm of q and k.
    max_logit: the largest one of a layer, as the softmax sees it.
    entropy: nats of what a query reads, mean over queries and heads; ln n where it reads n keys
        alike.

    Attributes:
        rows: of the task, the first of the split; ``Eval(examples=…)`` may take fewer.
    """

    rows: Annotated[int, Meta(ge=1)] = 4

    metrics: ClassVar[dict[str, Metric]] = {
        "query_norm": Metric("length"),
        "key_norm": Metric("length"),
        "max_logit": Metric("logit"),
        "entropy": Metric("nats", better="higher"),
    }
    slices: ClassVar[tuple[str, ...]] = ("layer",)
    split: ClassVar[bool] = True

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        look = getattr(model, "inside", None)
        if look is None:
            raise Refused("probes.inside: this model does not show its queries and keys")
        rows = min(self.rows, examples or self.rows)
        found = {name: np.asarray(x, np.float64) for name, x in look(rows).items()}
        items = {name: (x, np.ones_like(x)) for name, x in found.items()}
        layers = np.array([str(i) for i in range(len(found["key_norm"]))])
        return Measured(items, {"layer": layers}, {"rows": rows})

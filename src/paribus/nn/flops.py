"""What a model costs: floating-point operations and bytes of memory.  Loads no torch.

V vocabulary, D width, L layers, T tokens a row, H heads, G key heads, d head size.

A multiplication and its addition are two operations.  Products of matrices alone are counted, with
attention over the keys that the mask lets a query read on average ((T + 1) / 2 under a causal one);
norms, softmax, biases and the optimizer are left out.  A backward pass costs two forward passes.
"""

from __future__ import annotations

from math import prod
from typing import TypedDict

from paribus.contracts import Optimizer
from paribus.nn.declare import declare, group, numbers
from paribus.spec import Model

LOOKED_UP = {"embedding", "position", "gain", "bias"}  # roles that multiply nothing
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


def forward(model: Model, length: int) -> dict[str, float]:
    """Operations per token of a forward pass over rows of ``length``, by group, and ``total``."""
    model = numbers(model)
    d = model.dims()
    assert model.mask is not None
    out = dict.fromkeys(("embedding", "attention", "scores", "mlp", "head"), 0.0)
    for path, p in declare(model).items():
        if p.role not in LOOKED_UP and len(p.shape) > 1:
            out[group(path)] = out.get(group(path), 0.0) + 2.0 * prod(p.shape)
    if model.tied and model.read_out == "lm" and model.read_in == "tokens":
        out["head"] += 2.0 * d.vocab * d.width
    # q·k and p·v, each 2 · d operations for each head and key.
    out["scores"] = 4.0 * d.layers * d.heads * d.head_dim * model.mask.mean_keys(length)
    return {**out, "total": sum(out.values())}


def training(model: Model, length: int) -> float:
    """Operations per token of a training step."""
    return 3.0 * forward(model, length)["total"]


class Memory(TypedDict):
    """Bytes of a training step."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    total: int


def memory(
    model: Model,
    *,
    trials: int,
    rows: int,
    length: int,
    precision: str = "fp32",
    optim: Optimizer | None = None,
) -> Memory:
    """Bytes that a stack of ``trials`` needs for a step of ``rows`` rows a trial.

    Parameters, gradients and the state of ``optim`` (None: two tensors a parameter) are fp32 (fp64
    for "fp64"): m bytes a number.  Activations that the backward pass needs are, per token, with c
    bytes a number of the compute dtype, F hidden units, u maps into them (2 where the MLP is gated)
    and h = H · d:

        blocks  L · (m · 6 D     two norms: input, normalised, scaled
                     + c · 6 h   q, k, v, some of them twice, and the output
                     + c · 2 u F   each map's output and what is made of it
                     + c · 2 D   inputs of the sublayers, where the compute dtype is another
                     + m · 2 H T   scores and bias, where a learned bias is added; four times as
                                   much where the position replaces the scores)
        head    m · 3 D + (c + 2 m) · V   logits, their log-probabilities and gradient; m · V more
                                          where they are capped

    and the weights once more where the compute dtype is another.  Measured on small models in fp32
    the formula is 3–9 % high.
    """
    model = numbers(model)
    d = model.dims()
    m, c = (8 if precision == "fp64" else 4), BYTES[precision]
    declared = declare(model).values()
    n = sum(prod(p.shape) for p in declared)
    kept = sum(prod(p.shape) * (2 if optim is None else optim.states(p)) for p in declared)
    h, F = d.heads * d.head_dim, model.mlp.hidden_size(d)
    into = sum(p.shape == (F, d.width) for p in model.mlp.params(d).values())
    position = model.position
    learned = position is not None and position.bias is not None and bool(position.params(d))
    replaced = position is not None and position.scores is not None
    block = m * 6 * d.width + c * (6 * h + 2 * into * F)
    block += c * 2 * d.width if c != m else 0
    block += m * (8 if replaced else 2) * d.heads * length if learned or replaced else 0
    outputs = (c + (2 if model.softcap is None else 3) * m) * d.vocab
    head = m * 3 * d.width + (outputs if model.read_out == "lm" else 0)
    activations = trials * rows * length * (d.layers * block + head)
    activations += trials * n * c if c != m else 0
    return {
        "parameters": trials * n * m,
        "gradients": trials * n * m,
        "optimizer": trials * kept * m,
        "activations": activations,
        "total": trials * (2 * n + kept) * m + activations,
    }

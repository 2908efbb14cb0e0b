"""What a model costs: floating-point operations and bytes of memory.  Loads no torch.

V vocabulary, D width, L layers, T tokens a row, H heads, G key heads, d head size.

A multiplication and its addition are two operations.  Products of matrices alone are counted, with
attention over the keys that the mask lets a query read on average ((T + 1) / 2 under a causal one);
norms, softmax, biases and the optimizer are left out.  A backward pass costs two products for each
of the forward pass: the gradient of the weight, and that of what enters.  Frozen weights have no
first one, and where nothing below is trained there is no second one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import TypedDict

from paribus.contracts import Optimizer, P
from paribus.nn.declare import declare, group, numbers
from paribus.nn.freeze import is_frozen
from paribus.spec import Model

LOOKED_UP = {"embedding", "position", "gain", "bias"}  # roles that multiply nothing
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


def forward(model: Model, length: int) -> dict[str, float]:
    """Operations per token of a forward pass over rows of ``length``, by group, and ``total``."""
    model = numbers(model)
    d = model.dims()
    out = dict.fromkeys(("embedding", "attention", "scores", "mlp", "head"), 0.0)
    for path, p in declare(model).items():
        if p.role not in LOOKED_UP and len(p.shape) > 1:
            out[group(path)] = out.get(group(path), 0.0) + 2.0 * prod(p.shape)
    if model.tied and model.read_out == "lm" and model.read_in == "tokens":
        out["head"] += 2.0 * d.vocab * d.width
    out["attention"] *= (times := _times(model, length))
    out["mlp"] *= times
    out["scores"] = 2.0 * d.layers * _scores(model, length)
    return {**out, "total": sum(out.values())}


def _scores(model: Model, length: int) -> float:
    """Operations a token and layer of one of q·k and p·v, 2 · d for each head and key that is read;
    of a mixer half of what it does."""
    d = model.dims()
    if model.mixer is not None:
        return model.mixer.flops(d) / 2
    assert model.mask is not None
    read = model.mask if model.memory is None else model.memory
    return 2.0 * d.heads * d.head_dim * read.mean_keys(length)


def _times(model: Model, length: int) -> float:
    """Tokens that go through the blocks for each token of a row."""
    return 1.0 if model.memory is None else model.memory.passed(length)


def training(model: Model, length: int, freeze: Sequence[str] = ()) -> float:
    """Operations per token of a training step.

    Args:
        length: tokens of a row.
        freeze: patterns of the paths that are not trained.
    """
    return forward(model, length)["total"] + backward(model, length, freeze)


def backward(model: Model, length: int, freeze: Sequence[str] = ()) -> float:
    """Operations per token of a backward pass over rows of ``length`` of a model alone.  In a stack
    that freezes different things, weights that any of its trials trains have their gradients."""
    model = numbers(model)
    declared = declare(model)
    walk = _Backward(declared, {k for k in declared if not is_frozen(k, freeze)})
    d, position = model.dims(), model.position
    half = _scores(model, length)
    rotated = position is not None and position.rotate is not None
    biased = position is not None and position.bias is not None

    walk.product("read_in.weight", False)
    # Whether the residual stream needs a gradient: something below it is trained.
    need = walk.any("embed", "read_in", "memory")
    if position is not None and position.embed is not None:
        need |= walk.any("position")
    walk.times = _times(model, length)
    for i in range(d.layers):
        block = f"blocks.{i}"
        attn, own = f"{block}.attn", ("position", f"{block}.position")
        given = need or walk.any(f"{block}.norm1")
        q, k, v = (
            given
            or walk.any(f"{attn}.{w}", f"{attn}.{w}_bias", f"{attn}.{w}_norm")
            or (w != "v" and rotated and walk.any(*own))
            for w in "qkv"
        )
        for w in "qkv":
            walk.product(f"{attn}.{w}", given)
        for path in declared:
            if path.startswith(f"{attn}.mixer."):
                walk.product(path, given)
        scores = q or k or (biased and walk.any(*own))
        walk.total += half * (q + k + v + scores)
        walk.product(f"{attn}.o", scores or v)
        need |= scores or v or walk.any(f"{attn}.o", f"{attn}.o_bias")
        given = need or walk.any(f"{block}.norm2")
        mlp = [path for path in declared if path.startswith(f"{block}.mlp.")]
        last = f"{block}.mlp.down"
        hidden = given or walk.any(*(path for path in mlp if not path.startswith(last)))
        for path in mlp:
            walk.product(path, hidden if path == last else given)
        need |= hidden or walk.any(*mlp)
    walk.times = 1.0
    given = need or walk.any("final_norm")
    tied = "head" not in declared and model.read_out == "lm"
    walk.product("embed.tokens" if tied else "head", given, map_too=tied)
    walk.product("read_out.weight", given)
    return walk.total


class _Backward:
    """Operations per token so far; ``trained``: the paths that have gradients."""

    def __init__(self, declared: dict[str, P], trained: Collection[str]) -> None:
        self.declared, self.trained, self.total = declared, trained, 0.0
        self.times = 1.0  # tokens for each token of a row

    def any(self, *places: str) -> bool:
        """Whether something at or under one of these paths is trained."""
        return any(
            path == at or path.startswith(f"{at}.") for path in self.trained for at in places
        )

    def product(self, path: str, given: bool, map_too: bool = False) -> None:
        """The products of a matrix; ``given``: what enters it needs a gradient; ``map_too``: also
        of a table that is looked up elsewhere."""
        p = self.declared.get(path)
        if p is None or len(p.shape) < 2 or (p.role in LOOKED_UP and not map_too):
            return
        self.total += 2.0 * self.times * prod(p.shape) * ((path in self.trained) + given)


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
    freeze: Sequence[str] = (),
) -> Memory:
    """Bytes that a stack of ``trials`` needs for a step of ``rows`` rows a trial.

    Parameters, gradients and the state of ``optim`` (None: two tensors a parameter) are fp32 (fp64
    for "fp64"): m bytes a number; what matches ``freeze`` has parameters alone.  Activations that
    the backward pass needs are, per token, with c bytes a number of the compute dtype, F hidden
    units, u maps into them (2 where the MLP is gated) and h = H · d:

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
    declared = declare(model)
    n = sum(prod(p.shape) for p in declared.values())
    free = [p for path, p in declared.items() if not is_frozen(path, freeze)]
    trained = sum(prod(p.shape) for p in free)
    kept = sum(prod(p.shape) * (2 if optim is None else optim.states(p)) for p in free)
    h, F = d.heads * d.head_dim, model.mlp.hidden_size(d)
    into = sum(p.shape == (F, d.width) for p in model.mlp.params(d).values())
    position = model.position
    learned = position is not None and position.bias is not None and bool(position.params(d))
    replaced = position is not None and position.scores is not None
    replaced = replaced or (model.memory is not None and model.memory.scores is not None)
    block = m * 6 * d.width + c * (6 * h + 2 * into * F)
    block += c * 2 * d.width if c != m else 0
    block += m * (8 if replaced else 2) * d.heads * length if learned or replaced else 0
    outputs = (c + (2 if model.softcap is None else 3) * m) * d.vocab
    head = m * 3 * d.width + (outputs if model.read_out == "lm" else 0)
    activations = trials * rows * length * (d.layers * block + head)
    activations += trials * n * c if c != m else 0
    return {
        "parameters": trials * n * m,
        "gradients": trials * trained * m,
        "optimizer": trials * kept * m,
        "activations": activations,
        "total": trials * (n + trained + kept) * m + activations,
    }

"""What positions, scalings of RoPE and masks promise.

E trials of a stack, B rows, T tokens (queries), S tokens (keys).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paribus import parts, presets, rng
from paribus.contracts import Position, View
from paribus.engine.contract import Bench, Broken, Skip, Test
from paribus.engine.contract_nn import (
    CLOSE,
    MODEL,
    apart,
    drawn,
    given,
    length_of,
    model_with,
    tokens,
    view_of,
    wide,
)
from paribus.errors import ParibusError
from paribus.nn.cache import Cache
from paribus.nn.transformer import Transformer

masks, positions = (parts.Namespace(kind) for kind in ("masks", "positions"))


def _cache(part: Any, bench: Bench) -> str:
    """Two chunks, then single tokens, give the logits of one pass."""
    T, scale = length_of(part), {}
    if T < 8:
        raise Skip(f"it ends at {T} tokens, too few to decode")
    if part.kind == "scalings":
        part = positions.rope(scaling=part)
    if part.kind == "scales":
        others, scale = [masks.causal(), masks.sliding_window(size=5)], {"logit_scale": part}
    elif isinstance(part, Position):
        others = [masks.causal(), masks.sliding_window(size=5)]
    elif not part.causal:
        raise Skip("its queries read later tokens, so it cannot be decoded one at a time")
    else:
        others = [part]
    position = part if isinstance(part, Position) else presets.llama().position
    for mask in others:
        model = model_with(None, position=position, mask=mask, **scale)
        core, p, ids = Transformer(model), drawn(model, [0, 1], False), tokens([0, 1], T)
        extra = given(mask, T)
        with torch.no_grad():
            whole = core(p, ids, View(extra) if extra else None)
            cache, at = Cache(core.dims, 2, 3, T), 0
            for n in [T // 3, T // 4, *[1] * (T - T // 3 - T // 4)]:
                own = View({k: c[at : at + n] for k, c in extra.items()}) if extra else None
                out = core(p, ids[..., at : at + n], own, cache=cache)
                gap = apart(out, whole[:, :, at : at + n])
                if gap > CLOSE:
                    raise Broken(
                        f"decoded with a cache the logits of tokens {at} … {at + n - 1} are off by "
                        f"{gap:.2g}: "
                        + (
                            f"their pos.token starts at {at}; tables() must read pos.token, not "
                            "count from 0"
                            if isinstance(part, Position)
                            else "allowed() must compare q.index and k.index, not their places"
                        )
                    )
                at += n
    return "a cache gives the full pass"


# ── positions ───────────────────────────────────────────────────────────────────────────────


def _tables(part: Any, bench: Bench) -> str:
    T, core = length_of(part), Transformer(model_with(part))
    made = part.tables(core.dims, core.view(T).map(lambda c: c.double()))  # what the engine gives
    for name, t in made.items():
        if t.shape[0] != 1:
            raise Broken(f"tables()[{name!r}] has shape {tuple(t.shape)}; its first axis must be 1")
        if t.is_floating_point() and t.dtype != torch.float64:
            raise Broken(f"tables()[{name!r}] is {t.dtype}; compute it in float64")
    return f"{len(made)} tables, first axis 1, float64"


def _places(part: Any, bench: Bench) -> str:
    """Rows and trials with coordinates of their own are as if alone."""
    T = length_of(part)
    model = model_with(part)
    core, p, ids = Transformer(model), drawn(model, [0, 1], False), tokens([0, 1], T)
    token_BT = torch.arange(T) * torch.tensor([[0], [1], [1]]) + torch.tensor([[2], [0], [1]])
    token_EBT = torch.stack([token_BT, token_BT.flip(1)]).clamp(max=T - 1)
    with torch.no_grad():
        out = core(p, ids, View({"token": token_EBT}))
        for e, b in ((0, 0), (0, 2), (1, 1)):
            own = {k: t[e : e + 1] for k, t in p.items()}
            one = core(own, ids[e : e + 1, b : b + 1], View({"token": token_EBT[e, b]}))
            if (gap := apart(out[e, b], one[0, 0])) > CLOSE:
                raise Broken(f"row {b} of trial {e}, with places of its own, is off by {gap:.2g}")
    return "each row's places are its own"


def _limit(part: Any, bench: Bench) -> str:
    limit, core = part.limit(), Transformer(model_with(part))

    def tables(start: int, T: int) -> Any:
        slots = {"slot": torch.arange(T)} if limit is None else {}  # no count of tokens
        return part.tables(core.dims, core.view(T, start=start, given=slots))

    if limit is None:
        far = tables(100_000, 2)
        if any(not t.double().isfinite().all() for t in far.values()):
            raise Broken("limit() is None, but tables() are not finite at token 100,000")
        return "no limit"
    tables(limit - 1, 1)
    try:
        tables(limit, 1)
    except ParibusError:
        return f"ends at {limit} tokens"
    raise Broken(f"limit() is {limit}, but tables() takes token {limit}; raise errors.Refused")


# ── scalings ────────────────────────────────────────────────────────────────────────────────


def _frequencies(part: Any, bench: Bench) -> str:
    """F numbers in float64, finite, none turning backwards; and what q and k are multiplied by."""
    F = Transformer(model_with(part)).dims.head_dim // 2
    own_F = 1e4 ** -(torch.arange(F, dtype=torch.float64) / F)
    kept = own_F.clone()
    found = part.frequencies(own_F, 1e4)
    if found.dtype != torch.float64 or tuple(found.shape) != (F,):
        raise Broken(f"frequencies() gives {tuple(found.shape)} in {found.dtype}, not F in float64")
    if not (found.isfinite().all() and (found >= 0).all()):
        raise Broken(f"frequencies() gives {found.tolist()}; they are finite and 0 at least")
    if not torch.equal(own_F, kept):
        raise Broken("frequencies() changes what it is given")
    a, n = part.attention_factor(), part.untouched()
    if not (isinstance(a, float) and math.isfinite(a) and a > 0 and isinstance(n, int) and n >= 0):
        raise Broken(f"attention_factor() = {a!r}, untouched() = {n!r}: above 0, and 0 at least")
    return f"{F} frequencies; q and k times {a:.4g}"


# ── masks ───────────────────────────────────────────────────────────────────────────────────


def allowed(part: Any, layer: int, T: int) -> Tensor:
    """The predicate as a matrix [T,S]."""
    plain = torch.arange(T)
    q, k = wide(View({"index": plain, "token": plain, **given(part, T)}))
    found = part.allowed(layer, q, k)
    if found.dtype != torch.bool:
        raise Broken(f"allowed() gives {found.dtype}; a mask is boolean")
    return found.expand(1, 1, 1, T, T)[0, 0, 0]


class _Shifted:
    """A mask as a one-layer model sees it, at another layer's number."""

    def __init__(self, part: Any, layer: int) -> None:
        self.part, self.layer = part, layer
        self.sdpa, self.per_layer = part.sdpa, part.per_layer

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        return self.part.allowed(self.layer, q, k)


def _reachable(part: Any, bench: Bench) -> str:
    """∂ out_i / ∂ in_j of one layer is zero exactly where the predicate says so."""
    T = 12
    one = {"layers": 1, "position": None, "read_in": "vectors", "in_dim": 8, "read_out": "scalar"}
    model = model_with(part, **one)
    view = view_of(model, T)
    for layer in (0, 1):
        reads = allowed(part, layer, T) | torch.eye(T, dtype=torch.bool)  # the residual's own
        for kernel in ("sdpa", "reference"):
            core = Transformer(model)
            core.mask = _Shifted(part, layer)  # type: ignore[assignment]
            x = torch.from_numpy(rng.Stream(0, "contract", "x").normal(T * 8)).float()
            x = x.view(1, 1, T, 8).requires_grad_()
            out_T = core(drawn(model, [0]), x, view, kernel=kernel)[0, 0]
            for i in range(T):
                (g,) = torch.autograd.grad(out_T[i], x, retain_graph=True)
                seen = g[0, 0].abs().amax(-1) > 0
                if not torch.equal(seen, reads[i]):
                    j = int((seen != reads[i]).nonzero()[0])
                    raise Broken(
                        f"in layer {layer} query {i} {'reads' if seen[j] else 'does not read'} key "
                        f"{j} ({kernel} kernel), and allowed() says otherwise"
                    )
    return "gradients reach what allowed() says, and nothing else"


def _promise(part: Any, bench: Bench) -> str:
    T = 11
    whole = torch.ones(T, T, dtype=torch.bool)
    first = allowed(part, 0, T)
    for layer in range(3):
        found = allowed(part, layer, T)
        if not part.per_layer and not torch.equal(found, first):
            raise Broken(
                f"layer {layer} allows other keys than layer 0; say `per_layer: ClassVar[bool] = "
                "True`, or every layer is given what layer 0 allows"
            )
        if part.sdpa is not None and part.sdpa not in ("causal", "full"):
            raise Broken(f'sdpa = {part.sdpa!r}; it is "causal", "full" or None')
        if part.sdpa is not None:
            promised = whole.tril() if part.sdpa == "causal" else whole
            if not torch.equal(found, promised):
                i, j = (found != promised).nonzero()[0].tolist()
                raise Broken(
                    f"sdpa = {part.sdpa!r}, but in layer {layer} allowed() differs from it at "
                    f"query {i}, key {j}; leave sdpa out, and the kernel is given the matrix"
                )
        mean = float(found.sum(1).double().mean())
        if part.mean_keys(T) < mean - 1e-9:
            raise Broken(f"mean_keys({T}) = {part.mean_keys(T):g}, but queries read {mean:g} keys")
    return f"sdpa = {part.sdpa!r} is kept"


def _causality(part: Any, bench: Bench) -> str:
    if not part.causal:
        return "says that it shows later tokens"
    for T in (7, 24):
        for layer in range(4):
            if (late := allowed(part, layer, T).triu(1)).any():
                i, j = late.nonzero()[0].tolist()
                raise Broken(
                    f"in layer {layer} query {i} reads key {j}, a later token: with it a model "
                    "reads what it must predict; compare k.index <= q.index, or if it is meant, "
                    "say `causal: ClassVar[bool] = False`"
                )
    return "no query reads a later token"


KINDS: dict[str, dict[str, Test]] = {
    "positions": {
        "tables": _tables, "limit": _limit, "cache": _cache, "places": _places, **MODEL,
    },
    "scales": {"cache": _cache},
    "scalings": {"frequencies": _frequencies, "cache": _cache, **MODEL},
    "masks": {
        "causality": _causality, "promise": _promise, "reachability": _reachable,
        "cache": _cache, **MODEL,
    },
}  # fmt: skip

"""What every part of a model promises, and more of norms, mlps, logit scales, memories,
mixers and init.

E trials of a stack, B rows, T tokens.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paribus import parts, presets, rng
from paribus.contracts import Position, View
from paribus.engine.contract import Bench, Broken, Skip, Test, stacks
from paribus.engine.updating import vectors
from paribus.errors import Refused, SpecError
from paribus.nn.cache import Cache
from paribus.nn.declare import declare, numbers
from paribus.nn.initialise import draw, initialise, rule
from paribus.nn.transformer import Transformer
from paribus.spec import InitScheme, Model

masks, mlps, optim, positions = (
    parts.Namespace(k) for k in ("masks", "mlps", "optim", "positions")
)
FIELDS = {"positions": ["position"], "masks": ["mask"], "norms": ["norm", "q_norm", "k_norm"]}
FIELDS |= {"mlps": ["mlp"], "scales": ["logit_scale"]}
FIELDS |= {"memories": ["memory"], "mixers": ["mixer"]}
VOCAB, LENGTH = 61, 20
# Large enough for attention to vary with its logits.
WIDE = InitScheme(every=parts.get("init", "gpt2")(std=0.2))  # type: ignore[arg-type, call-arg]
CLOSE = 1e-5

# ── small models around a part ──────────────────────────────────────────────────────────────


def model_with(part: Any = None, **fields: Any) -> Model:
    """Two layers of width 32; hidden sizes are multiples of 32, which bit-equality needs."""
    if part is not None and part.kind == "scalings":
        part = positions.rope(scaling=part)
    own = dict.fromkeys(FIELDS[part.kind], part) if part is not None else {}
    small = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": VOCAB}
    return presets.llama(**{**small, "mlp": mlps.swiglu(multiple=32), **own, **fields})


DIMS = numbers(model_with()).dims()


def length_of(part: Any) -> int:
    limit = part.limit() if isinstance(part, Position) else None
    return min(LENGTH, limit or LENGTH)


def tokens(seeds: list[int], T: int, rows: int = 3) -> Tensor:
    """Ids [E,B,T]; each trial's are its own."""
    each = [rng.Stream(s, "contract", "ids").integers(rows * T, VOCAB) for s in seeds]
    return torch.stack([torch.from_numpy(x).view(rows, T) for x in each])


def drawn(model: Model, seeds: list[int], grad: bool = True) -> dict[str, Tensor]:
    return {k: t.requires_grad_(grad) for k, t in initialise(model, WIDE, seeds).items()}


def given(part: Any, T: int) -> dict[str, Tensor]:
    """Coordinates beyond index and token, where a mask asks for them: segments, branches."""
    plain = torch.arange(T)
    more = {"segment": plain * 2 // T, "branch": plain % 2, "time": plain // 2, "main": plain * 0}
    more |= {"row": plain * 0, "step": plain}
    more |= {"block": plain // 4, "slot": plain % 4, "summary": (plain % 4 == 3).long()}
    for extra in ({}, more):
        try:
            part.allowed(0, *wide(View({"index": plain, "token": plain, **extra})))
        except SpecError:
            if extra:
                raise
        else:
            return dict(extra)
    raise AssertionError


def wide(view: View) -> tuple[View, View]:
    """Coordinates [T] as those of queries and of keys."""
    q = view.map(lambda c: c.view(1, 1, 1, -1, 1))
    return q, q.map(lambda c: c.transpose(-1, -2))


def view_of(model: Model, T: int) -> View | None:
    more = given(model.mask, T)
    return View(more) if more else None


def grads_of(
    models: list[Model], seeds: list[int], T: int, **how: Any
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """(loss_E, gradients [E, …], logits) of one step of a stack."""
    core, p = Transformer(models[0]), drawn(models[0], seeds)
    if any(m != models[0] for m in models):
        how["tables"] = core.tables(core.view(T), models)
    ids = tokens(seeds, T + 1)
    logits = core(p, ids[..., :-1], view_of(models[0], T), **how)
    nats = F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten(), reduction="none")
    loss_E = nats.view(len(seeds), -1).sum(1)
    found = torch.autograd.grad(loss_E.sum(), list(p.values()), allow_unused=True)
    grads = {
        k: torch.zeros_like(t) if g is None else g
        for (k, t), g in zip(p.items(), found, strict=True)
    }
    return loss_E.detach(), grads, logits.detach()


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the larger tensor but of 1 at least; NaN is infinite."""
    size = max(1.0, float(a.abs().max()), float(b.abs().max()))
    gap = float((a - b).abs().max()) / size
    return gap if math.isfinite(gap) else math.inf


# ── tests of all of them ────────────────────────────────────────────────────────────────────


def _kernels(part: Any, bench: Bench) -> str:
    """The fused kernel gives what the naive one gives."""
    T, worst = length_of(part), 0.0
    others = [masks.causal(), masks.full()] if isinstance(part, Position) else [None]
    for mask in others:
        model = model_with(part, **({} if mask is None else {"mask": mask}))
        if Transformer(model).replaced:
            try:
                grads_of([model], [0], T, kernel="sdpa")
            except Refused:
                return "replaces the scores, on the reference kernel alone"
            raise Broken("it replaces the scores, and the sdpa kernel runs without them")
        try:
            _, fused, logits = grads_of([model] * 2, [0, 1], T)
        except Refused as reason:
            raise Skip(str(reason)) from None
        _, naive, logits_ = grads_of([model] * 2, [0, 1], T, kernel="reference")
        size = max(float(g.abs().max()) for g in naive.values())
        gaps = {"logits": apart(logits, logits_)}
        gaps |= {k: apart(fused[k] / size, naive[k] / size) for k in naive}
        where = max(gaps, key=lambda k: gaps[k])
        if gaps[where] > CLOSE:
            raise Broken(f"the sdpa and reference kernels differ by {gaps[where]:.2g} in {where}")
        worst = max(worst, gaps[where], _flex(model, T, logits_))
    return f"reference, sdpa and flex agree to {worst:.1g}"


def _flex(model: Model, T: int, wanted: Tensor) -> float:
    """How far the flex kernel's outputs are off, which shows pairs of tokens to the part one by one
    (on the CPU it has no gradients); 0 where a learned bias must be written out."""
    core = Transformer(model)
    if not core.plain:
        return 0.0
    view = view_of(model, T)
    given_ = {} if view is None else dict(view.coordinates)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        ready = core.ready((2, 3, T), given_, kernel="flex")
        ids = tokens([0, 1], T + 1)[..., :-1]
        logits = core(drawn(model, [0, 1], False), ids, kernel="flex", ready=ready)
    if (gap := apart(logits, wanted)) > CLOSE:
        raise Broken(
            f"the flex and reference kernels differ by {gap:.2g}: there a bias or mask is given "
            "single tokens; write it with operations that broadcast, and read coordinates alone"
        )
    return gap


def _stack(part: Any, bench: Bench) -> str:
    """A stack equals its trials alone in every bit of losses and gradients."""
    T = length_of(part)
    exact = getattr(part, "hidden_size", lambda d: 0)(DIMS) % 32 == 0
    one: dict[tuple[Any, int], Any] = {}
    for stack in stacks(part):
        models, seeds = [model_with(p) for p in stack], list(range(len(stack)))
        loss, grads, logits = grads_of(models, seeds, T)
        for e, model in enumerate(models):
            if (stack[e], e) not in one:
                one[stack[e], e] = grads_of([model], [e], T)
            loss_, grads_, logits_ = one[stack[e], e]
            pairs = {"loss": (loss[e], loss_[0]), "logits": (logits[e], logits_[0])}
            pairs |= {f"gradient of {k}": (g[e], grads_[k][0]) for k, g in grads.items()}
            for what, (a, b) in pairs.items():
                # Where the hidden size is no multiple of 32, vectorised GELU and SiLU round the
                # last numbers of a row otherwise.
                if torch.equal(a, b) or (not exact and apart(a, b) < 1e-6):
                    continue
                raise Broken(
                    f"trial {e} in a stack of {len(stack)} is not bit-equal to the trial alone: "
                    f"{what}, by {apart(a, b):.1g}; never mix or reduce over the trial axis, and "
                    "read stackable fields in tables() alone"
                )
    return "in a stack as alone, to the bit" if exact else "in a stack as alone, to 1e-6"


def _finite(part: Any, bench: Bench) -> str:
    """Padding, and rows that may read nothing, leave outputs and gradients finite."""
    T = length_of(part)
    model = model_with(part)
    core, p = Transformer(model), drawn(model, [0, 1])
    valid = torch.ones(1, 3, T, dtype=torch.bool)
    valid[0, 0, : T // 3] = valid[0, 1, T // 2 :] = valid[0, 2] = False
    for kernel in ("reference",) if core.replaced else ("sdpa", "reference"):
        out = core(p, tokens([0, 1], T), view_of(model, T), valid_EBT=valid, kernel=kernel)
        if not out.isfinite().all():
            raise Broken(f"with padding the outputs are not finite ({kernel} kernel)")
        found = torch.autograd.grad(out.square().mean(), list(p.values()), allow_unused=True)
        for path, g in zip(p, found, strict=True):
            if g is not None and not g.isfinite().all():
                raise Broken(f"with padding the gradient of {path} is not finite ({kernel} kernel)")
    return "finite with padding and with rows that read nothing"


def _learns(part: Any, bench: Bench) -> str:
    """30 steps on one batch lower the loss, and gradients reach every parameter."""
    T = length_of(part)
    model = model_with(part)
    core, p = Transformer(model), drawn(model, [0])
    ids, view = tokens([0], T + 1), view_of(model, T)
    adam = optim.adam(lr=1e-2)
    state, reached, losses = adam.state(p, core.declared), dict.fromkeys(p, False), []
    for step in range(30):
        logits = core(p, ids[..., :-1], view)
        loss = F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten())
        losses.append(loss.item())
        found = torch.autograd.grad(loss, list(p.values()), allow_unused=True)
        grads = {
            k: torch.zeros_like(t) if g is None else g
            for (k, t), g in zip(p.items(), found, strict=True)
        }
        reached = {k: on or bool(grads[k].any()) for k, on in reached.items()}
        with torch.no_grad():
            adam.update(vectors([adam], step), p, grads, state, step, core.declared)
    if missed := [k for k, on in reached.items() if not on]:
        raise Broken(f"in 30 steps no gradient reached {', '.join(missed[:3])}")
    if not losses[-1] < losses[0] - 0.3:
        raise Broken(f"30 steps on a batch take the loss from {losses[0]:.3f} to {losses[-1]:.3f}")
    return f"30 steps take the loss from {losses[0]:.2f} to {losses[-1]:.2f}"


# ── norms, mlps, scales, init ───────────────────────────────────────────────────────────────


def _inputs(shape: tuple[int, ...]) -> Tensor:
    n = math.prod(shape)
    return torch.from_numpy(rng.Stream(0, "contract", "x").normal(n)).float().view(shape)


def _weights(declared: Mapping[str, Any], E: int) -> dict[str, Tensor]:
    out = {}
    for name, p in declared.items():
        each = [draw(rule(p, WIDE, DIMS), p.shape, e, name).float() for e in range(E)]
        out[name] = torch.stack(each)
    return out


def _norm_shape(part: Any, bench: Bench) -> str:
    for n in (8, 32):
        p = _weights(part.params(n), 2)
        wide = {k: t.view(2, 1, 1, -1) for k, t in p.items()}
        for x in (_inputs((2, 3, 5, n)), torch.zeros(2, 3, 5, n)):
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                given = x.to(dtype).requires_grad_()
                y = part.forward(wide, given)
                if y.shape != x.shape:
                    raise Broken(f"it turns {tuple(x.shape)} into {tuple(y.shape)}")
                if y.dtype != torch.promote_types(dtype, torch.float32):
                    raise Broken(f"for {dtype} it gives {y.dtype}; it is fp32 at least")
                (g,) = torch.autograd.grad(y.sum(), given)
                if not (y.isfinite().all() and g.isfinite().all()):
                    raise Broken("for zeros its output or gradient is not finite; add an eps")
        x, y = _inputs((2, 3, 5, n)), _inputs((2, 3, 5, n)).flip(2)
        both, normed = part.added(wide, x, y)
        if not (both.equal(x + y) and torch.allclose(normed, part.forward(wide, x + y), atol=1e-5)):
            raise Broken("`added` gives other numbers than x + y and `forward` of it")
    return "keeps shapes; finite at zero"


def _mlp_shape(part: Any, bench: Bench) -> str:
    d = DIMS
    hidden = part.hidden_size(d)
    declared = part.params(d)
    if not any(hidden in p.shape for p in declared.values()):
        raise Broken(f"hidden_size is {hidden}, but no parameter has it: FLOPs would be wrong")
    x = _inputs((2, 3, 5, d.width))
    y = part.forward(_weights(declared, 2), x)
    if y.shape != x.shape:
        raise Broken(f"it turns {tuple(x.shape)} into {tuple(y.shape)}")
    if not torch.equal(y[:, 1:, 2:], part.forward(_weights(declared, 2), x)[:, 1:, 2:]):
        raise Broken("called twice it gives two answers")
    moved = x.clone()
    moved[:, :, 0] += 1
    if apart(part.forward(_weights(declared, 2), moved)[:, :, 1:], y[:, :, 1:]) > 1e-6:
        raise Broken("a token's output depends on another token; it must act on each alone")
    return f"hidden size {hidden}"


def _scale(part: Any, bench: Bench) -> str:
    x = part.factor(DIMS)
    if not (isinstance(x, float) and math.isfinite(x) and x > 0):
        raise Broken(f"factor() = {x!r}; it must be a finite float above 0")
    if part.queries is not None:
        token = torch.tensor([0, 1, 7, 100_000]).view(1, 1, -1)
        more = part.queries(View({"token": token, "index": token}))
        fine = more.dtype == torch.float64 and tuple(more.shape) == (1, 1, 4)
        if not (fine and more.isfinite().all() and (more > 0).all()):
            raise Broken("queries() must give float64 above 0 in the shape of pos.token")
    return f"{x:.4g} for heads of 8"


def _roles() -> Model:
    """A model with every role: biases, gains, an untied head, a learned position."""
    learned = parts.get("positions", "learned")(length=64)  # type: ignore[call-arg]
    return presets.gpt2(width=64, layers=2, heads=4, vocab=256, position=learned, tied=False)


def _moments(part: Any, bench: Bench) -> str:
    model, scheme = _roles(), InitScheme(every=part)
    dims, values = Transformer(model).dims, initialise(model, scheme, [5], torch.float64)
    for path, p in declare(model).items():
        if p.init is not None:
            continue
        kind, x = part.rule(p, dims)
        if kind not in ("normal", "uniform", "constant") or not math.isfinite(x):
            raise Broken(f"rule() of {path} gives {(kind, x)!r}")
        if kind != "constant" and x <= 0:
            raise Broken(f"rule() of {path} gives {(kind, x)!r}; its spread must be above 0")
        if values[path][0].shape != p.shape:
            raise Broken(
                f"made() turns {path} into {tuple(values[path][0].shape)}; it is {p.shape}"
            )
        t, std = values[path], {"normal": x, "uniform": x / 3**0.5, "constant": 0.0}[kind]
        slack, mean = 5 / t.numel() ** 0.5, x if kind == "constant" else 0.0
        if abs(float(t.mean()) - mean) > slack * std + 1e-12:
            raise Broken(f"{path}: mean {float(t.mean()):.3g} is not that of {(kind, x)!r}")
        if abs(float(t.std()) - std) > slack * std + 1e-12:
            raise Broken(f"{path}: deviation {float(t.std()):.3g} is not that of {(kind, x)!r}")
    return "each role has the moments of its rule"


def _keyed(part: Any, bench: Bench) -> str:
    """A parameter's values depend on the seed and its path, not on the rest of the model."""
    scheme, model = InitScheme(every=part), _roles()
    other = presets.llama(width=64, layers=2, heads=4, vocab=256, mlp=mlps.relu2(ratio=4.0))
    a, b = initialise(model, scheme, [3, 4]), initialise(other, scheme, [4])
    mine, theirs = declare(model), declare(other)
    shared = [k for k in mine.keys() & theirs.keys() if mine[k] == theirs[k]]
    assert len(shared) > 8
    for k in shared:
        if not torch.equal(a[k][1], b[k][0]):
            raise Broken(f"{k} is drawn otherwise in another model; rule() may read p and d alone")
    q = a["blocks.0.attn.q"]
    if torch.equal(q[0], q[1]) or torch.equal(q[0], a["blocks.1.attn.q"][0]):
        raise Broken("two seeds, or two layers, have the same queries; draw from a distribution")
    return f"{len(shared)} parameters are the same in two models"


# ── memories, mixers ────────────────────────────────────────────────────────────────────────


def _causal(part: Any, bench: Bench) -> str:
    """No token reads a later one, whatever the segments are."""
    T = length_of(part)
    core = Transformer(model_with(part))
    p, ids = drawn(core.model, [0], False), tokens([0], T)
    whole = core(p, ids)
    for t in (1, 5, 8, T - 1):
        changed = ids.clone()
        changed[..., t:] = (changed[..., t:] + 1) % VOCAB
        if apart(core(p, changed)[:, :, :t], whole[:, :, :t]) > 1e-5:
            raise Broken(f"tokens before {t} change with those from there on")
    return "no token reads a later one"


def _memory(part: Any, bench: Bench) -> str:
    if not (isinstance(part.segment, int) and part.segment > 0):
        raise Broken(f"segment = {part.segment!r}; it is the tokens of a segment")
    reach = part.field(DIMS, LENGTH, 4)
    if reach.direct is not None and not reach.direct > 0:
        raise Broken(f"field() gives {reach}; direct counts the reading token too")
    if reach.theoretical is not None and reach.theoretical < (reach.direct or LENGTH):
        raise Broken(f"field() gives {reach}; all layers see as far as one, at least")
    if not part.mean_keys(LENGTH) > 0:
        raise Broken("mean_keys() must be above 0")
    return f"sees {reach.direct} tokens in a layer, {reach.theoretical or 'all'} in all"


def _decodes(part: Any, bench: Bench) -> str:
    """Token by token through its state it gives what one pass gives; the state does not grow."""
    model = model_with(part)
    core, p, ids = (
        Transformer(model),
        drawn(model_with(part), [0, 1], False),
        tokens([0, 1], LENGTH),
    )
    cache, out, sizes = Cache(core.dims, 2, 3, LENGTH), [], []
    for t in range(LENGTH):
        out.append(core(p, ids[:, :, t : t + 1], cache=cache))
        sizes.append(cache.bytes)
    if (gap := apart(torch.cat(out, 2), core(p, ids))) > CLOSE:
        raise Broken(f"token by token its outputs are {gap:.2g} off those of one pass")
    told = 2 * 3 * DIMS.layers * part.state_bytes(DIMS, 4)
    if set(sizes) != {told}:
        raise Broken(f"its states hold {sizes[0]} to {sizes[-1]} bytes; state_bytes() says {told}")
    return f"decodes with {part.state_bytes(DIMS, 4)} bytes a layer"


MODEL: dict[str, Test] = {"kernels": _kernels, "stack": _stack, "finite": _finite}
MODEL |= {"learns": _learns}
KINDS: dict[str, dict[str, Test]] = {
    "norms": {"shape": _norm_shape, **MODEL},
    "mlps": {"shape": _mlp_shape, **MODEL},
    "scales": {"factor": _scale, **MODEL},
    "memories": {"field": _memory, "causal": _causal, **MODEL},
    "mixers": {"decodes": _decodes, "causal": _causal, **MODEL},
    "init": {"moments": _moments, "keyed": _keyed},
}

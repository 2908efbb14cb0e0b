"""Small models around one part, and what the tests of parts compare.  A user's own parts pass the
same checks: nothing here names a part."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paribus import parts, presets
from paribus.engine import contract
from paribus.errors import SpecError
from paribus.nn.cache import Cache
from paribus.nn.initialise import initialise
from paribus.nn.transformer import Transformer
from paribus.spec import InitScheme, Model

FIELDS = {"positions": "position", "masks": "mask", "norms": "norm", "mlps": "mlp"}
FIELDS |= {"scales": "logit_scale"}
VOCAB, LENGTH = 97, 24
INIT = InitScheme(every=parts.Namespace("init").gpt2(std=0.1))  # large enough for attention to vary


def part_of(cls: type) -> Any:
    return contract.examples(cls)[0]


def every_part(*kinds: str) -> list[Any]:
    """Parts of these kinds that plain tokens will do for; others are left to the contract's tests,
    which give coordinates, and to their own."""
    found = [part_of(cls) for kind in kinds or FIELDS for cls in parts.scan(kind)]
    return [part for part in found if _plain(part)]


def _plain(part: Any) -> bool:
    if part.kind != "masks":
        return True
    view = Transformer(model_with()).view(2)
    try:
        part.allowed(0, *(view.map(lambda c, i=i: c.unsqueeze(i)) for i in (3, 2)))
    except SpecError:  # of a coordinate that is not there
        return False
    return True


def model_with(part: Any = None, base: str = "llama", **overrides: Any) -> Model:
    """A two-layer model of width 64 with ``part`` in its place; hidden sizes are multiples of 32,
    which bit-equality of stacks needs."""
    fields = {} if part is None else {FIELDS[part.kind]: part}
    small = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": VOCAB}
    return getattr(presets, base)(**{**small, **fields, **overrides})


def tokens(seeds: list[int], rows: int = 3, length: int = LENGTH + 1) -> Tensor:
    def one(seed: int) -> Tensor:
        return torch.randint(
            0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed)
        )

    return torch.stack([one(s) for s in seeds])


def parameters(model: Model, seeds: list[int], dtype: torch.dtype = torch.float32) -> dict:
    return {k: t.requires_grad_() for k, t in initialise(model, INIT, seeds, dtype).items()}


def train_step(
    model: Model, seeds: list[int], *, models: list[Model] | None = None, **options: Any
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """(loss_E, gradients [E, …], logits) of one step of a stack."""
    core = Transformer(model)
    p = parameters(model, seeds)
    ids = tokens(seeds)
    if models is not None:
        options["tables"] = core.tables(core.view(LENGTH), models)
    logits = core(p, ids[..., :-1], **options)
    nll = F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten(), reduction="none")
    loss_E = nll.view(len(seeds), -1).sum(1)
    loss_E.sum().backward()
    zero = {k: torch.zeros_like(t) for k, t in p.items() if t.grad is None}
    return loss_E.detach(), {**{k: t.grad for k, t in p.items()}, **zero}, logits.detach()


def assert_stack_is_bit_equal(models: list[Model]) -> None:
    """A stack equals its trials trained alone, in every bit of losses and gradients."""
    seeds = list(range(len(models)))
    differ = any(m != models[0] for m in models)
    loss, grads, _ = train_step(models[0], seeds, models=models if differ else None)
    for i, m in enumerate(models):
        alone, own, _ = train_step(m, [i])
        assert torch.equal(loss[i], alone[0]), "loss"
        for path, g in grads.items():
            assert torch.equal(g[i], own[path][0]), path


def assert_kernels_agree(model: Model) -> None:
    """The fused kernel gives what the naive reference gives, forward and backward."""
    _, grads, logits = train_step(model, [0, 1])
    _, grads_, logits_ = train_step(model, [0, 1], kernel="reference")
    torch.testing.assert_close(logits, logits_, atol=1e-5, rtol=1e-5)
    size = max(g.abs().max() for g in grads_.values())
    for path, g in grads.items():
        torch.testing.assert_close(g, grads_[path], atol=1e-5 * float(size), rtol=1e-4, msg=path)


def assert_cache_is_full_forward(model: Model) -> None:
    """Prefill, a chunk and single tokens give the logits of one pass."""
    core = Transformer(model)
    p = {k: t.detach() for k, t in parameters(model, [0, 1]).items()}
    ids = tokens([0, 1])
    whole = core(p, ids)
    cache, pieces = Cache(core.dims, 2, ids.shape[1], ids.shape[2]), []
    for piece in ids.split([9, 5, *[1] * (ids.shape[2] - 14)], 2):
        pieces.append(core(p, piece, cache=cache))
    torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=1e-5, rtol=1e-5)


def assert_mask_is_reachability(part: Any, kernel: str = "sdpa") -> None:
    """d out_i / d in_j is zero exactly where no chain of allowed reads leads from i to j."""
    T = 12
    model = model_with(part, read_in="vectors", in_dim=8, read_out="scalar", position=None)
    core = Transformer(model)
    p = parameters(model, [0])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, T, 8, generator=generator).requires_grad_()
    out_T = core(p, x, kernel=kernel)[0, 0]
    view = core.view(T)
    q = view.map(lambda c: c[:, :, None, :, None])
    k = view.map(lambda c: c[:, :, None, None, :])
    reach = torch.eye(T, dtype=torch.bool)
    for layer in range(model.layers):
        step = part.allowed(layer, q, k)[0, 0, 0] | torch.eye(T, dtype=torch.bool)
        reach = (step.float() @ reach.float()) > 0
    for i in range(T):
        (g,) = torch.autograd.grad(out_T[i], x, retain_graph=True)
        assert torch.equal(g[0, 0].abs().amax(-1) > 0, reach[i]), f"query {i}"

"""The model as a whole: precision, views, remembered patterns, generation."""

from __future__ import annotations

import pytest
import torch

from paribus import parts
from paribus.contracts import View
from paribus.errors import Refused, SpecError
from paribus.nn.cache import Cache, generate
from paribus.nn.transformer import Transformer
from tests.nn.models import every_part, model_with, parameters, tokens

positions, norms = parts.Namespace("positions"), parts.Namespace("norms")


@pytest.mark.parametrize("part", [None, *every_part("positions")], ids=lambda p: p and p.name)
def test_compute_dtypes(part):
    core = Transformer(model_with(part) if part else model_with(None, position=None))
    p = parameters(core.model, [0, 1], torch.float64)
    exact = core(p, tokens([0, 1]))
    assert exact.dtype == torch.float64
    single = {k: t.detach().float().requires_grad_() for k, t in p.items()}
    torch.testing.assert_close(core(single, tokens([0, 1])).double(), exact, atol=1e-4, rtol=1e-4)
    for kernel in ("reference",) if core.replaced else ("sdpa", "reference"):
        low = core(single, tokens([0, 1]), dtype=torch.bfloat16, kernel=kernel)
        assert low.dtype == torch.float32
        assert (low - exact).norm() < 0.05 * exact.norm()
    low.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in single.values())


def test_temperature_multiplies_q_and_k():
    norm = norms.rmsnorm(gain=False)
    both = {"q_norm": norm, "k_norm": norm, "position": None}
    hot = Transformer(model_with(None, temperature=1.5, **both))
    fixed = parts.Namespace("scales").fixed(value=2.25 * 16**-0.5)
    same = Transformer(model_with(None, logit_scale=fixed, **both))
    p = parameters(hot.model, [0])
    torch.testing.assert_close(hot(p, tokens([0])), same(p, tokens([0])))


def test_inference_mode_leaves_nothing_behind():
    """What an evaluation remembers serves a training step afterwards."""
    mask = parts.Namespace("masks").sliding_window(size=5)
    for position in every_part("positions"):
        core = Transformer(model_with(position, mask=mask))
        p = parameters(core.model, [0])
        with torch.inference_mode():
            before = core(p, tokens([0])).clone()
        after = core(p, tokens([0]))
        after.sum().backward()
        torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_rows_may_have_their_own_coordinates():
    """Each row's tokens and tables are its own, and so are each trial's."""
    for position in every_part("positions"):
        core = Transformer(model_with(position))
        p, ids = parameters(core.model, [0, 1]), tokens([0, 1])
        token = torch.arange(25) * torch.tensor([[0], [1], [1]]) + torch.tensor([[2], [0], [5]])
        token = torch.stack([token, token.flip(1)]).clamp(max=31)
        out = core(p, ids, View({"token": token}))
        for e in range(2):
            for b in range(3):
                own = {k: t[e : e + 1] for k, t in p.items()}
                one = core(own, ids[e : e + 1, b : b + 1], View({"token": token[e, b]}))
                torch.testing.assert_close(out[e, b], one[0, 0], atol=1e-5, rtol=1e-4)


def test_missing_coordinates_are_named():
    with pytest.raises(SpecError, match="branch, index, main, slot, time, token"):
        Transformer(model_with()).view(3).segment  # noqa: B018


def test_generation_is_argmax_of_the_full_pass():
    core = Transformer(model_with())
    p = {k: t.detach() for k, t in parameters(core.model, [0, 1]).items()}
    prompts = tokens([0, 1])[..., :7]
    new = generate(core, p, prompts, 6)
    assert new.shape == (2, 3, 6)
    ids = torch.cat([prompts, new], 2)
    assert torch.equal(core(p, ids[..., :-1])[:, :, 6:].argmax(-1), new)
    how = {"temperature": 1.0, "top_p": 0.9, "seeds": [5, 6]}
    warm = generate(core, p, prompts, 6, **how)
    assert torch.equal(warm, generate(core, p, prompts, 6, **how))
    assert not torch.equal(warm, new)
    later = generate(core, p, prompts[:, 1:], 6, first_row=1, **how)
    assert torch.equal(later, warm[:, 1:]), "a draw is keyed by the global row"
    assert torch.equal(generate(core, p, prompts, 6, temperature=1.0, top_p=1e-9), new)


def test_sampling_follows_the_probabilities():
    from paribus.nn.cache import _sample

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = _sample(logits.expand(1, 10_000, 4), 1.0, u[None])[0]
    assert drawn.bincount().tolist() == [5000, 3000, 1500, 500]
    drawn = _sample(logits.expand(1, 10_000, 4), 0.7, u[None])[0]
    assert drawn.bincount().tolist() == [6250, 3750]


def test_a_full_cache_refuses():
    core = Transformer(model_with())
    p = parameters(core.model, [0])
    with pytest.raises(Refused, match="holds 20"), torch.no_grad():
        core(p, tokens([0]), cache=Cache(core.dims, 1, 3, 20))


def test_padded_prompts_through_the_cache():
    core = Transformer(model_with(positions.alibi()))
    p = {k: t.detach() for k, t in parameters(core.model, [0, 1]).items()}
    ids = tokens([0, 1])
    valid = torch.ones(1, *ids.shape[1:], dtype=torch.bool)
    valid[0, 1, :4] = False
    whole = core(p, ids, valid_EBT=valid)
    cache = Cache(core.dims, 2, 3, 25)
    out = [core(p, ids[..., :10], valid_EBT=valid[..., :10], cache=cache)]
    out += [core(p, ids[..., i : i + 1], cache=cache) for i in range(10, 25)]
    torch.testing.assert_close(torch.cat(out, 2), whole, atol=1e-5, rtol=1e-5)


class Alternating:
    """Every other layer reads the last two tokens alone; it does not say that layers differ."""

    name, per_layer = "alternating", False

    def allowed(self, layer, q, k):
        earlier = k.index <= q.index
        return earlier & (q.index - k.index < 2) if layer % 2 else earlier


def test_a_mask_whose_layers_differ_in_silence_is_refused():
    core = Transformer(model_with())
    core.mask = Alternating()
    with pytest.raises(Refused, match="per_layer"):
        core._refuse_differing_layers()
    core.mask.per_layer = True
    core._refuse_differing_layers()

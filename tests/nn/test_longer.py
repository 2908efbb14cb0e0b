"""Beyond the trained length: a cache gives what a full pass gives, across the old boundary; and
where it cannot."""

from __future__ import annotations

import pytest
import torch

from paribus import parts
from paribus.contracts import View
from paribus.errors import SpecError
from paribus.nn.cache import Cache
from paribus.nn.transformer import Transformer
from tests.nn.models import model_with, parameters, tokens

positions, scalings, scales = (parts.Namespace(k) for k in ("positions", "scalings", "scales"))
OLD, LONG = 24, 96
FACTORS = tuple(1 + 0.4 * i for i in range(8))
STATIC = {
    "pi": scalings.pi(factor=4.0),
    "ntk": scalings.ntk(factor=4.0),
    "document": scalings.ntk(multiplier=13.0),
    "abf": scalings.abf(to=5e5),
    "by-parts": scalings.ntk_by_parts(factor=4.0, original=OLD, beta_fast=4.0),
    "yarn": scalings.yarn(factor=4.0, original=OLD, beta_fast=4.0),
    "llama3": scalings.llama3(factor=4.0, original=OLD),
    "longrope": scalings.longrope(factor=4.0, original=OLD, long=FACTORS, start=3, length=LONG),
}
DYNAMIC = {
    "dynamic-ntk": scalings.dynamic_ntk(factor=4.0, original=OLD, length=LONG),
    "dynamic-yarn": scalings.dynamic_yarn(original=OLD, beta_fast=4.0, length=LONG),
}
MODELS = {name: {"position": positions.rope(scaling=s)} for name, s in (STATIC | DYNAMIC).items()}
MODELS |= {
    "partial": {"position": positions.rope(fraction=0.5, scaling=STATIC["yarn"])},
    "p-rope": {"position": positions.rope(p=0.5)},
    "alibi": {"position": positions.alibi()},
    "kerple": {"position": positions.kerple()},
    "t5": {"position": positions.t5(buckets=8, longest=48)},
    "fire": {"position": positions.fire(original=OLD)},
    "cope": {"position": positions.cope(positions=16, std=0.3)},
    "growing": {"position": positions.growing(scaling=DYNAMIC["dynamic-ntk"])},
    "nope": {"position": None},
    "nope-log-n": {"position": None, "logit_scale": scales.log_n(original=OLD)},
}


def decoded(core, p, ids, size):
    """Logits [E,B,T,V] of chunks of ``size`` tokens through a cache."""
    cache = Cache(core.dims, ids.shape[0], ids.shape[1], ids.shape[2])
    return torch.cat([core(p, chunk, cache=cache) for chunk in ids.split(size, 2)], 2)


@pytest.mark.parametrize("name", MODELS)
def test_a_cache_is_a_full_pass_across_the_old_boundary(name):
    core = Transformer(model_with(None, **MODELS[name]))
    p = {k: t.detach() for k, t in parameters(core.model, [0]).items()}
    ids = tokens([0], rows=2, length=LONG)
    with torch.no_grad():
        whole = core(p, ids)
        for size in (1, 7, 64):
            assert (decoded(core, p, ids, size) - whole).abs().max() < 1e-4, size
        if name not in ("growing", "cope"):
            assert (core(p, ids[..., :OLD]) - whole[:, :, :OLD]).abs().max() < 1e-4


@pytest.mark.parametrize("name", STATIC)
def test_a_cache_is_a_full_pass_in_bf16(name):
    core = Transformer(model_with(None, **MODELS[name]))
    p = {k: t.detach() for k, t in parameters(core.model, [0]).items()}
    ids, low = tokens([0], rows=2, length=LONG), torch.bfloat16
    with torch.no_grad():
        whole = core(p, ids, dtype=low)
        cache = Cache(core.dims, 1, 2, LONG)
        parts_ = [core(p, chunk, cache=cache, dtype=low) for chunk in ids.split(7, 2)]
    assert (torch.cat(parts_, 2) - whole).abs().max() < 3e-2 * max(1.0, float(whole.abs().max()))


@pytest.mark.parametrize("name", STATIC)
def test_longer_rows_change_no_table_of_what_was_there(name):
    core = Transformer(model_with(None, **MODELS[name]))
    short, long = (
        core.tables(View({n: torch.arange(size).view(1, 1, -1) for n in ("index", "token")}))
        for size in (OLD, LONG)
    )
    assert all(torch.equal(table, long[n][:, :, :OLD]) for n, table in short.items())


def test_coordinates_of_few_bits_are_refused():
    """bf16 has 8 bits: of 32,768 places it tells 1,153 apart.  Tables are made in float64 and then
    cast, so that computing in bf16 costs no place."""
    places = torch.arange(32_768)
    assert len(places.bfloat16().unique()) == 1153
    core = Transformer(model_with(positions.rope()))
    row, few = places.view(1, 1, -1), places.bfloat16().view(1, 1, -1)
    with pytest.raises(SpecError, match="do not tell places apart"):
        core.tables(View({"index": row, "token": few}))
    view = View({"index": row, "token": row})
    cast, fine = (core.tables(view, dtype=d) for d in (torch.bfloat16, torch.float64))
    for name, table in fine.items():
        assert (cast[name].double() - table).abs().max() < 2e-3


def test_log_n_is_plain_up_to_the_old_length():
    core = Transformer(model_with(None, position=None, logit_scale=scales.log_n(original=OLD)))
    plain = Transformer(model_with(None, position=None))
    p = {k: t.detach() for k, t in parameters(core.model, [0]).items()}
    ids = tokens([0], length=LONG)
    gap = (core(p, ids) - plain(p, ids)).abs().amax((0, 1, 3))
    assert gap[:OLD].max() < 1e-6
    assert gap[OLD + 4 :].min() > 1e-6
    # The last query of one layer: its logits times ln(96)/ln(24), which a fixed factor gives too.
    one = {"layers": 1, "position": None}
    more = torch.tensor(LONG).log() / torch.tensor(OLD).log()
    fixed = scales.fixed(value=float(more) * 16**-0.5)
    a, b = (
        Transformer(model_with(None, logit_scale=s, **one))
        for s in (scales.log_n(original=OLD), fixed)
    )
    last = [core(p, ids)[:, :, -1] for core in (a, b)]
    torch.testing.assert_close(*last, atol=1e-5, rtol=1e-5)


# ── dynamic forms ───────────────────────────────────────────────────────────────────────────


def both(layers, name="dynamic-ntk"):
    """The last token's logits of one pass at ``LONG`` and of decoding with keys that are turned
    anew at every token, and the two models."""
    scaling = DYNAMIC[name]
    fixed, growing = (
        Transformer(model_with(part, layers=layers, heads=4, kv_heads=2))
        for part in (positions.rope(scaling=scaling), positions.growing(scaling=scaling))
    )
    p = {k: t.detach() for k, t in parameters(fixed.model, [0]).items()}
    ids = tokens([0], rows=2, length=LONG)
    with torch.no_grad():
        whole = fixed(p, ids)[:, :, -1]
        stepped = decoded(growing, p, ids, 1)[:, :, -1]
    return (whole - stepped).abs().max(), p, ids, fixed


@pytest.mark.parametrize("name", DYNAMIC)
def test_keys_turned_anew_are_a_full_pass_in_one_layer(name):
    assert both(1, name)[0] < 1e-4


def test_in_two_layers_they_are_not():
    """Deeper keys and values were made while rows were shorter."""
    assert both(2)[0] > 1e-2


def test_turned_keys_in_the_cache_are_no_full_pass():
    """The negative control: θ of the row so far, keys kept as they were turned (Hugging Face)."""
    _, p, ids, fixed = both(1)
    cache = Cache(fixed.dims, 1, 2, LONG)
    with torch.no_grad():
        whole = fixed(p, ids)[:, :, -1]
        for i in range(LONG):
            position = positions.rope(scaling=DYNAMIC["dynamic-ntk"].fitted(i + 1))
            step = Transformer(model_with(position, layers=1))
            out = step(p, ids[..., i : i + 1], cache=cache)[:, :, -1]
    assert (out - whole).abs().max() > 1e-2

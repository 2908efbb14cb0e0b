"""Scalings of RoPE: frequencies against Hugging Face's and against closed forms in float64, and
what the attention temperature does.

F pairs, d head size; original = 2,048 where nothing else is said.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from paribus import parts
from paribus.contracts import View
from paribus.engine.contract import examples
from paribus.errors import SpecError
from paribus.nn.declare import numbers
from paribus.nn.transformer import Transformer
from paribus.parts import dump
from paribus.spec import Spec, load, pack_key, resolve
from paribus.study.cells import evaluated
from tests.nn.models import model_with, parameters, tokens

positions, scalings, norms = (parts.Namespace(k) for k in ("positions", "scalings", "norms"))
ORIGINAL = 2048
DIMS = {d: numbers(model_with(head_dim=d)).dims() for d in (16, 64, 128)}


def theta(scaling, d=128, base=1e4, **rope):
    """The frequencies that a model gets."""
    part = positions.rope(base=base, scaling=scaling, **rope)
    return part.frequencies(DIMS[d])[0].numpy()


def own(d=128, base=1e4):
    return np.array([base ** (-2 * i / d) for i in range(d // 2)])


# ── Hugging Face ────────────────────────────────────────────────────────────────────────────


def hugging_face(kind, d, base, length=None, longest=ORIGINAL, **fields):
    """(inverse frequencies in fp32, attention factor) of transformers."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": kind, "rope_theta": base, **fields}
    config = transformers.LlamaConfig(
        hidden_size=2 * d,
        num_attention_heads=2,
        head_dim=d,
        max_position_embeddings=longest,
        rope_parameters=rope,
    )
    found, factor = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)
    return found.double().numpy(), factor


def cases():
    """Plain, linear, dynamic, YaRN, Llama 3's and LongRoPE's forms: 222 of the 240 vectors of
    reference (18 are proportional), and YaRN with bounds and temperatures of its own."""
    for d, base in product((16, 64, 128), (1e4, 5e5)):
        yield "linear", d, base, {"factor": 1.0}, None
    for d, base, s in product((16, 64, 128), (1e4, 5e5), (2.0, 4.0, 8.0, 16.0)):
        old = {"factor": s, "original_max_position_embeddings": ORIGINAL}
        mine = {"factor": s, "original": ORIGINAL}
        yield "linear", d, base, {"factor": s}, scalings.pi(factor=s)
        for length in (ORIGINAL, 4096, int(s * ORIGINAL)):
            fields = {"factor": s, "length": length}
            yield "dynamic", d, base, fields, scalings.dynamic_ntk(**mine, length=length)
            factors = {
                "long_factor": [1 + (s - 1) * i / (d // 2) for i in range(d // 2)],
                "short_factor": [1 + 0.01 * i for i in range(d // 2)],
            }
            ours = {k.removesuffix("_factor"): tuple(v) for k, v in factors.items()}
            longrope = scalings.longrope(**mine, **ours, length=length)
            yield "longrope", d, base, {**old, **factors, "length": length}, longrope
        for truncate in (True, False):
            yarn = scalings.yarn(**mine, truncate=truncate)
            yield "yarn", d, base, {**old, "truncate": truncate}, yarn
        bounds = {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.3}
        yield "yarn", d, base, {**old, **bounds}, scalings.yarn(**mine, **bounds)
        yield (
            "yarn",
            d,
            base,
            {**old, "attention_factor": 1.5},
            scalings.yarn(**mine, temperature=1.5),
        )
        ends = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        yield "llama3", d, base, {**old, **ends}, scalings.llama3(**mine)


def test_frequencies_and_temperatures_are_hugging_face_s():
    """Theirs are computed in fp32, hence 2e-6."""
    seen = set()
    for kind, d, base, fields, ours in cases():
        want, factor = hugging_face(kind, d, base, **fields)
        np.testing.assert_allclose(theta(ours, d, base), want, rtol=2e-6, err_msg=str(ours))
        own_factor = 1.0 if ours is None else ours.attention_factor()
        assert own_factor == pytest.approx(factor, abs=1e-7), ours
        seen.add(kind)
    assert seen == {"linear", "dynamic", "longrope", "yarn", "llama3"}


def test_partial_and_proportional_rope_are_hugging_face_s():
    for d, base, p in product((16, 64, 128), (1e4, 5e5), (0.25, 0.5, 0.75)):
        want, _ = hugging_face("proportional", d, base, partial_rotary_factor=p)
        np.testing.assert_allclose(theta(None, d, base, p=p), want, rtol=2e-6)
        want, _ = hugging_face("linear", d, base, partial_rotary_factor=p, factor=1.0)
        np.testing.assert_allclose(theta(None, d, base, fraction=p), want, rtol=2e-6)


# ── closed forms ────────────────────────────────────────────────────────────────────────────


def test_static_ntk():
    np.testing.assert_allclose(
        theta(scalings.ntk(factor=4.0)), own(base=1e4 * 4 ** (128 / 126)), rtol=1e-12
    )
    assert pytest.approx(40_889.942, abs=0.01) == 1e4 * 4 ** (128 / 126)
    documents = theta(scalings.ntk(multiplier=13.0))
    np.testing.assert_allclose(documents, own(base=135_401.973), rtol=1e-8)
    frozen = scalings.dynamic_ntk(factor=4.0, original=ORIGINAL, length=4 * ORIGINAL)
    np.testing.assert_allclose(documents, theta(frozen), rtol=1e-12)
    for s in (2.0, 4.0, 16.0):
        found = theta(scalings.ntk(factor=s))
        assert found[0] == 1
        assert found[-1] == pytest.approx(own()[-1] / s, rel=1e-12)
    for wrong in ({}, {"factor": 4.0, "multiplier": 13.0}):
        with pytest.raises(SpecError, match="one of them"):
            scalings.ntk(**wrong)


def test_by_parts_is_the_paper_s_ramp():
    def gamma(r):
        return min(1.0, max(0.0, (r - 1) / 31))

    want = []
    for t in own():
        g = gamma(ORIGINAL * t / (2 * math.pi))
        want.append((1 - g) * t / 4 + g * t)
    part = scalings.ntk_by_parts(factor=4.0, original=ORIGINAL)
    np.testing.assert_allclose(theta(part), want, rtol=1e-12)
    rotation = scalings.yarn(factor=4.0, original=ORIGINAL, ramp="rotation")
    assert (theta(rotation) == theta(part)).all()
    assert part.attention_factor() == 1.0
    assert gamma(ORIGINAL * own()[24] / (2 * math.pi)) == pytest.approx(0.3002, abs=1e-4)
    ratio = theta(scalings.yarn(factor=4.0, original=ORIGINAL)) / theta(rotation)
    assert ratio.argmax() == 29
    assert ratio.max() == pytest.approx(1.757, abs=1e-3)


@pytest.mark.parametrize(("d", "low", "high"), [(128, 16, 41), (64, 8, 21)])
def test_yarn_has_three_parts(d, low, high):
    part = scalings.yarn(factor=4.0, original=ORIGINAL)
    found = theta(part, d) / own(d)
    assert (found[: low + 1] == 1).all()
    np.testing.assert_allclose(found[high:], 0.25, rtol=1e-15)
    assert (np.diff(found[low : high + 1]) < 0).all()
    ramp = (np.arange(d // 2) - low) / (high - low)
    np.testing.assert_allclose(found, 1 - 0.75 * ramp.clip(0, 1), rtol=1e-12)
    for s, a in {4.0: 1.138629436, 8.0: 1.207944154, 16.0: 1.277258872}.items():
        own_ = scalings.yarn(factor=s, original=ORIGINAL).attention_factor()
        assert own_ == pytest.approx(a, abs=1e-9)


def test_longrope():
    part = scalings.longrope(
        factor=4.0, original=ORIGINAL, long=tuple(np.linspace(1, 4, 64).tolist()), length=4096
    )
    np.testing.assert_allclose(theta(part), own() / np.linspace(1, 4, 64), rtol=1e-12)
    assert part.attention_factor() == pytest.approx(1.087115, abs=1e-6)
    assert (theta(part.fitted(ORIGINAL)) == theta(None)).all()
    assert part.fitted(ORIGINAL).attention_factor() == part.attention_factor()
    with pytest.raises(SpecError, match="64 for 32 pairs"):
        theta(part, 64)


def test_a_factor_of_one_changes_nothing():
    plain = theta(None)
    old = {"factor": 1.0, "original": ORIGINAL}
    for part in (
        scalings.pi(factor=1.0),
        scalings.ntk(factor=1.0),
        scalings.abf(to=1e4),
        scalings.ntk_by_parts(**old),
        scalings.yarn(**old),
        scalings.yarn(**old, ramp="rotation"),
        scalings.llama3(**old),
        scalings.longrope(**old, long=(1.0,) * 64, length=4096),
        scalings.dynamic_ntk(factor=4.0, original=ORIGINAL, length=ORIGINAL),
        scalings.dynamic_yarn(original=ORIGINAL, length=100),
    ):
        assert (theta(part) == plain).all(), part
        assert part.attention_factor() == 1.0, part


def test_dynamic_forms_take_the_declared_length():
    """What a condition declares counts, not what was filled in for training."""
    trained = scalings.dynamic_yarn(original=ORIGINAL).fitted(ORIGINAL)
    for L in (ORIGINAL, 4096, 8192):
        at = trained.fitted(L)
        want = scalings.yarn(factor=L / ORIGINAL, original=ORIGINAL)
        assert (theta(at) == theta(want)).all()
        assert at.attention_factor() == want.attention_factor()
    assert positions.rope(scaling=trained).fitted(8192).scaling.length == 8192
    with pytest.raises(SpecError, match=r"dynamic_ntk\.length.*give it"):
        theta(scalings.dynamic_ntk(factor=4.0, original=ORIGINAL))
    with pytest.raises(SpecError, match="original must be given"):
        scalings.dynamic_ntk(factor=4.0)


# ── rotation ────────────────────────────────────────────────────────────────────────────────


def rotated(part, x_Td, places, d=128):
    view = View({"token": torch.as_tensor(places, dtype=torch.float64).view(1, 1, -1)})
    tables = part.tables(DIMS[d], view)
    return part.rotate(tables, {}, x_Td[None, None, None])[0, 0, 0]


def test_position_interpolation_divides_places():
    x = torch.randn(50, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = torch.arange(50) * 37.0
    a = rotated(positions.rope(), x, places / 4)
    b = rotated(positions.rope(scaling=scalings.pi(factor=4.0)), x, places)
    assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("cls", list(parts.scan("scalings")), ids=lambda c: c.__part__)
def test_scores_depend_on_the_distance_alone(cls):
    part = examples(cls)[0]
    d = 16
    if part.name == "longrope":  # its first tokens keep their own frequencies
        part = scalings.longrope(factor=4.0, original=8, long=(1.5,) * 8, length=20)
    rope = positions.rope(scaling=part)
    g = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, d, dtype=torch.float64, generator=g) for _ in range(2))
    a = part.attention_factor()
    assert float(rotated(rope, q, [777], d).norm()) == pytest.approx(a * float(q.norm()))
    near = float((rotated(rope, q, [11], d) * rotated(rope, k, [3], d)).sum())
    for shift in (1, 100, 30_000):
        far = rotated(rope, q, [11 + shift], d) * rotated(rope, k, [3 + shift], d)
        assert float(far.sum()) == pytest.approx(near, abs=1e-9)


def test_turning_the_other_way_gives_the_same_scores():
    """Some turn by −θ (nanochat, OLMo-core): the same function of heads whose second half has the
    other sign."""
    rope = positions.rope(scaling=scalings.yarn(factor=4.0, original=8))
    g = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 16, dtype=torch.float64, generator=g) for _ in range(2))
    sign = torch.tensor([1.0] * 8 + [-1.0] * 8, dtype=torch.float64)
    ours = (rotated(rope, q, [19], 16) * rotated(rope, k, [4], 16)).sum()
    theirs = (rotated(rope, q * sign, [-19], 16) * rotated(rope, k * sign, [-4], 16)).sum()
    assert float(theirs) == pytest.approx(float(ours), abs=1e-12)


def test_the_first_tokens_of_longrope_keep_their_frequencies():
    part = scalings.longrope(factor=4.0, original=8, long=(4.0,) * 8, start=3, length=32)
    x = torch.ones(6, 16, dtype=torch.float64)
    a = part.attention_factor()
    mine, plain = (rotated(positions.rope(scaling=s), x, range(6), 16) for s in (part, None))
    slow = rotated(positions.rope(scaling=scalings.pi(factor=4.0)), x, range(6), 16)
    torch.testing.assert_close(mine[:3], plain[:3] * a)
    torch.testing.assert_close(mine[3:], slow[3:] * a)


# ── temperature ─────────────────────────────────────────────────────────────────────────────


def test_temperature_acts_after_qk_norm_on_whole_heads():
    """Logits are a² times those without it, also where a part of the head alone turns: so it is
    the model's own ``temperature``.  Before the norm it would do nothing."""
    norm = norms.rmsnorm(gain=False)
    both = {"q_norm": norm, "k_norm": norm}
    hot = scalings.yarn(factor=4.0, original=8)
    cold = scalings.yarn(factor=4.0, original=8, temperature=1.0)
    for fraction in (1.0, 0.5):
        own_, models = (
            model_with(positions.rope(scaling=hot, fraction=fraction), **both),
            model_with(
                positions.rope(scaling=cold, fraction=fraction),
                temperature=hot.attention_factor(),
                **both,
            ),
        )
        p = parameters(own_, [0])
        a = Transformer(own_)(p, tokens([0]))
        torch.testing.assert_close(a, Transformer(models)(p, tokens([0])), atol=1e-5, rtol=1e-5)
        without = model_with(positions.rope(scaling=cold, fraction=fraction), **both)
        gap = (a - Transformer(without)(p, tokens([0]))).abs().max()
        assert gap > 1e-3, "a norm after the rotation would remove the temperature"


def test_two_temperatures_are_refused():
    hot = scalings.yarn(factor=4.0, original=8)
    with pytest.raises(SpecError, match="logits would get both"):
        numbers(model_with(positions.rope(scaling=hot), temperature=1.2))
    off = scalings.yarn(factor=4.0, original=8, temperature=1.0)
    numbers(model_with(positions.rope(scaling=off), temperature=1.2))


# ── in a study ──────────────────────────────────────────────────────────────────────────────


def spec_with(scaling, length=64):
    task = parts.Namespace("tasks").lm(
        corpus=parts.Namespace("corpora").stdlib(),
        tokenizer=parts.Namespace("tokenizers").bytes(),
        length=length,
    )
    return resolve(
        Spec(
            model=model_with(positions.rope(scaling=scaling), vocab=None),
            task=task,
            optim=parts.Namespace("optim").adamw(lr=1e-3),
            schedule=parts.Namespace("schedules").constant(),
            rows=2,
            steps=1,
        )
    )


def test_a_condition_s_length_is_that_of_its_frequencies():
    trained = spec_with(scalings.dynamic_ntk(factor=2.0, original=64))
    assert trained.model.position.scaling.length == 64
    longer = resolve(evaluated(trained, {"task.length": 256}))
    assert longer.model.position.scaling.length == 256
    other = scalings.yarn(factor=4.0, original=64)
    zero_shot = resolve(evaluated(trained, {"model.position.scaling": other}))
    assert zero_shot.model.position.scaling == other


def test_arms_of_different_scalings_are_one_stack():
    yarn = scalings.yarn(factor=4.0, original=64)
    arms = [None, scalings.pi(factor=4.0), yarn, scalings.dynamic_ntk(factor=2.0, original=64)]
    assert len({pack_key(spec_with(s)) for s in arms}) == 1
    assert dump(spec_with(None)) == dump(load(dump(spec_with(None))))
    assert "scaling" not in str(dump(spec_with(None))), "old trials keep their ids"
    assert dump(load(dump(spec_with(yarn)))) == dump(spec_with(yarn))

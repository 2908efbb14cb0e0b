"""Positions of parallel branches against their definition: which pair turns with what, and what the
model's logits may and may not depend on.  (A1) … are the acceptance checks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus import parts
from paribus.contracts import Dims, View
from paribus.errors import SpecError
from tests.nn import oracle
from tests.nn.columnar import (
    CLOSE,
    HEAD_DIM,
    HEADS,
    KV,
    apart,
    by_oracle,
    core_of,
    drawn,
    ids_of,
    run,
    texts_of,
    view_of,
)

positions, masks = parts.Namespace("positions"), parts.Namespace("masks")
BRANCH, TIME, FLAT = "branch", "time", "index"


def dims(F: int, heads: int = 4, kv_heads: int = 2) -> Dims:
    return Dims(2 * F * heads, 2, heads, kv_heads, 2 * F, 97)


def tables(part: object, F: int, heads: int = 4, kv_heads: int = 2, **at: object) -> dict:
    """Tables of tokens at coordinates that are 0 unless given."""
    T = max((len(c) for c in at.values()), default=1)
    every = dict.fromkeys(("index", "token", "branch", "time", "main"), [0] * T)
    view = View({n: torch.tensor(c).view(1, 1, -1).double() for n, c in {**every, **at}.items()})
    return part.tables(dims(F, heads, kv_heads), view)


def turning(part: object, F: int, head: int = 0, **sizes: int) -> dict[str, list[int]]:
    """The pairs that turn with each coordinate, found by moving it alone."""
    out = {}
    for name in (BRANCH, TIME, FLAT):
        sin = tables(part, F, **sizes, **{name: [1]})["sin"]
        out[name] = [i for i, s in enumerate(sin[0, 0, head % sin.shape[2], 0]) if s != 0]
    return out


# ── A1: the table of pairs ──────────────────────────────────────────────────────────────────

# F, ratio: pairs chosen, those with the time, those with the flat index; as published.
TABLE = [
    (32, 0.25, 8, 4, 24), (32, 0.5, 16, 8, 16), (32, 0.75, 24, 12, 8), (32, 0.875, 28, 14, 4),
    (32, 1.0, 32, 16, 0),
    (16, 0.25, 4, 2, 12), (16, 0.5, 8, 4, 8), (16, 0.75, 12, 6, 4), (16, 0.875, 14, 7, 2),
    (16, 1.0, 16, 8, 0),
    (64, 0.25, 16, 8, 48), (64, 0.5, 32, 16, 32), (64, 0.75, 48, 24, 16), (64, 0.875, 56, 28, 8),
    (64, 1.0, 64, 32, 0),
    (16, 0.0, 0, 0, 16), (32, 0.0, 0, 0, 32), (64, 0.0, 0, 0, 64),
    # Halves go to the even number: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4.
    (32, 0.015625, 0, 0, 32), (32, 0.0156, 0, 0, 32), (32, 0.046875, 2, 1, 30),
    (32, 0.078125, 2, 1, 30), (32, 0.109375, 4, 2, 28), (16, 0.03125, 0, 0, 16),
    (16, 0.09375, 2, 1, 14), (16, 0.15625, 2, 1, 14), (64, 0.0078125, 0, 0, 64),
    (64, 0.0234375, 2, 1, 62), (64, 0.0390625, 2, 1, 62),
    # An odd number gives the branch one pair more; one pair is the branch's.
    (32, 0.03125, 1, 0, 31), (32, 0.09375, 3, 1, 29), (16, 0.3125, 5, 2, 11),
]  # fmt: skip


@pytest.mark.parametrize(("F", "ratio", "n", "time", "flat"), TABLE)
def test_pairs_are_those_of_the_table(F, ratio, n, time, flat):
    """A1."""
    found = turning(positions.rope2d(ratio=ratio), F)
    assert found[BRANCH] == list(range(F - n, F, 2))
    assert found[TIME] == list(range(F - n + 1, F, 2))
    assert found[FLAT] == list(range(F - n))
    assert (len(found[TIME]), len(found[FLAT])) == (time, flat)
    assert sorted(i for own in found.values() for i in own) == list(range(F)), "each once"
    assert len(found[BRANCH]) == math.ceil(n / 2)


def test_the_published_pairs_of_a_head_of_64():
    """A1: the branch pairs in words, and a half-way ratio as the product rounds it."""
    pairs = {r: turning(positions.rope2d(ratio=r), 32)[BRANCH] for r in (0.25, 0.875, 1.0)}
    assert pairs[0.25] == [24, 26, 28, 30]
    assert pairs[0.875] == [4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    assert pairs[1.0] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    F=st.integers(1, 64),
    ratio=st.floats(0, 1),
    choice=st.sampled_from(["slowest", "fastest", "interleaved", "per_head"]),
    residual=st.sampled_from(["flat", "time"]),
)
def test_every_pair_is_used_once_at_any_ratio(F, ratio, choice, residual):
    """A1: whatever the choice; branch and time share the n chosen pairs evenly."""
    part, n = positions.rope2d(ratio=ratio, choice=choice, residual=residual), round(F * ratio)
    for head in (0, 1):
        found = turning(part, F, head)
        assert sorted(i for own in found.values() for i in own) == list(range(F))
        rest = found[FLAT] if residual == "flat" else found[TIME]
        if choice == "per_head":
            own = found[BRANCH] if head == 0 else []
            assert len(own) == (n if head == 0 else 0)
        else:
            assert len(found[BRANCH]) == math.ceil(n / 2)
        chosen = n - len(found[BRANCH])  # with the time
        assert len(rest) == F - n + (chosen if residual == "time" else 0)


def test_the_historical_ratio_0_gave_its_slowest_pair_to_the_branch():
    """A1: ``least=1``: one pair at ratio 0; nothing else changes from the first pair on."""
    for F in (16, 32, 64):
        found = turning(positions.rope2d(ratio=0.0, least=1), F)
        assert found == {BRANCH: [F - 1], TIME: [], FLAT: list(range(F - 1))}
        for ratio in (0.25, 0.5, 1.0):
            one, none = (turning(positions.rope2d(ratio=ratio, least=k), F) for k in (1, 0))
            assert one == none
    # Its angle is 128 · base^(−31/32) radians a branch: practically none.
    sin = tables(positions.rope2d(ratio=0.0, least=1), 32, branch=[1])["sin"].flatten()
    assert float(sin[31]) == pytest.approx(2.0e-4, rel=0.02)


def test_choices():
    """Fastest is the mirror of slowest; interleaved is spread; per_head is whole heads."""
    for n in (1, 2, 5, 8, 16):
        found = turning(positions.rope2d(ratio=n / 16, choice="fastest"), 16)
        assert found == {
            BRANCH: list(range(0, n, 2)), TIME: list(range(1, n, 2)), FLAT: list(range(n, 16)),
        }  # fmt: skip
        found = turning(positions.rope2d(ratio=n / 16, choice="interleaved"), 16)
        chosen = sorted(found[BRANCH] + found[TIME])
        assert chosen[0::2] == found[BRANCH] and chosen[1::2] == found[TIME]
        gaps = np.diff(chosen)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1, "evenly spread"
        assert chosen[0] < 16 / n and chosen[-1] >= 16 - 16 / n, "over all of them"
        for head in range(4):
            found = turning(positions.rope2d(ratio=n / 16, choice="per_head"), 16, head, kv_heads=4)
            slow = list(range(16 - n, 16))
            assert found[BRANCH] == (slow if head % 2 == 0 else [])
            assert found[TIME] == (slow if head % 2 else [])
    with pytest.raises(SpecError, match="two key heads"):
        positions.rope2d(choice="per_head").params(dims(16, 4, 1))
    with pytest.raises(SpecError, match="odd"):
        positions.rope2d().params(Dims(45, 1, 3, 3, 15, 9))


def test_phases_of_a_branch_step():
    """A1: the mean cosine over branch pairs between branches 1 and 31 apart, as published."""
    want = {0.25: (1.0, 0.9976), 0.5: (0.9988, 0.616), 0.75: (0.745, 0.257), 1.0: (0.357, 0.047)}
    for ratio, (near, far) in want.items():
        part = positions.rope2d(ratio=ratio)
        cos = tables(part, 32, branch=[0, 1, 31])["cos"][0, 0, 0]
        own = cos[:, turning(part, 32)[BRANCH]].mean(1)
        assert own.tolist() == pytest.approx([1.0, near, far], abs=6e-4)  # three digits are printed
    step = [(0, 128.0), (8, 4.05), (16, 0.128), (24, 0.0040), (30, 0.0003)]
    for i, radians in step:
        assert 128 * 1e6 ** (-i / 32) == pytest.approx(radians, rel=0.02, abs=2e-5)
        sin = tables(positions.rope2d(ratio=1.0), 32, branch=[1])["sin"].flatten()
        assert float(sin[i]) == pytest.approx(math.sin(128 * 1e6 ** (-i / 32)), abs=1e-12)


# ── A2, A5: angles and layout ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("F", [8, 16, 32, 64])
def test_ratio_0_is_rope_on_the_flat_index(F):
    """A2: cos and sin in every bit, whatever the branches and times, and as cast."""
    rng = np.random.default_rng(0)
    T = 300
    at = {"branch": rng.integers(0, 64, T), "time": rng.integers(0, 4000, T)}
    mine = tables(positions.rope2d(ratio=0.0), F, index=np.arange(T), **at)
    rope = tables(positions.rope(base=1e6), F, token=np.arange(T))
    for name in ("cos", "sin"):
        assert torch.equal(mine[name][:, :, 0], rope[name])
        assert torch.equal(mine[name][:, :, 0].float(), rope[name].float())


@pytest.mark.parametrize("choice", ["slowest", "per_head"])
@pytest.mark.parametrize("ratio", [0.0, 0.375, 0.75, 1.0])
def test_rotation_is_by_halves_and_keeps_norms(ratio, choice):
    """A5: pair i is the numbers i and i + F; the angles have base 1e6."""
    part, rng = positions.rope2d(ratio=ratio, choice=choice), np.random.default_rng(1)
    assert part.base == 1e6
    assert part.stride == 128
    tokens = oracle.layout([5, 3, 4], main=2)
    chosen = oracle.slowest(HEAD_DIM // 2, ratio)
    x = rng.normal(size=(len(tokens), HEAD_DIM))
    core = core_of(part)
    view = core.view(len(tokens), given=view_of(tokens).coordinates)
    made = core.tables(view, dtype=torch.float64)
    wide = torch.from_numpy(x).expand(1, 1, HEADS, *x.shape)
    mine = part.rotate(made, {}, wide)[0, 0]
    keys = part.rotate(made, {}, wide[:, :, :KV])[0, 0]
    for head in range(HEADS):
        g = head // (HEADS // KV)
        axis = g % 2 if choice == "per_head" else None
        angle = oracle.angles(tokens, HEAD_DIM, ratio=ratio, chosen=chosen, axis=axis)
        want = torch.from_numpy(oracle.turn(x, angle))
        assert apart(mine[head], want) < 1e-12
        assert apart(keys[g], want) < 1e-12
        pairs = mine[head].view(-1, 2, HEAD_DIM // 2).square().sum(1)
        assert apart(pairs, torch.from_numpy(x).view(-1, 2, HEAD_DIM // 2).square().sum(1)) < 1e-12


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    ratio=st.sampled_from([0.0, 0.25, 0.5, 0.875, 1.0]),
    choice=st.sampled_from(["slowest", "fastest", "interleaved", "per_head"]),
    at=st.lists(st.integers(0, 60), min_size=6, max_size=6),
    by=st.lists(st.integers(0, 50), min_size=3, max_size=3),
)
def test_products_depend_on_differences_alone(ratio, choice, at, by):
    """A5: q·k is unchanged where q and k move together along every axis."""
    part, names = positions.rope2d(ratio=ratio, choice=choice), (BRANCH, TIME, FLAT)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 1, 4, 2, 16)))

    def dot(shift):
        where = {n: [at[2 * i] + shift[i], at[2 * i + 1] + shift[i]] for i, n in enumerate(names)}
        turned = part.rotate(tables(part, 8, **where), {}, x)
        return (turned[..., 0, :] * turned[..., 1, :]).sum(-1)

    # Angles reach 128 · 110 radians, where a double's spacing is 2e-12.
    assert apart(dot(by), dot([0, 0, 0])) < 1e-9


# ── A3, A4, A10, A11: what logits depend on ─────────────────────────────────────────────────

LENGTHS = (9, 6, 9)


def sample(lengths=LENGTHS, **how):
    tokens = oracle.layout(lengths, **how)
    texts = texts_of([*([how["main"]] if how.get("main") else []), *lengths])
    return tokens, ids_of(tokens, texts), texts


def test_one_branch_at_ratio_0_is_an_ordinary_causal_model():
    """A3: logits and loss, against the causal mask with RoPE and against the formula."""
    tokens, ids, texts = sample([24])
    core = core_of(positions.rope2d(ratio=0.0))
    plain = core_of(positions.rope(base=1e6), mask=masks.causal())
    p = drawn(core)
    mine = run(core, p, tokens, ids)
    assert apart(mine, run(plain, p, tokens, ids, view=plain.view(len(ids)))) < CLOSE
    angle = oracle.angles(tokens, HEAD_DIM, ratio=0.0)
    want = by_oracle(p, tokens, ids, "columnar", angle)
    assert np.array_equal(oracle.allowed(tokens), np.tril(np.ones((24, 24), bool)))
    assert apart(mine, want) < CLOSE
    targets = oracle.labels(tokens, texts)
    nats = torch.nn.functional.cross_entropy(mine[:-1], torch.tensor(targets[:-1]))
    assert float(nats) == pytest.approx(oracle.losses(want.numpy(), targets).mean(), abs=1e-10)


@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.375, 0.5, 0.75, 1.0])
def test_one_branch_at_a_ratio_leaves_pairs_unturned(ratio):
    """A4: equal to RoPE without ⌈n/2⌉ of the slow pairs, and not to an ordinary causal model."""
    tokens, ids, _ = sample([64])
    core = core_of(positions.rope2d(ratio=ratio))
    p = drawn(core)
    mine = run(core, p, tokens, ids)
    F = HEAD_DIM // 2
    still = [i for j, i in enumerate(oracle.slowest(F, ratio)) if j % 2 == 0]
    assert len(still) == math.ceil(round(F * ratio) / 2)
    place = np.arange(len(ids))[:, None] * 1e6 ** (-np.arange(F) / F)
    place[:, still] = 0
    assert apart(mine, by_oracle(p, tokens, ids, "columnar", place)) < CLOSE
    if ratio >= 0.5:  # else the pairs are so slow that 64 tokens hardly turn them
        plain = run(core_of(positions.rope2d(ratio=0.0)), p, tokens, ids)
        assert apart(mine, plain) > 1e-2


@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
@pytest.mark.parametrize(
    "how",
    [
        {"ratio": 0.5},
        {"ratio": 1.0},
        {"ratio": 0.375, "residual": "time"},
        {"ratio": 0.75, "choice": "fastest"},
        {"ratio": 0.5, "choice": "interleaved", "stride": 1.0},
        {"ratio": 0.5, "choice": "per_head"},
        {"ratio": 0.0, "least": 1},
        {"ratio": 0.5, "base": 1e4, "stride": 16.0},
    ],
    ids=str,
)
def test_logits_are_those_of_the_definition(how, reads):
    """A3–A5 at several branches with a main prefix: the whole model against loops in numpy."""
    tokens, ids, _ = sample(main=4)
    core = core_of(positions.rope2d(**how), reads)
    p = drawn(core)
    F, choice = HEAD_DIM // 2, how.get("choice")
    n = round(F * how["ratio"])
    chosen = oracle.slowest(F, how["ratio"], how.get("least", 0))
    if choice == "fastest":
        chosen = list(range(n))
    elif choice == "interleaved":  # which they are, test_choices holds
        found = turning(positions.rope2d(**how), F)
        chosen = sorted(found[BRANCH] + found[TIME])
    rest = {k: v for k, v in how.items() if k in ("ratio", "residual", "stride", "base")}

    def angle(g):
        axis = g % 2 if choice == "per_head" else None
        return oracle.angles(tokens, HEAD_DIM, chosen=chosen, axis=axis, **rest)

    assert apart(run(core, p, tokens, ids), by_oracle(p, tokens, ids, reads, angle)) < CLOSE


def test_common_offsets_change_nothing():
    """A10: of all times at any ratio (the flat index stays), of all branch coordinates too."""
    for how in ({"ratio": 1.0}, {"ratio": 0.5}, {"ratio": 0.5, "residual": "time"}):
        for reads in ("columnar", "isolated"):
            core = core_of(positions.rope2d(**how), reads)
            p, (tokens, ids, _) = drawn(core), sample()
            still = run(core, p, tokens, ids)
            for moved in ({"time": 17}, {"branch": 5}, {"time": 301, "branch": 11}):
                # cos and sin of angles up to 128 · 14 radians are good to 1e-13.
                there = run(core, p, tokens, ids, view=view_of(tokens, **moved))
                assert apart(there, still) < CLOSE, (how, reads, moved)


def test_without_stride_branches_may_be_swapped():
    """A11: at ratio 1 and stride 0 outputs of swapped branches swap; at stride 128 they do not."""
    for stride, equal in ((0.0, True), (128.0, False)):
        core = core_of(positions.rope2d(ratio=1.0, stride=stride))
        p, (tokens, _, texts) = drawn(core), sample([8, 8, 5])
        swapped = [texts[1], texts[0], texts[2]]
        a = run(core, p, tokens, ids_of(tokens, texts))
        b = run(core, p, tokens, ids_of(tokens, swapped))
        to = {0: 1, 1: 0, 2: 2}
        at = {(t.branch, t.order): i for i, t in enumerate(tokens)}
        order = [at[to[t.branch], t.order] for t in tokens]
        gap = apart(a, b[order])
        assert gap < CLOSE if equal else gap > 1e-3


def test_times_as_residual_free_branches_of_how_many_there_are():
    """With the flat index a branch's logits depend on the number of its neighbours even where it
    cannot read them; with the time they do not."""
    for residual, equal in (("flat", False), ("time", True)):
        core = core_of(positions.rope2d(ratio=0.25, residual=residual), "isolated")
        p, texts = drawn(core), texts_of([12, 12, 12])
        alone = oracle.layout([12])
        first = run(core, p, alone, ids_of(alone, texts))
        beside = oracle.layout([12, 12, 12])
        own = [i for i, t in enumerate(beside) if t.branch == 0]
        gap = apart(run(core, p, beside, ids_of(beside, texts))[own], first)
        assert gap < CLOSE if equal else gap > 1e-2


def test_ratios_differ_inside_a_stack():
    """Each trial of a stack turns by its own ratio, choice and stride."""
    models = [
        positions.rope2d(ratio=0.25), positions.rope2d(ratio=1.0, stride=1.0),
        positions.rope2d(ratio=0.5, choice="per_head"), positions.rope2d(ratio=0.0, least=1),
    ]  # fmt: skip
    cores = [core_of(m) for m in models]
    tokens, ids, _ = sample()
    p = drawn(cores[0], range(4))
    view = cores[0].view(len(ids), given=view_of(tokens).coordinates)
    made = cores[0].tables(view, [c.model for c in cores], torch.float64)
    inputs = torch.tensor(ids).view(1, 1, -1).expand(4, 1, -1)
    together = cores[0](p, inputs, view_of(tokens), tables=made)
    for e, core in enumerate(cores):
        own = {k: t[e : e + 1] for k, t in p.items()}
        assert torch.equal(together[e, 0], run(core, own, tokens, ids))


# ── fpe ─────────────────────────────────────────────────────────────────────────────────────


def codes(part, width, branches):
    d = Dims(width, 1, 8, 8, width // 8, 9)
    at = {"branch": torch.tensor(branches).view(1, 1, -1).double()}
    at["time"] = torch.zeros_like(at["branch"])
    return part.tables(d, View(at))["code"][0, 0]


def likeness(code):
    unit = code / code.norm(dim=1, keepdim=True)
    return (unit @ unit.T)[~torch.eye(len(code), dtype=torch.bool)]


def test_codes_of_branches_are_the_published_sinusoids():
    """sin at even places, cos at odd ones, of the branch; eight branches 128 apart are as alike as
    was published (31.36 %, 20.0 … 40.6); at the stride of 1 that was trained, 85 %."""
    part = positions.fpe(stride=1.0, scale=0.5**0.5)
    code = codes(part, 512, list(range(8)))
    for b in range(8):
        for i in range(256):
            angle = b * 10000.0 ** (-2 * i / 512)
            assert float(code[b, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-12)
            assert float(code[b, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-12)
    assert float(likeness(code).mean()) == pytest.approx(0.853, abs=1e-3)
    found = likeness(codes(positions.fpe(stride=128.0, rows=1024), 512, list(range(8))))
    assert float(found.mean()) == pytest.approx(0.3136, abs=5e-5)
    assert [float(found.min()), float(found.max())] == pytest.approx([0.200, 0.406], abs=5e-4)


def test_codes_beyond_the_table_are_its_last():
    part = positions.fpe(rows=512, stride=128.0)
    code = codes(part, 64, [0, 1, 2, 3, 4, 5, 40])
    assert not torch.equal(code[3], code[4])
    assert torch.equal(code[4], code[5])  # 512 and beyond: the last of 512 rows
    assert torch.equal(code[4], code[6])
    last = codes(positions.fpe(rows=512), 64, [511])
    assert torch.equal(code[4], last[0])
    one = codes(positions.fpe(rows=1), 64, [0, 3])
    assert torch.equal(one[0], one[1])


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_the_scale_of_codes_is_their_root_mean_square(scale):
    code = codes(positions.fpe(scale=scale), 128, list(range(40)))
    assert code.square().mean(1).sqrt().tolist() == pytest.approx([scale] * 40, rel=1e-12)


def test_a_model_with_codes_is_that_of_the_definition():
    """Codes are added to the embeddings; every pair turns with the time."""
    tokens, ids, _ = sample(main=3)
    core = core_of(positions.fpe(scale=0.3))
    p, width = drawn(core), HEADS * HEAD_DIM
    code = np.zeros((len(ids), width))
    for row, t in enumerate(tokens):
        for i in range(width // 2):
            angle = t.branch * 10000.0 ** (-2 * i / width)
            code[row, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    code *= 0.3 * 2**0.5
    angle = oracle.angles(tokens, HEAD_DIM, ratio=0.0, residual="time")
    own = {k: t[0].numpy() for k, t in p.items()}
    want = oracle.forward(
        own, ids, oracle.allowed(tokens), angle, heads=HEADS, kv_heads=KV, added_TD=code
    )
    assert apart(run(core, p, tokens, ids), torch.from_numpy(want)) < CLOSE
    with pytest.raises(SpecError, match="must be even"):
        positions.fpe().params(Dims(45, 1, 3, 3, 15, 9))

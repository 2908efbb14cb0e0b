"""Memories: they read what a mask of their definition reads; gradients end where they are cut off;
what can be reached is what is said to be."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from paribus import masks, parts, positions, presets, rng
from paribus.contracts import View
from paribus.errors import Refused, SpecError
from paribus.nn.cache import Cache, generate
from paribus.nn.flops import backward, forward
from paribus.nn.reach import Seen, reach, seen
from paribus.nn.transformer import Transformer
from paribus.parts import changed
from tests.engine import tiny
from tests.nn.models import VOCAB, model_with, parameters, tokens

memories = parts.Namespace("memories")
W = 16


def of(memory, **fields):
    return model_with(None, memory=memory, **fields)


def wide_parameters(model, seeds):
    """Larger weights than usual, so that what is carried is felt."""
    return {k: 3 * t if t.ndim == 3 else t for k, t in parameters(model, seeds).items()}


# ── one masked pass ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("T", [W, 41, 64])
@pytest.mark.parametrize("form", ["full_cache", "sliding"])
@pytest.mark.parametrize("cache", [5, W, 24])
def test_keys_that_stand_twice_are_one_masked_pass(T, form, cache):
    whole = memories.recurrence(segment=W, cache=cache, form=form)
    one, by_one = Transformer(of(whole)), Transformer(of(changed(whole, {"through": 99})))
    assert not (one.looped or by_one.looped or one.parted)
    assert by_one.parted
    p, ids = wide_parameters(one.model, [0, 1]), tokens([0, 1], length=T)
    wanted = one(p, ids, kernel="reference")
    for kernel in ("sdpa", "reference"):
        torch.testing.assert_close(by_one(p, ids, kernel=kernel), wanted, atol=1e-5, rtol=1e-5)
    # And both are what a dense mask of the definition gives.
    q, k = torch.arange(T)[:, None], torch.arange(T)
    if form == "sliding":
        seen = (k <= q) & (q - k <= cache)
    else:
        seen = (k <= q) & (k >= q // W * W - cache)
    assert torch.equal(one.seen(T, {})[0].view(T, T), seen)


def one_by_one(model):
    """The same model with its segments one after another, each handing its cache on."""
    core = Transformer(model)
    core.looped, core.parted = True, False
    return core


@pytest.mark.parametrize("T", [W, 41, 64])
@pytest.mark.parametrize("form", ["full_cache", "sliding"])
@pytest.mark.parametrize(("cache", "through"), [(5, 1), (W, 1), (W, 2), (24, 99)])
def test_segments_one_by_one_are_one_masked_pass(T, form, cache, through):
    """Outputs and gradients: a loop over segments with a cache that is cut off, and one pass in
    which keys stand twice."""
    model = of(memories.recurrence(segment=W, cache=cache, form=form, through=through))
    p, ids, found = parameters(model, [0, 1]), tokens([0, 1], length=T + 1), []
    p = {k: t.detach().requires_grad_() for k, t in p.items()}
    for core in (Transformer(model), one_by_one(model)):
        loss = loss_of(core, p, ids, 0, T)
        grads = torch.autograd.grad(loss, list(p.values()))
        found.append([core(p, ids[..., :-1]), torch.cat([g.flatten() for g in grads])])
    (a, ga), (b, gb) = found
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ga / ga.norm(), gb / gb.norm(), atol=1e-5, rtol=0)


def test_a_slid_window_is_the_mask_of_that_size():
    p = wide_parameters(model_with(), [0])
    ids = tokens([0], length=41)
    memory = memories.recurrence(segment=W, cache=6, form="sliding", through=1)
    wanted = Transformer(model_with(mask=masks.sliding_window(size=7)))(p, ids)
    torch.testing.assert_close(Transformer(of(memory))(p, ids), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", [None, positions.alibi(), positions.learned(length=64)])
def test_any_position_goes_with_recurrence(position):
    whole = memories.recurrence(segment=W, cache=W)
    one = Transformer(of(whole, position=position))
    by_one = Transformer(of(changed(whole, {"through": 99}), position=position))
    p, ids = wide_parameters(one.model, [0]), tokens([0], length=41)
    torch.testing.assert_close(by_one(p, ids), one(p, ids), atol=1e-5, rtol=1e-5)


def test_padding_and_places_go_with_segments():
    whole = memories.recurrence(segment=W, cache=W)
    one, by_one = Transformer(of(whole)), Transformer(of(changed(whole, {"through": 99})))
    p, ids = wide_parameters(one.model, [0]), tokens([0], length=41)
    valid = torch.ones(1, 3, 41, dtype=torch.bool)
    valid[0, 1, :20] = valid[0, 2, 30:] = False
    view = View({"token": torch.arange(41) + 7})
    wanted = one(p, ids, view, valid_EBT=valid) * valid[..., None]
    found = by_one(p, ids, view, valid_EBT=valid) * valid[..., None]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("through", [None, 1])
@pytest.mark.parametrize("position", [positions.rope(), positions.alibi()])
def test_the_flex_kernel_reads_the_same(through, position):
    memory = memories.recurrence(segment=W, cache=W, through=through)
    core = Transformer(of(memory, position=position))
    p, ids = wide_parameters(core.model, [0]), tokens([0], length=41)
    ready = core.ready((1, 3, 41), {}, kernel="flex")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        found = core(p, ids, kernel="flex", ready=ready)
    torch.testing.assert_close(found, core(p, ids), atol=1e-5, rtol=1e-5)


# ── gradients ───────────────────────────────────────────────────────────────────────────────


def loss_of(core, p, ids, first, last):
    """The summed loss of tokens first … last − 1."""
    logits = core(p, ids[..., :-1])[:, :, first:last]
    return F.cross_entropy(
        logits.flatten(0, 2), ids[..., first + 1 : last + 1].flatten(), reduction="sum"
    )


def gradient_of_inputs(core, p, ids, first, last):
    """Of the loss of some tokens, by the embedding of each token of the row."""
    T = ids.shape[2] - 1
    own = {**p, "embed.tokens": torch.eye(T, requires_grad=True)[None]}
    table = p["embed.tokens"][0][ids[0, 0, :-1]].detach().clone().requires_grad_()
    own["embed.tokens"] = table[None]
    logits = core(own, torch.arange(T).view(1, 1, T))[:, :, first:last]
    loss = F.cross_entropy(logits.flatten(0, 2), ids[:, :1, first + 1 : last + 1].flatten())
    (g,) = torch.autograd.grad(loss, table)
    return g


@pytest.mark.parametrize("kind", ["recurrence", "tokens", "retrieval"])
def test_gradients_end_where_they_are_cut_off(kind):
    make = {
        "recurrence": lambda n: memories.recurrence(segment=W, cache=W, through=n),
        "tokens": lambda n: memories.tokens(segment=W, tokens=2, through=n),
        "retrieval": lambda n: memories.retrieval(segment=W, cache=4, top=3, through=n),
    }[kind]
    ids = tokens([0], rows=1, length=3 * W + 1)
    found = {}
    for n in (1, 2, 99):
        core = Transformer(of(make(n), tied=False))
        p = wide_parameters(core.model, [0])
        found[n] = gradient_of_inputs(core, p, ids, W, 2 * W)
    assert (found[1][:W] == 0).all(), "of the second segment to the first: exactly none"
    assert found[1][W : 2 * W].abs().max() > 0
    assert found[2][:W].abs().max() > 1e-6
    torch.testing.assert_close(found[2], found[99], atol=1e-5, rtol=1e-5)
    third = gradient_of_inputs(Transformer(of(make(2), tied=False)), p, ids, 2 * W, 3 * W)
    assert (third[: 2 * W] == 0).all(), "pairs of segments: the third begins anew"


def test_gradients_through_segments_are_those_of_the_whole():
    whole = memories.recurrence(segment=W, cache=W)
    ids, found = tokens([0, 1], length=42), []
    for memory in (whole, changed(whole, {"through": 99})):
        core = Transformer(of(memory))
        p = wide_parameters(core.model, [0, 1])
        p = {k: t.detach().requires_grad_() for k, t in p.items()}
        grads = torch.autograd.grad(loss_of(core, p, ids, 0, 41), list(p.values()))
        found.append(torch.cat([g.flatten() for g in grads]))
    torch.testing.assert_close(
        found[1] / found[0].norm(), found[0] / found[0].norm(), atol=1e-5, rtol=0
    )


def test_what_is_held_does_not_grow():
    """After each segment no more is held than the cache, and no graph of what was cut off."""
    from paribus.nn import segments

    core = Transformer(of(memories.retrieval(segment=4, cache=2, top=2, store=4)))
    p, ids, seen = parameters(core.model, [0]), tokens([0], length=200), []
    found = core.pieces(200, ids.device, torch.float32)
    assert [piece.before for piece in found[:4]] == [0, 4, 6, 6]

    class Watched(segments.Held):
        def cut(self):
            super().cut()
            seen.append([x for pair in self.pairs if pair for x in pair])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "Held", Watched)
        core(p, ids)
    assert len(seen) == 49
    assert all(not x.requires_grad and x.shape[3] <= 10 for held in seen for x in held)


# ── reach ───────────────────────────────────────────────────────────────────────────────────


def reached(model, at, T):
    """The first token of the row that reaches the output at a place."""
    core = Transformer(model)
    p = wide_parameters(model, [0])
    g = gradient_of_inputs(core, p, tokens([0], rows=1, length=T + 1), at, at + 1)
    return int(g.abs().sum(-1).nonzero()[0])


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("segment", "cache", "form"),
    [
        (4, 4, "full_cache"),
        (4, 8, "full_cache"),
        (4, 2, "full_cache"),
        (4, 6, "full_cache"),
        (4, 5, "sliding"),
    ],
)
def test_what_is_reached_is_what_is_said(layers, segment, cache, form):
    memory = memories.recurrence(segment=segment, cache=cache, form=form)
    model = of(memory, layers=layers, tied=False)
    told = reach(model, 64)
    T, last = 64, 59  # the last token of a segment
    assert reached(model, last, T) == last + 1 - told.theoretical
    if form == "full_cache" and cache % segment == 0:
        assert told.theoretical == layers * cache + segment
    one = of(memory, layers=1, tied=False)
    assert reached(one, last, T) == last + 1 - told.direct
    assert told.state_bytes == 2 * layers * 2 * 16 * cache * 4


def test_probes_are_told_what_the_memory_says():
    """N·C + W where that is what is reached; else what the memory counts (see above)."""
    whole = of(memories.recurrence(segment=6, cache=6), layers=3)
    assert seen(whole, 64) == (12, 24, "N·C + W = 3·6 + 6 = 24", 6)
    broken = of(memories.recurrence(segment=6, cache=5), layers=3)
    assert seen(broken, 64) == (11, reach(broken, 64).theoretical, "by the memory", 6)
    assert reach(broken, 64).theoretical != 3 * 5 + 6
    slides = of(memories.recurrence(segment=6, cache=5, form="sliding"), layers=3)
    assert seen(slides, None) == (6, 16, "N·C + W = 3·5 + 1 = 16", None)
    unlimited = "by the memory, without a limit"
    found = of(memories.retrieval(segment=8, cache=8, top=2))
    assert seen(found, 64) == (16, None, unlimited, None)
    vectors = of(memories.tokens(segment=8, tokens=3))
    assert seen(vectors, 64) == (8, None, unlimited, None), "vectors of the memory are no tokens"
    assert seen(model_with(), 64) == (64, 64, "all of the row", None)
    assert seen(model_with(), None) == seen(object(), None) == Seen()
    assert seen(model_with(mask=masks.sliding_window(size=9)), 64)[:2] == (9, 17)


def test_reach_of_what_has_no_memory():
    plain = reach(model_with(), 100)
    assert (plain.direct, plain.theoretical) == (None, None)
    assert plain.state_bytes == 2 * 2 * 2 * 16 * 100 * 4
    window = reach(model_with(mask=masks.sliding_window(size=9)), 100)
    assert (window.direct, window.theoretical) == (9, 17)
    assert window.state_bytes == 2 * 2 * 2 * 16 * 9 * 4
    assert reach(of(memories.tokens(segment=8, tokens=3)), 100).state_bytes == 3 * 64 * 4
    assert reach(of(memories.retrieval(segment=8, cache=8, top=2)), 100).theoretical is None


FAR = [
    memories.tokens(segment=8, tokens=2),
    memories.retrieval(segment=8, cache=8, top=2, through=None),
]


@pytest.mark.parametrize("memory", FAR)
def test_what_is_carried_comes_from_the_beginning(memory):
    assert reached(of(memory, layers=1, tied=False), 39, 48) < 24


# ── retrieval, memory tokens ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("normed", [True, False])
def test_as_many_keys_are_retrieved_as_are_asked_for(normed):
    memory = memories.retrieval(segment=4, cache=4, top=3, through=None, normed=normed)
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 2, 32, 8, generator=g) for _ in range(2))
    k = k * torch.linspace(0.5, 3, 32)[:, None]
    place = torch.arange(32)
    qv, kv = (View({"index": place.view(s)}) for s in ((1, 1, 1, -1, 1), (1, 1, 1, 1, -1)))
    s = memory.scores(q, k, 1.0, memory.allowed(qv, kv), qv, kv)
    kept = s.isfinite() & memory.allowed(qv, kv)
    for t in range(32):
        near = t // 4 * 4 - 4
        far = [j for j in range(t + 1) if j < near]
        for h in range(2):
            rank = {j: float(q[0, 0, h, t] @ k[0, 0, h, j]) for j in far}
            if normed:
                rank = {j: x / float(k[0, 0, h, j].norm()) for j, x in rank.items()}
            best = sorted(far, key=lambda j: -rank[j])[:3]
            wanted = sorted(best + list(range(max(near, 0), t + 1)))
            assert kept[0, 0, h, t].nonzero().flatten().tolist() == wanted
    all_ = memories.retrieval(segment=4, cache=4, top=99, through=None)
    p, ids = parameters(of(all_), [0]), tokens([0], length=41)
    torch.testing.assert_close(
        Transformer(of(all_))(p, ids), Transformer(model_with())(p, ids), atol=1e-5, rtol=1e-5
    )
    none = memories.retrieval(segment=4, cache=8, top=1, store=1, through=1)
    assert none.kept() == 9


@pytest.mark.parametrize("memory", [
    memories.recurrence(segment=8, cache=8, through=1),
    memories.recurrence(segment=8, cache=5, form="sliding"),
    memories.retrieval(segment=8, cache=4, top=2),
])  # fmt: skip
def test_decoding_is_the_whole_row(memory):
    core = Transformer(of(memory))
    p, ids = wide_parameters(core.model, [0, 1]), tokens([0, 1], length=30)
    cache, out = Cache(core.dims, 2, 3, 30), []
    for a, b in ((0, 11), (11, 12), (12, 30)):
        out.append(core(p, ids[:, :, a:b], cache=cache))
    torch.testing.assert_close(torch.cat(out, 2), core(p, ids), atol=2e-5, rtol=1e-4)


def test_memory_tokens_refuse_what_they_cannot_do():
    core = Transformer(of(memories.tokens(segment=8, tokens=2)))
    with pytest.raises(Refused, match="without a cache"):
        generate(core, parameters(core.model, [0]), tokens([0]), 2)
    given = {"width": 64, "layers": 1, "heads": 4}
    for fields, why in [
        (
            {
                "memory": memories.tokens(segment=8, tokens=2),
                "position": positions.learned(length=9),
            },
            "added",
        ),
        (
            {
                "memory": memories.recurrence(segment=8, cache=2),
                "mask": masks.sliding_window(size=3),
            },
            "both|too",
        ),
    ]:
        with pytest.raises(SpecError, match=why):
            tiny.spec(model=presets.llama(**{**given, **fields}), **{"task.span": 4})
    with pytest.raises(SpecError, match="slide over"):
        memories.recurrence(segment=8, cache=0, form="sliding")


# ── in training ─────────────────────────────────────────────────────────────────────────────

EACH = {
    "recurrence": memories.recurrence(segment=6, cache=6, through=1),
    "tokens": memories.tokens(segment=6, tokens=2),
    "retrieval": memories.retrieval(segment=6, cache=3, top=2),
}


@pytest.mark.parametrize("kind", EACH)
def test_a_stack_of_different_frequencies_is_its_trials_alone(kind, tmp_path: Path):
    def member(seed, base):
        turned = positions.rope(base=base)
        return tiny.member(seed, model=tiny.model(memory=EACH[kind], position=turned, dropout=0.1))

    def members():
        return [member(1, 1e4), member(2, 50.0)]

    stack = members()
    trainer = tiny.train(stack, tmp_path)
    assert trainer.summary(0)["engine"]["kernel"] == (
        "reference" if kind == "retrieval" else "sdpa"
    )
    for mine, m in zip(stack, members(), strict=True):
        tiny.train([m], tmp_path)
        assert tiny.equal(m, mine)


def test_memory_tokens_learn_what_a_segment_cannot_see():
    """A token of the first segment is asked for at the end of the third: without what is carried it
    cannot be known."""
    T, n = 12, 4
    found = {}
    for name, memory in {
        "cut": memories.recurrence(segment=4, cache=0),
        "tokens": memories.tokens(segment=4, tokens=2),
    }.items():
        model = of(memory, vocab=VOCAB, layers=1, width=32)
        core, p = Transformer(model), parameters(model, [0])
        p = {k: t.detach().requires_grad_() for k, t in p.items()}
        adam = torch.optim.Adam(list(p.values()), lr=1e-2)
        draw = rng.Stream(0, "test", "recall").integers(100 * 32, n).reshape(100, 32)
        for step in range(100):
            ids = torch.full((1, 32, T), 9)
            ids[0, :, 1] = torch.from_numpy(draw[step])
            logits = core(p, ids)[0, :, -1, :n]
            loss = F.cross_entropy(logits, ids[0, :, 1])
            adam.zero_grad()
            loss.backward()
            adam.step()
        found[name] = loss.item()
    assert found["cut"] > 1.2
    assert found["tokens"] < 0.3


def test_memory_tokens_cost_what_they_compute():
    """Of a segment of 8 between two copies of 2 tokens, 12 go through the blocks."""
    plain, own = model_with(), of(memories.tokens(segment=8, tokens=2))
    a, b = forward(plain, 64), forward(own, 64)
    assert b["attention"] == pytest.approx(1.5 * a["attention"])
    assert b["mlp"] == pytest.approx(1.5 * a["mlp"])
    assert b["head"] == a["head"]
    assert b["scores"] == pytest.approx(4 * 2 * 4 * 16 * (12 * 13 / 2) / 8)
    assert backward(own, 64) > backward(plain, 64)
    cut = forward(of(memories.recurrence(segment=8, cache=0)), 64)
    assert cut["scores"] == pytest.approx(4 * 2 * 4 * 16 * 4.5)
    xl = forward(of(memories.recurrence(segment=8)), 64)
    assert xl["scores"] == pytest.approx(4 * 2 * 4 * 16 * (4.5 + 8 * 7 / 8))

"""The flex kernel against the dense mask and the naive reference, forward, on the CPU (it trains on
CUDA alone: tests/gpu).  (A20) is an acceptance check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from paribus import parts
from paribus.contracts import View
from paribus.engine.net import make_net
from paribus.errors import Refused
from paribus.nn import flex
from paribus.nn.attention import KERNELS
from paribus.nn.transformer import Transformer
from tests.engine import tiny
from tests.nn import oracle
from tests.nn.columnar import core_of, drawn
from tests.nn.models import VOCAB, model_with, parameters

positions, masks = parts.Namespace("positions"), parts.Namespace("masks")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

# Branches of a row each: 2 rows of 213 and 161 tokens, padded to one that is no multiple of 128.
ROWS = [[70, 80, 63], [90, 71]]
LENGTH = 231


def places(rows=ROWS, length=LENGTH, **how) -> tuple[dict[str, Tensor], Tensor]:
    """Coordinates [B,T] and validity of rows, padded."""
    every = [oracle.layout(lengths, **how) for lengths in rows]
    at = {n: torch.zeros(len(rows), length, dtype=torch.long) for n in ("branch", "time", "main")}
    valid = torch.zeros(len(rows), length, dtype=torch.bool)
    for r, tokens in enumerate(every):
        valid[r, : len(tokens)] = True
        for n in at:
            at[n][r, : len(tokens)] = torch.tensor([int(getattr(t, n)) for t in tokens])
    return at, valid


def logits(
    core: Transformer,
    p: dict[str, Tensor],
    kernel: str,
    dtype: torch.dtype | None = None,
    models=None,
    length: int = LENGTH,
    **how,
) -> tuple[Tensor, Tensor]:
    """Logits [E,B,T,V] and validity [B,T]."""
    at, valid = places(length=length, **how)
    E = len(next(iter(p.values())))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (E, *valid.shape)))
    master = next(iter(p.values())).dtype
    given = {n: c[None] for n, c in at.items()}
    with torch.no_grad():
        ready = core.ready(
            tuple(ids.shape), given, valid[None], models=models, kernel=kernel, dtype=master
        )
        return core(p, ids, kernel=kernel, dtype=dtype, ready=ready), valid


@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
@pytest.mark.parametrize("length", [LENGTH, 256])
def test_kernels_agree(reads, length):
    """A20: dense, reference and flex, fp32 within 1e-4: two key heads for four, padded rows, a
    length that is no multiple of 128, and a stack of two ratios."""
    models = [
        core_of(positions.rope2d(ratio=r, choice=c), reads).model
        for r, c in ((0.25, "slowest"), (1.0, "per_head"))
    ]
    core = Transformer(models[0])
    p = {k: t.float() for k, t in drawn(core, (0, 1)).items()}
    how = {"main": 9, "length": length}
    found = {k: logits(core, p, k, models=models, **how) for k in KERNELS}
    valid = found["sdpa"][1]
    for kernel in ("sdpa", "flex"):
        gap = (found[kernel][0] - found["reference"][0])[:, valid].abs().max()
        assert gap < 1e-4, kernel
        assert found[kernel][0].isfinite().all(), "padding too"
    apart = (found["sdpa"][0][0] - found["sdpa"][0][1])[valid].abs().max()
    assert apart > 0.1, "the trials differ"


@pytest.mark.parametrize("reads", ["columnar", "isolated"])
def test_kernels_agree_in_bf16(reads):
    """A20: within 2e-2 of the largest logit, as far as each is from fp32 itself."""
    core = core_of(positions.rope2d(ratio=0.75), reads)
    p = {k: t.float() for k, t in drawn(core, (0, 1)).items()}
    exact, valid = logits(core, p, "reference")
    size = float(exact[:, valid].abs().max())
    low = {k: logits(core, p, k, torch.bfloat16)[0] for k in KERNELS}
    for kernel in ("sdpa", "flex"):
        gap = (low[kernel] - low["reference"])[:, valid].abs().max()
        assert float(gap) < 2e-2 * size, kernel
        assert float((low[kernel] - exact)[:, valid].abs().max()) < 4e-2 * size
        assert low[kernel].isfinite().all()


@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("each", ["rows", "trials"])
def test_blocks_are_those_of_the_dense_mask(reads, right, each):
    """A block is visited where the mask allows anything in it, and taken as full where it allows
    all: 128 tokens a block, the last one shorter."""
    at, valid = places([[130, 100, 120], [300, 3]], 370, right=right)
    view = core_of(None).view(370, given=at)
    if each == "trials":  # two trials of the two rows in turn
        view = view.map(lambda c: torch.cat([c.expand(1, 2, -1), c.expand(1, 2, -1).flip(1)]))
        valid = torch.stack([valid, valid.flip(0)])
    else:
        valid = valid[None]
    view = View({**view.coordinates, "valid": valid})
    mask = masks.branch(reads=reads)
    rows = flex.Rows(view, 2, 2)
    made = flex.block_mask(lambda q, k: mask.allowed(0, q, k), rows, rows)
    dense = mask.allowed(
        0, view.map(lambda c: c[:, :, :, None]), view.map(lambda c: c[:, :, None, :])
    )
    dense = (dense & valid[..., None] & valid[:, :, None]).expand(2, 2, 370, 370).flatten(0, 1)
    if each == "rows":
        assert torch.equal(dense[:2], dense[2:])
    some = np.zeros((4, 3, 3), bool)
    full = np.zeros((4, 3, 3), bool)
    for b in range(4):
        for n in range(3):
            for m in range(3):
                tile = dense[b, 128 * n : 128 * (n + 1), 128 * m : 128 * (m + 1)]
                some[b, n, m], full[b, n, m] = tile.any(), tile.numel() == 128**2 and tile.all()
    listed = {
        "full": (made.full_kv_num_blocks, made.full_kv_indices),
        "partial": (made.kv_num_blocks, made.kv_indices),
    }
    for kind, want in (("full", full), ("partial", some & ~full)):
        number, order = listed[kind]
        found = np.zeros_like(want)
        for b in range(4):
            for n in range(3):
                found[b, n, order[b, 0, n, : int(number[b, 0, n])].tolist()] = True
        assert np.array_equal(found, want), kind
    if reads == "columnar" and not right:
        assert full.any(), "or the test shows nothing"


@pytest.mark.parametrize("draws", [[0, 1, 0], [0, 0, 0], [0, 1, 2], [0, 1, 1]])
def test_trials_that_read_the_same_rows_share_their_places(draws):
    """A20: of three trials, on both kernels, against places written out for each."""
    core = core_of(positions.rope2d(ratio=0.75))
    p = drawn(core, (0, 1, 2))
    made = [places([[30 + 9 * i, 50], [90 - i, 20, 7 * i + 1]], 150) for i in range(max(draws) + 1)]
    own = {n: torch.stack([at[n] for at, _ in made]) for n in made[0][0]}
    valid = torch.stack([v for _, v in made])
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (3, 2, 150)))
    whole = {n: c[draws] for n, c in own.items()}
    with torch.no_grad():
        ready = core.ready(
            (3, 2, 150), whole, valid[draws], kernel="reference", dtype=torch.float64
        )
        want = core(p, ids, kernel="reference", ready=ready)
        for kernel in KERNELS:
            ready = core.ready(
                (3, 2, 150), own, valid, draws=draws, kernel=kernel, dtype=torch.float64
            )
            found = core(p, ids, kernel=kernel, ready=ready)
            gap = (found - want)[valid[draws]].abs().max()
            assert gap < 1e-10, kernel


def test_blocks_are_counted_in_pieces(monkeypatch):
    """However few pairs are looked at together."""
    at, _ = places([[400, 300]], 700)
    rows, mask = flex.Rows(core_of(None).view(700, given=at), 1, 1), masks.branch()

    def made():
        return flex.block_mask(lambda q, k: mask.allowed(0, q, k), rows, rows)

    whole = made()
    monkeypatch.setattr(flex, "AT_ONCE", 1)
    pieces = made()
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name))
    assert int(whole.full_kv_num_blocks.sum()) > 0


@pytest.mark.parametrize("position", ["alibi", "rope", "sinusoidal"])
@pytest.mark.parametrize("mask", [masks.causal(), masks.sliding_window(size=40), masks.full()])
def test_other_masks_and_biases_without_parameters(position, mask):
    """What has no branches runs on the flex kernel too; a bias goes in pair by pair."""
    model = model_with(parts.get("positions", position)(), mask=mask)
    core, p = Transformer(model), parameters(model, [0, 1])
    valid = torch.ones(1, 2, 150, dtype=torch.bool)
    valid[0, 0, :9] = valid[0, 1, 140:] = False
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (2, 2, 150)))
    found = {}
    with torch.no_grad():
        for kernel in ("reference", "flex"):
            ready = core.ready((2, 2, 150), {}, valid, kernel=kernel)
            found[kernel] = core(p, ids, kernel=kernel, ready=ready)
    at = valid.expand(2, 2, 150)
    torch.testing.assert_close(found["flex"][at], found["reference"][at], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("mask", "front", "looks"),
    [
        *[(masks.branch(reads=r), False, False) for r in ("columnar", "isolated", "prefix")],
        (masks.branch(), True, False),
        (masks.causal(), False, False),
        (masks.causal(), True, True),
        (masks.full(), False, True),
    ],
)
def test_the_kernel_looks_at_validity_where_it_must(mask, front, looks, monkeypatch):
    """The look makes it slow; padding at the ends of rows is shown by no predicate of time or
    order."""
    at, valid = places([[100, 90]], 256)
    if front:
        at, valid = {n: c.flip(1) for n, c in at.items()}, valid.flip(1)
    view = core_of(None).view(256, given=at)
    rows = flex.Rows(View({**view.coordinates, "valid": valid[None]}), 1, 1)
    made = flex.block_mask(lambda q, k: mask.allowed(0, q, k), rows, rows)
    seen, real = [], flex._valid
    monkeypatch.setattr(flex, "_valid", lambda *a: seen.append(1) or real(*a))
    every, zero = torch.arange(256), torch.tensor(0)
    keep = made.mask_mod(zero, zero, every[:, None], every[None])
    assert bool(seen) == looks
    assert not keep[valid[0]][:, ~valid[0]].any(), "no token reads padding"


def test_what_flex_cannot_do_is_refused():
    """A bias that learns would have to be written out: it is not run on another kernel under this
    one's name.  Training needs CUDA."""
    spec = tiny.spec(**{"model.position": positions.kerple()})
    with pytest.raises(Refused, match="flex"):
        make_net([spec], "cpu", "flex")
    assert make_net([spec], "cpu", "auto").kernel == "sdpa"
    with pytest.raises(Refused, match="CUDA alone"):
        tiny.train([tiny.member(1)], kernel="flex")

"""Repeating positions and masks along blocks: their counts, what they let reach the answer, and
that no kernel and no dead row changes it.  (A11) … (A19) are acceptance checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paribus import masks, positions, presets
from paribus.contracts import View
from paribus.errors import Refused
from paribus.nn.declare import counts, total
from paribus.nn.initialise import initialise
from paribus.nn.masks.schema_blocks import SchemaBlocks
from paribus.nn.transformer import Transformer
from paribus.spec import resolve
from tests.engine import tiny
from tests.nn.models import INIT
from tests.tasks import joins

both_ways = pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
WHOLE = positions.learned(length=None)
STANDARD = {"position": WHOLE, "mask": masks.causal()}


def structured(causal: bool, **how: Any) -> dict[str, Any]:
    return {"position": positions.tiled(), "mask": masks.schema_blocks(causal=causal, **how)}


def model_of(V: int = 5, C: int = 3, width: int = 64, dims: int = 5, **how: Any) -> Any:
    """The resolved model of a question of so many tables; ``dims`` are numbers of an input."""
    small = {"width": width, "layers": 4, "heads": 4, "read_in": "vectors", "read_out": "scalar"}
    model = presets.gpt2(**{**small, **STANDARD, **how})
    return resolve(tiny.spec(model=model, task=joins.task(V=V, C=C, width=dims))).model


def drawn(
    core: Transformer, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    return initialise(core.model, INIT, [seed], dtype)


def places(V: int, C: int) -> View:
    return View({k: torch.tensor(t) for k, t in joins.coordinates(V, C).items()})


def read(core: Transformer, p: dict[str, Tensor], inputs: Tensor, V: int = 5, C: int = 3,
         **how: Any) -> Tensor:  # fmt: skip
    """Outputs [B,T] of inputs [B,T,n]."""
    return core(p, inputs[None].to(next(iter(p.values())).dtype), places(V, C), **how)[0]


def shown(V: int = 5, C: int = 3, n: int = 12, **how: Any) -> Tensor:
    """Inputs [n,T,5] of questions."""
    found = joins.source(V=V, C=C, eval_examples=n, **how)
    return found.examples(0, n)["inputs"].double()


def moved(inputs: Tensor, V: int, order: Any, C: int = 3) -> Tensor:
    """The same with tables in another order."""
    blocks = inputs[:, : V * (C + 1)].unflatten(1, (V, C + 1))[:, list(order)].flatten(1, 2)
    return torch.cat([blocks, inputs[:, V * (C + 1) :]], 1)


def allowed(mask: Any, layer: int, V: int, C: int = 3) -> np.ndarray:
    """[T,T], from the coordinates that a task gives."""
    core = Transformer(model_of(V, C, mask=mask))
    view = core.view(V * (C + 1) + 3, given=places(V, C).coordinates)
    q = view.map(lambda c: c[:, :, None, :, None])
    return mask.allowed(layer, q, q.map(lambda c: c.mT))[0, 0, 0].numpy()


def by_loops(layer: int, causal: bool, V: int, C: int = 3, local: int = 2) -> np.ndarray:
    """The same, from the words of the specification."""
    T = V * (C + 1) + 3
    out = np.zeros((T, T), bool)
    keys = [(b + 1) * (C + 1) - 1 for b in range(V)] + [T - 3, T - 2, T - 1]
    for i in range(T):
        for j in range(T):
            if layer < local:
                inside = max(i, j) < T - 3 and i // (C + 1) == j // (C + 1)
                out[i, j] = inside or i == j
                if i == j < T - 3:
                    assert inside
            else:
                out[i, j] = i in keys and j in keys
            out[i, j] &= j <= i or not causal
    return out


# ── A11, A13 ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("V", [20, 5, 3])
def test_positions_of_both_arms_in_numbers(V):
    """A11: V(C+1)+3 rows against C+4."""
    wanted = {20: 21_248, 5: 5_888, 3: 3_840}[V]
    for arm, number in ((STANDARD, wanted), (structured(True), 1_792)):
        roles = counts(model_of(V, width=256, heads=8, **arm))["roles"]
        assert roles["position"] == number


@pytest.mark.parametrize("seed", range(5))
def test_positions_by_their_formula(seed):
    """A11: for any V, C and width."""
    rng = np.random.default_rng(seed)
    V, C, width = int(rng.integers(1, 12)), int(rng.integers(1, 7)), 4 * int(rng.integers(2, 20))
    plain = model_of(V, C, width=width)
    tiled = model_of(V, C, width=width, position=positions.tiled(period=C + 1))
    assert counts(plain)["roles"]["position"] == (V * (C + 1) + 3) * width
    assert counts(tiled)["roles"]["position"] == (C + 4) * width


@pytest.mark.parametrize(("width", "layers", "blocks"), [(256, 12, 9_477_632), (64, 4, 200_064)])
def test_parameters_of_blocks(width, layers, blocks):
    """A13: with the final norm; beside them positions, the read-in and the read-out alone."""
    for arm, rows in ((STANDARD, 23), (structured(False), 7)):
        model = model_of(width=width, layers=layers, heads=8, **arm)
        other = {"read_in.weight": 5 * width, "read_in.bias": width, "position.table": rows * width,
                 "read_out.weight": width, "read_out.bias": 1}  # fmt: skip
        core = Transformer(model)
        sizes = {path: int(np.prod(P.shape)) for path, P in core.declared.items()}
        assert {k: n for k, n in sizes.items() if k in other} == other
        assert sum(n for k, n in sizes.items() if k not in other) == blocks
        assert total(model) == blocks + sum(other.values())
    if width == 256:
        assert total(model) == 9_481_217, "the document's structured model"
        plain = {"position": positions.learned(length=202), "dims": 20}
        assert total(model_of(width=256, layers=12, heads=8, **plain)) == 9_534_977


# ── A12 ─────────────────────────────────────────────────────────────────────────────────────

ONES = {(20, False): (323, 529), (5, False): (83, 64), (3, False): (51, 36),
        (20, True): (203, 276), (5, True): (53, 36)}  # fmt: skip


@pytest.mark.parametrize(("V", "causal"), ONES)
def test_ones_of_the_masks(V, causal):
    """A12: and which; the document's 4.70 % is 323 of 6,889, 4.69 %."""
    mask = masks.schema_blocks(causal=causal)
    found = [allowed(mask, layer, V) for layer in range(4)]
    assert [int(m.sum()) for m in found] == [ONES[V, causal][i] for i in (0, 0, 1, 1)]
    for layer, m in enumerate(found):
        assert np.array_equal(m, by_loops(layer, causal, V))
    dead = int((~found[2].any(1)).sum())
    assert dead == V * 3
    if (V, causal) == (20, False):
        assert [round(100 * float(m.mean()), 2) for m in found[1:3]] == [4.69, 7.68]


@pytest.mark.parametrize("local", [0, 1, 3])
@both_ways
def test_any_number_of_local_layers(local, causal):
    mask = masks.schema_blocks(causal=causal, local_layers=local)
    for layer in range(4):
        want = by_loops(layer, causal, 4, 2, local)
        assert np.array_equal(allowed(mask, layer, 4, 2), want)


# ── A14 ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
def test_the_standard_model_is_strictly_causal(kernel):
    """A14: changing token j changes it and what is after, and nothing before it by a bit."""
    core = Transformer(model_of(**STANDARD))
    p, inputs = drawn(core), shown(n=1)
    with torch.no_grad():
        before = read(core, p, inputs, kernel=kernel)
        for j in range(23):
            other = inputs.clone()
            other[:, j] += 1
            change = (read(core, p, other, kernel=kernel) - before).abs()[0]
            assert change[:j].eq(0).all()
            assert change[j:].gt(1e-9).all()


@both_ways
@pytest.mark.parametrize("local", [1, 0], ids=["blocks", "summaries"])
def test_what_reaches_what_by_gradient(local, causal):
    """A14: of one layer's outputs, every (i, j): the derivative is zero exactly where the mask is
    (and the token itself, by the residual)."""
    V = 3
    mask = masks.schema_blocks(causal=causal, local_layers=local)
    core = Transformer(model_of(V, layers=1, position=positions.tiled(), mask=mask))
    p, x = drawn(core), shown(V, n=1).requires_grad_()
    out = read(core, p, x, V)[0]
    found = np.stack([
        torch.autograd.grad(o, x, retain_graph=True)[0][0].abs().amax(1).numpy() for o in out
    ])  # fmt: skip
    assert np.array_equal(found > 0, by_loops(0, causal, V, local=local) | np.eye(15, dtype=bool))


@both_ways
def test_what_reaches_the_answer_layer_by_layer(causal):
    """A14, A16: in a whole model, by products of the masks."""
    V = 4
    for layers in (1, 2, 3, 4):
        core = Transformer(model_of(V, layers=layers, **structured(causal)))
        x = shown(V, n=1).requires_grad_()
        (g,) = torch.autograd.grad(read(core, drawn(core), x, V)[0, -1], x)
        reach = np.eye(19, dtype=int)
        for layer in range(layers):
            step = by_loops(layer, causal, V) | np.eye(19, dtype=bool)
            reach = (step.astype(int) @ reach > 0).astype(int)
        assert np.array_equal(g[0].abs().amax(1).numpy() > 0, reach[-1] > 0), layers


# ── A15 ─────────────────────────────────────────────────────────────────────────────────────


def change(
    model: Any, a: Tensor, b: Tensor, V: int = 5, dtype: torch.dtype = torch.float64
) -> float:
    core = Transformer(model)
    p = drawn(core, dtype)
    with torch.no_grad():
        return float((read(core, p, a) - read(core, p, b))[:, -1].abs().max())


def test_the_order_of_tables():
    """A15: of no consequence to the structured model in both directions; to any other it is."""
    x = shown()
    order = [3, 0, 4, 1, 2]
    y = moved(x, 5, order)
    assert change(model_of(**structured(False)), x, y) < 1e-12
    assert change(model_of(**structured(False)), x, y, dtype=torch.float32) <= 1e-5
    assert change(model_of(**structured(True)), x, y) > 1e-5
    assert change(model_of(**STANDARD), x, y) > 1e-5
    assert change(model_of(position=WHOLE,
                           mask=masks.schema_blocks(causal=False)), x, y) > 1e-5  # fmt: skip
    assert change(model_of(position=positions.tiled(), mask=masks.full()), x, y) < 1e-12


@both_ways
def test_the_order_of_columns(causal):
    """A15: is seen by every arm."""
    x = shown()
    y = x.clone()
    y[:, [1, 2, 3]] = x[:, [3, 1, 2]]
    assert change(model_of(**structured(causal)), x, y) > 1e-5
    assert change(model_of(**STANDARD), x, y) > 1e-5


# ── A16 ─────────────────────────────────────────────────────────────────────────────────────


@both_ways
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_two_layers_know_the_second_question_alone(layers, causal):
    """A16: the logit is that of any other schema and first question, to the bit; three see both."""
    model = model_of(layers=layers, **structured(causal))
    x = shown()
    y = torch.cat([shown(data_seed=1)[:, :-1], x[:, -1:]], 1)
    first = x.clone()
    first[:, -2] += 1
    schema = torch.cat([y[:, :-3], x[:, -3:]], 1)
    for other in (y, first, schema):
        if layers <= 2:
            assert change(model, x, other) == 0
        else:
            assert change(model, x, other) > 1e-6


# ── A17 ─────────────────────────────────────────────────────────────────────────────────────


class SelfLoops(SchemaBlocks, frozen=True, kw_only=True):
    """Rows that read nothing read themselves."""

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        keep = super().allowed(layer, q, k)
        return keep | (~keep.any(-1, keepdim=True) & (q.index == k.index))


@both_ways
@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rows_that_read_nothing(kernel, dtype, causal):
    """A17: finite outputs and gradients; that they read themselves would change the answer by at
    most 1e-6."""
    looped = SelfLoops(causal=causal)
    dead = ~by_loops(2, causal, 5).any(1)
    plain = allowed(masks.schema_blocks(causal=causal), 2, 5)
    assert (allowed(looped, 2, 5) != plain).sum() == dead.sum() == 15
    x, out = shown(), []
    for mask in (masks.schema_blocks(causal=causal), looped):
        core = Transformer(model_of(position=positions.tiled(), mask=mask))
        p = {k: t.requires_grad_() for k, t in drawn(core, torch.float32).items()}
        y = read(core, p, x, kernel=kernel, dtype=dtype)
        assert y.isfinite().all()
        grads = torch.autograd.grad(y.square().sum(), list(p.values()))
        assert all(g.isfinite().all() for g in grads)
        last = read(core, p, x, kernel=kernel, dtype=dtype)[:, -1]
        out.append((last, torch.autograd.grad(last.sum(), list(p.values()))))
    (a, grads_a), (b, grads_b) = out
    assert float((a - b).abs().max().detach()) <= 1e-6
    for one, two in zip(grads_a, grads_b, strict=True):
        assert float((one - two).abs().max()) <= 1e-6 * max(1, float(one.abs().max()))


# ── A18 ─────────────────────────────────────────────────────────────────────────────────────


@both_ways
def test_equal_blocks_have_equal_outputs(causal):
    """A18: after the two local layers, wherever they stand; of whole positions they have not."""
    x = shown()
    x[:, 12:16] = x[:, 4:8]  # the fourth table is the second
    for position, equal in ((positions.tiled(), True), (WHOLE, False)):
        core = Transformer(model_of(layers=2, **{**structured(causal), "position": position}))
        y = read(core, drawn(core), x)
        assert bool((y[:, 12:16] - y[:, 4:8]).abs().max() < 1e-12) == equal


@both_ways
def test_tiled_positions_are_a_table_of_whole_ones(causal):
    """A11, A18: P[i mod (C+1)], then three of their own: the same outputs as the whole table that
    repeats them, and its gradient summed."""
    tiled = Transformer(model_of(**structured(causal)))
    whole = Transformer(model_of(**{**structured(causal), "position": WHOLE}))
    p = drawn(tiled)
    rows = [i % 4 for i in range(20)] + [4, 5, 6]
    q = {**p, "position.table": p["position.table"][:, rows]}
    a, b = p["position.table"].requires_grad_(), q["position.table"].detach().requires_grad_()
    q["position.table"] = b
    x = shown()
    y, z = read(tiled, p, x)[:, -1], read(whole, q, x)[:, -1]
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
    (mine,), (theirs,) = torch.autograd.grad(y.sum(), a), torch.autograd.grad(z.sum(), b)
    summed = torch.zeros_like(mine).index_add_(1, torch.tensor(rows), theirs)
    torch.testing.assert_close(mine, summed, rtol=1e-9, atol=1e-12)


def test_a_period_that_does_not_fit_is_refused():
    core = Transformer(model_of(C=4, **structured(True)))
    with pytest.raises(Refused, match="period"):
        read(core, drawn(core), shown(C=4), C=4)


# ── A19 ─────────────────────────────────────────────────────────────────────────────────────


@both_ways
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_kernels_agree(causal):
    """A19: reference, fused and flex, against float64."""
    x = shown(n=2)
    dense = {"position": WHOLE, "mask": masks.causal() if causal else masks.full()}
    for arm in (structured(causal), dense):
        core = Transformer(model_of(layers=3, **arm))
        exact = read(core, drawn(core), x, kernel="reference").detach()
        p = drawn(core, torch.float32)
        given = {k: torch.tensor(t)[None, None] for k, t in joins.coordinates(5, 3).items()}
        for kernel in ("reference", "sdpa", "flex"):
            ready = core.ready((1, 2, 23), given, kernel=kernel)
            with torch.no_grad():
                y = core(p, x[None].float(), kernel=kernel, ready=ready)[0]
            assert float((y.double() - exact)[:, -1].abs().max()) <= 1e-4, (kernel, arm)


# ── Hugging Face ────────────────────────────────────────────────────────────────────────────


def theirs(core: Transformer, p: dict[str, Tensor], x: Tensor, layers: int, each: Any) -> Tensor:
    """The outputs of transformers' GPT-2 blocks with our weights; ``each`` is a layer's mask."""
    hf = pytest.importorskip("transformers", reason="their blocks are what ours are held against")
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    d, heads = core.dims.width, core.dims.heads
    config = hf.GPT2Config(n_embd=d, n_layer=layers, n_head=heads, n_positions=64, attn_pdrop=0.0,
                           resid_pdrop=0.0, embd_pdrop=0.0, attn_implementation="sdpa")  # fmt: skip
    own = {k: t[0] for k, t in p.items()}
    h = x.to(own["read_in.weight"].dtype) @ own["read_in.weight"].T + own["read_in.bias"]
    rows = [i % 4 for i in range(20)] + [4, 5, 6] if len(own["position.table"]) == 7 else range(23)
    h = h + own["position.table"][list(rows)]
    for i in range(layers):
        block, b = GPT2Block(config, layer_idx=i).to(h.dtype).eval(), f"blocks.{i}"
        with torch.no_grad():
            for a, n in (("ln_1", "norm1"), ("ln_2", "norm2")):
                getattr(block, a).weight.copy_(own[f"{b}.{n}.gain"])
                getattr(block, a).bias.copy_(own[f"{b}.{n}.bias"])
            block.attn.c_attn.weight.copy_(torch.cat([own[f"{b}.attn.{n}"] for n in "qkv"]).T)
            block.attn.c_attn.bias.copy_(torch.cat([own[f"{b}.attn.{n}_bias"] for n in "qkv"]))
            block.attn.c_proj.weight.copy_(own[f"{b}.attn.o"].T)
            block.attn.c_proj.bias.copy_(own[f"{b}.attn.o_bias"])
            for a, n in (("c_fc", "up"), ("c_proj", "down")):
                getattr(block.mlp, a).weight.copy_(own[f"{b}.mlp.{n}"].T)
                getattr(block.mlp, a).bias.copy_(own[f"{b}.mlp.{n}_bias"])
            out = block(h, attention_mask=each(i, h.dtype))
            h = out[0] if isinstance(out, tuple) else out
    h = torch.nn.functional.layer_norm(h, (d,), own["final_norm.gain"], own["final_norm.bias"])
    return h @ own["read_out.weight"].T.reshape(d, -1) + own["read_out.bias"]


@both_ways
@pytest.mark.parametrize("arm", ["standard", "structured"])
def test_hugging_face_s_blocks(arm, causal):
    """The document's model, built of transformers' GPT-2 blocks with additive masks of −1e9."""
    how = (
        structured(causal)
        if arm == "structured"
        else {
            "position": WHOLE,
            "mask": masks.causal() if causal else masks.full(),
        }
    )
    core = Transformer(model_of(layers=3, **how))
    p, x = drawn(core), shown()

    def each(layer: int, dtype: torch.dtype) -> Tensor:
        keep = by_loops(layer, causal, 5) if arm == "structured" else np.ones((23, 23), bool)
        keep = np.tril(keep) if causal else keep
        return torch.from_numpy(~keep)[None, None].to(dtype) * -1e9

    wanted = theirs(core, p, x, 3, each)[..., 0]
    found = read(core, p, x)
    rows = slice(-1, None) if arm == "structured" else slice(None)  # dead rows differ, unread
    torch.testing.assert_close(found[:, rows], wanted[:, rows], rtol=1e-8, atol=1e-8)

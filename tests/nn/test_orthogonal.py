"""Orthogonal queries and keys, at the size of the founding study, against scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from paribus import init, positions, presets, rng
from paribus.nn.declare import declare
from paribus.nn.initialise import initialise
from paribus.spec import InitScheme

D, H, LAYERS = 512, 8, 2
HEAD = D // H
PARTS = {
    f"{per} {method}": init.orthogonal(per=per, method=method)
    for per in ("matrix", "head")
    for method in ("qr", "svd", "householder")
}
QK = [f"blocks.{i}.attn.{w}" for i in range(LAYERS) for w in "qk"]


def model(**changes):
    fields = dict(width=D, layers=LAYERS, heads=H, vocab=40, attn_bias=False)
    return presets.gpt2(**fields, position=positions.learned(length=16), **changes)


def drawn(qk, seeds=(3,), dtype=torch.float32, **changes):
    scheme = InitScheme(every=init.normal(std=0.02), qk=qk)
    return initialise(model(**changes), scheme, list(seeds), dtype)


@pytest.fixture(scope="module")
def weights():
    return {name: drawn(part) for name, part in PARTS.items()}


def heads(w):
    return w.double().view(-1, HEAD, D)


@pytest.mark.parametrize("name", PARTS)
def test_rows_of_every_head_are_orthonormal(weights, name):
    one = torch.eye(HEAD, dtype=torch.float64)
    for path in QK:
        w = heads(weights[name][path][0])
        assert (w @ w.mT - one).abs().max() <= 1e-5
        if name.startswith("matrix"):
            whole = weights[name][path][0].double()
            for product in (whole @ whole.T, whole.T @ whole):
                assert (product - torch.eye(D)).norm() <= 1e-4


@pytest.mark.parametrize("method", ["qr", "svd", "householder"])
def test_heads_overlap_where_each_is_drawn_alone(weights, method):
    for path in QK:
        overlap, largest = {}, {}
        for per in ("matrix", "head"):
            w = weights[f"{per} {method}"][path][0].double()
            product = (w @ w.T).abs().view(H, HEAD, H, HEAD)
            overlap[per] = max(
                float(product[i, :, j].max()) for i in range(H) for j in range(H) if i != j
            )
            largest[per] = float(torch.linalg.matrix_norm(w, 2))
        assert overlap["matrix"] <= 1e-5 and largest["matrix"] == pytest.approx(1, abs=1e-5)
        assert overlap["head"] > 0.05 and largest["head"] > 1.5


@pytest.mark.parametrize("name", PARTS)
def test_the_form_of_a_head_is_a_partial_isometry(weights, name):
    q, k = (heads(weights[name][f"blocks.0.attn.{w}"][0]) for w in "qk")
    for i in (0, H - 1):
        s = torch.linalg.svdvals(q[i].T @ k[i])
        assert (s[:HEAD] - 1).abs().max() < 1e-4 and s[HEAD:].max() < 1e-4


def test_row_lengths_and_logits_beside_the_gaussian_controls(weights):
    arms = {name: weights[name] for name in ("matrix qr", "head qr")}
    arms["matched"] = drawn(init.normal(std=D**-0.5))
    arms["small"] = drawn(init.normal(std=0.02))
    x = torch.from_numpy(rng.Stream(0, "test", "x").normal(64 * D)).float().view(64, D)
    x = F.layer_norm(x, (D,))
    for name, p in arms.items():
        length, slack = (0.4525, 0.01) if name == "small" else (1, 0.02)
        size, width = (0.205, 0.02) if name == "small" else (1, 0.05)
        for path in QK:
            assert float(p[path][0].norm(dim=1).mean()) == pytest.approx(length, abs=slack)
        q, k = ((x @ p[f"blocks.0.attn.{w}"][0].T).view(64, H, HEAD).transpose(0, 1) for w in "qk")
        logits = q @ k.mT * HEAD**-0.5
        off = ~torch.eye(64, dtype=torch.bool).expand(H, -1, -1)
        assert float(logits[off].std()) == pytest.approx(size, abs=width), name


@pytest.mark.parametrize("name", PARTS)
def test_keyed_by_seed_and_path(weights, name):
    one = weights[name]
    again = drawn(PARTS[name], (3, 4))
    for i, path in enumerate(QK):
        assert torch.equal(one[path][0], again[path][0])  # in a stack as alone
        assert not torch.equal(again[path][0], again[path][1])
        assert all(not torch.equal(one[path], one[other]) for other in QK[:i])


def test_only_queries_and_keys_differ_from_the_arm_without():
    plain = drawn(init.normal(std=0.02))
    for part in PARTS.values():
        for path, t in drawn(part).items():
            assert torch.equal(t, plain[path]) == (path not in QK), path


def test_the_whole_model_may_have_it():
    alone = drawn(init.orthogonal())
    every = initialise(model(), InitScheme(every=init.orthogonal()), [3])
    assert all(torch.equal(t, every[k]) for k, t in alone.items())


@pytest.mark.parametrize("per", ["matrix", "head"])
def test_qr_is_scipys_with_signs(per):
    p = drawn(init.orthogonal(per=per), dtype=torch.float64)
    for path in QK[:2]:
        a = rng.Stream(3, "init", path).normal(D * D).reshape(D, D)
        parts = [a] if per == "matrix" else [h.T for h in a.reshape(H, HEAD, D)]
        made = []
        for part in parts:
            q, r = scipy.linalg.qr(part, mode="economic")
            q = q * np.sign(np.diag(r))
            made.append(q if per == "matrix" else q.T)
        np.testing.assert_allclose(p[path][0].numpy(), np.concatenate(made), atol=1e-11)


def test_svd_is_scipys_up_to_signs():
    p = drawn(init.orthogonal(method="svd"), dtype=torch.float64)
    a = rng.Stream(3, "init", QK[0]).normal(D * D).reshape(D, D)
    u, _, vt = scipy.linalg.svd(a)
    got = p[QK[0]][0].numpy()
    np.testing.assert_allclose(np.abs((u * got).sum(0)), 1, atol=1e-9)
    assert ((u * got).sum(0) * vt[:, 0] > 0).all()


def test_householder_is_the_product_of_reflections():
    p = drawn(init.orthogonal(method="householder"), dtype=torch.float64)
    a = rng.Stream(3, "init", QK[0]).normal(D * D).reshape(D, D)
    sign = np.linalg.slogdet(p[QK[0]][0].numpy())[0]
    assert sign == (-1) ** D  # one turn over for each reflection
    want = np.eye(D)
    for v in a.T:
        v = v / np.linalg.norm(v)
        want = want - 2 * np.outer(v, v @ want)
    np.testing.assert_allclose(p[QK[0]][0].numpy(), want, atol=1e-11)


@pytest.mark.parametrize("method", ["qr", "svd"])
def test_uniform_over_orthogonal_matrices(method):
    """Of a uniform 3 × 3 matrix each entry is uniform on (−1, 1) and the trace has variance 1."""
    part = init.orthogonal(method=method)
    rows = rng.Stream(0, "test", method).normal(9 * 4000).reshape(-1, 3, 3)
    made = np.stack([part._orthogonal(w) for w in rows])
    for i in range(3):
        for j in range(3):
            assert scipy.stats.kstest(made[:, i, j], "uniform", (-1, 2)).pvalue > 1e-4
    trace = made.trace(axis1=1, axis2=2)
    assert trace.mean() == pytest.approx(0, abs=0.08)
    assert trace.var() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", ["qr", "svd", "householder"])
@pytest.mark.parametrize("per", ["matrix", "head"])
def test_fewer_key_heads_and_heads_of_any_size(per, method):
    """Rows are orthonormal where they fit, else columns: of keys of two heads, and of queries
    wider than the model."""
    part = init.orthogonal(per=per, method=method)
    for width, head_dim in ((64, None), (64, 24), (24, 8), (24, 32)):
        small = dict(width=width, heads=4, kv_heads=2, head_dim=head_dim)
        m = presets.llama(**small, layers=1, vocab=20)
        p = initialise(m, InitScheme(every=init.gpt2(), qk=part), [1], torch.float64)
        for w in "qk":
            path = f"blocks.0.attn.{w}"
            t = p[path][0]
            assert t.shape == declare(m)[path].shape
            for block in t.split(head_dim or 16) if per == "head" else [t]:
                n = block if block.shape[0] <= block.shape[1] else block.T
                torch.testing.assert_close(n @ n.T, torch.eye(len(n), dtype=torch.float64))

"""Questions about schemas: what is drawn and what its answer is, against plain loops and networkx.
(A1), (A2) … are acceptance checks."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paribus.errors import SpecError
from paribus.rng import Stream
from paribus.tasks import _schemas as drawing
from tests.tasks import joins
from tests.tasks.joins import source

# P(yes) and the accuracy of "yes where both are there", by tables: 100,000 samples of another
# program.
KNOWN = {3: (0.332, 0.972), 4: (0.296, 0.980), 5: (0.267, 0.987), 10: (0.160, 0.997),
         20: (0.065, 0.999)}  # fmt: skip
MODES = ("published", "both", "balanced")
SIZES = [(3, 3, 15), (5, 3, 23), (20, 3, 83), (4, 2, 15), (1, 1, 5)]

# ── A1 ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("V", "C", "length"), SIZES)
def test_tokens_are_tables_a_separator_and_the_two_asked(V, C, length):
    """A1: number, order and kinds."""
    found = source(V=V, C=C, eval_examples=50)
    assert joins.task(V=V, C=C).io().length == length
    batch = found.examples(0, 50)
    assert batch["ids"].shape == (50, length)
    assert batch["inputs"].shape == (50, length, 5)
    joins.questions(batch["ids"], V, C)  # looks at order and kinds
    for what, coordinate in joins.coordinates(V, C).items():
        assert batch[f"pos.{what}"].tolist() == [coordinate], what
    assert found.batch(1, 0, range(4))["ids"].shape == (4, length)


# ── A2 ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("V", "n"),
    [(1, 10_000), (3, 10_000), (5, 10_000), (20, 2000),
     pytest.param(20, 10_000, marks=pytest.mark.full)],
)  # fmt: skip
def test_labels_are_networkx_s(V, n):
    """A2: absent is no, and a column is joined with itself."""
    found = source(V=V, eval_examples=n)
    batch = found.examples(0, n)
    every = joins.questions(batch["ids"], V, 3)
    assert batch["targets"].tolist() == [float(joins.connected(q)) for q in every]
    there = [joins.present(q) for q in every]
    assert batch["present"].tolist() == there
    assert not any(joins.connected(q) for q, t in zip(every, there, strict=True) if not t)
    same = [q for q in every if q.asked[0] == q.asked[1] and joins.present(q)]
    assert same
    assert all(map(joins.connected, same))


@pytest.mark.parametrize(
    "how",
    [{}, {"mode": "both"}, {"mode": "balanced"}, {"C": 2, "V": 6}, {"mode": "both", "V": 20},
     {"density": 0.0, "V": 8, "mode": "balanced"}],
    ids=str,
)  # fmt: skip
def test_slices_are_the_joins_of_the_shortest_chain(how):
    """A2: by shortest paths between columns, in every mode."""
    found = source(**how, eval_examples=1000)
    every = joins.questions(found.examples(0, 1000)["ids"], how.get("V", 5), how.get("C", 3))
    slices = found.slices()
    assert slices["hops"].tolist() == [joins.hops(q) for q in every]
    assert slices["present"].tolist() == ["both" if joins.present(q) else "no" for q in every]


# ── A3 ──────────────────────────────────────────────────────────────────────────────────────


def answered(tables, asked):
    """(joins, or why not) by the task's own code, of one question."""
    cols = torch.tensor(tables, dtype=torch.int16)[..., None]
    asked = torch.tensor(asked, dtype=torch.int16)[:, None]
    return int(drawing.hops(cols, asked))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(V=st.integers(1, 7), C=st.integers(1, 4), wide=st.integers(1, 3), seed=st.integers(0, 9999))
def test_what_the_answer_does_not_depend_on(V, C, wide, seed):
    """A3: the order of tables and of columns in them, what columns are called, which of the two is
    asked first, a column that is there twice; exactly."""
    rng = np.random.default_rng(seed)
    K = max(2, V * C // wide)
    tables, asked = rng.integers(0, K, (V, C)), rng.integers(0, K, 2)
    was = answered(tables, asked)
    order = rng.permutation(V)
    called = rng.permutation(100)[:K]
    assert answered(tables[order], asked) == was
    assert answered(rng.permuted(tables, axis=1), asked) == was
    assert answered(called[tables], called[asked]) == was
    assert answered(tables, asked[::-1].copy()) == was
    again = tables[:, rng.integers(0, C)]
    assert answered(np.concatenate([tables, again[:, None]], 1), asked) == was
    told = joins.hops(joins.Question(tables.tolist(), tuple(asked.tolist())))
    assert drawing_says(was) == told


def drawing_says(hops):
    return {-2: joins.ABSENT, -1: joins.APART}.get(hops, str(hops))


# ── A4 … A6 ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("V", KNOWN)
def test_how_often_yes_and_what_membership_tells(V):
    """A4, A5: within 1.0 and 0.5 points of what was measured with another program; majority is the
    rest.  Both stand beside every result."""
    task = joins.task(V=V, eval_examples=20_000)
    found = task.open(joins.DATA.bind("test"), "cpu")
    yes, rule = KNOWN[V]
    batch = found._rows
    p = float(batch["targets"].double().mean())
    right = float((batch["present"] == (batch["targets"] > 0)).double().mean())
    assert p == pytest.approx(yes, abs=0.010)
    assert right == pytest.approx(rule, abs=0.005)
    told = task.baselines(joins.DATA.bind("test"))
    assert told["majority"]["accuracy"] == pytest.approx(1 - p, abs=1e-9)
    assert told["membership"]["accuracy"] == pytest.approx(right, abs=1e-9)
    assert set(told) == set(task.trivial)


@pytest.mark.parametrize("V", [3, 5, 20])
def test_joins_of_those_that_are_both_there(V):
    """§1.8: by the number of joins, of questions whose columns are both there; within 2 points."""
    known = {3: [0.620, 0.264, 0.039, 0, 0.077], 5: [0.487, 0.351, 0.102, 0.0125, 0.047],
             20: [0.347, 0.500, 0.138, 0.006, 0.009]}[V]  # fmt: skip
    n = 6000
    every = Counter(source(V=V, mode="both", eval_examples=n).slices()["hops"].tolist())
    found = [every[h] / n for h in ("0", "1", "2", "3", joins.APART)]
    assert found == pytest.approx(known, abs=0.02)


def test_schemas_are_as_the_document_makes_them():
    """A6: equal questions, repeated columns, lost edges and those that come by accident."""
    for V, n in ((3, 100_000), (5, 50_000), (20, 10_000)):
        ids = source(V=V, eval_examples=n)._rows["ids"]
        same = float((ids[:, -1] == ids[:, -2]).double().mean())
        assert same == pytest.approx(1 / (3 * V), abs=0.003)
    V = 5
    words = Stream(11, "test").rows(range(12_000), drawing.words_of(V, 3)).view(np.int64)
    cols, edges = drawing.tables(torch.from_numpy(words.copy()), V, 3, 0.5)
    twice = lost = accident = drawn = other = 0
    every = zip(cols.permute(2, 0, 1).tolist(), edges.T.tolist(), strict=True)
    for tables, there in every:
        twice += sum(len(set(t)) < 3 for t in tables)
        for edge, (u, v) in zip(there, combinations(range(V), 2), strict=True):
            share = bool(set(tables[u]) & set(tables[v]))
            drawn, lost = drawn + edge, lost + (edge and not share)
            other, accident = other + (not edge), accident + (not edge and share)
    assert twice / (V * len(words)) == pytest.approx(0.206, abs=0.01)
    assert drawn / (drawn + other) == pytest.approx(0.5, abs=0.005)
    assert lost / drawn == pytest.approx(0.063, abs=0.01)
    assert accident / other == pytest.approx(0.539, abs=0.01)


@pytest.mark.parametrize(("V", "C", "density"), [(1, 1, 0.5), (4, 2, 0.3), (5, 3, 0.5), (9, 4, 1)])
def test_the_law_in_plain_loops(V, C, density):
    """Every schema of the published mode is what loops make of its words, edge after edge."""
    words = Stream(3, "connectivity", "test", "published", V, C, 0, -1)
    words = words.rows(range(300), drawing.words_of(V, C))
    ids = source(V=V, C=C, density=density, data_seed=3, eval_examples=300).examples(0, 300)["ids"]
    told = joins.questions(ids, V, C)
    assert told == [joins.drawn(map(int, w), V, C, density)[0] for w in words]
    cols, edges = drawing.tables(torch.from_numpy(words.view(np.int64).copy()), V, C, density)
    pairs = list(combinations(range(V), 2))
    for n, own in enumerate(edges.T.tolist()):
        want = joins.drawn(map(int, words[n]), V, C, density)[1]
        assert {e for e, there in zip(pairs, own, strict=True) if there} == want
    assert cols.shape == (V, C, 300)


# ── A7 ──────────────────────────────────────────────────────────────────────────────────────


def ids_of(n, split="test", **how):
    return source(split, **how).examples(0, n)["ids"]


@pytest.mark.parametrize("mode", MODES)
def test_an_example_is_a_function_of_its_number(mode):
    """A7: not of how many there are, of those beside it, of the order in which they are asked for,
    nor of what it is shown with."""
    how = {"V": 3, "mode": mode}
    n = 1100  # more than are drawn together
    assert n > drawing.BLOCK
    whole = ids_of(n, "train", **how, examples=n)
    found = source("train", **how, examples=n)
    for i, j in ((1030, 1040), (0, 3), (500, 1100), (7, 8)):
        assert torch.equal(found.examples(i, j)["ids"], whole[i:j])
    for less in (1, 16, 1024):
        assert torch.equal(ids_of(less, "train", **how, examples=less), whole[:less])
    other = {"batch": 7, "names": "prompt", "dims": 9, "width": 12, "eval_examples": 10}
    assert torch.equal(ids_of(n, "train", **how, examples=n, **other), whole)
    lists = [whole, ids_of(n, **how, eval_examples=n),
             ids_of(n, "validation", **how, eval_examples=n),
             ids_of(n, "train", **how, examples=n, data_seed=1)]  # fmt: skip
    for a, b in combinations(lists, 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("how", [{"examples": 100}, {}, {"V": 3, "mode": "balanced"}], ids=str)
@pytest.mark.parametrize("names", ["run", "prompt"])
def test_rows_of_a_step_do_not_depend_on_its_pieces(how, names):
    """A7: nor on the steps before; with few examples and with new ones."""
    found = source("train", names=names, **how)
    whole = found.batch(4, 2, range(1000, 1060))
    for pieces in ([20, 40], [1, 2, 57], [60]):
        other, start, parts = source("train", names=names, **how), 1000, []
        for size in pieces:
            parts.append(other.batch(4, 9, range(start, start + size)))
            start += size
        for k, t in whole.items():
            if not k.startswith("pos."):
                assert torch.equal(torch.cat([p[k] for p in parts]), t), k
    assert torch.equal(found.batch(4, 0, range(3))["ids"], found.batch(4, 5, range(3))["ids"])
    assert not torch.equal(found.batch(5, 2, range(1000, 1060))["ids"], whole["ids"])


def test_a_step_draws_from_the_examples_with_replacement():
    """§1.6: each as often as any other, by rows of many steps; of any seed, the same examples."""
    found = source("train", examples=32, names="fixed")
    known = {row.tobytes(): n for n, row in enumerate(found.examples(0, 32)["ids"].numpy())}
    assert len(known) == 32
    for seed in (1, 2):
        rows = found.batch(seed, 0, range(6400))["ids"].numpy()
        each = Counter(known[row.tobytes()] for row in rows)  # a row of no example has no number
        assert stats.chisquare([each[n] for n in range(32)]).pvalue > 1e-3
    nested = [source("train", examples=n).examples(0, 256)["ids"] for n in (256, 512)]
    assert torch.equal(*nested), "the first 256 of 512 are those of 256"


def test_what_a_device_is_called_changes_nothing():
    """A7: a device by its name or as an object, and its tensors lie there."""
    a = joins.task().open(joins.DATA.bind("test"), "cpu")
    b = joins.task().open(joins.DATA.bind("test"), "cpu:0")
    assert torch.equal(a.examples(0, 20)["inputs"], b.examples(0, 20)["inputs"])
    assert {t.device.type for t in b.examples(0, 20).values()} == {"cpu"}


# ── A8 ──────────────────────────────────────────────────────────────────────────────────────


def test_a_model_reads_vectors_and_no_numbers():
    """A8: the inputs are names and zeros; the ids stand beside them, where no model looks."""
    found = source(dims=4, width=20, eval_examples=400)
    batch = found.examples(0, 400)
    inputs, ids = batch["inputs"], batch["ids"]
    assert inputs.shape == (400, 23, 20)
    assert inputs[..., 4:].abs().max() == 0
    assert inputs[:, -3].abs().max() == 0, "the separator is zero"
    named = [i for i in range(23) if i != 20]
    vectors, which = inputs[:, named, :4].flatten(0, 1), ids[:, named].flatten()
    for i in which.unique():
        own = vectors[which == i]
        assert (own == own[0]).all(), "one id, one vector, in the schema and in the question"
    first = torch.stack([vectors[which == i][0] for i in which.unique()])
    assert len(first) == 20
    assert torch.pdist(first).min() > 0.05, "different ids, different vectors"
    assert stats.kstest(first.flatten().numpy(), "norm").pvalue > 1e-3


# ── A9 ──────────────────────────────────────────────────────────────────────────────────────


def test_one_test_set_for_all_arms():
    """A9: at least 10,000; its hash, and the share that training has, too."""
    assert type(joins.task())(V=5).eval_examples >= 10_000
    how = {"V": 3, "eval_examples": 2000}
    arms = [{"examples": 64}, {"examples": 1024}, {"names": "fixed"}, {"names": "prompt"},
            {"dims": 4, "width": 20}, {"batch": 16, "examples": 64}]  # fmt: skip
    told = [source(**how, **arm).realised(None, range(2000)) for arm in arms]
    assert len({t["list"] for t in told}) == 1
    assert source(**how, data_seed=1).realised(None, range(2000))["list"] != told[0]["list"]
    mine = [r.tobytes() for r in source(**how).examples(0, 2000)["ids"].numpy()]
    for arm, found in zip(arms[:2], told, strict=False):
        n = arm["examples"]
        seen = {r.tobytes() for r in ids_of(n, "train", **how, examples=n).numpy()}
        assert found["duplicates"] == sum(r in seen for r in mine) / 2000
    small = {"V": 1, "C": 1, "eval_examples": 50, "examples": 5}
    assert source(**small).realised(None, range(50))["duplicates"] == 1.0
    assert told[0]["duplicates"] < 0.01


# ── A10 ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("V", "hops"), [(2, None), (3, None), (5, None), (5, (0, 1, 1)), (6, (0.2, 0.3, 0.1, 0.4))]
)
def test_balanced_questions(V, hops):
    """A10: half yes, both columns there, membership tells nothing, joins as asked."""
    n = 2048
    task = joins.task(V=V, mode="balanced", hops=hops, eval_examples=n)
    found = task.open(joins.DATA.bind("test"), "cpu")
    every = joins.questions(found.examples(0, n)["ids"], V, 3)
    assert sum(map(joins.connected, every)) / n == pytest.approx(0.5, abs=0.01)
    assert all(map(joins.present, every))
    told = task.baselines(joins.DATA.bind("test"))
    assert told["membership"]["accuracy"] == pytest.approx(0.5, abs=0.01)
    weights = np.array(hops or [1] * min(4, V - 1), float)
    counted = Counter(map(joins.hops, every))
    assert set(counted) <= {*map(str, range(len(weights))), joins.APART}
    wanted = weights / weights.sum() / 2
    assert [counted[str(h)] / n for h in range(len(wanted))] == pytest.approx(wanted, abs=0.005)
    assert all(q.asked[0] != q.asked[1] for q in every)


@pytest.mark.parametrize("V", [3, 5])
def test_no_schema_gives_its_answer_away(V):
    """A10: schemas asked for a yes and for a no are of one law, and never of one piece."""
    n = 6000
    found = source(V=V, mode="balanced", eval_examples=n)
    every = joins.questions(found.examples(0, n)["ids"], V, 3)
    shapes: dict[bool, Counter[tuple[int, int, int]]] = {True: Counter(), False: Counter()}
    for q in every:
        shapes[joins.connected(q)][joins.shape(q)] += 1
    assert all(pieces >= 2 for own in shapes.values() for pieces, *_ in own)
    for what in range(3):
        levels = sorted({s[what] for own in shapes.values() for s in own})
        table = [[sum(k for s, k in own.items() if s[what] == level) for level in levels]
                 for own in shapes.values()]  # fmt: skip
        table = np.array(table)[:, np.sum(table, 0) >= 10]
        if table.shape[1] > 1:
            assert stats.chi2_contingency(table).pvalue > 1e-3, what


def test_chains_that_no_schema_has_are_refused(monkeypatch):
    monkeypatch.setattr(drawing, "PATIENCE", 20_000)
    found = source(V=4, C=1, density=0.0, mode="balanced", hops=(0, 0, 1))
    with pytest.raises(SpecError, match="2 joins apart"):
        found.examples(0, 1)

"""Probes of working memory on models whose answers are known."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paribus import arrays, probes
from paribus.analysis import curves, stats
from paribus.contracts import Measured
from paribus.probes import _items, history
from tests.probes import circuit
from tests.probes.oracles import VOCAB, WORDS, Bigram, Induction, Oracle, PerfectCopy, Uniform

W = 64


def texts(n: int = 3, words: int = 3000) -> list[str]:
    return [" ".join(random.Random(i).choices(WORDS[1:], k=words)) for i in range(n)]


def at(found: Measured, metric: str, **labels: Any) -> float:
    """A metric over the items with these labels."""
    s, c = found.items[metric]
    chosen = np.ones(len(s), bool)
    for k, v in labels.items():
        chosen &= found.slices[k] == v
    assert chosen.any(), labels
    return float(s[chosen].sum() / c[chosen].sum())


# ── copying ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("separator", [0, 1, 8])
def test_copying_ends_where_the_window_does(separator: int) -> None:
    lengths = (2, 3, W - 8, W - 1, W, W + 1, 100)
    probe = probes.copy(lengths=lengths, sources=("random",), trials=20, separator=separator)
    found = probe.measure(Induction(W))
    for n in lengths:
        inside = n + separator <= W
        assert at(found, "last_half_of_copy", length=n) == (1.0 if inside else 0.0)
        # Without a separator nothing announces the first token; after one it follows no cue
        # that stood before, either.
        assert at(found, "second_copy", length=n) == pytest.approx((n - 1) / n if inside else 0.0)


def test_every_token_can_be_kept() -> None:
    probe = probes.copy(lengths=(5,), sources=("random",), trials=3, separator=2, keep="tokens")
    found = probe.measure(Induction(W))
    kept = found.tables["random@5"]
    assert kept["lag"] == 7
    assert kept["right"] == [[0, 1, 1, 1, 1]] * 3
    assert np.abs(np.array(kept["nats"]) - [20, 0, 0, 0, 0]).max() < 1e-3


def test_a_model_that_copies_at_one_lag() -> None:
    probe = probes.copy(lengths=(12, 24), sources=("random",), trials=10, separator=1)
    found = probe.measure(PerfectCopy(25))
    assert at(found, "second_copy", length=24) == 1.0
    assert at(found, "second_copy", length=12) == 0.0


def test_guessing_is_not_above_chance() -> None:
    probe = probes.copy(lengths=(16, 64), sources=("random",), trials=100)
    found = probe.measure(Uniform())
    chance = found.notes["chance"]["random"]
    assert chance == pytest.approx(1 / (VOCAB - 1 - _items.APART))
    s, c = found.items["last_half_of_copy"]
    low, high = stats.wilson(int(s.sum()), int(c.sum()))
    assert low <= chance <= high
    assert (low - chance) / (1 - chance) <= 0 <= (high - chance) / (1 - chance)
    assert at(found, "surprisal") == pytest.approx(np.log(VOCAB), abs=1e-5)


def test_shots_stand_before_and_count() -> None:
    model = Induction(10_000)
    probe = probes.copy(lengths=(8,), sources=("random",), trials=4, shots=2, separator=1)
    found = probe.measure(model)
    (rows,) = model.asked
    assert rows.ids.shape == (4, 1 + 3 * 16 + 5)
    assert rows.at.tolist() == list(range(46, 54))
    assert (rows.ids[:, 1:9] == rows.ids[:, 10:18]).all(), "a shot is answered"
    assert at(found, "last_half_of_copy") == 1.0


# ── what memory adds ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("control", ["none", "foreign", "permuted"])
def test_memory_adds_all_or_nothing(control: Any) -> None:
    lengths, sources = (8, W, W + 1), ("random", "meaningful")
    probe = probes.memory_gain(lengths=lengths, sources=sources, trials=20, control=control)
    found = probe.measure(Induction(W, texts()))
    for n in lengths:
        gain = at(found, "gain", source="random", length=n)
        # A random order keeps some neighbours: of eight tokens one in eight.
        least = 0.9 if control != "permuted" or n > 8 else 0.6
        assert gain > least if n <= W else abs(gain) < 0.05
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    plain = probe.measure(Bigram(table, texts()))
    assert not plain.items["gain"][0].any(), "a bigram has no history"
    assert np.abs(plain.items["gain_nats"][0]).max() < 1e-4
    whole = found.items["whole"][0]
    assert whole[found.slices["length"] == 8].mean() > 0.9
    assert {*whole} <= {0.0, 1.0}


def test_lag_is_told_apart_from_length() -> None:
    found = probes.lag_sweep(trials=10, sources=("random",)).measure(Induction(W))
    lags = sorted({*found.slices["lag"].tolist()})
    assert lags == [16, 24, 32, 48, 64, 96, 128]
    assert [at(found, "gain", lag=n) for n in lags] == [1, 1, 1, 1, 1, 0, 0]


def test_reversing_is_read_by_lag() -> None:
    probe = probes.reverse(lengths=(8,), sources=("random",), trials=5, separator=1, shots=0)
    found = probe.measure(Uniform())
    counts = {lag: int(found.items["reversed"][1][found.slices["lag"] == lag].sum()) / 5
              for lag in found.slices["lag"].tolist()}  # fmt: skip
    assert counts == {2: 1, 4: 2, 8: 4, 16: 1}, "2j: 2, 4, 6, …, 16"
    assert len({*found.groups.tolist()}) == 5

    class Backwards(Oracle):
        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            said = torch.zeros_like(ids_BT)
            for j in range(8):  # of 1 + 8 + 1 + 8 tokens: at place 9 + j comes that of 8 − j
                said[:, 9 + j] = ids_BT[:, 8 - j]
            return self.one(said)

    assert at(probe.measure(Backwards()), "reversed") == 1.0


def test_places_of_a_sequence() -> None:
    found = probes.serial_position(lengths=(20,), steps=5, trials=6).measure(Induction(W))
    assert at(found, "copied", position=0) == 0.75, "the first of four has no cue"
    assert [at(found, "copied", position=p) for p in (20, 40, 60, 80)] == [1, 1, 1, 1]


def test_depth_and_length() -> None:
    found = probes.depth(lengths=(32, 128), source="random", trials=5).measure(Induction(W))
    assert all(at(found, "gain", length=32, depth=d) == 1 for d in (0, 25, 50, 75, 100))
    assert [at(found, "gain", cell=f"128@{d}") for d in (0, 25, 50, 75, 100)] == [0, 0, 0, 1, 1]


def test_history_is_worth_what_is_seen_in_it() -> None:
    class Unigram(Oracle):
        """More likely what stands among the last 64 tokens."""

        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            hot = torch.nn.functional.one_hot(ids_BT, VOCAB).float().cumsum(1)
            hot[:, W:] -= hot[:, :-W].clone()
            return 5.0 * (hot > 0)

    probe = probes.history(histories=(0, 16, 64), tokens=32, trials=20)
    found = probe.measure(Unigram(texts()))
    gains = [at(found, "gain", cell=f"seen@{h}") for h in (0, 16, 64)]
    assert gains[0] == 0 < gains[1] < gains[2]
    assert at(found, "gain", cell="new@64") < 0
    ids = np.array([[1, 2, 3, 1, 4, 4], [5, 5, 6, 7, 8, 6]])
    assert history._seen(ids, 4).tolist() == [[False, True, False, True],
                                              [False, False, False, True]]  # fmt: skip


# ── recall, lists, segments ─────────────────────────────────────────────────────────────────


def test_recall_of_pairs() -> None:
    probe = probes.mqar(pairs=(1, 8, 64), trials=100)
    found = probe.measure(Induction(32))
    assert at(found, "recalled", pairs=8) == 1.0
    assert 0.05 < at(found, "recalled", pairs=64) < 0.4, "a quarter of them is in the window"
    guess = probe.measure(Uniform())
    s, c = (x[guess.slices["pairs"] == 8] for x in guess.items["among"])
    low, high = stats.wilson(int(s.sum()), int(c.sum()))
    assert low < 1 / 8 < high
    assert at(guess, "among", pairs=1) == 1.0
    assert guess.notes["trained"] == "untrained"


def test_lists_of_nouns() -> None:
    class Words(Oracle):
        vocab = 1400

        def __init__(self, order: bool) -> None:
            super().__init__()
            self.order = order

        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            hot = torch.nn.functional.one_hot(ids_BT, self.vocab).float().cumsum(1)
            z = 5.0 * (hot > 0)
            if self.order:  # what followed the last three tokens before
                for t in range(8, ids_BT.shape[1]):
                    for j in range(3, t):
                        same = (ids_BT[:, j - 2 : j + 1] == ids_BT[:, t - 2 : t + 1]).all(1)
                        z[same, t, ids_BT[same, j + 1]] += 10
            return z

    probe = probes.noun_lists(nouns=(5,), delays=(0, 20), trials=6)
    gist, verbatim = probe.measure(Words(False)), probe.measure(Words(True))
    repeat, permuted, control = (
        at(gist, "repeat_surprisal", condition=c) for c in ("repeat", "permuted", "control")
    )
    assert repeat == pytest.approx(permuted, rel=0.02), "a gist has no order"
    assert repeat < 60 < 95 < control
    assert at(verbatim, "repeat_surprisal", condition="repeat") < 0.9 * repeat
    assert at(verbatim, "repeat_surprisal", condition="permuted") > 0.9 * permuted
    middle, low, high = gist.tables["median"]["repeat, 5@0"]
    assert low <= middle <= high


def test_shifts_do_not_matter_where_there_are_no_segments() -> None:
    class Segments(Induction):
        """Reads the current segment of 16 tokens and the one before."""

        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            out = super().logits(ids_BT)
            for t in range(ids_BT.shape[1]):
                start = max(0, t // 16 * 16 - 16)
                self.window = t - start + 1
                out[:, t] = super().logits(ids_BT[:, : t + 1])[:, t]
            return out

    probe = probes.segment_boundary(segment=16, length=24, trials=3)
    still, saw = probe.measure(Induction(W)), probe.measure(Segments(W))
    assert still.notes["largest difference between shifts"] == 0
    assert saw.notes["largest difference between shifts"] > 0.3
    assert sorted({*still.slices["shift"].tolist()}) == [0, 2, 4, 6, 8, 10, 12, 15]


# ── our own model ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return circuit.reader(16, tmp_path_factory.mktemp("data"))


def test_heads_of_a_circuit_are_found(model: Any) -> None:
    found = probes.induction(lengths=(8, 16, 24), trials=5, heads=12).measure(model)
    heads = np.array(found.tables["heads"])
    assert heads.shape == (2, 1)
    assert heads[1, 0] > 0.99 > 0.01 > heads[0, 0]
    assert found.notes["strongest head"].startswith("layer 1, head 0")
    assert at(found, "difference", lag=16) < -0.5 < -0.1 < at(found, "difference", lag=24)
    assert at(found, "copied", lag=16) == 1.0


def test_heads_of_a_transformers_model_are_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from paribus.engine import heads
    from paribus.nn.convert import from_hf_llama
    from paribus.nn.transformer import Transformer

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager",
    )  # fmt: skip
    hf = transformers.LlamaForCausalLM(config).double().eval()
    for p in hf.parameters():
        p.data *= 4
    ours, weights = from_hf_llama(hf)
    ids = np.random.default_rng(0).integers(0, 50, (6, 20))
    with torch.no_grad():
        seen = hf(torch.from_numpy(ids), output_attentions=True).attentions
    for back, start in ((0, 0), (3, 3), (7, 11)):
        want = [
            [float(a[:, h, range(start, 20), [t - back for t in range(start, 20)]].mean())
             for h in range(4)] for a in seen
        ]  # fmt: skip
        found = heads.attention(Transformer(ours), weights, ids, back, start, budget=40)
        assert found == pytest.approx(np.array(want), rel=1e-6), "theirs are of fp32 inside"


def test_its_effective_window_is_the_direct_one(model: Any) -> None:
    probe = probes.lag_sweep(span=8, sources=("random",), trials=25)
    found = probe.measure(model)
    held = {
        "items": {m: {"sum": arrays.pack(s), "count": arrays.pack(c)}
                  for m, (s, c) in found.items.items()},
        "labels": {k: list(map(str, v)) for k, v in found.slices.items()},
        "realised": found.notes,
    }  # fmt: skip
    (told,) = curves.told(held, probe.curve, draws=100)
    assert [p.x for p in told.points] == [8, 12, 16, 24, 32]
    assert told.spans["effective window"].value == 16
    assert told.ratios == {"window": 1.0, "field": pytest.approx(16 / 31)}


def test_the_sliding_window_of_a_real_model(model: Any) -> None:
    assert (model.window, model.field, model.said) == (16, 31, "N·C + W = 2·15 + 1 = 31")
    found = probes.copy(lengths=(8, 16, 17), sources=("random", "meaningful"), trials=6).measure(
        model
    )
    right = [at(found, "last_half_of_copy", source="random", length=n) for n in (8, 16, 17)]
    assert right == [1.0, 1.0, 0.0]
    assert found.notes["window"] == 16
    assert (found.about["document"][found.slices["source"] == "meaningful"] >= 0).all()

"""What is drawn to be remembered, and which settings are refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from msgspec.structs import replace

from paribus import probes
from paribus.errors import Refused, SpecError
from paribus.probes import _asking, _items, noun_lists
from tests.probes.oracles import VOCAB, WORDS, Induction, Oracle, PerfectCopy, Uniform
from tests.probes.test_memory import at, texts

W = 64


@pytest.mark.parametrize("source", ["random", "meaningful", "shuffled", "nonce"])
def test_an_item_is_the_same_whatever_else_is_drawn(source: Any) -> None:
    def items() -> _items.Items:
        return _items.Items(Oracle(texts()), "copy")

    whole = items().draw(source, 24, range(12))
    np.random.default_rng(0).random(5)
    torch.manual_seed(3)
    alone = [items().draw(source, 24, range(i, i + 1)) for i in reversed(range(12))]
    for i, one in enumerate(reversed(alone)):
        for a, b in zip(whole, one, strict=True):
            assert (a[i] == b[0]).all()
    other = items()
    other.draw(source, 16, range(3))
    assert (other.draw(source, 24, range(5, 8)).ids == whole.ids[5:8]).all()
    assert len({*map(tuple, whole.ids)}) == 12
    assert (items().draw(source, 24, range(12), "foreign").ids != whole.ids).any()


def test_random_items_hold_each_token_once_and_no_separator() -> None:
    items = _items.Items(Oracle(), "copy", separators=15)
    for n in (4, 300, len(items.candidates)):
        ids = items.draw("random", n, range(3)).ids
        assert all(len({*row}) == n for row in ids.tolist())
        assert not np.isin(ids, [*items.separator(), items.begin]).any()
    with pytest.raises(_items.Short, match="each at most once"):
        items.draw("random", len(items.candidates) + 1, range(1))
    counts = np.bincount(items.draw("random", 100, range(200)).ids.ravel(), minlength=VOCAB)
    each = counts[items.candidates]
    assert abs(each.mean() - 20_000 / len(each)) < 1e-9
    assert each.var() == pytest.approx(each.mean(), rel=0.25)


def test_spans_of_text_stay_within_a_document() -> None:
    model = Oracle([*texts(2, 400), "w1 w2 w3"])
    items = _items.Items(model, "copy")
    drawn = items.draw("meaningful", 50, range(40))
    for ids, document, start in zip(*drawn, strict=True):
        text = model.texts[document]
        assert start == 0 or text[start - 1] == " "
        assert text[start:].split()[:50] == [WORDS[i] for i in ids]
    assert {*drawn.document} == {0, 1}
    shuffled = items.draw("shuffled", 50, range(40))
    assert (np.sort(shuffled.ids) == np.sort(drawn.ids)).all()
    assert (shuffled.ids != drawn.ids).any(1).all()
    with pytest.raises(_items.Short, match="no document of the held-out text has 2,000"):
        items.draw("meaningful", 2000, range(1))


class Letters(Oracle):
    """Bytes are tokens, all of them ordinary."""

    vocab, begin = 257, 256

    def ordinary(self) -> Any:
        return np.arange(256)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[256, *t.encode()] for t in texts]


@pytest.mark.parametrize("source", ["meaningful", "shuffled", "nonce"])
def test_no_separator_occurs_in_text(source: Any) -> None:
    rare = "\u00ff".join(texts(1, 20000))
    items = _items.Items(Letters([rare]), "copy", separators=15)
    apart = items.separator(source)
    assert len({*apart.tolist()}) == 15
    assert not {*apart.tolist()} & {*rare.encode()}
    assert not np.isin(items.draw(source, 64, range(20)).ids, apart).any()
    plain = _items.Items(Letters([rare]), "copy")
    one, two = (x.draw(source, 64, range(20)) for x in (plain, items))
    assert all((a == b).all() for a, b in zip(one, two, strict=True)), "the same without any"
    random_ = items.draw("random", 64, range(20)).ids
    assert (random_ == plain.draw("random", 64, range(20)).ids).all()
    assert not np.isin(random_, items.separator("random")).any()
    again = _items.Items(Letters([rare]), "copy", separators=15).separator(source)
    assert (again == apart).all()


class Few(Letters, Uniform):
    """Of sixteen ordinary tokens, all of which occur; three stand apart."""

    def ordinary(self) -> Any:
        return np.frombuffer(b"abcdefghijklmnop", np.uint8).astype(np.int64)


def few(rare: int) -> Few:
    """p is the rarest letter, then o."""
    draw = random.Random(0)
    return Few(["".join(draw.choices("abcdefghijklmn op", [40] * 14 + [99, 9, rare], k=30_000))])


def test_spans_that_hold_a_separator_are_drawn_anew() -> None:
    items = _items.Items(few(2), "copy", separators=1)
    assert bytes(items.separator("meaningful").tolist()) == b"p"
    drawn = items.draw("meaningful", 100, range(30))
    assert not (drawn.ids == ord("p")).any()
    assert items.held == 0
    plain = _items.Items(few(2), "copy").draw("meaningful", 100, range(30))
    kept = (plain.ids != ord("p")).all(1)
    assert 0 < kept.sum() < 30
    assert (drawn.ids == plain.ids).all(1).tolist() == kept.tolist(), "the others stay as they are"
    alone = _items.Items(few(2), "copy", separators=1).draw("meaningful", 100, range(7, 9))
    assert (alone.ids == drawn.ids[7:9]).all()


def test_separators_that_no_span_is_without_are_told() -> None:
    probe = probes.copy(lengths=(500,), sources=("meaningful",), trials=3, separator=1)
    model = few(9)
    found = probe.measure(model)
    assert found.notes["separators in text"] == "3 spans hold one: no place was without"
    assert "separators in text" not in replace(probe, separator=0).measure(few(9)).notes
    (rows,) = model.asked
    assert (rows.ids[:, 501] == ord("p")).all()


def test_nonce_words_stand_for_the_same_words_throughout() -> None:
    words = "garden river bottle mountain ticket kitchen jacket engine".split()
    text = " ".join(random.Random(0).choices([*words, "and", "which", "the"], k=900))
    items = _items.Items(Oracle([text]), "copy")
    items.texts  # noqa: B018  reads them
    new = items.other(text, 16, 0)
    pairs = {*zip(text.split(), new.split(), strict=True)}
    assert len(pairs) == 11, "one for each word"
    assert {b for a, b in pairs if a in ("and", "which", "the")} == {"and", "which", "the"}
    assert items.other(text, 16, 1) != new != text


def test_the_hash_is_that_of_what_was_asked() -> None:
    probe = probes.copy(lengths=(4, 8), sources=("random",), trials=5)
    one, two = probe.measure(Induction(W)).notes, probe.measure(Uniform()).notes
    assert one["list"] == two["list"]
    more = probes.copy(lengths=(4, 8), sources=("random",), trials=6).measure(Uniform()).notes
    assert more["list"] != one["list"]


def test_what_does_not_fit_is_not_run() -> None:
    model = Induction(W)
    model.limit = 50
    found = probes.copy(lengths=(8, 32), sources=("random", "meaningful"), trials=3).measure(model)
    assert {*found.slices["length"]} == {8}
    missing = found.notes["not run"]
    assert missing["source random, length 32"] == "rows of 65 tokens, and the model ends at 50"
    assert "no held-out text of its own" in missing["source meaningful, length 8"]
    with pytest.raises(Refused, match="nothing can be asked"):
        probes.copy(lengths=(32,), sources=("random",), trials=3).measure(model)


def test_default_lengths_go_to_twice_the_window() -> None:
    assert _asking.lengths(Oracle(window=16), ()) == (4, 6, 8, 12, 16, 24, 32)
    assert _asking.lengths(Oracle(), ())[-2:] == (1536, 2048)


def test_a_number_that_is_none_is_told() -> None:
    class Broken(Uniform):
        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            z = super().logits(ids_BT)
            z[0] = float("nan")
            return z

    found = probes.copy(lengths=(8,), sources=("random",), trials=4).measure(Broken())
    assert found.notes["invalid"] == 1
    assert found.items["second_copy"][1].tolist() == [0, 8, 8, 8]


def test_only_the_span_is_asked_to_stand_nowhere_else() -> None:
    model = Letters()
    items = _items.Items(model, "segment_boundary")
    drawn = items.apart("random", 32, 255, range(10)).ids
    assert drawn.shape == (10, 255 + 32)
    for row in drawn.tolist():
        assert len({*row[255:]}) == 32
        assert not {*row[255:]} & {*row[:255]}
        assert {*row[-len(items.candidates) :]} == {*items.candidates.tolist()}
    for before in (20, len(items.candidates) - 32):  # where tokens suffice each stands once
        few = items.apart("random", 32, before, range(10)).ids
        assert (few == items.draw("random", before + 32, range(10)).ids).all()
    with pytest.raises(_items.Short, match="each at most once"):
        items.apart("random", 256, 255, range(1))


def test_segments_of_bytes_can_be_asked_for() -> None:
    class Copies(Letters, PerfectCopy):
        pass

    probe = probes.segment_boundary(segment=512, shifts=4, length=32, trials=4)
    found = probe.measure(Copies(32))
    assert {*found.slices["shift"].tolist()} == {0, 128, 256, 511}
    assert at(found, "copied") == 1.0
    assert "not run" not in found.notes


# ── levels ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: probes.copy(lengths=[8, 4, 8]), "probes.copy.lengths: 8 stands there twice"),
        (lambda: probes.copy(sources=("random", "random")), "copy.sources: 'random' stands there"),
        (lambda: probes.key_value(lengths=(128, 128)), "probes.key_value.lengths: 128 stands"),
        (lambda: probes.passkey(depths=(0, 50, 0)), "probes.passkey.depths: 0 stands there twice"),
        (lambda: probes.serial_position(lengths=(16, 4)), "lengths: 4 tokens have no 10 positions"),
    ],
)
def test_a_level_that_stands_twice_or_is_too_short_is_refused(make: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()


@pytest.mark.parametrize("n", [1, 3, 5, 6, 7, 8, 20, 32, 50, 64, 200])
def test_the_interval_of_a_median_covers_it(n: int) -> None:
    """Of order statistics, by the exact binomial: 95 % at least, and no narrower pair of them."""
    _, low, high = noun_lists._median(np.arange(float(n))[::-1])
    k = int(low)
    assert high == n - 1 - k

    def beyond(k: int) -> float:
        return float(2 * scipy.stats.binom.cdf(k, n, 0.5))

    assert beyond(k) <= 0.05 or k == 0
    assert beyond(k + 1) > 0.05
    assert {50: 17, 8: 0, 20: 5}.get(n, k) == k

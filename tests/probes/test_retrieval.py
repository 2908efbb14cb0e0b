"""Things hidden in long text: prompts of the stated length with what is hidden at the stated depth,
and a reader that finds them where it can see them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paribus import probes
from paribus.errors import Refused, SpecError
from paribus.nn.questions import Scored
from paribus.probes import _retrieval


class Reads:
    """Knows each word by number; says what it can see in the last ``window`` words alone: the rest
    of the word that it has begun to quote, by a rule of each prompt."""

    def __init__(self, window: int | None = None, limit: int | None = None) -> None:
        self.window, self.limit, self.words = window, limit, {"<s>": 0}
        self.asked: list[str] = []

    def encode(self, texts: Any) -> list[list[int]]:
        return [
            [0, *(self.words.setdefault(w, len(self.words)) for w in re.findall(r"\S+|\n", t))]
            for t in texts
        ]

    def scores(self, questions: Any) -> list[list[Scored]]:
        names = {i: w for w, i in self.words.items()}
        out = []
        for ((ids, start, end),) in questions:
            words = [names[i] for i in ids]
            answer = " ".join(words[start:end])
            self.asked.append(" ".join(words))
            seen = words[max(0, start - self.window) : start] if self.window else words[1:start]
            bare = answer.strip('"')
            out.append([Scored(1.0, end - start, any(bare in w for w in seen))])
        return out


CASES = {
    "passkey": probes.passkey(lengths=(120, 400), trials=4),
    "needle": probes.needle(lengths=(120, 400), trials=4),
    "key_value": probes.key_value(lengths=(120, 400), trials=4),
}


@pytest.mark.parametrize("name", CASES)
def test_prompts_have_the_stated_length_and_hide_at_the_stated_depth(name: str) -> None:
    probe, model = CASES[name], Reads()
    found = probe.measure(model)
    assert found.items["found"][0].all(), "all is in sight"
    lengths, places = found.slices["length"], found.slices[probe.slices[1]]
    assert len(set(found.slices["cell"])) == 2 * len(set(places))
    unit = {"passkey": 20, "needle": 20, "key_value": 2}[name]
    at = []
    for text, length in zip(model.asked, lengths, strict=True):
        n = len(text.split(" "))
        assert length - 2 * unit <= n <= length, "as long as whole units of filler allow"
        hidden = text.split()[-1].strip('"')
        at.append(text.index(hidden) / len(text))
    for place in set(places):
        mine = np.array(at)[(places == place) & (lengths == 400)]
        if name == "key_value":
            third = ("beginning", "middle", "end").index(place)
            assert third / 3 - 0.15 < mine.min() <= mine.max() < (third + 1) / 3 + 0.15
        else:
            assert abs(mine.mean() - int(place) / 100) < 0.15
    again = Reads()
    probe.measure(again)
    assert again.asked == model.asked, "drawn from keyed streams"


@pytest.mark.parametrize("name", CASES)
def test_what_is_out_of_sight_is_not_found(name: str) -> None:
    """A reader of 150 words finds what is hidden there, at any length."""
    probe = CASES[name]
    found = probe.measure(Reads(window=150))
    hit, cell = found.items["found"][0], found.slices["cell"]
    first, last = ("beginning", "end") if name == "key_value" else ("0", "100")
    assert hit[cell == f"400@{first}"].mean() == 0
    assert hit[cell == f"400@{last}"].mean() == 1
    assert hit[cell == f"120@{first}"].mean() == 1


def test_the_same_numbers_are_hidden_at_every_length() -> None:
    model = Reads()
    found = CASES["passkey"].measure(model, examples=2)
    assert len(model.asked) == 2 * 11 * 2
    hidden = [t.split()[-1] for t in model.asked]
    assert hidden[:22] == hidden[22:]
    assert len(set(hidden[:22])) == 22
    assert {len(h) for h in hidden} == {5}
    assert found.notes["longest prompt"] <= 400


def test_a_length_beyond_the_model_is_refused() -> None:
    for probe in CASES.values():
        with pytest.raises(Refused, match="400 tokens, and the model ends at 300"):
            probe.measure(Reads(limit=300))
    with pytest.raises(Refused, match="its prompt alone takes"):
        probes.passkey(lengths=(30,), trials=1).measure(Reads())
    with pytest.raises(SpecError, match="one of them"):
        probes.key_value()


def test_a_needle_in_text_of_one_s_own(tmp_path: Path) -> None:
    words = "alpha beta gamma delta".split()
    for i in range(3):
        text = ". ".join(
            " ".join(random.Random(i * 100 + j).choices(words, k=6)) for j in range(60)
        )
        (tmp_path / f"{i}.txt").write_text(text + ".")
    probe = probes.needle(lengths=(200,), data=str(tmp_path), trials=2, depths=(50,))
    model = Reads()
    found = probe.measure(model)
    assert found.items["found"][0].all()
    assert "alpha" in model.asked[0]
    assert len(probe.fingerprints()) == 3
    assert "The special magic number for" in model.asked[0]
    hay = _retrieval.Texts(["One. Two! Three?"])
    assert hay.take(2, 4) == ["Three?", "One.", "Two!", "Three?"]


def test_files_of_key_value_pairs(tmp_path: Path) -> None:
    pairs = {f"key{i}": f"value{i}" for i in range(5)}
    for place, key in (("beginning", "key0"), ("end", "key4")):
        row = {"context": f'{json.dumps(pairs)} \n\nKey: "{key}"\nCorresponding Value: ',
               "answer": pairs[key], "answer_location": place}  # fmt: skip
        (tmp_path / f"kv_pairs_{place}_len_2048.jsonl").write_text(json.dumps(row) + "\n")
    probe = probes.key_value(data=str(tmp_path))
    found = probe.measure(Reads())
    assert found.slices["cell"].tolist() == ["2048@beginning", "2048@end"]
    assert found.items["found"][0].tolist() == [1.0, 1.0]
    assert found.items["answer"][1].tolist() == [1.0, 1.0]
    assert found.notes["longest prompt"] > 10

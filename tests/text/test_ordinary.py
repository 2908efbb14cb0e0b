"""Which ids are ordinary tokens."""

from __future__ import annotations

from pathlib import Path

from paribus import corpora
from paribus import tokenizers as kinds
from paribus.text.lengths import ordinary


def test_marks_added_unknown_and_stand_ins_for_bytes_are_not_ordinary() -> None:
    vocab = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 5, "<x": 6}
    added = [{"content": "<s>", "id": 1, "special": True},
             {"content": "chat", "id": 7, "special": False}]  # fmt: skip
    bpe = {"model": {"type": "BPE", "vocab": vocab, "unk_token": "<unk>"}, "added_tokens": added}
    assert ordinary(bpe).tolist() == [3, 5, 6]
    unigram = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1]]}}
    assert ordinary(unigram).tolist() == [1]


def test_bytes_are_ordinary_and_their_mark_is_not(tmp_path: Path) -> None:
    found = kinds.bytes().open(corpora.stdlib(), tmp_path)
    assert found.ordinary.tolist() == list(range(256))
    assert found.bos == 256

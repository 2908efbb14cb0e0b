"""Texts that break careless counting, and the parts by name."""

from __future__ import annotations

import json

from paribus.parts import Namespace

corpora, tokenizers = Namespace("corpora"), Namespace("tokenizers")

# Rare characters are not merged, so their tokens are single bytes that are no UTF-8 alone.
HARD = [
    "The quick brown fox 🦊 jumps over 懒狗。\n\nΩ ≠ ω; naïve café\r\n\ttabs  and   spaces ",
    "汉字\u3000和 emoji 👩🏽‍🚀🇨🇭 \u200d zero-width, <|bos|> and <|endoftext|> as text\n",
    " leading space\n" * 7 + "\u0301combining \U00010348 gothic",
]


def english(n: int, start: int = 0) -> list[str]:
    """``n`` different short documents."""
    line = "the of and to in that was his he it with is for as had you not be her on at by"
    words = line.split()
    return [
        f"Document {i}: " + " ".join(words[(i * 7 + j * j) % len(words)] for j in range(30 + i % 9))
        for i in range(start, start + n)
    ]


def jsonl(path, texts, column="text"):
    path.write_text("".join(json.dumps({column: t}) + "\n" for t in texts), encoding="utf-8")
    return path

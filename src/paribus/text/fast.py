"""Encoders made of a ``tokenizer.json`` by Hugging Face tokenizers."""

from __future__ import annotations

import json
import re
from typing import Any

from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.text.data import Encoder
from paribus.text.lengths import byte_level, ordinary, token_bytes, token_texts
from paribus.text.need import need

PIECE = 1 << 20  # characters; long documents are encoded in pieces, which bounds memory
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


def encoder(
    spec: dict[str, Any], who: str, vocab: int, bos: int | None, eos: int | None
) -> Encoder:
    """An encoder of raw text: nothing is truncated, padded, dropped out or added, and the name of
    a special token in a text is text."""
    library = need("tokenizers", who)
    spec = {**spec, "truncation": None, "padding": None}
    if "dropout" in spec["model"]:
        spec["model"] = {**spec["model"], "dropout": None}
    tokenizer = library.Tokenizer.from_str(json.dumps(spec))
    tokenizer.encode_special_tokens = True
    # GPT-2's pattern and its kin split at such line ends anyway, so cutting there changes no id.
    cuts = byte_level(spec) and '"add_prefix_space": true' not in json.dumps(spec["pre_tokenizer"])
    kind = np.uint16 if vocab <= 1 << 16 else np.uint32

    def encode(documents: list[bytes]) -> list[np.ndarray]:
        cut = [pieces(text(d, who)) if cuts else [text(d, who)] for d in documents]
        found = tokenizer.encode_batch_fast(
            [p for parts in cut for p in parts], add_special_tokens=False
        )
        arrays = iter([np.array(f.ids, kind) for f in found])
        return [np.concatenate([next(arrays) for _ in parts]) for parts in cut]

    texts = token_texts(spec, vocab)
    return Encoder(
        encode, vocab, bos, eos, token_bytes(texts), ordinary=ordinary(spec), texts=texts
    )


def text(document: bytes, who: str) -> str:
    """A document as text, or an error that says where it is not UTF-8."""
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        near = document[max(0, error.start - 20) : error.start + 10]
        raise SpecError(
            f"{who}: a document is not UTF-8 at byte {error.start:,}: {near!r}; "
            "tokenizers.bytes() takes any bytes"
        ) from None


def pieces(whole: str) -> list[str]:
    """A long text cut after line ends that stand alone between two characters."""
    out, start = [], 0
    while len(whole) - start > PIECE:
        match = _CUT.search(whole, start + PIECE)
        if match is None:
            break
        out.append(whole[start : match.end()])
        start = match.end()
    return [*out, whole[start:]]

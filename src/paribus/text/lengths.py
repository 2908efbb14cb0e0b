"""The raw bytes of text that each token of a ``tokenizer.json`` stands for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# These change the text, so bytes of their tokens are not bytes of it.
LOSSY = {"BertNormalizer", "Lowercase", "StripAccents", "Strip", "NFD", "NFKD"}


def vocabulary(spec: dict[str, Any]) -> dict[str, int]:
    """Token -> id, the added tokens too."""
    model = spec["model"].get("vocab") or {}
    if isinstance(model, list):  # Unigram: [piece, score] in order of id
        model = {piece: i for i, (piece, _) in enumerate(model)}
    return {**model, **{t["content"]: t["id"] for t in spec.get("added_tokens") or []}}


def types(node: Any) -> set[str]:
    """The ``type`` of every component below a node of a tokenizer.json."""
    if isinstance(node, dict):
        own = {node["type"]} if isinstance(node.get("type"), str) else set()
        return own.union(*(types(v) for v in node.values()))
    if isinstance(node, list):
        return set().union(*(types(v) for v in node))
    return set()


def byte_level(spec: dict[str, Any]) -> bool:
    """Whether tokens are spelt in the byte-level alphabet, where each character is one byte."""
    return any(
        "ByteLevel" in types(spec.get(k)) for k in ("normalizer", "pre_tokenizer", "decoder")
    )


def ordinary(spec: dict[str, Any]) -> NDArray[np.int64]:
    """Ids of the model's own vocabulary, ascending: without added and unknown tokens, and without
    those that stand for a byte where no token does."""
    known = vocabulary(spec)
    unknown = spec["model"].get("unk_token") or spec["model"].get("unk_id")
    added = {t["content"] for t in spec.get("added_tokens") or []} | {unknown}
    return np.array(sorted(
        i for token, i in known.items()
        if token not in added and i != unknown and not re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token)
    ), np.int64)  # fmt: skip


def alphabet() -> dict[str, int]:
    """The byte that each character of the byte-level alphabet stands for (GPT-2's): printable ones
    for themselves, the others from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in shown]
    return {**{chr(b): b for b in shown}, **{chr(256 + i): b for i, b in enumerate(rest)}}


def token_texts(spec: dict[str, Any], size: int) -> list[bytes] | None:
    """Raw bytes that each of ``size`` ids stands for; specials for none.  None where tokens do not
    spell text.

    Taken from the spelling, never by decoding a token: one that is not valid UTF-8 by itself
    decodes to U+FFFD, which has three bytes.
    """
    model = spec["model"]
    if types(spec.get("normalizer")) & LOSSY or model.get("type") == "WordPiece":
        return None
    spelt_in_bytes = byte_level(spec)
    fallback = bool(model.get("byte_fallback")) or "ByteFallback" in types(spec.get("decoder"))
    out, known = [b""] * size, alphabet()
    for token, i in vocabulary(spec).items():
        if spelt_in_bytes:
            out[i] = bytes(known.get(c, 63) for c in token)
        elif fallback and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            out[i] = bytes([int(token[3:5], 16)])
        else:
            out[i] = token.replace("\u2581", " ").encode()  # ▁ stands for a space
    for added in spec.get("added_tokens") or []:
        out[added["id"]] = b"" if added["special"] else added["content"].encode()
    unknown = model.get("unk_token") or model.get("unk_id")
    unknown = vocabulary(spec).get(unknown) if isinstance(unknown, str) else unknown
    if unknown is not None:
        out[unknown] = b""
    return out


def token_bytes(texts: list[bytes] | None) -> NDArray[np.int64] | None:
    """How many bytes each token stands for."""
    return None if texts is None else np.array([len(t) for t in texts], np.int64)

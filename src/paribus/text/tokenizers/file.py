"""A tokenizer that is there already."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from paribus.contracts import Corpus, Tokenizer
from paribus.errors import SpecError, nearest
from paribus.text.data import Encoder, expect
from paribus.text.fast import encoder
from paribus.text.lengths import vocabulary
from paribus.text.paths import digest, find


class File(Tokenizer, frozen=True, kw_only=True):
    """A Hugging Face ``tokenizer.json``.

    Fields:
        path: the file, or a folder that holds one tokenizer.json; relative to the study's folder.
        bos: the token that starts each document ("<|endoftext|>" …), if any.
        eos: the token that ends each document; only used where bos is None.
    """

    path: str
    bos: str | None = None
    eos: str | None = None

    def vocab_size(self) -> int:
        return 1 + max(vocabulary(self._spec()).values())

    def fingerprint(self, corpus: Corpus) -> str:
        made_of = [digest(self._file()), self.bos, self.eos]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def open(self, corpus: Corpus, cache: Path) -> Encoder:
        expect("text", corpus, self)
        spec = self._spec()
        bos, eos = self._id(spec, "bos"), self._id(spec, "eos")
        return encoder(spec, f"tokenizers.file: {self.path}", self.vocab_size(), bos, eos)

    def _id(self, spec: dict[str, Any], field: str) -> int | None:
        token = getattr(self, field)
        known = vocabulary(spec)
        if token is None or token in known:
            return known.get(token)
        specials = [t["content"] for t in spec.get("added_tokens") or []]
        raise SpecError(
            f"tokenizers.file.{field}: {self.path} has no token {token!r}; "
            f"{nearest(token, specials)}"
        )

    def _file(self) -> Path:
        found = find(self.path, {".json"}, "tokenizers.file.path")
        if len(found) > 1:
            found = [p for p in found if p.name == "tokenizer.json"]
        if len(found) != 1:
            raise SpecError(f"tokenizers.file.path: {self.path} holds {len(found)} tokenizer.json")
        return found[0]

    def _spec(self) -> dict[str, Any]:
        file = self._file()
        return _parse(file, digest(file))


@functools.lru_cache(maxsize=4)
def _parse(file: Path, contents: str) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        vocabulary(spec)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{file}: not a tokenizer.json: {error!r}") from None
    return spec

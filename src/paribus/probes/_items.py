"""Sequences of tokens to be remembered, item by item: each is drawn by a stream of its own.

An item is keyed by (suite, probe, length, number, use), so it is the same whichever others are
drawn, in whatever order, on whatever device.  Sources:

- random: uniform over ordinary tokens, each at most once in an item (a repeated token would make
  "what came after it last time" ambiguous);
- meaningful: a span of held-out text, from the beginning of a word on, within one document;
- shuffled: the tokens of the same span in random order;
- nonce: the same span with every content word replaced, each always by the same other one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from paribus.contracts import Reader
from paribus.errors import Refused
from paribus.lazy import numpy as np
from paribus.rng import Stream
from paribus.text.paths import digest, find

VERSION = 2  # of the suite, as records tell it: bumped when items change
KEY = 1  # of the streams; another one would draw every item anew
Source = Literal["random", "meaningful", "shuffled", "nonce"]
SOURCES: tuple[Source, ...] = ("random", "meaningful", "shuffled")
APART = 16  # ordinary tokens that no random item holds: separators, and a first one for want of it
COUNTED = 1_000_000  # characters of text by which rare tokens are found
TRIES = 20  # places that are drawn for a span that must hold no separator
CONTENT = re.compile(r"[A-Za-z]{4,}")
FUNCTION = frozenset(
    (
        "about above after again against also although because been before behind being below "
        "beneath beside between beyond both could down during each either else even ever every "
        "from have having here hers herself himself into itself just less like many might mine "
        "more most much must myself neither nothing often once only other others ours over "
        "perhaps quite rather same shall should since some such than that their theirs them "
        "themselves then there these they this those though through till unless until unto upon "
        "very were what when where whether which while whom whose will with within without would "
        "your yours yourself"
    ).split()
)


class Short(Exception):
    """There is not enough to draw from; the message says what of."""


class Drawn(NamedTuple):
    """Attributes:
    ids: int64 [items, length].
    document, start: int64 [items], of text: the number of the document and the character there;
        −1 of random tokens.
    """

    ids: Any
    document: Any
    start: Any


def text_files(data: str | None, who: str) -> list[Any]:
    """The files of held-out text, where some were given."""
    return [] if data is None else find(data, {".txt"}, f"probes.{who}.data")


def fingerprints(data: str | None, who: str) -> dict[str, str]:
    return {f"{who} {p.name}": digest(p) for p in text_files(data, who)}


class Items:
    """Items of one probe for one model.

    Args:
        who: the probe's name, part of every key.
        data: files of held-out text; None: the model's own.
        separators: tokens of a separator, which no item holds.

    Attributes:
        held: spans of text that hold one all the same, for no place was found without.
    """

    def __init__(
        self, model: Reader, who: str, data: str | None = None, separators: int = 0
    ) -> None:
        self.model, self.who, self.data = model, who, data
        self.separators, self.held = separators, 0
        every = np.asarray(model.ordinary(), np.int64)
        if len(every) < 4:
            raise Refused(f"probes.{who}: {len(every)} ordinary tokens are too few")
        order = Stream(KEY, "probe", "apart").permutation(len(every))
        few = min(APART, len(every) // 4)
        self._order = every[order]
        self._apart = self._order[:few]
        self.candidates = np.sort(every[order[few:]])
        self.begin = int(self._apart[-1]) if model.begin is None else model.begin
        self._texts: list[str] | None = None
        self.text = ""  # where it comes from, once it is read
        self._sums = hashlib.sha256()

    def separator(self, source: Source = "random") -> Any:
        """Tokens that no item of this source holds: of text those that are rarest there."""
        if not self.separators:
            return self._apart[:0]
        apart = self._apart[: max(1, len(self._apart) - 1)] if source == "random" else self._rare
        return apart[np.arange(self.separators) % len(apart)]

    @cached_property
    def _rare(self) -> Any:
        """Ordinary tokens that do not occur in the text, or are rarest there; of equals those that
        stand first in the order of all."""
        some = self._order[self._order != self.begin]
        each = COUNTED // len(self.texts) + 1
        ids = [np.asarray(x, np.int64) for x in self.encode([t[:each] for t in self.texts])]
        count = np.bincount(np.concatenate(ids), minlength=int(some.max()) + 1)
        return some[np.argsort(count[some], kind="stable")][: max(1, len(self._apart) - 1)]

    def hashed(self, *ids: Any) -> None:
        """Add to the hash of all that was asked."""
        for x in ids:
            self._sums.update(repr(np.shape(x)).encode() + np.ascontiguousarray(x, "<i8").tobytes())

    @property
    def hash(self) -> str:
        return self._sums.hexdigest()[:16]

    def _stream(self, length: int, item: int, *use: str | int) -> Stream:
        return Stream(KEY, "probe", self.who, length, item, *use)

    # ── drawn ───────────────────────────────────────────────────────────────────────────────

    def draw(self, source: Source, length: int, items: range, *use: str | int) -> Drawn:
        """Items ``items`` of this length; of one use the items of text are the same span, whether
        as it stands, shuffled or with other words."""
        if source == "random":
            ids = [self.distinct(length, i, *use) for i in items]
            none = np.full(len(items), -1)
            return Drawn(np.array(ids, np.int64).reshape(len(items), length), none, none)
        drawn = self._spans(length, items, source == "nonce", *use)
        if source == "shuffled":
            orders = [self.order(length, i, *use, "shuffled") for i in items]
            drawn = drawn._replace(ids=np.take_along_axis(drawn.ids, np.array(orders), 1))
        return drawn

    def order(self, length: int, item: int, *use: str | int) -> Any:
        """A random order of ``length`` places."""
        return self._stream(length, item, *use, "order").permutation(length)

    def distinct(self, length: int, item: int, *use: str | int) -> Any:
        """Random tokens, no two of them equal."""
        stream, n = self._stream(length, item, *use), len(self.candidates)
        if length > n:
            raise Short(f"{n} ordinary tokens, each at most once in an item")
        if 2 * length > n:
            return self.candidates[stream.permutation(n)[:length]]
        much = 2 * length + 16
        while True:
            drawn = stream.integers(much, n)
            first = np.sort(np.unique(drawn, return_index=True)[1])
            if len(first) >= length:
                return self.candidates[drawn[first[:length]]]
            much *= 2  # a longer draw begins with the same words

    def apart(self, source: Source, length: int, before: int, items: range) -> Drawn:
        """``before`` tokens and a span of ``length``.  Of random tokens those of the span stand
        nowhere else; of those before, each stands once nearest the span, as far as they go round,
        and further off any of them again."""
        room = len(self.candidates) - length
        if source != "random" or before <= room or room < 1:
            return self.draw(source, before + length, items)
        near = self.draw(source, length + room, items)
        again = [self._stream(length, i, "again").integers(before - room, room) for i in items]
        first = np.take_along_axis(near.ids, np.array(again), 1)
        return near._replace(ids=np.concatenate([first, near.ids], 1))

    # ── of text ─────────────────────────────────────────────────────────────────────────────

    @property
    def texts(self) -> list[str]:
        if self._texts is None:
            files = text_files(self.data, self.who)
            try:
                read = [p.read_text(encoding="utf-8-sig") for p in files]
                texts = list(read or self.model.documents())
            except Refused as why:
                raise Short(str(why)) from None
            if not any(texts):
                raise Short("there is no held-out text; give some: data=…")
            self._texts = texts
            self.text = ", ".join(p.name for p in files[:3]) or self.model.text
            self.text += f" … ({len(files)} files)" if len(files) > 3 else ""
            some = [t[:4096] for t in texts[:8]]
            tokens = sum(len(x) for x in self.encode(some))
            self._each = sum(map(len, some)) / max(1, tokens)  # characters a token
            self._sizes = np.array([len(t) for t in texts], np.int64)
            words = {w for t in texts[:8] for w in CONTENT.findall(t[:100_000])}
            self._words = sorted({w.lower() for w in words} - FUNCTION)
        return self._texts

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without the mark of a beginning."""
        gone = 0 if self.model.begin is None else 1
        return [ids[gone:] for ids in self.model.encode(texts)]

    def _spans(self, length: int, items: range, nonce: bool, *use: str | int) -> Drawn:
        self.texts  # noqa: B018  reads them
        ids = np.zeros((len(items), length), np.int64)
        about = np.full((2, len(items)), -1, np.int64)
        banned = self.separator("nonce" if nonce else "meaningful")
        left, much = [*items], int(1.5 * length * self._each) + 64
        while left:  # where tokens of a span are longer than most, it is taken from more text
            room = np.maximum(self._sizes - much, 0)
            if not room.any():
                raise Short(f"no document of the held-out text has {length:,} tokens to spare")
            ends = np.cumsum(room)
            missed: list[int] = []
            for again in range(TRIES):
                key = (*use, "again", again) if again else use
                places = [self._place(ends, room, length, i, *key) for i in left]
                texts = [self._texts[d][c : c + much] for d, c in places]  # type: ignore[index]
                spans = found = self.encode(texts)
                if nonce:
                    texts = [
                        self.other(t, length, i, *key) for t, i in zip(texts, left, strict=True)
                    ]
                    found = self.encode(texts)
                held = []
                for i, place, own, plain in zip(left, places, found, spans, strict=True):
                    # The last token may be another one than in the whole text, which is cut there.
                    if len(own) <= length:
                        missed.append(i)
                        continue
                    ids[i - items.start] = own[:length]
                    about[:, i - items.start] = place
                    if len(banned) and np.isin([*own[:length], *plain[:length]], banned).any():
                        held.append(i)
                if not (left := held):
                    break
            self.held += len(left)
            left, much = missed, 2 * much
        return Drawn(ids, about[0], about[1])

    def _place(self, ends: Any, room: Any, length: int, item: int, *use: str | int) -> Any:
        """(document, character): the beginning of a word with room behind it."""
        at = int(self._stream(length, item, *use, "place").integers(1, int(ends[-1]))[0])
        document = int(np.searchsorted(ends, at, side="right"))
        text, start = self._texts[document], at - int(ends[document] - room[document])  # type: ignore[index]
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        return document, start

    def other(self, text: str, length: int, item: int, *use: str | int) -> str:
        """The text with every content word replaced, each always by the same other one."""
        self.texts  # noqa: B018  reads them
        if not self._words:
            return text
        low = dict.fromkeys(w.lower() for w in CONTENT.findall(text))
        words = [w for w in low if w not in FUNCTION]
        drawn = self._stream(length, item, *use, "nonce").integers(len(words), len(self._words))
        known = {w: self._words[n] for w, n in zip(words, drawn.tolist(), strict=True)}

        def replaced(match: re.Match[str]) -> str:
            new = known.get(match[0].lower(), match[0])
            return new.capitalize() if match[0][0].isupper() else new

        return CONTENT.sub(replaced, text)

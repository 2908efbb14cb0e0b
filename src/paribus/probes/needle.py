"""A single needle in a haystack (RULER, Hsieh et al. 2024, niah_single): a sentence hidden in
text."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import SpecError
from paribus.probes import _retrieval
from paribus.rng import Stream
from paribus.text.paths import digest, find

KINDS = "amber brisk calm dusty eager faint gentle hollow ivory jolly".split()
THINGS = "anchor basket candle drawer engine feather garden hammer island jacket".split()


class Needle(Probe, frozen=True, kw_only=True):
    """Whether the model repeats the number that one sentence gives to a thing; slices ``length``,
    ``depth`` and ``cell`` (length@depth).

    Attributes:
        data: text files (.txt), whose sentences are the haystack; None: repeated sentences, as of
            ``passkey`` (RULER's niah_single_1).
        lengths: tokens of prompt and answer, at most: whole sentences.
        depths: per cent of the sentences that stand before the needle.
        trials: needles of each cell.
        digits: of a number.
    """

    lengths: tuple[Annotated[int, Meta(ge=1)], ...]
    data: str | None = None
    depths: tuple[Annotated[int, Meta(ge=0, le=100)], ...] = _retrieval.DEPTHS
    trials: Annotated[int, Meta(ge=1)] = 20
    digits: Annotated[int, Meta(ge=1, le=15)] = 7

    metrics: ClassVar[dict[str, Metric]] = _retrieval.METRICS
    slices: ClassVar[tuple[str, ...]] = ("length", "depth", "cell")
    example: ClassVar[dict[str, Any]] = {"lengths": (512,)}

    def fingerprints(self) -> dict[str, str]:
        return {f"needle {p.name}": digest(p) for p in self._files()}

    def _files(self) -> Any:
        return [] if self.data is None else find(self.data, {".txt"}, "probes.needle.data")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        documents = [p.read_text(encoding="utf-8-sig") for p in self._files()]
        hay = _retrieval.Texts(documents or [_retrieval.NOISE])
        if not hay.sentences:
            raise SpecError(f"probes.needle.data: {self.data} holds no sentence")
        trials, least = min(self.trials, examples or self.trials), 10 ** (self.digits - 1)
        hidden = []
        for length in self.lengths:
            for depth in self.depths:
                draw = Stream(0, "needle", depth)
                number = draw.integers(trials, 9 * least)
                thing = Stream(0, "needle", depth, "thing").integers(trials, 100)
                start = Stream(0, "needle", depth, "start").integers(trials, len(hay.sentences))
                for x, what, where in zip(number, thing, start, strict=True):
                    key, value = f"{KINDS[what // 10]}-{THINGS[what % 10]}", str(least + int(x))
                    labels = {"length": length, "depth": depth, "cell": f"{length}@{depth}"}
                    prompt = _prompt(hay, int(where) if documents else 0, key, value, depth)
                    hidden.append(_retrieval.Hidden(prompt, f" {value}", length, labels))
        return _retrieval.hidden_in(model, hidden, "probes.needle")


def _prompt(hay: _retrieval.Texts, start: int, key: str, value: str, depth: int) -> Any:
    before = (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards."
    )
    asked = f"the special magic number for {key} mentioned in the provided text"

    def text(n: int) -> str:
        sentences = hay.take(start, n)
        sentences.insert(
            round(n * depth / 100), f"One of the special magic numbers for {key} is: {value}."
        )
        return f"{before}\n{' '.join(sentences)}\nWhat is {asked}? T{asked[1:]} is"

    return text

"""Things hidden in long text: prompts of a given number of tokens, and whether the answer comes.

An answer counts where each of its tokens is the likeliest after those before it: exactly then does
greedy decoding give it, so nothing is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from paribus.contracts import Measured, Metric, Reader
from paribus.errors import Refused
from paribus.lazy import numpy as np
from paribus.nn.questions import Span, common

METRICS: dict[str, Metric] = {
    "found": Metric("", better="higher"),
    "answer": Metric("nats/token"),
}
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


class Hidden(NamedTuple):
    """A prompt with room: ``text(n)`` has n units of filler, and ``answer`` follows it.

    Attributes:
        length: tokens of both together, at most.
        labels: by slice name.
    """

    text: Callable[[int], str]
    answer: str
    length: int
    labels: dict[str, Any]


def fitted(model: Reader, hidden: Sequence[Hidden], who: str) -> list[str]:
    """The prompts with as much filler as fits."""
    n = [0] * len(hidden)

    def sizes(at: Sequence[int], units: Sequence[int]) -> list[int]:
        texts = [hidden[i].text(units[i]) + hidden[i].answer for i in at]
        return [len(x) for x in model.encode(texts)]

    every = range(len(hidden))
    empty, some = sizes(every, n), sizes(every, [8] * len(hidden))
    unit = [max((b - a) / 8, 1.0) for a, b in zip(empty, some, strict=True)]
    for i, h in enumerate(hidden):
        if empty[i] > h.length:
            raise Refused(f"{who}: its prompt alone takes {empty[i]} tokens, more than {h.length}")
        n[i] = int((h.length - empty[i]) / unit[i]) + 1
    over = [*every]
    while over:
        found = sizes(over, n)
        more = [(i, size - hidden[i].length) for i, size in zip(over, found, strict=True)]
        over = [i for i, excess in more if excess > 0]
        for i, excess in more:
            if excess > 0:
                n[i] = max(0, n[i] - max(1, int(excess / unit[i])))
    return [h.text(units) for h, units in zip(hidden, n, strict=True)]


def answered(
    model: Reader, prompts: Sequence[str], answers: Sequence[str], labels: Sequence[dict[str, Any]]
) -> Measured:
    """Whether each prompt is followed by its answer."""
    n = len(prompts)
    ids = model.encode([*(p + a for p, a in zip(prompts, answers, strict=True)),
                        *(p.rstrip() for p in prompts)])  # fmt: skip
    spans = [
        Span(whole, max(common([whole, bare]), 1), len(whole))
        for whole, bare in zip(ids[:n], ids[n:], strict=True)
    ]
    found = [x[0] for x in model.scores([[s] for s in spans])]
    items = {
        "found": (np.array([float(x.likeliest and x.tokens > 0) for x in found]), np.ones(n)),
        "answer": (
            np.array([x.nats for x in found]), np.array([float(x.tokens) for x in found]),
        ),
    }  # fmt: skip
    slices = {k: np.array([x[k] for x in labels]) for k in labels[0]}
    longest = max(len(s.ids) for s in spans)
    return Measured(items, slices, {"longest prompt": longest})


def hidden_in(model: Reader, hidden: Sequence[Hidden], who: str) -> Measured:
    """Fit the prompts and ask them; one beyond the model's limit is refused, for what is hidden may
    be in the part that would be cut off."""
    longest = max(h.length for h in hidden)
    if model.limit is not None and longest > model.limit:
        raise Refused(f"{who}: {longest} tokens, and the model ends at {model.limit}")
    return answered(
        model, fitted(model, hidden, who), [h.answer for h in hidden], [h.labels for h in hidden]
    )


DEPTHS: tuple[int, ...] = tuple(range(0, 101, 10))


class Texts:
    """Sentences of text files, end to end, from any of them on."""

    ENDS: ClassVar[str] = r"(?<=[.!?])\s+"

    def __init__(self, documents: Sequence[str]) -> None:
        import re

        self.sentences = [
            s for d in documents for s in re.split(self.ENDS, " ".join(d.split())) if s
        ]

    def take(self, start: int, n: int) -> list[str]:
        """n sentences from number ``start`` on; after the last comes the first."""
        size = len(self.sentences)
        return [self.sentences[(start + i) % size] for i in range(n)]

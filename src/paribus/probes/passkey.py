"""Passkey retrieval (Mohtashami & Jaggi 2023): a number hidden in repeated sentences."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import Refused
from paribus.probes import _retrieval
from paribus.rng import Stream

BEFORE = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
NOISE = _retrieval.NOISE


class Passkey(Probe, frozen=True, kw_only=True):
    """Whether the model repeats a number of its context, at each length and depth; slices
    ``length``, ``depth`` and ``cell`` (length@depth).  It asks a base model to go on writing.

    The same numbers are hidden at every length, so lengths are compared item by item.

    Attributes:
        lengths: tokens of prompt and answer, at most: whole repetitions of the filler; (): powers
            of two from the first that the bare prompt fits in to the model's direct window.
        powers: of those powers so many, the shortest; None: all.
        depths: per cent of the filler that stands before the number.
        trials: numbers of each cell.
        digits: of a number.
        control: "foreign" asks each prompt again with another number hidden in it: ``gain`` is the
            log-likelihood of the number less that of the same number there.
    """

    lengths: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    powers: Annotated[int, Meta(ge=1)] | None = None
    depths: tuple[Annotated[int, Meta(ge=0, le=100)], ...] = _retrieval.DEPTHS
    trials: Annotated[int, Meta(ge=1)] = 20
    digits: Annotated[int, Meta(ge=1, le=15)] = 5
    control: Literal["foreign"] | None = None

    metrics: ClassVar[dict[str, Metric]] = {
        **_retrieval.METRICS,
        "gain": Metric("nats/token", better="higher"),
    }
    slices: ClassVar[tuple[str, ...]] = ("length", "depth", "cell")
    example: ClassVar[dict[str, Any]] = {"lengths": (256,)}

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        hidden, foreign = [], []
        for length in self.lengths or _lengths(model, self.digits)[: self.powers]:
            for depth in self.depths:
                least = 10 ** (self.digits - 1)
                draw = Stream(0, "passkey", depth)
                trials = min(self.trials, examples or self.trials)
                numbers = draw.integers(trials, 9 * least)
                others = Stream(0, "passkey", depth, "foreign").integers(trials, 9 * least - 1)
                for number, other in zip(numbers, others, strict=True):
                    key = str(least + int(number))
                    wrong = str(least + int(other + (other >= number)))
                    labels = {"length": length, "depth": depth, "cell": f"{length}@{depth}"}
                    hidden.append(_retrieval.Hidden(_prompt(key, depth), f" {key}", length, labels))
                    foreign.append(hidden[-1]._replace(text=_prompt(wrong, depth)))
        found = _retrieval.hidden_in(model, hidden, "probes.passkey")
        if self.control is None:
            return found
        less = _retrieval.hidden_in(model, foreign, "probes.passkey").items["answer"]
        nats, tokens = found.items["answer"]
        return found._replace(items={**found.items, "gain": (less[0] - nats, tokens)})


def _lengths(model: Reader, digits: int) -> tuple[int, ...]:
    (bare,) = model.encode([_prompt("0" * digits, 0)(0) + " " + "0" * digits])
    most = min(model.window or 1024, model.limit or model.window or 1024)
    found = tuple(2**k for k in range(6, 40) if len(bare) <= 2**k <= most)
    if not found:
        raise Refused(
            f"probes.passkey: its prompt takes {len(bare)} tokens, and the window has {most}"
        )
    return found


def _prompt(key: str, depth: int) -> Any:
    def text(n: int) -> str:
        before = round(n * depth / 100)
        said = f"The pass key is {key}. Remember it. {key} is the pass key."
        lines = [BEFORE, *[NOISE] * before, said, *[NOISE] * (n - before)]
        return " ".join(lines) + " What is the pass key? The pass key is"

    return text

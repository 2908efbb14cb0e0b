"""Key-value retrieval (Liu et al. 2023): the value of one key of a long JSON object."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import Refused, SpecError
from paribus.probes import _retrieval
from paribus.rng import Stream
from paribus.text.paths import digest, find

PLACES = ("beginning", "middle", "end")
BEFORE = (
    "Extract the value corresponding to the specified key in the JSON object below. \n JSON data:\n"
)


class KeyValue(Probe, frozen=True, kw_only=True):
    """Whether the model gives the value of a key whose pair stands in the first, the middle or the
    last third; slices ``length``, ``place`` and ``cell`` (length@place).

    Attributes:
        data: files of llm-foundry (kv_pairs_<place>_len_<tokens>.jsonl, rows of context and
            answer); their lengths are in tokens of another tokenizer, and keys are UUIDs.  None:
            numbers drawn here.
        lengths: tokens of prompt and answer of those drawn here, at most: whole pairs.
        trials: questions of each cell.
        digits: of a key and of a value drawn here.
    """

    lengths: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    data: str | None = None
    trials: Annotated[int, Meta(ge=1)] = 100
    digits: Annotated[int, Meta(ge=1, le=15)] = 6

    metrics: ClassVar[dict[str, Metric]] = _retrieval.METRICS
    slices: ClassVar[tuple[str, ...]] = ("length", "place", "cell")
    example: ClassVar[dict[str, Any]] = {"lengths": (256,)}

    def validate(self) -> None:
        super().validate()
        if bool(self.lengths) == (self.data is not None):
            raise SpecError("probes.key_value: give lengths or data, one of them")

    def fingerprints(self) -> dict[str, str]:
        return {f"key_value {p.name}": digest(p) for p in self._files()}

    def _files(self) -> Any:
        return [] if self.data is None else find(self.data, {".jsonl"}, "probes.key_value.data")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        trials = min(self.trials, examples or self.trials)
        if self.data is not None:
            return self._of_files(model, trials)
        hidden = []
        for length in self.lengths:
            for place in PLACES:
                for trial in range(trials):
                    labels = {"length": length, "place": place, "cell": f"{length}@{place}"}
                    text, answer = self._drawn(place, trial)
                    hidden.append(_retrieval.Hidden(text, answer, length, labels))
        return _retrieval.hidden_in(model, hidden, "probes.key_value")

    def _drawn(self, place: str, trial: int) -> tuple[Any, str]:
        least = 10 ** (self.digits - 1)
        third = PLACES.index(place)
        where = float(Stream(0, "key_value", place, trial).uniform(1)[0] + third) / 3
        draw = Stream(0, "key_value", place, trial, "numbers")

        asked, answer = (str(least + int(x)) for x in draw.integers(2, 9 * least))

        def text(n: int) -> str:
            numbers = [str(least + int(x)) for x in draw.integers(2 * n + 2, 9 * least)]
            others = [p for p in zip(numbers[2::2], numbers[3::2], strict=True) if p[0] != asked]
            others.insert(int(where * (len(others) + 1)), (asked, answer))
            told = json.dumps(dict(others))
            return f'{BEFORE}{told}\n\nKey: "{asked}"\nCorresponding Value: "'

        return text, answer

    def _of_files(self, model: Reader, trials: int) -> Measured:
        prompts, answers, labels = [], [], []
        for path in self._files():
            told = re.search(r"_(beginning|middle|end)_len_(\d+)", path.stem)
            with path.open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in file if line.strip()][:trials]
            for row in rows:
                place = told[1] if told else str(row.get("answer_location", path.stem))
                length = int(told[2]) if told else 0
                prompts.append(row["context"])
                answers.append(row["answer"])
                labels.append({"length": length, "place": place, "cell": f"{length}@{place}"})
        whole = model.encode([p + a for p, a in zip(prompts, answers, strict=True)])
        longest = max(map(len, whole), default=0)
        if model.limit is not None and longest > model.limit:
            raise Refused(
                f"probes.key_value: {longest} tokens, and the model ends at {model.limit}"
            )
        return _retrieval.answered(model, prompts, answers, labels)

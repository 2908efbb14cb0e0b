"""Questions with worked examples before them, as nanochat's evaluation of CORE asks them.

Multiple choice: one prompt for each option; of its tokens the option's are scored, from where the
prompts part.  Schema: one prompt for each context; the continuation that all share is scored.
Language modelling: every token of the continuation must be the likeliest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from paribus.errors import SpecError
from paribus.nn.questions import Scored, Span, common

Encode = Callable[[Sequence[str]], list[list[int]]]
KINDS = ("multiple_choice", "schema", "language_modeling")


class Asked(NamedTuple):
    """A question: an option's span each, and the number of the right one (0 of one span: all of
    its tokens must be the likeliest)."""

    spans: list[Span]
    gold: int | None

    def right(self, found: Sequence[Scored]) -> bool:
        """Whether the right option is the likeliest a token; of equals the first counts."""
        if self.gold is None:
            return found[0].tokens > 0 and found[0].likeliest
        # Equal options have one score, however they were rounded.
        means = [found[self.spans.index(s)].mean for s in self.spans] or [x.mean for x in found]
        return min(means) < float("inf") and means.index(min(means)) == self.gold


def drawn(rows: Sequence[Any], most: int | None) -> list[Any]:
    """The rows in their order, Random(1337)'s, and the first ``most`` of them."""
    out = list(rows)
    random.Random(1337).shuffle(out)
    return out[:most]


def shots(i: int, n: int, k: int) -> list[int]:
    """The k worked examples of question i of n: Random(1234 + i).sample of the others."""
    found = random.Random(1234 + i).sample(range(n - 1), min(k, n - 1))
    return [j + (j >= i) for j in found]  # as of the list that leaves i out


NEEDED = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}


def checked(kind: str, row: Mapping[str, Any]) -> None:
    """Refuse a question that lacks something, or whose right answer is none of its options."""
    needed, told = NEEDED.get(kind, ()), str(row)[:80]
    if not isinstance(row, Mapping):
        raise SpecError(f"a question is no object of names and values: {told}")
    if gone := [name for name in needed if name not in row]:
        raise SpecError(f"a question of kind {kind} has no {gone[0]!r}: {told}")
    for name in set(needed) - {"gold"}:
        many = name in ("choices", "context_options")
        each = row[name] if many and isinstance(row[name], list) else [row[name]]
        if many != isinstance(row[name], list) or not all(isinstance(x, str) for x in each):
            kinds = "a list of texts" if many else "a text"
            raise SpecError(f"a question's {name!r} is not {kinds}: {told}")
    if "gold" in needed:
        options = row["choices" if kind == "multiple_choice" else "context_options"]
        if type(row["gold"]) is not int:
            raise SpecError(f"gold {row['gold']!r} is not the number of an option: {told}")
        if not 0 <= row["gold"] < len(options):
            raise SpecError(f"gold {row['gold']} of {len(options)} options: {told}")


def prompts(
    kind: str, row: Mapping[str, Any], worked: Sequence[Mapping[str, Any]], delimiter: str
) -> list[str]:
    """The texts of a question: of each option; of language modelling with the continuation and
    without it; and of multiple choice the bare question at last, which is seldom needed."""
    for one in (row, *worked):
        checked(kind, one)
    if kind == "multiple_choice":
        shown = (f"{x['query']}{delimiter}{x['choices'][x['gold']]}\n\n" for x in worked)
        bare = f"{''.join(shown)}{row['query']}{delimiter}"
        return [*(bare + c for c in row["choices"]), bare.rstrip()]
    if kind == "schema":
        shown = (
            f"{x['context_options'][x['gold']]}{delimiter}{x['continuation']}\n\n" for x in worked
        )
        before = "".join(shown)
        return [f"{before}{c}{delimiter}{row['continuation']}" for c in row["context_options"]]
    if kind != "language_modeling":
        raise SpecError(f"questions of kind {kind!r}; there are: {', '.join(KINDS)}")
    shown = (f"{x['context'].strip()}{delimiter}{x['continuation']}\n\n" for x in worked)
    bare = f"{''.join(shown)}{row['context'].strip()}{delimiter}"
    return [bare + row["continuation"], bare.strip()]


def asked(kind: str, row: Mapping[str, Any], ids: list[list[int]]) -> Asked:
    """The question whose prompts have these ids; of multiple choice the bare question's, too, where
    an option begins with another whole one."""
    if kind == "multiple_choice":
        return Asked(_options(ids, len(row["choices"])), int(row["gold"]))
    if kind == "schema":
        ends = common([x[::-1] for x in ids])
        return Asked([Span(x, max(len(x) - ends, 1), len(x)) for x in ids], int(row["gold"]))
    whole = ids[0]
    # Where the last token of the prompt merges with the continuation's first, both are scored.
    return Asked([Span(whole, max(common(ids), 1), len(whole))], None)


def questions(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    worked: int,
    delimiter: str,
    encode: Encode,
) -> list[Asked]:
    """Every row as a question, with ``worked`` others before it."""
    texts = [
        prompts(kind, row, [rows[j] for j in shots(i, len(rows), worked)], delimiter)
        for i, row in enumerate(rows)
    ]
    last = -1 if kind == "multiple_choice" else None
    found = iter(encode([t for each in texts for t in each[:last]]))
    ids = [[next(found) for _ in each[:last]] for each in texts]
    if kind == "multiple_choice":
        short = [i for i, own in enumerate(ids) if _within(own)]
        bare = encode([texts[i][-1] for i in short]) if short else []
        for i, own in zip(short, bare, strict=True):
            ids[i].append(own)
    return [asked(kind, row, own) for row, own in zip(rows, ids, strict=True)]


def _within(ids: list[list[int]]) -> bool:
    """Whether one of the options begins with another whole one."""
    return min(map(len, ids)) == common(ids)


def _options(ids: list[list[int]], count: int) -> list[Span]:
    """Options are scored from where they part.  Where one begins with another whole one, there is
    nothing of that to score (nanochat then takes the mean of nothing): all are scored from the end
    of the question."""
    options = ids[:count]
    start = common(ids if _within(options) else options)
    return [Span(x, max(start, 1), len(x)) for x in options]

"""A model as probes see it, what they ask of it, and what they find.  Loads no torch.

B rows, T tokens, N scored tokens of a row, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from paribus.errors import Refused

if TYPE_CHECKING:
    from paribus.nn.questions import Question, Scored


class Rows(NamedTuple):
    """Rows of one length; of each some tokens are scored, from those before them.

    Attributes:
        ids: int64 [B,T].
        at: places of the scored tokens, int64 [N] where rows agree, else [B,N]; −1: nothing there.
        among: int64 [B,C], candidates; of each scored token it is told which one is the likeliest.
    """

    ids: Any
    at: Any
    among: Any = None


class Answers(NamedTuple):
    """What a model finds of rows.

    Attributes:
        right: bool [B,N], whether the token is the likeliest; of equals the one of the lowest id.
        nats: float64 [B,N], −log p; NaN where the logits held one, and where nothing is scored.
        chosen: int64 [B,N], the place of the likeliest candidate; None: none were given.
    """

    right: Any
    nats: Any
    chosen: Any = None


class Curve(NamedTuple):
    """How a probe's slices make a curve, from which spans are told.

    Attributes:
        axis: the slice whose levels are numbers of tokens, or of what it is called after
            (``study.measures.COUNTS``).
        metric: an accuracy, drawn along it.
        by: the slice that tells curves apart; None: there is one.
        control: the metric of the same tokens without what is to be remembered.
        gain: the metric of their difference, item by item.
    """

    axis: str
    metric: str
    by: str | None = None
    control: str | None = None
    gain: str | None = None


class Measured(NamedTuple):
    """What a probe found.

    Attributes:
        items: (sum, count) of each metric for each of N items.
        slices: the label of each item by slice name.
        notes: what the record should say of what was asked.
        anchors: published values of a metric: {metric: {model: value}}.
        groups: the cluster of each item (a sequence of which several items are parts); None: each
            is its own.
        about: facts of each item (its document, where it starts there).
        tables: plain data that is too long for a note.
    """

    items: Mapping[str, tuple[Any, Any]]
    slices: Mapping[str, Any] = {}
    notes: Mapping[str, Any] = {}
    anchors: Mapping[str, Mapping[str, float]] = {}
    groups: Any = None
    about: Mapping[str, Any] = {}
    tables: Mapping[str, Any] = {}


class Reader:
    """A model as probes see it: text or ids in, the likelihood of what follows out.

    Attributes:
        limit: the longest row that it reads; None: any.
        window: tokens that a query reads directly, its own included; None: it does not say.
        field: tokens that can reach a query through all layers; None: it does not say, or nothing
            limits them.
        said: how the field comes about, in words.
        work: tokens that are read at a time, where a cache of earlier ones stands beside them.
        begin: the id that a document begins with, if any.
        text: where ``documents`` come from, in words.
    """

    limit: int | None = None
    window: int | None = None
    field: int | None = None
    said: str = ""
    work: int | None = None
    begin: int | None = None
    text: str = ""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, after the mark of a document's beginning where there is one."""
        raise NotImplementedError

    def scores(self, questions: Sequence[Question]) -> list[list[Scored]]:
        """Of each question, each option's span; too long a prompt keeps its last tokens."""
        raise NotImplementedError

    def ordinary(self) -> Any:
        """Ids of ordinary tokens, ascending: no marks, no padding, none that was added, none that
        stands for a byte that has no token of its own."""
        raise NotImplementedError

    def documents(self) -> Sequence[str]:
        """Held-out text that the model was not trained on, a document each."""
        raise Refused("the model has no held-out text of its own; give the probe some: data=…")

    def follow(self, asked: Sequence[Rows]) -> list[Answers]:
        """Of each set of rows, whether and how likely the model goes on as they do."""
        raise NotImplementedError

    def attention(self, ids: Any, back: int, start: int) -> Any:
        """Mean weight [layers, heads] that queries from ``start`` on give to the token ``back``
        places before them, over rows ids [B,T]."""
        raise Refused("the model does not show its attention")

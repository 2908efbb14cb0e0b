"""What a part of each kind provides.  One base class a kind; the scan tests every part against it.

Shape suffixes: E trials of a stack, B rows, T tokens (queries), S tokens (keys), D width, H heads,
d head size, V vocabulary, F outputs of a linear layer or pairs of a head.  A lower-case e or b is 1
or E, 1 or B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from paribus.errors import SpecError
from paribus.parts import Part, raw
from paribus.readers import Curve as Curve
from paribus.readers import Measured as Measured
from paribus.readers import Reader as Reader
from paribus.readers import Rows as Rows
from paribus.view import View as View

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from paribus.text.data import Data, Encoder


IGNORE = -100  # a target that does not count (torch's ignore_index)


@dataclass(frozen=True)
class P:
    """A learned parameter, as declared: the engine adds the trial axis, draws it by its path,
    and freezes and counts it by its role.

    Attributes:
        shape: without the trial axis; weights are [out, in].
        init: "zeros", "ones", "normal:<std>", "uniform:<low>:<high>" or "value:<x>"; None leaves
            it to the init scheme.
        decay: whether weight decay applies.
        role: what it is (embedding, position, q, k, v, o, up, gate, down, head, bias, gain …).
        fan_in: inputs of the linear map that a bias (or a tied embedding) belongs to; 0: none, or
            the last number of the shape.
    """

    shape: tuple[int, ...]
    init: str | None = None
    decay: bool = True
    role: str = "weight"
    fan_in: int = 0


@dataclass(frozen=True)
class Dims:
    """The numbers of a resolved model."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


@dataclass(frozen=True)
class Metric:
    """How a metric reads.  ``of`` names the metric whose ratio of totals is transformed; one that
    is ``within`` takes the items of a slice alone there (its slices do not add up to the whole)."""

    unit: str
    better: str = "lower"
    of: str | None = None
    transform: str | None = None  # "exp"
    within: bool = False


class Position(Part, frozen=True, kw_only=True):
    """A position encoding: any of embed, rotate, bias, with tables."""

    kind: ClassVar[str] = "positions"
    per_layer: ClassVar[bool] = False  # whether each layer has its own parameters
    embed: ClassVar[Any] = None  # (t, p, x_EBTD) -> x_EBTD
    rotate: ClassVar[Any] = None  # (t, p, x_EBHTd) -> x_EBHTd, for q and for k
    bias: ClassVar[Any] = None  # (t, p, e, h, q, k) -> added to the logits, broadcast [e,b,H,T,S]
    # (t, p, q_EBHTd, k_EBHSd, scale, mask_ebhTS, q, k) -> s_EBHTS in place of scale · q·k; the mask
    # (None: all is allowed) is applied afterwards too.  It runs on the reference kernel alone.
    scores: ClassVar[Any] = None

    def fitted(self, length: int | None) -> Position:
        """Its rules filled in with numbers, for rows of so many tokens (None: of any)."""
        return self

    def params(self, d: Dims) -> dict[str, P]:
        return {}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        """Numbers computed for one trial in float64: pos.token [1,b,T] -> tensors [1, …]."""
        return {}

    def limit(self) -> int | None:
        """The largest length that the part can serve; None: any."""
        return None

    def attention_factor(self) -> float:
        """What it multiplies q and k by, each, after their norms (logits by its square), besides
        the model's ``temperature``."""
        return 1.0


class Scaling(Part, frozen=True, kw_only=True):
    """A scaling of RoPE: what becomes of its frequencies when rows get longer.

    The attention temperature that goes with it is a factor of its own (``attention_factor``), which
    a field of the part switches off.
    """

    kind: ClassVar[str] = "scalings"

    def fitted(self, length: int | None) -> Scaling:
        """The scaling for rows of so many tokens (None: of any), as the task or the condition
        declares them: a dynamic form has one set of frequencies for all tokens of such rows."""
        return self

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        """Radians a token [F], float64, of RoPE's own: own_F[i] = base^(−i/F)."""
        raise NotImplementedError

    def attention_factor(self) -> float:
        """What q and k are each multiplied by after their norms."""
        return 1.0

    def untouched(self) -> int:
        """Tokens at the start of a text that keep RoPE's own frequencies."""
        return 0


class Mask(Part, frozen=True, kw_only=True):
    """An attention mask: one predicate on token views.

    ``sdpa`` = "causal" or "full" is a promise, tested against the predicate, that lets the fused
    kernel build the mask itself wherever ``index`` counts the tokens of a row from its start.
    ``per_layer`` says that layers differ in what they allow.
    """

    kind: ClassVar[str] = "masks"
    sdpa: ClassVar[str | None] = None
    causal: ClassVar[bool] = True
    per_layer: ClassVar[bool] = False
    window: ClassVar[Any] = (
        None  # () -> how many of the last keys a query reads; None: no such rule
    )

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        """True where query q may read key k; views broadcast as [e,b,1,T,1] and [e,b,1,1,S]."""
        raise NotImplementedError

    def mean_keys(self, length: int) -> float:
        """Keys that a query reads on average, for counting FLOPs; an upper bound will do."""
        return (length + 1) / 2 if self.sdpa == "causal" else float(length)


class Norm(Part, frozen=True, kw_only=True):
    """A normalisation over the last axis."""

    kind: ClassVar[str] = "norms"
    after_rotation: ClassVar[bool] = False  # whether, as a norm of q or k, it follows RoPE

    def params(self, n: int) -> dict[str, P]:
        return {}

    def forward(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """p's tensors broadcast against x."""
        raise NotImplementedError

    def added(self, p: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x + y and its norm, for a norm that can do both at once; then the norm may be in y's
        dtype."""
        x = x + y
        return x, self.forward(p, x)


class Mlp(Part, frozen=True, kw_only=True):
    """A feed-forward block."""

    kind: ClassVar[str] = "mlps"

    def hidden_size(self, d: Dims) -> int:
        raise NotImplementedError

    def params(self, d: Dims) -> dict[str, P]:
        raise NotImplementedError

    def forward(self, p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        raise NotImplementedError


class Scale(Part, frozen=True, kw_only=True):
    """The factor of attention logits, and where it depends on the query, what more it is there."""

    kind: ClassVar[str] = "scales"
    queries: ClassVar[Any] = None  # (pos) -> factor [1,b,T] of each query's logits, float64

    def factor(self, d: Dims) -> float:
        raise NotImplementedError


class Init(Part, frozen=True, kw_only=True):
    """An initialisation scheme: role and shape -> (distribution, number).

    A scheme whose numbers depend on each other has ``made`` too: it makes the values of one trial's
    parameter of what was drawn for it, in float64.  They keep the mean and spread of the rule.
    """

    kind: ClassVar[str] = "init"
    made: ClassVar[Any] = None  # (p, d, drawn) -> values, numpy arrays of the parameter's shape

    def rule(self, p: P, d: Dims) -> tuple[str, float]:
        """("normal", std), ("uniform", bound) or ("constant", value)."""
        raise NotImplementedError


class Optimizer(Part, frozen=True, kw_only=True):
    """An optimizer over stacked tensors; has a field ``lr``.  ``rates`` names the fields that the
    schedule's factor multiplies.  One that treats every number alone, whatever tensor holds it, and
    reads nothing but v, and of ``declared`` nothing but ``decay``, says ``elementwise``: many
    tensors are then given to it as one, and its update is compiled."""

    kind: ClassVar[str] = "optim"
    elementwise: ClassVar[bool] = False
    rates: ClassVar[frozenset[str]] = frozenset({"lr"})

    def states(self, p: P) -> int:
        """How many tensors ``state`` has for a parameter; torch-free, for estimates of memory."""
        return 2

    def state(
        self, params: Mapping[str, Tensor], declared: Mapping[str, P]
    ) -> dict[str, dict[str, Tensor]]:
        """State tensors by name and path, each with the trial axis first; ``params`` are those that
        are trained, ``declared`` gives each path's P."""
        raise NotImplementedError

    def numbers(self, step: int) -> dict[str, float]:
        """What depends on the step (from 0) alone; ``update`` finds it in v."""
        return {}

    def update(
        self,
        v: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        step: int,
        declared: Mapping[str, P],
    ) -> None:
        """One step in place.  ``v`` holds the rates (already times the schedule's factor) and the
        stackable fields as vectors [E], and the step's numbers; ``step`` counts from 0;
        ``declared`` gives each path's P.  Where a trial's rates are 0 its parameters stay."""
        raise NotImplementedError

    def weights(
        self, params: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """What is evaluated and kept of what is trained, with or without the trial axis; an
        optimizer may take its gradients elsewhere."""
        return params


class Schedule(Part, frozen=True, kw_only=True):
    """A learning-rate schedule.  One whose factor is meant to stay the same says ``flat``.  One
    that looks at losses as well says ``adapts``: it has fields ``every`` (steps from one look to
    the next) and ``on`` ("train" or "validation"), and ``decisions(values)``, pure, of what was
    seen so far; its factor is multiplied by that of the last decision."""

    kind: ClassVar[str] = "schedules"
    flat: ClassVar[bool] = False
    adapts: ClassVar[bool] = False

    def factor(self, step: int, total: int) -> float:
        """The factor of lr for update ``step`` (from 0) of ``total``; pure."""
        raise NotImplementedError

    def unfelt(self, total: int) -> str | None:
        """A setting that none of so many updates feels, and what to give, in words."""
        return None


class Corpus(Part, frozen=True, kw_only=True):
    """Documents of text, in three disjoint splits: train, validation, test."""

    kind: ClassVar[str] = "corpora"

    def documents(self, split: str) -> Iterator[bytes]:
        """The raw UTF-8 bytes of each document of a split, in a fixed order."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash of the contents of all splits."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What the report says of it: version, files, licence …"""
        return {}


class Tokenizer(Part, frozen=True, kw_only=True):
    """Bytes of text in, ids out."""

    kind: ClassVar[str] = "tokenizers"

    def vocab_size(self) -> int:
        raise NotImplementedError

    def fingerprint(self, corpus: Corpus) -> str:
        """A hash of everything that decides the ids (a trained tokenizer's includes its text)."""
        raise NotImplementedError

    def open(self, corpus: Corpus, cache: Path) -> Encoder:
        """Load or train; files go under ``cache``."""
        raise NotImplementedError


class Io(NamedTuple):
    """What a task asks of the model: a vocabulary, or vectors of ``in_dim`` and a scalar out; or
    one of so many ``classes``."""

    vocab: int | None = None
    in_dim: int | None = None
    length: int | None = None  # tokens a row, where fixed; padding included
    tokens: float | None = None  # of these without padding, on average; None: all of them
    ragged: bool = False  # that is what they are at most: how many is known when they are read
    examples: int | None = None  # training rows that there are, where a step must not have more
    classes: int | None = None  # numbers that come out at each token, where it is no vocabulary

    @property
    def per_row(self) -> float:
        """Tokens of a row as budgets count them; 1 where that is not known beforehand."""
        return 1 if self.ragged else self.tokens or self.length or 1


class Task(Part, frozen=True, kw_only=True):
    """Where batches come from and how outputs are scored.

    A batch is a dict of tensors whose first axis is rows: ``inputs`` [B,T] ids or [B,T,n] vectors,
    ``targets``, coordinates of tokens under ``pos.<name>`` ([1,T] where all rows have the same)
    and, where rows are padded, ``valid`` (false at padding, whose targets do not count); the engine
    adds the trial axis.  ``causal`` says whether targets are later tokens, so that a mask must not
    show them; ``scored`` whether ``loss`` and ``score`` look at the last output alone (there may
    then be no other); ``training`` names the fields that no evaluation reads, ``fixed`` those that
    none may change, since inputs would mean something else to trained weights.
    """

    kind: ClassVar[str] = "tasks"
    causal: ClassVar[bool] = False
    scored: ClassVar[Literal["all", "last"]] = "all"
    training: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[frozenset[str]] = frozenset()
    trivial: ClassVar[tuple[str, ...]] = ()  # names of its trivial baselines
    metrics: ClassVar[dict[str, Metric]] = {}
    optional: ClassVar[frozenset[str]] = frozenset()  # metrics that there are where a field asks

    def io(self) -> Io:
        """Torch-free."""
        raise NotImplementedError

    def rows(self) -> int | None:
        """Rows per optimizer step, where the task's own words (tokens per step) decide them."""
        return None

    def fingerprints(self) -> dict[str, str]:
        """Content hashes of data and tokenizer; they enter the trial's id."""
        return {}

    def open(self, data: Data, device: str) -> Source:
        """``data`` is bound to a split."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(sum_E, count_E); the engine divides after accumulation."""
        raise NotImplementedError

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """{metric: (sum_EB, count_EB)}, per item; of names with ``_`` in front nothing is recorded:
        they are for ``whole``."""
        raise NotImplementedError

    def whole(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Metrics that take all N items at once, from ``score``'s of all of them on the CPU:
        {metric: (sum_EN, count_EN)}.  Of metrics that are ``within``, of a slice's items, too."""
        return {}

    def answers(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, list[Any]]:
        """What one trial says to each of N items, for people who look at few of them, from
        ``score``'s (sum_N, count_N): {column: a number or a word for each}."""
        return {}

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """Trivial baselines on the split: {name: {metric: value}}."""
        return {}

    def baseline_slices(
        self, data: Data, by: Sequence[str]
    ) -> dict[str, dict[str, dict[str, float]]]:
        """The same within the slices of these names: {name: {"hops=2": {metric: value}}}."""
        return {}


class Source:
    """An opened task."""

    size: int = 0  # finite evaluation examples
    parts: int = 1  # items that ``score`` tells apart in each of them; slices and groups are theirs
    epoch: int | None = None  # training rows of one pass over the data; None: endless

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        """Training rows; ``rows`` are global: row r of the run, step · rows per step + i."""
        raise NotImplementedError

    def expect(self, seeds: Sequence[int], rows: range) -> None:
        """``batch`` is about to be asked for these rows of each of these seeds: a source may draw
        them together, which is cheaper on a GPU.  Whether it was told changes no row."""

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        """Evaluation examples i … j − 1, the same for every trial."""
        raise NotImplementedError

    def for_trial(self, batch: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Examples, or a later phase's rows, whose order has a seed of its own, as a trial of this
        seed reads them, where that is not the same for all (inputs whose vectors were drawn for
        each run, say); pure."""
        return batch

    def token_names(self, i: int) -> Sequence[str]:
        """What the tokens of example i are called in pictures; []: by their numbers."""
        return []

    def slices(self) -> dict[str, np.ndarray]:
        """Label of each example by slice name, for results by difficulty."""
        return {}

    def titles(self, i: int, j: int) -> list[dict[str, str]]:
        """What examples i … j − 1 ask and what is right, for people who look at few of them:
        {column: word} of each.  None: they have no titles, and answers are not shown."""
        return []

    def groups(self) -> np.ndarray | None:
        """Cluster (document) of each example, for clustered standard errors."""
        return None

    def realised(self, seed: int | None, rows: range) -> dict[str, Any]:
        """What rows held that the spec does not say (counts that were drawn, what was cut off),
        for the record: training rows of a seed, or examples where ``seed`` is None; pure."""
        return {}


class Probe(Part, frozen=True, kw_only=True):
    """A measurement that trains nothing; ``slices`` names those that it gives."""

    kind: ClassVar[str] = "probes"
    metrics: ClassVar[dict[str, Metric]] = {}
    slices: ClassVar[tuple[str, ...]] = ()
    curve: ClassVar[Curve | None] = None
    split: ClassVar[bool] = False  # whether it reads the split of its evaluation

    def validate(self) -> None:
        """A value that stands twice would count the same items twice."""
        for field, value in raw(self).items():
            twice = [x for x in value if value.count(x) > 1] if isinstance(value, tuple) else []
            if twice:
                raise SpecError(
                    f"probes.{self.name}.{field}: {twice[0]!r} stands there twice, and its items "
                    "would be counted twice; give each value once"
                )

    def fingerprints(self) -> dict[str, str]:
        """Content hashes of the data that it asks of."""
        return {}

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        """``examples``: at most so many of each kind of item."""
        raise NotImplementedError

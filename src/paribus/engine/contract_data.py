"""What tasks, corpora and tokenizers promise.

E trials of a stack, B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus import parts, rng
from paribus.contracts import Source, Task
from paribus.engine.contract import Bench, Broken, Skip, Test, generators
from paribus.errors import ParibusError, Refused, SpecError
from paribus.text.data import Encoder
from paribus.text.splits import SPLITS

Batch = Mapping[str, Tensor]
NOT_SCORED = -100  # torch's ignore_index


def _open(part: Any, bench: Bench, split: str = "train") -> Source:
    return part.open(bench.data.bind(split), "cpu")


def _held(part: Any, bench: Bench) -> Source:
    return _open(part, bench, "test")


def _poison(seed: int) -> None:
    """Put the global generators into another state."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _same(a: Batch, b: Batch) -> str | None:
    """The first key in which two batches differ."""
    if a.keys() != b.keys():
        return str(sorted(a.keys() ^ b.keys())[0])
    return next((k for k in a if not torch.equal(a[k], b[k])), None)


def _join(a: Batch, b: Batch) -> dict[str, Tensor]:
    return {k: a[k] if _alike(k, a[k]) else torch.cat([a[k], b[k]]) for k in a}


def _alike(name: str, t: Tensor) -> bool:
    """Whether these are coordinates that all rows share."""
    return name.startswith("pos.") and len(t) == 1


def _outputs(part: Any, batch: Batch, E: int) -> Tensor:
    """Random outputs [E,B,T,V] or [E,B,T,C], or [E,B,T] where the task gives vectors."""
    shape, io = [E, *batch["inputs"].shape[:2]], part.io()
    if (last := io.classes or io.vocab) is not None:
        shape.append(last)
    flat = [rng.Stream(e, "contract", "out").normal(int(np.prod(shape[1:]))) for e in range(E)]
    return torch.from_numpy(np.stack(flat)).float().view(shape)


def _stacked(batch: Batch, E: int) -> dict[str, Tensor]:
    return {k: t[None].expand(E, *t.shape) for k, t in batch.items()}


# ── tasks ───────────────────────────────────────────────────────────────────────────────────


def _determinism(part: Any, bench: Bench) -> str:
    """batch and examples are functions of their arguments; they leave global generators alone."""
    source = _open(part, bench)
    draws = {
        "batch(seed=5, step=3, rows)": lambda s: s.batch(5, 3, range(24, 32)),
        "examples(0, 4)": lambda s: s.examples(0, min(4, s.size)),
    }
    for what, draw in draws.items():
        _poison(1)
        once = draw(source)
        for other in (source, _open(part, bench)):
            _poison(2)
            before = generators()
            again = draw(other)
            after = generators()
            if (key := _same(once, again)) is not None:
                raise Broken(
                    f"{what} gives other {key} the second time, after the global generators moved; "
                    "draw from rng.Stream(seed, …).rows(rows, n), never from random, numpy.random "
                    "or torch"
                )
            moved = [
                name
                for name, a, b in zip(("random", "numpy", "torch"), before, after, strict=True)
                if str(a) != str(b) or (name == "torch" and not torch.equal(a, b))
            ]
            if moved:
                raise Broken(
                    f"{what} moves the global generator of {moved[0]}; draw from rng.Stream instead"
                )
    if _same(source.batch(5, 3, range(8)), source.batch(6, 3, range(8))) is None:
        raise Broken("batch() is the same for seeds 5 and 6; it must be keyed by seed")
    return "a function of seed, step and rows"


def _rows(part: Any, bench: Bench) -> str:
    """Row r is the same however a batch is cut, and whether or not the source was told."""
    source = _open(part, bench)
    whole = source.batch(5, 1, range(8, 16))
    cut = _join(source.batch(5, 1, range(8, 12)), source.batch(5, 1, range(12, 16)))
    if (key := _same(whole, cut)) is not None:
        raise Broken(
            f"{key} of rows 8 … 15 differ from those of 8 … 11 and 12 … 15: halving a micro-batch "
            "would change the data; number draws by global row: rng.Stream(…).rows(rows, n)"
        )
    told = _open(part, bench)
    told.expect([6, 5], range(8, 16))
    if (key := _same(whole, told.batch(5, 1, range(8, 16)))) is not None:
        raise Broken(
            f"{key} of rows 8 … 15 differ after expect([6, 5], …) of the same rows: it may draw "
            "them beforehand, as batch() would, and nothing else"
        )
    if any(len(t) != 8 and not _alike(k, t) for k, t in whole.items()):
        raise Broken("a batch of 8 rows has a tensor of another first axis")
    if torch.equal(whole["inputs"][0], whole["inputs"][1]):
        raise Broken("rows 8 and 9 are equal; key draws by row")
    return "rows do not depend on the cut"


def _examples(part: Any, bench: Bench) -> str:
    source = _held(part, bench)
    n = min(source.size, 8)
    if n < 1:
        raise Broken(f"size = {source.size}; an evaluation needs examples")
    whole = source.examples(0, n)
    if len(named := source.token_names(0)) not in (0, whole["inputs"].shape[1]):
        raise Broken(f"token_names() gives {len(named)} names; rows have other lengths")
    if n > 1:
        cut = _join(source.examples(0, n // 2), source.examples(n // 2, n))
        if (key := _same(whole, cut)) is not None:
            raise Broken(f"{key} of examples 0 … {n - 1} depend on how they are cut")
    for name, labels in source.slices().items():
        if len(labels) < source.size:
            raise Broken(f"slice {name!r} has {len(labels)} labels for {source.size} examples")
    groups = source.groups()
    if groups is not None and len(groups) < source.size:
        raise Broken(f"groups() has {len(groups)} entries for {source.size} examples")
    io, inputs = part.io(), whole["inputs"]
    if io.vocab is not None and not 0 <= int(inputs.min()) <= int(inputs.max()) < io.vocab:
        raise Broken(f"inputs go up to {int(inputs.max())}, io() says vocab={io.vocab}")
    if io.in_dim is not None and inputs.shape[2:] != (io.in_dim,):
        raise Broken(f"inputs are {tuple(inputs.shape)}, io() says in_dim={io.in_dim}")
    if io.length is not None and inputs.shape[1] != io.length:
        raise Broken(f"rows have {inputs.shape[1]} tokens, io() says length={io.length}")
    return f"{source.size} examples"


def _loss(part: Any, bench: Bench) -> str:
    """Per trial, and the sum of what score() says per item."""
    batch = _open(part, bench).batch(5, 0, range(4))
    out, stacked = _outputs(part, batch, 2).requires_grad_(), _stacked(batch, 2)
    sum_E, count_E = part.loss(out, stacked)
    if sum_E.shape != (2,) or count_E.shape != (2,):
        shapes = f"{tuple(sum_E.shape)} and {tuple(count_E.shape)}"
        raise Broken(f"loss() gives shapes {shapes} for two trials; (sum_E, count_E) are [E]")
    if not (sum_E.isfinite().all() and (count_E > 0).all()):
        raise Broken(f"loss() gives sums {sum_E.tolist()} and counts {count_E.tolist()}")
    (g,) = torch.autograd.grad(sum_E.sum(), out)
    if not g.isfinite().all() or not g.any():
        raise Broken("the loss's gradient is zero or not finite")
    for e in range(2):
        alone, _ = part.loss(out[e : e + 1], _stacked(batch, 1))
        if not torch.equal(alone[0], sum_E[e]):
            raise Broken("in a stack a trial's loss is not bit-equal to the trial's alone")
    scores = part.score(out.detach(), stacked)
    if "loss" in scores:
        s_EB, c_EB = scores["loss"]
        if not torch.allclose(s_EB.sum(1), sum_E.double(), rtol=1e-5) or not torch.equal(
            c_EB.sum(1).double(), count_E.double()
        ):
            raise Broken("the items' loss of score() does not add up to loss()")
    return "loss is [E] and the sum of its items"


def _metrics(part: Any, bench: Bench) -> str:
    source = _held(part, bench)
    batch = source.examples(0, min(source.size, 64 if type(part).whole is not Task.whole else 3))
    B = len(batch["inputs"])
    scores = part.score(_outputs(part, batch, 2), _stacked(batch, 2))
    scores |= part.whole(scores)
    scores = {name: pair for name, pair in scores.items() if not name.startswith("_")}
    if extra := scores.keys() - part.metrics.keys():
        raise Broken(f"score() gives {sorted(extra)[0]!r}, which metrics does not declare")
    due = {n: m for n, m in part.metrics.items() if n not in part.optional}
    missing = [n for n, m in due.items() if (m.of or n) not in scores]
    if missing:
        raise Broken(f"metrics declares {missing[0]!r}, which score() does not give")
    for name, (s, c) in scores.items():
        if s.shape != (2, B) or c.shape != (2, B):
            raise Broken(f"score()[{name!r}] has shapes {tuple(s.shape)}, {tuple(c.shape)}: [E,B]")
        if not (c.sum(1) > 0).all() or not s.isfinite().all():
            raise Broken(f"score()[{name!r}] counts nothing, or is not finite")
    for name, metric in part.metrics.items():
        if metric.better not in ("lower", "higher"):
            raise Broken(f"metric {name!r}: better={metric.better!r}; it is lower or higher")
    for baseline, row in part.baselines(bench.data.bind("test")).items():
        if unknown := row.keys() - part.metrics.keys():
            raise Broken(f"baseline {baseline!r} has the unknown metric {sorted(unknown)[0]!r}")
    return ", ".join(scores)


def _causal(part: Any, bench: Bench) -> str:
    """A task whose targets are the next tokens of its inputs says so."""
    batch = _open(part, bench).batch(5, 0, range(8))
    inputs, targets = batch["inputs"], batch.get("targets")
    if targets is None or inputs.ndim != 2 or targets.shape != inputs.shape:
        raise Skip("targets are no tokens of the inputs")
    scored = targets[:, :-1] != NOT_SCORED
    next_tokens = (targets[:, :-1] == inputs[:, 1:])[scored]
    if len(next_tokens) and next_tokens.all() and not type(part).causal:
        raise Broken(
            "its targets are the next tokens of its inputs, which a full mask would show; say "
            "`causal: ClassVar[bool] = True`"
        )
    return "targets are later tokens" if type(part).causal else "targets are no later tokens"


# ── corpora and tokenizers ──────────────────────────────────────────────────────────────────


def _splits(part: Any, bench: Bench) -> str:
    seen: dict[bytes, str] = {}
    counts = {}
    for split in SPLITS:
        try:
            once = list(part.documents(split))
        except (ParibusError, OSError) as reason:
            raise Skip(f"cannot be read here: {reason}") from None
        if once != list(part.documents(split)):
            raise Broken(f"documents({split!r}) gives others, or another order, the second time")
        counts[split] = len(once)
        for d in once:
            if not isinstance(d, bytes | bytearray | memoryview):
                raise Broken(f"documents({split!r}) gives {type(d).__name__}, not bytes")
            if seen.setdefault(bytes(d), split) != split:
                raise Broken(f"a document is in {seen[bytes(d)]} and in {split}: {bytes(d[:40])!r}")
    if not counts["train"]:
        raise Broken("documents('train') is empty")
    again = parts.construct(type(part), parts.raw(part))
    if part.fingerprint() != again.fingerprint():
        raise Broken("fingerprint() changes from one look to the next")
    return ", ".join(f"{n} documents of {s}" for s, n in counts.items())


def _encoder(part: Any, bench: Bench) -> tuple[Encoder, list[bytes], Any]:
    corpus = bench.text
    try:
        try:
            encoder = part.open(corpus, bench.folder / "cache")
        except SpecError as error:
            if "do not fit" not in str(error):
                raise
            corpus = bench.ids
            encoder = part.open(corpus, bench.folder / "cache")
    except Refused as reason:
        raise Skip(str(reason)) from None
    return encoder, list(corpus.documents("test")), corpus  # type: ignore[attr-defined]


def _round_trip(part: Any, bench: Bench) -> str:
    """Ids tell documents apart, cover their bytes, and do not depend on what stands beside."""
    encoder, documents, corpus = _encoder(part, bench)
    if len(documents) == 1:
        (whole,) = documents
        documents = [whole[i : i + 40] for i in range(0, len(whole), 40)]
    together = encoder.encode(documents)
    alone = [encoder.encode([d])[0] for d in documents]
    if any(not np.array_equal(a, b) for a, b in zip(together, alone, strict=True)):
        raise Broken("a document's ids depend on the documents beside it")
    told = {bytes(np.asarray(ids, np.uint32)) for ids in together}
    if len(told) < len(set(documents)):
        raise Broken("two documents have the same ids")
    highest = max(int(np.max(ids, initial=0)) for ids in together)
    if encoder.vocab != part.vocab_size() or highest >= encoder.vocab:
        raise Broken(f"ids go to {highest}, vocab_size() is {part.vocab_size()}")
    if encoder.token_bytes is not None:
        for d, ids in zip(documents, together, strict=True):
            if (n := int(encoder.token_bytes[ids].sum())) != len(d):
                raise Broken(f"its tokens of {bytes(d[:20])!r} hold {n} bytes, not {len(d)}")
    if part.fingerprint(corpus) != parts.construct(type(part), parts.raw(part)).fingerprint(corpus):
        raise Broken("fingerprint() changes from one look to the next")
    return f"{len(documents)} documents, ids below {encoder.vocab:,}"


KINDS: dict[str, dict[str, Test]] = {
    "tasks": {
        "determinism": _determinism, "rows": _rows, "examples": _examples, "loss": _loss,
        "metrics": _metrics, "causal": _causal,
    },
    "corpora": {"splits": _splits},
    "tokenizers": {"round trip": _round_trip},
}  # fmt: skip

"""Training recipes at equal tokens: what follows when the batch changes.  Loads no torch.

A batch of other size with all else fixed changes three things at once: the number of steps, how
noisy each is, and over how many *tokens* the optimizer remembers.  These helpers give the usual
rules as plain numbers for ``Factor(also=…)``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from paribus.errors import SpecError

Rule = Literal["fixed", "sqrt", "linear"]


def rows(*, per_gpu: int, gpus: int, accumulation: int, length: int, tokens: int) -> int:
    """Rows of a step, of micro-batches of ``per_gpu`` rows; refused where a step does not hold
    ``tokens`` tokens: 8 × 4 × 8 rows of 1024 are 262,144."""
    n = per_gpu * gpus * accumulation
    if n * length != tokens:
        raise SpecError(
            f"recipes.rows: {per_gpu} rows a GPU × {gpus} GPUs × {accumulation} micro-steps × "
            f"{length} tokens = {n * length:,} tokens a step, not {tokens:,}"
        )
    return n


def half_life(beta: float, tokens: int) -> float:
    """Tokens after which a moment with memory ``beta`` has forgotten half, at ``tokens`` a step."""
    if not 0 < beta < 1 or tokens < 1:
        raise SpecError(f"recipes.half_life: beta={beta}, tokens={tokens}: 0 < beta < 1 ≤ tokens")
    return tokens * math.log(0.5) / math.log(beta)


def beta(life: float, tokens: int) -> float:
    """The memory whose half-life is ``life`` tokens, at ``tokens`` a step."""
    if not life > 0 or tokens < 1:
        raise SpecError(f"recipes.beta: life={life}, tokens={tokens}: both above 0")
    return float(0.5 ** (tokens / life))


def rate(lr: float, tokens: int, reference: int, rule: Rule = "sqrt") -> float:
    """The rate at ``tokens`` a step where ``lr`` is that of ``reference``: the same ("fixed"), by
    the root of the ratio ("sqrt": Adam, Malladi et al. 2022) or by the ratio ("linear": SGD)."""
    power = {"fixed": 0.0, "sqrt": 0.5, "linear": 1.0}.get(rule)
    if power is None:
        raise SpecError(f"recipes.rate: rule {rule!r}; there are: fixed, sqrt, linear")
    return float(lr * (tokens / reference) ** power)


def batch(
    tokens: int,
    *,
    reference: int,
    total: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    lr_rule: Rule = "fixed",
    memory: Literal["steps", "tokens"] = "steps",
) -> dict[str, Any]:
    """A patch of a spec for a batch of ``tokens``, at equal tokens in all:
    ``Factor("batch", [2**16, 2**18], "task.tokens_per_step", also=lambda n: recipes.batch(n, …))``.

    Args:
        reference: tokens a step that lr and betas are those of.
        total: tokens of the whole training.
        lr_rule: as of ``rate``.
        memory: what the second moment's memory is counted in: "steps" leaves β₂ as it is, "tokens"
            keeps its half-life in tokens (Marek et al. 2025).
    """
    if memory not in ("steps", "tokens"):
        raise SpecError(f"recipes.batch: memory={memory!r}; there are: steps, tokens")
    b2 = betas[1] if memory == "steps" else beta(half_life(betas[1], reference), tokens)
    return {
        "steps": max(1, round(total / tokens)),
        "optim.lr": rate(lr, tokens, reference, lr_rule),
        "optim.betas": (betas[0], b2),
    }

"""Ranks as forked processes of the test, over gloo on the CPU."""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from paribus.engine.ranks import LOST, Gone, Ranks, join
from paribus.engine.train import Trainer
from tests.engine import tiny

SECONDS = 60  # after which a test that hangs is ended


def together(
    do: Callable[[Ranks], Any], world: int = 2, patience: float = 30.0
) -> tuple[list[int], list[Any]]:
    """(exit codes, what each rank returned or None), after all of them did the same."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "meet").mkdir()
        pids = [_rank(do, r, world, Path(folder), patience) for r in range(world)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        files = [Path(folder) / f"{r}.pt" for r in range(world)]
        found = [torch.load(f, weights_only=False) if f.exists() else None for f in files]
    return codes, found


def _rank(do: Callable[[Ranks], Any], rank: int, world: int, folder: Path, patience: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(SECONDS)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        ranks = join(folder / "meet", rank, world, "cpu", patience)
        torch.save(do(ranks), folder / f"{rank}.pt")
        code = 0
    except Gone:
        code = LOST
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def train(
    members: Sequence[tiny.Member], ranks: Ranks, hooks: tiny.Hooks | None = None, **settings: Any
) -> Trainer:
    """A trainer that has run on these ranks."""
    data = tiny.Data(Path("unused"))
    trainer = Trainer(
        list(members), tiny.Settings(**settings), data, hooks or tiny.Hooks(), ranks=ranks
    )
    trainer.run()
    return trainer


def outcome(members: Sequence[tiny.Member], trainer: Trainer) -> list[dict[str, Any]]:
    """What can be compared of each member: tensors, curves, counts."""
    return [
        {
            "tensors": tiny.result(m)[0],
            "curves": {
                k: torch.tensor(v, dtype=torch.float64) for k, v in trainer.curve(e).items()
            },
            "tokens": int(trainer.tokens[e]),
            "targets": int(trainer.targets[e]),
        }
        for e, m in enumerate(members)
    ]


def same(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> bool:
    """Whether two outcomes are equal to the bit."""
    return all(
        x["tokens"] == y["tokens"]
        and x["targets"] == y["targets"]
        and all(x[of].keys() == y[of].keys() for of in ("tensors", "curves"))
        and all(torch.equal(x[of][k], y[of][k]) for of in ("tensors", "curves") for k in x[of])
        for x, y in zip(a, b, strict=True)
    )


def close(
    a: Sequence[dict[str, Any]],
    b: Sequence[dict[str, Any]],
    losses: float = 1e-6,
    weights: float = 1e-5,
) -> None:
    """Losses (and lr, gradient norms) relative to themselves, weights to their tensor's largest;
    counts are equal.  AdamW makes much of single gradients that are near nothing."""
    for x, y in zip(a, b, strict=True):
        assert (x["tokens"], x["targets"]) == (y["tokens"], y["targets"])
        torch.testing.assert_close(x["curves"], y["curves"], rtol=losses, atol=0)
        for k, t in x["tensors"].items():
            if k.startswith("param/"):
                large = float(t.abs().max())
                torch.testing.assert_close(t, y["tensors"][k], rtol=0, atol=weights * large)

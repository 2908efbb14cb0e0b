"""One trained model under several conditions, as a worker evaluates it; nothing is recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from paribus.contracts import Probe
from paribus.engine import checkpoint, foreign
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.settings import Settings, apply, pick_device
from paribus.errors import ParibusError, Refused, SpecError
from paribus.spec import Spec
from paribus.text.data import Data

SHOWN = 32  # items of a condition up to which each is shown with its answer


def evaluated(
    weights: Path,
    seed: int,
    wanted: Sequence[tuple[str, Spec]],
    split: str,
    examples: int | None,
    device: str | None,
    cache: Path | None,
    tell: Callable[[str], None],
    probe: Probe | None = None,
) -> list[dict[str, Any]]:
    """A record for each condition, in order.

    Args:
        weights: a trial's file, or a Hugging Face folder.
        seed: the trial's.
        wanted: how each condition is called, and its spec, resolved.
        device: None: what this machine has.
        cache: of tokens and tokenizers; None: they are made for this call alone.
        tell: called with a condition's name before it is evaluated.
        probe: what is asked, in place of the task.
    """
    settings = Settings(device=device or pick_device())
    apply(settings)
    out = []
    with tempfile.TemporaryDirectory() as scratch:
        data = Data(cache or Path(scratch))
        # What the text does not give is said before the first is done.
        for label, spec in wanted if probe is None else ():
            with _in_one_line(label):
                spec.task.open(data.bind(split), "cpu")
        if weights.is_dir():
            held = {k: t[0] for k, t in foreign.hugging_face(weights)[1].items()}
        else:
            held = checkpoint.read_weights(weights)
        params = {k: t[None].to(settings.device) for k, t in held.items()}
        for label, spec in wanted:
            tell(label)
            by = () if probe is None else probe.slices
            setting = Setting(label, label, spec, split, examples, by, shown=SHOWN, probe=probe)
            with _in_one_line(label):
                out += evaluate(params, [spec], [seed], setting, data, settings)
    return out


@contextmanager
def _in_one_line(label: str) -> Iterator[None]:
    """What a condition cannot be evaluated for is a request that was wrong."""
    try:
        yield
    except (Refused, SpecError) as error:
        raise SpecError(f"{label}: {error}") from None
    except torch.OutOfMemoryError as error:
        raise ParibusError(f"{label}: out of memory: {error}".split("\n")[0]) from None

"""One trained model under several conditions, as a worker evaluates it; nothing is recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paribus.contracts import Probe
from paribus.engine import checkpoint, foreign
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.probing import Trained, pass_of, record
from paribus.engine.settings import Settings, apply, pick_device
from paribus.errors import ParibusError, Refused, SpecError
from paribus.nn.spans import OUTPUTS
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
) -> list[dict[str, Any]]:
    """A record for each condition, in order.

    Args:
        weights: a trial's file, or a Hugging Face folder.
        seed: the trial's.
        wanted: how each condition is called, and its spec, resolved.
        device: None: what this machine has.
        cache: of tokens and tokenizers; None: they are made for this call alone.
        tell: called with a condition's name before it is evaluated.
    """
    settings = Settings(device=device or pick_device())
    apply(settings)
    out = []
    with tempfile.TemporaryDirectory() as scratch:
        data = Data(cache or Path(scratch))
        # What the text does not give is said before the first is done.
        for label, spec in wanted:
            with _in_one_line(label):
                spec.task.open(data.bind(split), "cpu")
        params = _params(weights, settings)
        for label, spec in wanted:
            tell(label)
            setting = Setting(label, label, spec, split, examples, (), shown=SHOWN)
            with _in_one_line(label):
                out += evaluate(params, [spec], [seed], setting, data, settings)
    return out


def asked(
    weights: Path,
    wanted: Sequence[tuple[str, Spec]],
    probes: Sequence[tuple[str, Probe]],
    split: str,
    examples: int | None,
    device: str | None,
    cache: Path | None,
    tell: Callable[[str], None],
) -> list[list[dict[str, Any]]]:
    """What each probe finds under each condition, as `evaluated`; one that cannot be asked of the
    model is a record of why where there are several probes, else an error.

    Args:
        probes: each by what it is called.
    """
    settings = Settings(device=device or pick_device())
    apply(settings)
    with tempfile.TemporaryDirectory() as scratch:
        data, params = Data(cache or Path(scratch)), _params(weights, settings)
        models = [(label, lambda spec=spec: Trained(params, spec, data, settings), spec)
                  for label, spec in wanted]  # fmt: skip
        return _asked(models, probes, split, examples, settings, tell)


def asked_of(
    name: str,
    dtype: str | None,
    probes: Sequence[tuple[str, Probe]],
    examples: int | None,
    device: str | None,
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Which model it is, and the same of a model of the transformers library."""
    from paribus.engine.huggingface import HuggingFace

    settings = Settings(device=device or pick_device())
    apply(settings)
    budget = min(OUTPUTS, pass_of(settings.device))  # it gives the logits of all tokens
    model = HuggingFace(name, settings.device, dtype, budget)
    told: dict[str, Any] = model.told
    return told, _asked([("as it is", lambda: model, None)], probes, "test", examples, settings,
                        tell)  # fmt: skip


def _asked(
    models: Sequence[tuple[str, Callable[[], Any], Any]],
    probes: Sequence[tuple[str, Probe]],
    split: str,
    examples: int | None,
    settings: Settings,
    tell: Callable[[str], None],
) -> list[list[dict[str, Any]]]:
    out: list[list[dict[str, Any]]] = [[] for _ in probes]
    for label, opened, spec in models:
        with _in_one_line(label):
            model = opened()
        for found, (name, probe) in zip(out, probes, strict=True):
            tell(label if len(probes) == 1 else name)
            setting = Setting(label, label, spec, split, examples, probe.slices, shown=SHOWN,
                              probe=probe)  # fmt: skip
            try:
                with _in_one_line(label):
                    found.append(record(model, setting, probe, settings))
            except SpecError as error:
                if len(probes) == 1:
                    raise
                found.append({"status": "refused", "reason": str(error)})
    return out


def _params(weights: Path, settings: Settings) -> dict[str, Tensor]:
    """Parameters [1, …] of a trial's file, or of a Hugging Face folder."""
    if weights.is_dir():
        held = {k: t[0] for k, t in foreign.hugging_face(weights)[1].items()}
    else:
        held = checkpoint.read_weights(weights)
    return {k: t[None].to(settings.device) for k, t in held.items()}


@contextmanager
def _in_one_line(label: str) -> Iterator[None]:
    """What a condition cannot be evaluated for is a request that was wrong."""
    try:
        yield
    except (Refused, SpecError) as error:
        raise SpecError(f"{label}: {error}") from None
    except torch.OutOfMemoryError as error:
        raise ParibusError(f"{label}: out of memory: {error}".split("\n")[0]) from None

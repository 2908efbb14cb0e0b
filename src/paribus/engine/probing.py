"""Probes: a trained model as they see it, and what they find as a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from paribus.contracts import Reader
from paribus.engine.net import PRECISION, ExternalNet, make_net
from paribus.engine.settings import Settings, describe
from paribus.engine.totals import measured
from paribus.errors import Refused, SpecError
from paribus.nn import spans
from paribus.nn.inside import Tap
from paribus.nn.questions import Question, Scored, cropped
from paribus.spec import Model, Spec
from paribus.text.data import Data, Encoder

if TYPE_CHECKING:
    from paribus.engine.evaluate import Setting

BUDGET = {"cpu": 8192, "mps": 8192, "cuda": 65536}  # tokens of a pass, padding included


class Trained(Reader):
    """One trial's model, with the tokenizer that it was trained with.

    Args:
        params: [1, …] by path.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        spec: Spec,
        data: Data,
        settings: Settings,
        split: str = "validation",
    ) -> None:
        self._inside = params, spec, data.bind(split), settings.device
        self._of = spec, data
        self.budget = BUDGET[settings.device.partition(":")[0]]
        net = make_net([spec], settings.device, "sdpa")
        self.kernel = net.kernel
        self.reads: spans.Reads
        if isinstance(spec.model, Model):
            self.limit = spec.model.position.limit() if spec.model.position else None
        if isinstance(net, ExternalNet) or not net.core.cached:
            self.reads = spans.Whole(
                lambda ids: net(params, {"inputs": ids[None]})[0], settings.device
            )
        else:
            self.reads = spans.Cached(net.core, params, PRECISION[spec.precision])

    @cached_property
    def encoder(self) -> Encoder:
        return encoder_of(*self._of)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        mark = self.encoder.eos if self.encoder.bos is None else self.encoder.bos
        before = [] if mark is None else [mark]
        found = self.encoder.encode([t.encode() for t in texts])
        return [before + np.asarray(ids).tolist() for ids in found]

    def inside(self, rows: int) -> dict[str, np.ndarray[Any, Any]]:
        """Name of a number -> its value in each layer, on the task's first rows (``nn.inside``)."""
        params, spec, data, device = self._inside
        net = make_net([spec], device, "sdpa")
        if isinstance(net, ExternalNet):
            raise Refused("probes.inside: an external model does not show its queries and keys")
        source = spec.task.open(data, device)
        batch = {k: t[None] for k, t in source.examples(0, min(rows, source.size)).items()}
        tap = Tap()
        with torch.inference_mode():
            net(params, batch, ready=net.prepare(batch), tap=tap)
        return {name: x_EL[0].cpu().numpy() for name, x_EL in tap.values().items()}

    def scores(self, questions: Sequence[Question]) -> list[list[Scored]]:
        cut = [[cropped(s, self.limit) for s in q] for q in questions]
        while True:
            try:
                return spans.scores(self.reads, cut, self.budget)
            except torch.OutOfMemoryError:
                if self.budget < 256:
                    raise
                self.budget //= 2
                torch.cuda.empty_cache()


def encoder_of(spec: Spec, data: Data) -> Encoder:
    """The tokenizer of a trial's task."""
    tokenizer, corpus = (getattr(spec.task, name, None) for name in ("tokenizer", "corpus"))
    if tokenizer is None or corpus is None:
        raise SpecError(f"task {spec.task.name} has no tokenizer, so no text can be asked of it")
    if getattr(corpus, "form", "text") == "ids":
        raise SpecError("the corpus holds ids, so no text can be asked of it; give a tokenizer")
    return data.encoder(corpus, tokenizer)


def records(
    params: Mapping[str, Tensor],
    specs: Sequence[Spec],
    setting: Setting,
    data: Data,
    settings: Settings,
) -> list[dict[str, Any]]:
    """A record for each trial of a stack, of the same form as a task's evaluation."""
    probe = setting.probe
    assert probe is not None
    for name in setting.by:
        if name not in probe.slices:
            raise SpecError(
                f"evaluation {setting.key!r}: probe {probe.name} has no slice {name!r}; it has: "
                f"{', '.join(probe.slices) or 'none'}"
            )
    out = []
    for e, spec in enumerate(specs):
        began = time.monotonic()
        own = {k: t[e : e + 1] for k, t in params.items()}
        model = Trained(own, spec, data, settings, setting.split)
        found = probe.measure(model, setting.examples)
        items = {
            k: tuple(torch.from_numpy(np.asarray(x, np.float64)) for x in pair)
            for k, pair in found.items.items()
        }
        wanted = {k: np.asarray(v) for k, v in found.slices.items() if k in setting.by}
        record = measured(items, probe.metrics, wanted)  # type: ignore[arg-type]
        size = len(next(iter(items.values()))[0])
        out.append(
            {
                **record,
                "baselines": {},
                "baseline_slices": {},
                "status": "done",
                "condition": setting.id,
                "key": setting.key,
                "split": setting.split,
                "size": size,
                "realised": dict(found.notes),
                "anchors": {k: dict(v) for k, v in found.anchors.items()},
                "groups": None,
                **(
                    {"labels": {k: list(map(str, v)) for k, v in wanted.items()}}
                    if setting.shown
                    else {}
                ),
                "seconds": round(time.monotonic() - began, 3),
                "engine": {
                    "engine": "eager",
                    "stack": 1,
                    "micro_batch": model.budget,
                    **describe(settings),
                    "kernel": model.kernel,
                },
            }
        )
    return out

"""Probes: a trained model as they see it, and what they find as a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from paribus import arrays
from paribus.contracts import Corpus, Probe
from paribus.engine.following import at_places, follow
from paribus.engine.heads import attention
from paribus.engine.net import PRECISION, ExternalNet, make_net
from paribus.engine.settings import Settings, describe
from paribus.engine.totals import measured
from paribus.errors import Refused, SpecError
from paribus.nn import spans
from paribus.nn.inside import Tap
from paribus.nn.questions import Question, Scored, cropped
from paribus.nn.reach import seen
from paribus.readers import Answers, Reader, Rows
from paribus.spec import Model, Spec
from paribus.text.data import Data, Encoder

if TYPE_CHECKING:
    from paribus.engine.evaluate import Setting

Found = TypeVar("Found")
TEXT = 32_000_000  # bytes of held-out text that are enough to draw from


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
        self.budget = pass_of(settings.device)
        self.spec, self.params, self.device = spec, params, settings.device
        self.net = net = make_net([spec], settings.device, "sdpa")
        if isinstance(net, ExternalNet) or not net.core.cached:  # it gives the logits of all tokens
            self.budget = min(spans.OUTPUTS, self.budget)
        self.kernel = net.kernel
        self.window, self.field, self.said, self.work = seen(spec.model, spec.task.io().length)
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

    @cached_property
    def begin(self) -> int | None:  # type: ignore[override]
        """The token before a text, where there is one."""
        return self.encoder.eos if self.encoder.bos is None else self.encoder.bos

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        before = [] if self.begin is None else [self.begin]
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
        return self._fitting(lambda: spans.scores(self.reads, cut, self.budget))

    def follow(self, asked: Sequence[Rows]) -> list[Answers]:
        net = self.net
        if isinstance(net, ExternalNet):
            logits = at_places(lambda ids_BT: net(self.params, {"inputs": ids_BT[None]})[0])
        else:

            def logits(ids_BT: Tensor, at_BN: Tensor) -> Tensor:
                return net(self.params, {"inputs": ids_BT[None]}, outputs=at_BN)[0]

        return self._fitting(lambda: follow(logits, asked, self.budget, self.device))

    def attention(self, ids: Any, back: int, start: int) -> Any:
        if isinstance(self.net, ExternalNet):
            return super().attention(ids, back, start)
        return attention(self.net.core, self.params, ids, back, start, self.budget // 4)

    def ordinary(self) -> Any:
        if self.encoder.ordinary is None:
            raise SpecError(
                "the tokenizer does not say which of its tokens are ordinary ones; give another "
                "one (tokenizers.file, bpe and bytes do)"
            )
        return self.encoder.ordinary

    def documents(self) -> Sequence[str]:
        """Of the corpus, the test split; of a large one the first documents."""
        corpus: Corpus = self.spec.task.corpus  # type: ignore[attr-defined]
        self.text = f"corpora.{corpus.name}, test split"
        out: list[str] = []
        size = 0
        for document in corpus.documents("test"):
            out.append(document.decode("utf-8", "replace"))
            size += len(document)
            if size >= TEXT:
                break
        return out

    def _fitting(self, ask: Callable[[], Found]) -> Found:
        """What is found in passes that fit into memory."""
        while True:
            try:
                return ask()
            except torch.OutOfMemoryError:
                if self.budget < 256:
                    raise
                self.budget //= 2
                torch.cuda.empty_cache()


def pass_of(device: str) -> int:
    """Tokens of a pass, padding included: on a GPU as many as it has room for, since the processor
    starts each operation of a pass one by one; on a processor those that its cache holds."""
    if not device.startswith("cuda"):
        return 8192
    room = torch.cuda.get_device_properties(device).total_memory
    return max(8192, min(262144, room >> 19))


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
        own = {k: t[e : e + 1] for k, t in params.items()}
        model = Trained(own, spec, data, settings, setting.split)
        out.append(record(model, setting, probe, settings))
    return out


def record(model: Any, setting: Any, probe: Probe, settings: Settings) -> dict[str, Any]:
    """What a probe finds of one model.

    Args:
        model: a `Reader` with ``kernel`` and ``budget``, tokens of a pass.
        setting: `Setting`.
    """
    began = time.monotonic()
    found = probe.measure(model, setting.examples)
    items = {
        k: tuple(torch.from_numpy(np.asarray(x, np.float64)) for x in pair)
        for k, pair in found.items.items()
    }
    wanted = {k: np.asarray(v) for k, v in found.slices.items() if k in setting.by}
    return {
        **measured(items, probe.metrics, wanted),  # type: ignore[arg-type]
        "baselines": {},
        "baseline_slices": {},
        "status": "done",
        "condition": setting.id,
        "key": setting.key,
        "split": setting.split,
        "size": len(next(iter(items.values()))[0]),
        "realised": dict(found.notes),
        "anchors": {k: dict(v) for k, v in found.anchors.items()},
        "groups": None if found.groups is None else arrays.pack(found.groups),
        **({"about": {k: arrays.pack(v) for k, v in found.about.items()}} if found.about else {}),
        **({"tables": dict(found.tables)} if found.tables else {}),
        **({"labels": {k: list(map(str, v)) for k, v in wanted.items()}} if setting.shown else {}),
        "seconds": round(time.monotonic() - began, 3),
        "engine": {
            "engine": "eager",
            "stack": 1,
            "micro_batch": model.budget,
            **describe(settings),
            "kernel": model.kernel,
        },
    }

"""Memories and mixers on a CUDA device: losses of a training are those of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paribus import memories, mixers, norms, optim, schedules
from tests.engine import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")
MODELS: dict[str, dict[str, Any]] = {
    "xl": {"memory": memories.recurrence(segment=6, through=1)},
    "whole": {"memory": memories.recurrence(segment=6)},
    "tokens": {"memory": memories.tokens(segment=6, tokens=2, through=2)},
    "retrieval": {"memory": memories.retrieval(segment=6, cache=3, top=2)},
    "linear": {"mixer": mixers.gated_linear(chunk=8)},
    "key norm": {"k_norm": norms.l2(gain="scalar")},
}


@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_the_cpu(name: str) -> None:
    def losses(**settings: Any) -> list[float]:
        m = tiny.member(1, model=tiny.model(**MODELS[name]))
        return tiny.train([m], **settings).curve(0)["loss"]

    assert losses(device="cuda:0") == pytest.approx(losses(), rel=1e-3)


def test_schedule_free_is_that_of_the_cpu() -> None:
    def trained(**settings: Any) -> Any:
        own = {"optim": optim.schedule_free(lr=1e-2), "schedule": schedules.constant()}
        return tiny.train([tiny.member(1, **own)], **settings)

    there, here = trained(device="cuda:0"), trained()
    for k, t in here.weights().items():
        torch.testing.assert_close(there.weights()[k].cpu(), t, atol=1e-3, rtol=1e-2)

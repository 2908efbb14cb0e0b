"""Questions drawn on a CUDA device, words and all: those that are drawn on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paribus.tasks._schemas import Law, Schemas, drawn
from tests.tasks.test_draws import KNOWN, digest, fresh

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")


@pytest.mark.parametrize(("fields", "number", "known"), KNOWN, ids=str)
def test_examples_are_those_of_a_cpu(fields: Any, number: int, known: str) -> None:
    law = Law(*fields, data_seed=0)
    found = drawn(law, [fresh(1, 5), fresh(7, number)], "cuda:0")
    own = found[len(found) // 2 :]
    assert digest(Schemas(own.cols.cpu(), own.asked.cpu(), own.hops.cpu())) == known

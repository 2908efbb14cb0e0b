"""Gradients that sum over tokens on the way, on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from tests.nn import sums_cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_float64(compiled: bool) -> None:
    torch.compiler.reset()
    sums_cases.all_of_them("cuda:0", [torch.float32, torch.bfloat16], compiled)

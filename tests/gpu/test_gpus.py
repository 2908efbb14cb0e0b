"""nvidia-smi and torch agree on a real GPU, and one that is in use is seen."""

from __future__ import annotations

import os

import pytest
import torch

from paribus.launch.gpus import GIB, busy, choose, look

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")


def test_nvidia_smi_shows_what_torch_sees():
    found, trouble = look()
    assert not trouble and len(found) == torch.cuda.device_count()
    for gpu in found:
        about = torch.cuda.get_device_properties(gpu.index)
        assert gpu.name.endswith(about.name) or about.name.endswith(gpu.name)
        assert gpu.total == pytest.approx(about.total_memory, rel=0.03)
        assert gpu.driver
    assert choose("0", found) == [0]


def test_a_gpu_in_use_is_seen():
    before = look()[0][0]
    held = torch.zeros(4 * GIB, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize()
    gpu = look()[0][0]
    assert gpu.used - before.used > 3.5 * GIB
    assert " GB in use by " in busy(gpu)
    if any(pid == os.getpid() for pid, _, _ in gpu.processes):  # not in most containers
        assert f"(pid {os.getpid()}, user " in busy(gpu) or len(gpu.processes) > 1
    del held
    torch.cuda.empty_cache()

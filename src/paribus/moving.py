"""Numbers from the processor to a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def moved(values: Any, device: Any) -> Tensor:
    """An array or tensor of the processor's on a device.  A GPU is not waited for: a plain copy
    to it first waits for all that it has been given to do, and it idles until more comes."""
    found: Tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    if torch.device(device).type != "cuda":
        return found.to(device)
    return found.pin_memory().to(device, non_blocking=True)

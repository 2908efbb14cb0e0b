"""Engine settings: how a trial is run; columns of the record, never part of its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paribus.errors import ParibusError


@dataclass(frozen=True)
class Settings:
    """Attributes:
    device: "cpu", "cuda:0" or "mps".
    gpu: the number by which its launcher knows the GPU that this process sees alone, as its first.
    devices: of each rank, where several processes train one trial; () for one process.
    patience: seconds after which a rank that says nothing is taken for lost.
    threads: CPU threads of this process; on the CPU bit-equality is promised with one.
    kernel: of attention: "auto" (on CUDA "short" for rows that nn/short.py is for, "flex" where
        torch's fused kernel would need the mask written out, else "sdpa"), or one of these or
        "reference".
    compile: "auto" (on CUDA, where it works), "on" or "off".
    deterministic: None: on for the CPU, off for the GPU; on, nothing is compiled.
    micro: rows a forward pass; None: all rows of a step.
    memory: share of the GPU's memory that this process may take; None: all.
    alone: whether the GPU is this process's: then what others fill is waited for.
    checkpoint_every: seconds between checkpoints, at least; checkpoint_steps: steps instead, for
        tests.
    """

    device: str = "cpu"
    gpu: int | None = None
    devices: Sequence[str] = ()
    patience: float = 1800.0
    threads: int = 1
    kernel: str = "auto"
    compile: str = "auto"
    deterministic: bool | None = None
    micro: int | None = None
    memory: float | None = None
    alone: bool = True
    checkpoint_every: float = 30.0
    checkpoint_steps: int | None = None

    @property
    def known(self) -> str:
        """The device as the launcher knows it."""
        return self.device if self.gpu is None else f"cuda:{self.gpu}"

    @property
    def world(self) -> int:
        """Processes that train one trial."""
        return max(1, len(self.devices))

    @property
    def exact(self) -> bool:
        """Whether deterministic algorithms are asked for."""
        return self.device == "cpu" if self.deterministic is None else self.deterministic

    @property
    def attention(self) -> str:
        """The kernel that is asked for: "auto" where masks can be left to the flex kernel, which
        needs a compiler."""
        if self.kernel == "auto" and (self.exact or not self.device.startswith("cuda")):
            return "sdpa"
        return self.kernel

    def data(self) -> dict[str, Any]:
        return asdict(self)


def pick_device() -> str:
    """The device of this machine: CUDA, else MPS, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _keep_memory() -> None:
    """Let glibc keep what a step frees for the next one: given back, it is cleared page by page
    anew, a twentieth of a small step.  Elsewhere nothing."""
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for what, size in ((-3, 64 << 20), (-1, 256 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        mallopt(what, size)


def apply(settings: Settings) -> None:
    """Threads, memory and determinism of this process."""
    import os

    import torch

    torch.set_num_threads(settings.threads)
    if settings.device == "cpu":
        _keep_memory()
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ParibusError(
            f"--device {settings.device}: torch {torch.__version__} sees no CUDA device here; "
            "use --device cpu, or install a torch that has CUDA"
        )
    if settings.exact and (settings.device != "cpu" or settings.threads > 1):
        # One CPU thread is deterministic as it is.  (use_deterministic_algorithms would do, but
        # imports the compiler: four seconds.)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("warn" if settings.device == "mps" else "error")
        torch.utils.deterministic.fill_uninitialized_memory = False
    if settings.device.startswith("cuda"):
        torch.cuda.set_device(settings.device)  # kernels of Triton start on the current one
        torch.set_float32_matmul_precision("highest")
        if settings.memory is not None:
            torch.cuda.set_per_process_memory_fraction(settings.memory, settings.device)


CONTEXT = 1 << 30  # what a process of CUDA takes besides its tensors, at most


def taken_by_others(settings: Settings) -> str:
    """Who else fills this GPU, in one line; "" where it is shared on purpose or nobody does."""
    import torch

    if not settings.device.startswith("cuda") or not settings.alone:
        return ""
    free, total = torch.cuda.mem_get_info(settings.device)
    others = total - free - torch.cuda.memory_reserved(settings.device) - CONTEXT
    if others < total // 20:
        return ""
    number = settings.known.partition(":")[2] or "0"
    return f"GPU {number}: {others / 1e9:.0f} GB in use by another process"


def describe(settings: Settings) -> dict[str, Any]:
    """What ran: device, versions, threads, for the record."""
    import platform

    import torch

    name = settings.device
    if settings.device.startswith("cuda"):
        each = settings.devices or (settings.device,)
        name = " + ".join(dict.fromkeys(torch.cuda.get_device_name(d) for d in each))
    elif settings.device == "cpu":
        name = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": name,
        "world": settings.world,
        **({"devices": list(settings.devices)} if settings.world > 1 else {}),
        "threads": settings.threads,
        "kernel": settings.attention,
        "deterministic": settings.exact,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }


def flags(settings: Settings) -> dict[str, Any]:
    """What else of torch decides numbers, for the provenance of an attempt."""
    import torch

    out: dict[str, Any] = {
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
    }
    if settings.device.startswith("cuda"):
        about = torch.cuda.get_device_properties(settings.device)
        out |= {
            "gpu": about.name,
            "gpu_memory": about.total_memory,
            "capability": f"{about.major}.{about.minor}",
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
    return out

"""One interface for what is trained: our Transformer, stacked, or a user's module, unstacked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from paribus import parts
from paribus.contracts import P, View
from paribus.engine.freezing import Freezing
from paribus.errors import Refused, SpecError
from paribus.nn import flex, short
from paribus.nn.dropout import Dropout
from paribus.nn.initialise import initialise
from paribus.nn.inside import Tap
from paribus.nn.places import Ready
from paribus.nn.transformer import Transformer
from paribus.spec import External, Model, Spec

PRECISION = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


class Net:
    """A stack of models of one shape.

    Attributes:
        declared: P by parameter path.
        freezing: which member trains which of them.
        trained: the paths that any member trains.
        kernel: the attention kernel that runs.
        ahead: whether tables and patterns are made before a pass, of all that can be.
    """

    def __init__(self, specs: Sequence[Spec], device: str, kernel: str) -> None:
        spec = specs[0]
        model = spec.model
        assert isinstance(model, Model)
        self.specs, self.device = list(specs), device
        self.core = Transformer(model)
        self.compute = PRECISION[spec.precision]
        kernel = kernel if spec.kernel == "auto" else spec.kernel
        if kernel == "auto":
            # In rows shorter than a block there is nothing that flex could leave out.
            length = spec.task.io().length or flex.BLOCK + 1
            able = self.core.plain and not self.core.promised and length >= flex.BLOCK
            known = self.core.plain and spec.precision != "fp64"
            most = self.core.meets(length)
            few = known and short.fits(most, self.core.dims.head_dim, self.compute)
            kernel = "flex" if able else "short" if few else "sdpa"
        # Dropout of attention probabilities, and a position that replaces the scores, have the
        # reference kernel alone; the record says so.
        only = model.attn_dropout or self.core.replaced
        if only and spec.kernel not in ("auto", "reference"):
            raise Refused(
                f"kernel {spec.kernel}: dropout of attention probabilities and parts that replace "
                "the scores have the reference kernel alone; leave kernel out"
            )
        self.kernel = "reference" if only else kernel
        if model.mixer is not None:
            self.kernel = "none"
        if self.kernel == "flex" and self.core.looped:
            raise Refused('kernel flex: rows are read in segments here; take "auto" or "sdpa"')
        if self.kernel == "flex" and not self.core.plain:
            raise Refused(
                "kernel flex: the position's bias has parameters, so it must be written out for "
                'all pairs of tokens; take "auto" or "sdpa"'
            )
        self._ready: tuple[Any, Mapping[str, Tensor], Ready] | None = None
        self._given: Mapping[str, Tensor] = {}
        self.declared: dict[str, P] = self.core.declared
        self.freezing: Freezing = Freezing(self.declared, specs)
        self.trained: list[str] = self.freezing.trained
        self.differs = any(s.model != model for s in specs)
        self.core.stack = [s.model for s in specs] if self.differs else None  # type: ignore[misc]
        self._tables: dict[int, Any] = {}
        # A compiler does not follow how tables and masks are made, and would cut the pass in
        # pieces there; nor need they be made step by step.
        self.ahead = device.startswith("cuda")

    def unable(self) -> str:
        """Why the kernel cannot train this; "" where it can.  (Evaluations of other lengths, or
        elsewhere, have torch's where it cannot do them.)"""
        cuda = self.device.startswith("cuda")
        if self.kernel == "flex":
            return "" if cuda else "torch trains it on CUDA alone"
        if self.kernel != "short":
            return ""
        length = self.specs[0].task.io().length
        if self.core.written:
            return "the position's bias has parameters"
        most = None if length is None else self.core.meets(length)
        return short.unable(cuda, most, self.core.dims.head_dim, self.compute)

    def lowered(self) -> list[str]:
        """The parameters of which a pass reads nothing but what they are in a lower dtype."""
        return self.core.lowered() if self.compute in (torch.bfloat16, torch.float16) else []

    def initial(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Parameters [E, …], each drawn by (seed, path)."""
        dtype = torch.float64 if self.compute == torch.float64 else torch.float32
        schemes = [s.init for s in self.specs]
        return initialise(self.specs[0].model, schemes, seeds, dtype, self.device)  # type: ignore[arg-type]

    def prepare(
        self, batch: Mapping[str, Tensor], draws: Sequence[int] | None = None
    ) -> Ready | None:
        """Tables and patterns of a batch, made outside of what is compiled; the last ones serve as
        long as the tokens' places stay.  None: the pass makes them.

        Args:
            draws: trials of equal number have read the same rows; None: each reads its own.
        """
        places = {k: v for k, v in batch.items() if k.startswith("pos.") or k == "valid"}
        if self.core.looped and not places and not self.core.written:
            master = torch.float64 if self.compute == torch.float64 else torch.float32
            self.core.pieces(batch["inputs"].shape[2], batch["inputs"].device, master)
        if not (places or self.kernel == "flex" or self.ahead) or not self.core.plain:
            return None
        E, B, T = batch["inputs"].shape[:3]
        sizes, given = (E, B, T), places
        if self._ready is not None and self._ready[0] == sizes and _same(given, self._given):
            return self._ready[2]
        self._given = given
        if draws is not None:
            first = torch.tensor([draws.index(n) for n in range(max(draws) + 1)])
            places = {k: v[first.to(v.device)] for k, v in places.items()}
        if self._ready is None or self._ready[0] != sizes or not _equal(places, self._ready[1]):
            master = torch.float64 if self.compute == torch.float64 else torch.float32
            ready = self.core.ready(
                sizes,
                {k[4:]: v for k, v in places.items() if k != "valid"},
                places.get("valid"),
                models=[s.model for s in self.specs] if self.differs else None,  # type: ignore[misc]
                draws=draws,
                kernel=self.kernel,
                dtype=master,
                device=self.device,
                last=self.specs[0].task.scored == "last",
            )
            self._ready = (sizes, places, ready)
        return self._ready[2]

    def __call__(
        self,
        p: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        drop: Dropout | None = None,
        ready: Ready | None = None,
        tap: Tap | None = None,
        outputs: bool | Tensor = True,
    ) -> Tensor:
        """Outputs [E,B,T,V] ([E,B,T,C] of classes, [E,B,T] of a scalar) of a stacked batch, or
        those at some tokens (``outputs``, as of ``Transformer.forward``)."""
        shared: dict[str, Any] = {
            "drop": drop, "kernel": self.kernel, "dtype": self.compute, "tap": tap,
            "outputs": outputs,
        }  # fmt: skip
        inputs = batch["inputs"]
        if ready is not None:
            return self.core.forward(p, inputs, ready=ready, **shared)
        coordinates = {k[4:]: v for k, v in batch.items() if k.startswith("pos.")}
        return self.core.forward(
            p,
            inputs,
            View(coordinates) if coordinates else None,
            tables=self._own_tables(p, inputs.shape[2], coordinates),
            valid_EBT=batch.get("valid"),
            **shared,
        )

    def _own_tables(
        self, p: Mapping[str, Tensor], length: int, coordinates: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor] | None:
        """Tables of a stack whose positions differ in numbers; None leaves them to the model."""
        if not self.differs or self.core.looped:
            return None
        models: list[Any] = [s.model for s in self.specs]
        master = next(iter(p.values())).dtype
        if coordinates:
            view = self.core.view(length, device=self.device, given=coordinates)
            return self.core.tables(view, models, master)
        if length not in self._tables:
            view = self.core.view(length, device=self.device)
            self._tables[length] = self.core.tables(view, models, master)
        return self._tables[length]


class ExternalNet:
    """A user's own ``nn.Module``: E = 1, its own initialisation, no freezing by role."""

    def __init__(self, specs: Sequence[Spec], device: str, kernel: str) -> None:
        spec = specs[0]
        assert isinstance(spec.model, External) and len(specs) == 1
        self.specs, self.device = list(specs), device
        self.kernel = "sdpa" if kernel == "auto" else kernel
        self.compute = PRECISION[spec.precision]
        if spec.precision in ("bf16", "fp16"):
            raise SpecError("precision: an external model runs in fp32 or fp64")
        self.target = load_external(spec.model)
        self.module: torch.nn.Module | None = None
        self._build(0)
        assert self.module is not None
        self.declared: dict[str, P] = {
            k: P(tuple(t.shape), decay=t.ndim > 1, role="weight")
            for k, t in self.module.named_parameters()
        }
        self.freezing: Freezing = Freezing(self.declared, specs)
        self.trained: list[str] = self.freezing.trained

    def _build(self, seed: int) -> torch.nn.Module:
        model = self.specs[0].model
        assert isinstance(model, External)
        with torch.random.fork_rng(devices=[]):  # the global generator is put back afterwards
            torch.random.default_generator.manual_seed(seed)
            module = self.target(**model.arguments)
        if not isinstance(module, torch.nn.Module):
            raise SpecError(f"external {model.target}: not a torch.nn.Module")
        self.module = module.to(device=self.device, dtype=self.compute)
        return self.module

    def unable(self) -> str:
        return ""  # its attention is its own

    def initial(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        module = self._build(seeds[0])
        return {k: t.detach().clone()[None] for k, t in module.named_parameters()}

    def prepare(self, batch: Mapping[str, Tensor], draws: Any = None) -> None:
        return None

    def __call__(
        self,
        p: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        drop: Any = None,
        ready: Any = None,
    ) -> Tensor:
        assert self.module is not None
        ids_BT = batch["inputs"][0]
        out = torch.func.functional_call(self.module, {k: t[0] for k, t in p.items()}, (ids_BT,))
        want = (*ids_BT.shape[:2],)
        if not isinstance(out, Tensor) or tuple(out.shape[:2]) != want or out.ndim != 3:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise SpecError(f"external model: forward(ids_BT) gave {shape}; wanted (B, T, V)")
        return out[None]


def make_net(specs: Sequence[Spec], device: str, kernel: str) -> Net | ExternalNet:
    kind = Net if isinstance(specs[0].model, Model) else ExternalNet
    return kind(specs, device, kernel)


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether these are the very same tensors, which takes no look at what they hold."""
    return a.keys() == b.keys() and all(t is b[k] for k, t in a.items())


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


def load_external(model: External) -> Any:
    """The class or function of ``external("package.module:Name")``; a file beside the study
    goes before an installed package."""
    path, name = model.source(), model.target.partition(":")[2]
    full = f"paribus_external.{name}"
    loader = parts.AsItIs(full, path) if path.endswith(".py") else None
    spec = importlib.util.spec_from_file_location(full, path, loader=loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    folder = parts.local_folder_or_base()
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec.loader.exec_module(module)
    return getattr(module, name)

"""The first values of every parameter: each is drawn from its own stream, keyed by its path.

So a parameter has the same values in every arm that has it, whatever else the arm adds or leaves
out.  Draws are float64 and cast afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import torch
from torch import Tensor

from paribus import rng
from paribus.contracts import Dims, P
from paribus.errors import SpecError
from paribus.nn.declare import declare, numbers
from paribus.spec import InitScheme, Model

MANY = 1 << 22  # numbers from which on threads, or a GPU's many operations, are worth their start


def initialise(
    model: Model,
    init: InitScheme | Sequence[InitScheme],
    seeds: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Path -> tensor [E, …], one trial a seed; ``init``: of all trials, or one a trial.  A GPU
    draws many of them by itself, to the same bits, where ``rng.exact`` sees that it does."""
    dims = numbers(model).dims()
    declared = declare(model)
    schemes = [init] * len(seeds) if isinstance(init, InitScheme) else init

    def made(path: str, scheme: InitScheme, seed: int) -> Tensor:
        p = declared[path]
        first = draw(rule(p, scheme, dims, path), p.shape, seed, path)
        make = scheme.of(p.role).made if p.init is None else None
        if make is not None:
            first = torch.from_numpy(make(p, dims, first.numpy())).contiguous()
        return first.to(dtype)

    out: dict[str, Tensor] = {}
    many = len(seeds) * sum(prod(p.shape) for p in declared.values()) >= MANY
    if many and device.startswith("cuda") and rng.exact(device):
        for path, p in declared.items():
            rules = [rule(p, s, dims, path) for s in schemes]
            alike = len({name for name, _, _ in rules}) == 1
            if alike and (p.init or all(s.of(p.role).made is None for s in schemes)):
                out[path] = _there(rules, p.shape, seeds, path, device).to(dtype)
    rest = [path for path in declared if path not in out]
    jobs = [(path, *of) for path in rest for of in zip(schemes, seeds, strict=True)]
    if not many:
        each = [made(*job) for job in jobs]
    else:  # streams know nothing of each other, and numpy lets other threads work
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            each = list(pool.map(lambda job: made(*job), jobs))
    E = len(seeds)
    for i, path in enumerate(rest):
        out[path] = torch.stack(each[i * E : (i + 1) * E]).to(device)
    return {path: out[path] for path in declared}


def rule(p: P, init: InitScheme, dims: Dims, path: str = "") -> tuple[str, float, float]:
    """("normal", 0, std), ("uniform", low, high) or ("constant", value, 0)."""
    if p.init is None:
        name, x = init.of(p.role).rule(p, dims)
        low, high = {"normal": (0.0, x), "uniform": (-x, x), "constant": (x, 0.0)}[name]
        return name, low, high
    name, *numbers_ = p.init.split(":")
    try:
        given = [float(x) for x in numbers_]
        if name == "uniform" and len(given) == 2:
            return "uniform", given[0], given[1]
        if name == "normal" and len(given) == 1:
            return "normal", 0.0, given[0]
        return "constant", {"zeros": [0.0], "ones": [1.0], "value": given}[name][0], 0.0
    except (KeyError, ValueError, IndexError):
        raise SpecError(f"{path}: {p.init!r} is no initialisation") from None


def _there(
    rules: Sequence[tuple[str, float, float]],
    shape: tuple[int, ...],
    seeds: Sequence[int],
    path: str,
    device: str,
) -> Tensor:
    """One parameter of all trials in float64, drawn by the device; rules are of one name."""
    E, n = len(seeds), prod(shape)
    (name,) = {how[0] for how in rules}
    a_E1, b_E1 = (
        torch.tensor(x, dtype=torch.float64, device=device)[:, None]
        for x in zip(*(how[1:] for how in rules), strict=True)
    )
    if name == "constant":
        return a_E1.expand(E, n).reshape(E, *shape)
    streams = [rng.Stream(seed, "init", path) for seed in seeds]
    if name == "normal":
        flat_En = rng.normals(streams, n, device) * b_E1
    else:
        flat_En = a_E1 + (b_E1 - a_E1) * rng.uniforms(streams, n, device)
    return flat_En.view(E, *shape)


def draw(how: tuple[str, float, float], shape: tuple[int, ...], seed: int, path: str) -> Tensor:
    """One trial's parameter in float64."""
    name, a, b = how
    if name == "constant":
        return torch.full(shape, a, dtype=torch.float64)
    stream = rng.Stream(seed, "init", path)
    n = prod(shape)
    flat = stream.normal(n) * b if name == "normal" else a + (b - a) * stream.uniform(n)
    return torch.from_numpy(np.ascontiguousarray(flat)).view(shape)

"""The first values of every parameter: each is drawn from its own stream, keyed by its path.

So a parameter has the same values in every arm that has it, whatever else the arm adds or leaves
out.  Draws are float64 and cast afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
TOGETHER = 1 << 26  # numbers of one length that a GPU draws together, 512 MB of them


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
        rules = {path: [rule(p, s, dims, path) for s in schemes] for path, p in declared.items()}
        alike: dict[tuple[str, int], list[str]] = {}  # those that are drawn by the same operations
        for path, p in declared.items():
            names = {name for name, _, _ in rules[path]}
            if len(names) == 1 and (p.init or all(s.of(p.role).made is None for s in schemes)):
                alike.setdefault((names.pop(), prod(p.shape)), []).append(path)
        for (name, n), paths in alike.items():
            few = max(1, TOGETHER // (n * len(seeds)))
            for own in (paths[i : i + few] for i in range(0, len(paths), few)):
                found = _there(name, n, {path: rules[path] for path in own}, seeds, device)
                for path, flat_En in zip(own, found, strict=True):
                    flat_En = flat_En.to(dtype).contiguous()
                    out[path] = flat_En.view(len(seeds), *declared[path].shape)
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
    name: str,
    n: int,
    rules: Mapping[str, Sequence[tuple[str, float, float]]],
    seeds: Sequence[int],
    device: str,
) -> Tensor:
    """Parameters of n numbers of all trials in float64 [paths,E,n], drawn by the device: so few
    operations that the processor, which starts them, is not what is waited for."""
    every = [how for of in rules.values() for how in of]
    a_S1, b_S1 = (
        torch.tensor(x, dtype=torch.float64, device=device)[:, None]
        for x in zip(*(how[1:] for how in every), strict=True)
    )
    if name == "constant":
        flat_Sn = a_S1.expand(-1, n)
    else:
        streams = [rng.Stream(seed, "init", path) for path in rules for seed in seeds]
        if name == "normal":
            flat_Sn = rng.normals(streams, n, device) * b_S1
        else:
            flat_Sn = a_S1 + (b_S1 - a_S1) * rng.uniforms(streams, n, device)
    return flat_Sn.unflatten(0, (len(rules), len(seeds)))


def draw(how: tuple[str, float, float], shape: tuple[int, ...], seed: int, path: str) -> Tensor:
    """One trial's parameter in float64."""
    name, a, b = how
    if name == "constant":
        return torch.full(shape, a, dtype=torch.float64)
    stream = rng.Stream(seed, "init", path)
    n = prod(shape)
    flat = stream.normal(n) * b if name == "normal" else a + (b - a) * stream.uniform(n)
    return torch.from_numpy(np.ascontiguousarray(flat)).view(shape)

"""Suites of probes: lists of evaluations, in sizes.

evaluate=[*suites.memory("quick")]
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from paribus.errors import SpecError, nearest
from paribus.parts import Namespace, replace
from paribus.study.study import Eval

Size = Literal["smoke", "quick", "full"]
SIZES: tuple[str, ...] = get_args(Size)
SUITES = ("memory",)

probes = Namespace("probes")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise SpecError(f"no suites.{name}; {nearest(name, SUITES)}")


def memory(size: Size = "quick", data: str | None = None, window: int | None = None) -> list[Eval]:
    """How long a model's working memory is: copying, what memory adds, by lag, by place, by depth;
    induction, recall, noun lists, passkeys, segments, and history on ordinary text.

    Args:
        size: "smoke": a few short items, whether it works; "quick": 64 items of each cell; "full":
            200, with every source, control and number of worked examples.
        data: files of held-out text (.txt); None: the test split of each model's own corpus.
        window: tokens to twice of which lengths go; None: each model's own direct window, so that
            models of different windows are asked different items.
    """
    if window is not None and window < 16:
        raise SpecError(f"suites.memory: window={window}: give 16 or more")
    if size not in SIZES:
        raise SpecError(f"suites.memory: size {size!r}; {nearest(size, SIZES)}")
    made = {"smoke": _smoke, "quick": _quick, "full": _full}[size](data)
    if window is not None:
        made = {name: _within(probe, window) for name, probe in made.items()}
    return [Eval(name, probe, by=probe.slices) for name, probe in made.items()]


def _within(probe: Any, window: int) -> Any:
    """The probe with the lengths that it would take of a model of this window, where it leaves them
    to the model."""
    grid = [n for k in range(2, 40) for n in (2**k, 3 * 2 ** (k - 1)) if n <= 2 * window]
    powers = [n for n in grid if n & (n - 1) == 0]
    own: dict[str, dict[str, Any]] = {
        **{name: {"lengths": grid} for name in ("copy", "memory_gain", "induction")},
        "lag_sweep": {"delays": [0, *(n - 16 for n in grid if n > 16)]},
        "depth": {"lengths": [n for n in powers if n >= 32]},
        "history": {"histories": [0, *(n for n in powers if n >= 16)]},
        "segment_boundary": {"segment": window},
    }
    for field, value in own.get(probe.name, {}).items():
        if not getattr(probe, field):
            probe = replace(probe, field, value, f"probes.{probe.name}.{field}")
    return probe


def _smoke(data: str | None) -> dict[str, Any]:
    few: dict[str, Any] = {"trials": 4, "lengths": (4, 16)}
    text = {"data": data}
    two = {"sources": ("random", "meaningful")}
    return {
        "copy": probes.copy(**few, **two, **text),
        "reverse": probes.reverse(**few, shots=1, sources=("random",)),
        "memory_gain": probes.memory_gain(**few, **two, **text),
        "lag_sweep": probes.lag_sweep(trials=4, span=8, delays=(0, 24), sources=("random",)),
        "serial_position": probes.serial_position(trials=4, lengths=(16,), steps=4),
        "depth": probes.depth(trials=2, lengths=(32,), depths=(0, 100), span=8, source="random"),
        "induction": probes.induction(**few, heads=16),
        "mqar": probes.mqar(trials=4, pairs=(2, 8)),
        "noun_lists": probes.noun_lists(trials=2, nouns=(3,), delays=(0,)),
        "passkey": probes.passkey(trials=1, depths=(50,), powers=1, control="foreign"),
        "segment_boundary": probes.segment_boundary(trials=4, segment=16, shifts=3, length=8),
        "history": probes.history(trials=4, histories=(0, 16), tokens=16, **text),
    }


def _quick(data: str | None) -> dict[str, Any]:
    n: dict[str, Any] = {"trials": 64}
    text = {"data": data}
    two = {"sources": ("random", "meaningful")}
    return {
        "copy": probes.copy(**n, **text),
        "reverse": probes.reverse(**n, **text),
        "memory_gain": probes.memory_gain(**n, **text),
        "lag_sweep": probes.lag_sweep(**n, **two, **text),
        "serial_position": probes.serial_position(**n),
        "depth": probes.depth(trials=32, **text),
        "induction": probes.induction(**n),
        "mqar": probes.mqar(**n),
        "noun_lists": probes.noun_lists(trials=32, delays=(0, 100, 400)),
        "passkey": probes.passkey(trials=4, depths=(0, 25, 50, 75, 100), control="foreign"),
        "segment_boundary": probes.segment_boundary(**n),
        "history": probes.history(**n, **text),
    }


def _full(data: str | None) -> dict[str, Any]:
    text = {"data": data}
    every: dict[str, Any] = {"sources": ("random", "meaningful", "shuffled", "nonce"), **text}
    return {
        "copy": probes.copy(**every),
        "copy_apart_1": probes.copy(separator=1, **text),
        "copy_apart_8": probes.copy(separator=8, **text),
        "copy_shots_4": probes.copy(shots=4, lengths=(4, 8, 16, 32, 64, 128), **text),
        "reverse_shots_0": probes.reverse(shots=0, **text),
        "reverse_shots_8": probes.reverse(shots=8, **text),
        "memory_gain": probes.memory_gain(**every),
        "memory_gain_foreign": probes.memory_gain(control="foreign", **every),
        "memory_gain_permuted": probes.memory_gain(control="permuted", **every),
        "lag_sweep": probes.lag_sweep(**every),
        "serial_position": probes.serial_position(),
        "serial_position_text": probes.serial_position(source="meaningful", **text),
        "depth": probes.depth(**text),
        "depth_random": probes.depth(source="random"),
        "induction": probes.induction(),
        "mqar": probes.mqar(),
        "noun_lists": probes.noun_lists(),
        "passkey": probes.passkey(control="foreign"),
        "segment_boundary": probes.segment_boundary(shifts=16),
        "history": probes.history(**text),
    }

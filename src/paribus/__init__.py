"""paribus: controlled ablation studies of Transformers, all else equal."""

from __future__ import annotations

import sys
import types
from typing import Any

from paribus._version import __version__

_NAMES = {
    "Study": "study.study",
    "Eval": "study.study",
    "equal": "study.study",
    "Factor": "study.factors",
    "Arm": "study.factors",
    "Spec": "spec",
    "Model": "spec",
    **dict.fromkeys(
        "metric best better no_worse same increasing decreasing every at_least all_of stated "
        "criterion baseline".split(),
        "study.hypotheses",
    ),
    "load": "api",
    "SpecError": "errors",
    "ParibusError": "errors",
}
_KINDS = (
    "positions scalings masks memories mixers norms mlps scales init tasks optim schedules "
    "corpora tokenizers probes".split()
)

__all__ = [
    "__version__", "external", "presets", "recipes", "start", "suites", *_KINDS, *_NAMES
]  # fmt: skip


def __getattr__(name: str) -> Any:
    import importlib

    if name in _NAMES:
        return getattr(importlib.import_module(f"paribus.{_NAMES[name]}"), name)
    if name in _KINDS:
        from paribus.parts import Namespace

        return Namespace(name)
    if name in ("presets", "recipes"):
        return importlib.import_module(f"paribus.{name}")
    if name == "suites":
        return importlib.import_module("paribus.study.suites")
    raise AttributeError(f"paribus has no {name!r}")


def external(target: str, **arguments: Any) -> Any:
    """A user's own model: ``external("package.module:Class", **arguments)``."""
    from paribus.spec import External

    return External(target=target, arguments=arguments)


def start(path: str, step: int = 0) -> Any:
    """A foreign checkpoint to begin from."""
    from paribus.spec import Start

    return Start(path=path, step=step)


class _Package(types.ModuleType):
    """Keeps ``paribus.tasks``, ``paribus.optim`` and ``paribus.probes`` the namespaces of parts:
    importing the folders of those names would otherwise put the folders in their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _KINDS and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""Study files: found by path or by the name of a shipped one, executed by the controller only."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.errors import ParibusError, SpecError, nearest
from paribus.study.factors import Factor
from paribus.study.study import Eval, Study
from paribus.text import paths

SHIPPED = Path(__file__).parent.parent / "studies"


@dataclass(frozen=True)
class Source:
    """A loaded study and where it came from; ``folder`` is where its relative paths start."""

    study: Study
    path: Path
    shipped: bool
    scales: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Path.cwd() if self.shipped else self.path.parent


def shipped() -> dict[str, Path]:
    """Name -> file of the studies in the package."""
    return {
        p.stem.replace("_", "-"): p
        for p in sorted(SHIPPED.glob("*.py"))
        if not p.stem.startswith("_")
    }


def find(target: str) -> tuple[Path, bool]:
    """(file, whether shipped) of a study named by file or by the name of a shipped one."""
    path = Path(target)
    if path.suffix == ".py":
        if not path.is_file():
            raise SpecError(f"no study file {target!r}")
        return path.resolve(), False
    known = shipped()
    if target in known:
        return known[target], True
    if path.is_file():
        raise SpecError(f"{target}: a study file ends in .py")
    raise SpecError(f"no study {target!r} (a file, or a shipped study); {nearest(target, known)}")


def load(target: str, *, scale: str | None = None, seeds: int | None = None) -> Source:
    """Execute a study file: it defines ``study``, a Study or a function of the scale."""
    path, is_shipped = find(target)
    folder = Path.cwd() if is_shipped else path.parent
    parts.use_local(None if is_shipped else folder)
    paths.use_base(folder)
    made, scales = _execute(path, folder, scale, target)
    if not isinstance(made, Study):
        raise SpecError(f"{path}: study is {made!r}; a study file defines study = Study(…)")
    if seeds is not None:
        if seeds < 1:
            raise SpecError(f"--seeds {seeds}: give at least one")
        made = made.with_(seeds=seeds)
    return Source(made, path, is_shipped, scales)


def _execute(
    path: Path, folder: Path, scale: str | None, target: str
) -> tuple[Any, tuple[str, ...]]:
    loader = parts.AsItIs("paribus_study", str(path))
    spec = importlib.util.spec_from_file_location("paribus_study", path, loader=loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
        made = getattr(module, "study", None)
        if made is None:
            raise SpecError(f"{path}: defines no 'study' (study = Study(…), or def study(scale))")
        scales = tuple(getattr(module, "SCALES", ()))
        if callable(made):
            chosen = scale or (scales[0] if scales else "main")
            if scales and chosen not in scales:
                raise SpecError(f"{target}: no scale {chosen!r}; {nearest(chosen, scales)}")
            made = made(chosen)
            if isinstance(made, Study) and made.scale == "main":
                made = made.with_(scale=chosen)
        elif scale is not None and isinstance(made, Study) and scale != made.scale:
            raise SpecError(
                f"{target}: has one scale, {made.scale!r}; for others define def study(scale)"
            )
    except SyntaxError as error:
        raise SpecError(f"{path}:{error.lineno}: SyntaxError: {error.msg}") from None
    except ParibusError as error:
        text, line = str(error), _line(error, path)
        raise SpecError(f"{path}{line}: {text}" if line else text) from None
    except (Exception, SystemExit) as error:
        where = f"{path}{_line(error, path)}"
        said = str(error).split("\n")[0]
        raise SpecError(f"{where}: {type(error).__name__}: {said}{_hint(error)}") from None
    return made, scales


def _hint(error: BaseException) -> str:
    """The nearest argument, where a study's own class was given one that it does not have."""
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    classes = {"Study": Study, "Eval": Eval, "Factor": Factor}
    if found is None or found.group(1) not in classes:
        return ""
    known = inspect.signature(classes[found.group(1)]).parameters
    return f"; {nearest(found.group(2), known)}"


def _line(error: BaseException, path: Path) -> str:
    """``:12``, the last line of the study file that the error passed through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f":{lines[-1]}" if lines else ""

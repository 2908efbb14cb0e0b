"""``python -m paribus.engine.process MODULE``: a process of the engine, its module loaded quickly.

Nothing that is imported is garbage; looking for some takes up to a third of the time, which is two
seconds for torch and four for its compiler (Python 3.11; less with later ones).
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unswept() -> Iterator[None]:
    """No look for garbage meanwhile."""
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if swept:
            gc.enable()


def main() -> int:
    with unswept():
        module = importlib.import_module(sys.argv[1])
    gc.freeze()  # torch stays: looking through it takes 0.3 s at the end alone
    code: int = module.main()
    return code


if __name__ == "__main__":
    sys.exit(main())

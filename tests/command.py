"""The command line without a process of its own.

Python and its imports start once for all tests, not once a command; workers are real processes all
the same. Where the promise is about the command's own process (signals, exit, two at once, what is
imported) a test starts one instead.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest

from paribus import api
from paribus.cli import main


def paribus(*arguments: str, report: bool = True) -> CompletedProcess[str]:
    """What the command does and says, as a process would tell it.

    Args:
        report: whether to draw the report, which takes as long as training a tiny study; else it
            is an empty page.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        if not report:
            patch.setattr(api.Loaded, "_html", lambda self, lang: "<html></html>")
        code = main(list(arguments))
    return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

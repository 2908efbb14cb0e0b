"""Other programs are asked with a time limit, and what they say is bounded."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from paribus.outside import ask


def python(code: str, **options):
    return ask([sys.executable, "-c", code], **options)


def test_an_answer():
    answer = python("print('hello')")
    assert (answer.text, answer.size, answer.trouble) == ("hello", 6, "")
    assert answer.sha256 == hashlib.sha256(b"hello\n").hexdigest()


def test_what_goes_wrong_is_one_line():
    assert ask(["no-such-program"]).trouble == "no-such-program is not installed"
    assert "no folder" in python("", cwd=Path("no/such/folder")).trouble
    name = sys.executable
    assert python("import sys; sys.exit('two\\nlines')").trouble == f"{name}: lines"
    assert python("import sys; sys.exit(3)").trouble == f"{name} ended with code 3"
    assert "signal 9" in python("import os; os.kill(os.getpid(), 9)").trouble


def test_a_long_answer_is_cut_and_hashed_whole():
    answer = python("print('x' * 1_000_000, end='')", keep=10)
    assert answer.out == b"x" * 10 and answer.size == 1_000_000
    assert answer.sha256 == hashlib.sha256(b"x" * 1_000_000).hexdigest()


def test_a_program_that_hangs_is_given_up():
    began = time.monotonic()
    answer = python("print('a', flush=True); import time; time.sleep(60)", seconds=0.5)
    assert answer.trouble.endswith("did not answer in 0.5 s")
    assert answer.out == b"a\n" and answer.sha256 == ""
    # A grandchild that keeps the pipe open is killed with its parent.
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'])"
    assert python(code, seconds=0.5).trouble == ""
    code = "import subprocess; subprocess.Popen(['sleep', '60'])"
    assert "did not answer" in python(code, seconds=0.5).trouble
    assert time.monotonic() - began < 10


def test_environment_and_no_input():
    code = "import os, sys; print(os.environ.get('A'), 'HOME' in os.environ, sys.stdin.read())"
    answer = python(code, environment={"A": "b", "HOME": None})
    assert answer.text == "b False"

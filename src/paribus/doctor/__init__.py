"""``paribus doctor``: what is wrong with this machine or home, and what to do.  Torch-free.

One line a check: ok, a note (paribus works, and one should know), or FAILED (it does not, or data
is damaged).  Nothing of the home is changed.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from paribus._version import __version__
from paribus.cli import FAILED, OK, emit
from paribus.doctor.home import check_home
from paribus.doctor.machine import check_machine, memory_limit
from paribus.store import find_home

__all__ = ["check_home", "check_machine", "do_doctor", "memory_limit"]


def do_doctor(o: Namespace) -> int:
    home = Path(o.home).absolute() if o.home else find_home()
    found = []
    for group, findings in (("machine", check_machine()), (f"home {home}", check_home(home))):
        if not o.json:
            print(group)
        for finding in findings:
            found.append({"of": group.split()[0], **finding._asdict()})
            if not o.json:
                print(f"  {finding.level:7} {finding.about:12} {finding.text}", flush=True)
    wrong = sum(f["level"] == "FAILED" for f in found)
    if o.json:
        emit({"paribus": __version__, "home": str(home), "failed": wrong, "checks": found})
    else:
        notes = sum(f["level"] == "note" for f in found)
        print(f"{len(found)} checks: {wrong} failed, {notes} with a note")
    return FAILED if wrong else OK

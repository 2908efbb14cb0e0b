from __future__ import annotations

import pytest

from paribus.store import owners


def test_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = owners.identity("w")
    assert owners.judge(claim)[0] is False
    assert owners.judge({**claim, "start": "1"})[0] is True
    assert owners.judge({**claim, "pid": 2**22 + 1})[0] is True
    lost, reason = owners.judge({**claim, "boot": "other", "host": "elsewhere"})
    assert not lost
    assert "another machine" in reason
    lost, reason = owners.judge({**claim, "pidns": "pid:[1]"})
    assert not lost
    assert "another container" in reason
    for state, expected in (("Z", True), ("X", True), ("T", False)):
        with monkeypatch.context() as patch:
            patch.setattr(owners, "_look", lambda pid, state=state: (claim["start"], state))
            assert owners.judge(claim)[0] is expected
    for machine, expected in (("m", True), ("", False)):
        here = {**owners.place(), "machine": machine}
        monkeypatch.setattr(owners, "place", lambda here=here: here)
        rebooted = {**claim, "boot": "other", "machine": machine}
        assert owners.judge(rebooted)[0] is expected
        assert not owners.judge({**rebooted, "host": "clone"})[0]

"""GPUs as a faked nvidia-smi shows them: who uses them, CUDA_VISIBLE_DEVICES, choosing."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paribus.errors import SpecError
from paribus.launch.gpus import GIB, MIB, Gpu, busy, choose, gpus, look, share

TWO = """\
0, GPU-aaaa1111-0, NVIDIA H200, 143771, 61440, 97, 570.86
1, GPU-bbbb2222-0, NVIDIA H200, 143771, 512, 0, 570.86
"""

Fake = Callable[..., None]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put an nvidia-smi first on PATH that says what it is told."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(gpus: str = "", apps: str = "", listing: str = "", code: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in (("gpus", gpus), ("apps", apps), ("listing", listing)):
            (folder / name).write_text(text)
        script = folder / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\ncase "$*" in\n*--query-gpu*) cat {folder}/gpus;;\n'
            f"*--query-compute-apps*) cat {folder}/apps;;\n-L) cat {folder}/listing;;\n"
            f"*) exit 9;;\nesac\nexit {code}\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return put


def test_no_nvidia_smi_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look() == ([], "")
    assert gpus() == []


def test_two_gpus_and_who_uses_them(smi):
    pid, gone = os.getpid(), 2**22 + 1  # beyond any process id
    smi(TWO, f"GPU-aaaa1111-0, {gone}, 100\nGPU-aaaa1111-0, {pid}, 61000\n")
    first, second = gpus()
    assert (first.index, first.name, first.total) == (0, "NVIDIA H200", 143771 * MIB)
    assert (first.used, first.load, first.driver) == (61440 * MIB, 97, "570.86")
    assert first.processes == (
        (pid, 61000 * MIB, getpass.getuser()),
        (gone, 100 * MIB, ""),
    )
    assert second.processes == () and second.used == 512 * MIB


@pytest.mark.parametrize("said", ["[N/A]", "[Insufficient Permissions]", "[Not Supported]"])
def test_what_nvidia_smi_does_not_say_is_nought(smi, said):
    smi(f"0, GPU-a, GB10, {said}, {said}, {said}, 580.1\n", f"GPU-a, {os.getpid()}, {said}\n")
    (gpu,) = gpus()
    assert (gpu.total, gpu.used, gpu.load) == (0, 0, None)
    assert gpu.processes[0][:2] == (os.getpid(), 0)
    assert not busy(gpu)


def test_a_broken_driver_is_said(smi):
    line = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    smi(f"{line}\n", code=9)
    assert look() == ([], f"nvidia-smi: {line}")
    smi("Unable to determine the device handle for GPU 0000:41:00.0: Unknown Error\n")
    found, trouble = look()
    assert not found and "Unable to determine" in trouble
    smi("No devices were found\n")
    assert look() == ([], "")


def test_an_nvidia_smi_that_hangs_does_not_hang_paribus(smi, tmp_path, monkeypatch):
    smi()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nsleep 60\n")
    monkeypatch.setattr("paribus.launch.gpus.SECONDS", 0.3)
    assert look() == ([], "nvidia-smi did not answer in 0.3 s")


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1,0", ["GPU-b", "GPU-a"]),
        ("1", ["GPU-b"]),
        ("GPU-bbbb", ["GPU-b"]),
        ("GPU-bbbb2222-0,GPU-aaaa1111-0", ["GPU-b", "GPU-a"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,7,1", ["GPU-a"]),  # CUDA stops at the first that is not there
        ("1,1", []),  # and shows none if one is named twice
        ("GPU-", []),  # two begin so
    ],
)
def test_numbers_are_positions_among_the_visible(smi, monkeypatch, visible, names):
    smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpus()
    assert [g.uuid[:5] for g in found] == names
    assert [g.index for g in found] == list(range(len(names)))


def test_a_wrong_visible_list_is_said(smi, monkeypatch):
    smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7")
    assert "no GPU '7'" in look()[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,1")
    assert "twice" in look()[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look()[1] == ""


def test_mig_slices(smi, monkeypatch):
    listing = (
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-1111-2222)\n"
        "  MIG 1g.5gb      Device  1: (UUID: MIG-3333-4444)\n"
    )
    mig = "[Insufficient Permissions]"
    smi(f"0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, {mig}, [N/A], 550.54\n", listing=listing)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-3333-4444,MIG-1111-2222,MIG-GPU-a/1/0")
    found = gpus()
    assert [(g.index, g.uuid, g.total) for g in found] == [
        (0, "MIG-3333-4444", 5 * GIB),
        (1, "MIG-1111-2222", 20 * GIB),
        (2, "MIG-GPU-a/1/0", 0),  # the old form, which -L does not list
    ]
    assert found[0].name == "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    assert choose("auto:2", found) == [0, 1]


# ── busy ────────────────────────────────────────────────────────────────────────────────────────


def gpu(index: int = 0, used: float = 0, *processes: tuple[int, int, str]) -> Gpu:
    return Gpu(index, f"GPU-{index}", "H200", 140 * GIB, int(used), processes)


def test_busy_names_who_uses_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        name = Path(f"/proc/{child.pid}/comm").read_text().strip()
        one = gpu(1, 60e9, (child.pid, int(59e9), "ada"))
        assert busy(one) == (f"GPU 1: 60 GB in use by {name} (pid {child.pid}, user ada)")
        assert busy(one, own=[child.pid]) == ""
        two = gpu(1, 60e9, (child.pid, int(50e9), "ada"), (7, int(9e9), ""))
        assert busy(two).endswith("user ada) and 1 more")
        assert busy(two, own=[child.pid]) == "GPU 1: 10 GB in use by another process"
    finally:
        child.communicate()


def test_busy_where_processes_are_hidden():
    assert busy(gpu(2, 60e9)) == "GPU 2: 60 GB in use by another process"
    assert busy(gpu(2, 60e9, (2**22 + 1, int(60e9), ""))).endswith("by another process")
    # One that is seen and holds little is not who fills it.
    assert busy(gpu(2, 60e9, (1, int(1e8), "root"))).endswith("by another process")
    assert busy(gpu(2, 60e9, (1, 0, "root"))).endswith("user root)")  # its share is not said


def test_busy_leaves_room_for_drivers_and_desktops():
    assert busy(gpu(0, 900 * MIB)) == ""
    assert busy(gpu(0, 900 * MIB), allowance=100 * MIB)
    assert busy(gpu(0, 0)) == ""
    assert busy(gpu(0, 60e9, (5, 0, "ada")), own=[5]) == ""  # one's own, of unknown size


# ── choosing ────────────────────────────────────────────────────────────────────────────────────


def test_choose():
    four = [gpu(0, 90e9), gpu(1, 0), gpu(2, 30e9), gpu(3, 5e8)]
    assert choose("0,2", four) == [0, 2]
    assert choose(" 3 , 1", four) == [3, 1]
    assert choose("auto", four) == [1, 3]
    assert choose(None, four) == [1, 3]
    assert choose("auto:1", four) == [1]
    assert choose("auto:2", four) == [1, 3]
    assert choose("auto:3", four) == [1, 2, 3]  # then the emptiest
    assert choose("auto", [gpu(0, 90e9), gpu(1, 30e9)]) == [1]
    assert choose(None, []) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,4", "no GPU 4 here; valid: 0, 1"),
        ("auto:3", "there are 2; give auto:2"),
        ("auto:0", "auto:2"),
        ("all", "such as 0,1"),
        ("0,", "such as 0,1"),
        ("-1", "such as 0,1"),
        ("²", "such as 0,1"),
        ("", "such as 0,1"),
        ("1,1", "--per-gpu"),
    ],
)
def test_choose_refuses(text, says):
    with pytest.raises(SpecError) as caught:
        choose(text, [gpu(0), gpu(1)])
    assert says in str(caught.value) and "--gpus" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choose_where_there_is_none():
    with pytest.raises(SpecError, match="--gpus 0: no GPU"):
        choose("0", [])


def test_share():
    assert share(None) is None
    assert share("40%") == pytest.approx(0.4)
    assert share("0.4") == pytest.approx(0.4)
    assert share(" 12.5 %") == pytest.approx(0.125)
    assert share("100%") == 1.0
    for wrong in ("40", "0", "0%", "101%", "1.2", "", "%", "half", "-5%", "4e1%", "nan"):
        with pytest.raises(SpecError, match="--gpu-memory"):
            share(wrong)

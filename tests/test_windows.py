"""What Windows lacks. These tests take it away or imitate it, because no Windows machine runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from fl.device import keep_freed_memory
from fl.records.files import locked
from tests.conftest import ROOT
from tests.test_house import MODULES

POSIX_ONLY = ["fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"]


def test_every_module_is_imported_without_what_only_posix_has():
    """torch comes first: what it imports on this system is its own affair."""
    code = (
        "import importlib, sys, torch, torchvision, tqdm, matplotlib.pyplot\n"
        f"for name in {POSIX_ONLY}: sys.modules[name] = None\n"
        f"for name in {sorted(MODULES)}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class Msvcrt(types.ModuleType):
    """Windows' locks as `msvcrt` gives them: by process and file, and refused with PermissionError."""

    LK_NBLCK = 2

    def __init__(self, refusals: int):
        super().__init__("msvcrt")
        self.refusals, self.asked = refusals, 0

    def locking(self, descriptor: int, mode: int, size: int) -> None:
        os.fstat(descriptor)
        assert (mode, size) == (self.LK_NBLCK, 1)
        self.asked += 1
        if self.asked <= self.refusals:
            raise PermissionError(13, "Permission denied")


@pytest.fixture
def windows(monkeypatch):
    def imitate(refusals: int) -> Msvcrt:
        imitation = Msvcrt(refusals)
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", imitation)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        return imitation

    return imitate


def test_a_lock_is_waited_for_or_refused(windows, tmp_path):
    imitation = windows(refusals=3)
    with locked(tmp_path / ".lock"):
        assert imitation.asked == 4
    windows(refusals=1)
    with pytest.raises(BlockingIOError), locked(tmp_path / ".lock", wait=False):
        pass


def test_a_library_without_a_name_is_no_error(monkeypatch):
    def refuse(name):
        raise TypeError("bad argument type for built-in operation")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    keep_freed_memory()

"""The file through which the network's server speaks: who reads it sees every line, and learns how the server ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.screen import followed
from fl.errors import WorkerError

ROOT = Path(__file__).parents[1]
SERVER = """
import os, signal, sys
from pathlib import Path
from deploy.screen import ended, shown
screen = Path(sys.argv[1])
with shown(screen):
    print("Round 1")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    ended(screen, int(sys.argv[2]))
"""


def server(screen, end):
    screen.touch()
    return subprocess.Popen([sys.executable, "-c", SERVER, screen, end], cwd=ROOT)


@pytest.mark.parametrize("code", [0, 5])
def test_what_the_server_prints_and_its_exit_code(code, tmp_path, capsys):
    with server(tmp_path / "screen", str(code)):
        assert followed(tmp_path / "screen", lambda: None) == code
    assert capsys.readouterr().out == "Round 1\n"


def test_a_server_that_is_killed_is_not_waited_for(tmp_path, capsys):
    with (
        server(tmp_path / "screen", "killed") as child,
        pytest.raises(WorkerError, match="server was killed"),
    ):
        followed(tmp_path / "screen", lambda: None)
    assert child.returncode == -signal.SIGKILL
    assert capsys.readouterr().out == "Round 1\n"


def test_a_server_that_does_not_start_is_not_waited_for_longer_than_that(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.screen.BEGIN_SECONDS", 0.3)
    (tmp_path / "screen").touch()
    with pytest.raises(WorkerError, match=r"has not started on the server within 0\.3 s"):
        followed(tmp_path / "screen", lambda: None)

"""The progress bar, seen through a terminal of 24 rows and 80 columns."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import sys
import time
from types import SimpleNamespace

import pytest

from fl.bar import Bar, clock
from tests.conftest import ROOT, SMALL

pytest.importorskip("pty", reason="needs a terminal that a program can hold")
import fcntl
import pty
import termios


def seen(argv, stop_at=b""):
    """What a process writes to its terminal; Ctrl-C is sent once `stop_at` is among it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, *argv])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    said, asked, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # the other end has closed
                break
            said += piece
        if stop_at and stop_at in said and not asked:
            asked = True
            os.kill(pid, signal.SIGINT)
    return said.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


STEPS = """
import time
from types import SimpleNamespace
from fl.bar import Bar
bar = Bar(quiet=False)
def rounds():
    for t in range(4):
        for _ in range(10 if t else 0):
            bar(5)
            time.sleep(0.05)
        yield SimpleNamespace(t=t)
for done in bar.over(rounds(), lambda t: 50, 0, 3):
    print("done", done.t, flush=True)
"""


def test_the_bar_names_the_round_and_the_time_left_of_the_whole_run():
    said, code = seen(["-c", STEPS])
    assert code == 0
    assert said.startswith("done 0\r\n")  # nothing before there are steps
    assert "0step" not in said
    drawn = re.findall(r"round (\d)/3 +(\d+)%", said)
    assert {number for number, _ in drawn} == {"1", "2", "3"}
    assert all(int(percent) <= 100 for _, percent in drawn)
    assert re.search(r"\d:\d\d left", said)
    assert re.search(r"\r *\rdone 1\r\n", said)  # the bar is gone from the line


def test_ctrl_c_is_answered_on_a_line_of_its_own(tmp_path):
    flags = f"{SMALL} --global_epoch 100000 --local_epoch 50 --checkpoint_every 1000 --run_dir {tmp_path / 'a'}"
    code = "import tests, sys, run_federated; sys.exit(run_federated.run(sys.argv[1:]))"
    said, exit_code = seen(["-c", code, *flags.split()], stop_at=b"left")
    assert exit_code == 130
    *_, last = said.rstrip().split("\n")
    assert re.fullmatch(r"(.*\r)? *\r?run_federated.py: interrupted; continue with --resume --run_dir .*", last)
    assert not re.search(r"left[^\r]*run_federated", last)


def test_a_quiet_bar_asks_nothing_of_the_run(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    for bar in (Bar(quiet=True),):
        rounds = (SimpleNamespace(t=t) for t in range(2))
        for _ in bar.over(rounds, lambda t: 1 / 0, 0, 1):
            bar(1)
        assert bar.bar is None


def test_clock():
    assert [clock(seconds) for seconds in (-1, 0.4, 61, 3599.6, 3661)] == ["0:00", "0:00", "1:01", "1:00:00", "1:01:01"]

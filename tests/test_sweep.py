"""sweep.py: its table, runs at a time, and whatever happens no process stays behind.

tests/test_grid.py has the cells of a grid, and tests/test_sweep_again.py sweeps that are given a second time.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import compare
from fl.check import resolve
from fl.sweeps.children import Job, last_words
from fl.sweeps.sweep import at_once
from fl.sweeps.sweep_time import time_of
from tests.conftest import EITHER, ROOT
from tests.folders import starts_in

TINY = (f"{EITHER} --num_clients 4 --num_select_clients 2 --global_epoch 3 --local_epoch 1").replace(
    "--dataset tiny", f"--dataset {ROOT}/tests/tiny.py:tiny"
)


def starts(tmp_path):
    return starts_in(tmp_path / "out")


def test_runs_side_by_side_are_as_many_as_cores_and_on_a_gpu_take_turns(monkeypatch):
    monkeypatch.setattr("fl.sweeps.sweep.cores", lambda: 7)
    monkeypatch.setattr("fl.device.choose_device", lambda name: torch.device("cuda" if name == "auto" else name))
    assert at_once([resolve({"device": "cpu"})] * 2) == 7
    assert at_once([resolve({"device": device}) for device in ("cpu", "auto")]) == 1


def test_every_combination_runs_once_and_is_tabled(quick, tmp_path):
    code, out, err = quick("--grid init_lr=0.1,0.2 --grid batch_size=5,0 --seeds 3 --jobs 2")
    assert (code, err) == (0, "")
    assert out.startswith("12 runs: 4 cells, seeds 0 to 2; 0 done, 48 rounds to go at most, 2 runs at a time\n")
    assert starts(tmp_path) == {
        f"init_lr={lr},batch_size={B}/seed{k}": 1 for lr in ("0.1", "0.2") for B in (5, 0) for k in range(3)
    }
    progress = [line for line in out.splitlines() if line.endswith(" done")]
    assert [line.split(" runs")[0] for line in progress] == [f"{n}/12" for n in range(1, 13)]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [one["experiment"] for one in table["experiments"]] == [
        "lr=0.1, B=5", "lr=0.1, B=all", "lr=0.2, B=5", "lr=0.2, B=all",
    ]  # fmt: skip
    assert table["experiments"][2]["quantities"]["test_accuracy"]["by_seed"] == pytest.approx(
        {"0": 0.8, "1": 0.81, "2": 0.82}
    )
    worse = table["differences"]["experiments"]["lr=0.2, B=5"]["test_accuracy"]
    assert worse["mean"] == pytest.approx(-0.1)
    assert (worse["n"], worse["within_noise"]) == (3, False)
    assert re.search(r"^lr=0\.2, B=5 +-10\.00 ± 0\.00 \(n=3\) ", out, re.MULTILINE)
    names = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert names == {"table.md", "table.csv", "table.json", "table.tex", "curves.png"}


def test_a_diverged_run_is_a_result(quick, tmp_path, capsys):
    for _ in range(2):
        code, out, err = quick("--grid init_lr=5,0.1 --seeds 2")
        assert (code, err) == (0, "")
        rows = [line for line in out.splitlines() if line.startswith("lr=")]
        assert rows[0].split()[:6] == ["lr=5", "(diverged:", "seeds", "0,", "1)", "0"]
        assert rows[1].split()[:2] == ["lr=0.1", "2"]
        assert set(starts(tmp_path).values()) == {1}
    marks = sorted((tmp_path / "out").glob("*/*/diverged.txt"))
    assert [mark.read_text() for mark in marks] == ["round 2: the model is not finite\n"] * 2
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["experiments"][0]["quantities"]["test_accuracy"]["n"] == 0
    assert table["differences"]["against"] == "lr=0.1"  # the first row that has figures
    assert table["differences"]["experiments"]["lr=5 (diverged: seeds 0, 1)"]["test_accuracy"]["n"] == 0
    capsys.readouterr()
    assert compare.run([*map(str, (mark.parent for mark in marks)), "--out", str(tmp_path / "c.png")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "(diverged)" in line)
    assert row.split()[:4] == ["fedavg", "(diverged)", "2", "-"]  # and not the accuracy of an earlier model
    code, out, _ = quick("--grid init_lr=5,0.1,0.2 --seeds 3")
    assert "against lr=0.1, paired by seed" in out
    assert re.search(r"^lr=0\.2 +-10\.00 ± 0\.00 \(n=3\) ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("lr", "code", "said"), [(7, 3, "data/: there is no such data ("), (11, 6, "was killed by signal 9")]
)
def test_another_failure_ends_the_sweep_and_all_its_runs(lr, code, said, quick, tmp_path):
    found, _, err = quick(f"--grid init_lr=9,{lr},0.1 --jobs 2")
    assert found == code
    assert len(err.splitlines()) == 1
    assert said in err
    assert (tmp_path / "out" / "init_lr=9.0" / "seed0" / "stopped").exists()
    assert not (tmp_path / "out" / "init_lr=0.1").exists()
    assert not (tmp_path / "out" / "table.md").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_runs_in_good_order(number, quick, tmp_path):
    def strike():
        deadline = time.monotonic() + 20
        while len(list((tmp_path / "out").glob("*/seed0/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getppid(), number)

    child = os.fork()
    if child == 0:
        strike()
        os._exit(0)
    code, _, err = quick("--grid init_lr=9 --grid batch_size=1,2 --jobs 2")
    os.waitpid(child, 0)
    assert (code, err) == (130, "sweep.py: interrupted; give the command again to go on\n")
    assert len(list((tmp_path / "out").glob("*/seed0/stopped"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_sweep_that_is_killed_takes_its_runs_with_it(tmp_path):
    """Each of them ends in good order, and its log keeps what it said before."""
    script, folder = ROOT / "tests" / "stand_in.py", tmp_path / "init_lr=9" / "seed0"
    job = ["--model", "logistic", "--optimizer", "sgd", "--init_lr", "9", "--global_epoch", "2"]
    code = f"import fl.sweeps.children as c, pathlib; c.SCRIPT = pathlib.Path({str(script)!r}); " \
           f"list(c.ended([c.Job(pathlib.Path({str(folder)!r}), {job!r}, 2)], 1, lambda running: None))"  # fmt: skip
    folder.parent.mkdir()
    folder.with_name("seed0.log").write_text("said before\n")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(folder / "metrics.jsonl")
    parent.kill()
    parent.wait()
    wait_for(folder / "stopped")
    assert folder.with_name("seed0.log").read_text().startswith("said before\n")


def test_the_reason_of_a_failure_is_that_of_the_last_start(quick, tmp_path):
    """The log keeps the line of an earlier start, which is not why this one ended."""
    log = tmp_path / "out" / "init_lr=11.0" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("== started\nstand_in.py: another reason\n")
    assert last_words(Job(log.with_name("seed0"), [], 1)).endswith("another reason")
    assert quick("--grid init_lr=11,9 --jobs 2")[0] == 6
    assert log.read_text().startswith("== started\nstand_in.py: another reason\n== started ")
    assert last_words(Job(log.with_name("seed0"), [], 1)).endswith("failed and said nothing")


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def test_flags_of_the_runs_go_after_the_dashes(quick, capsys):
    code, _, err = quick("--grid init_lr=0.1 --local_epoch 1")
    assert (code, err) == (
        2,
        "sweep.py: unrecognized arguments: --local_epoch 1; flags of run_federated.py go after --\n",
    )


@pytest.mark.parametrize(
    ("seconds", "together", "expected"),
    [([1, 1, 1], 2, 2), ([3, 1, 1, 1], 2, 3), ([1, 1, 3], 2, 4), ([2], 1, 2), ([], 1, 0)],
)
def test_a_sweep_takes_as_long_as_its_fullest_core(seconds, together, expected):
    assert time_of(seconds, together) == expected


def test_dry_run_times_a_round_and_starts_nothing(quick, tmp_path, capsys):
    code, out, err = quick("--grid init_lr=0.1,0.2 --seeds 3 --jobs 2 --dry_run", TINY)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("6 runs: 2 cells, seeds 0 to 2; 0 done, 18 rounds to go at most")
    assert out.splitlines()[1].startswith("lr=0.1: 3 runs, about ")
    assert out.splitlines()[3].startswith("all: about ")
    assert not (tmp_path / "out").exists()


def command_line(out, grid, seeds):
    return [sys.executable, "sweep.py", *grid.split(), "--seeds", str(seeds), "--jobs", "2", "--out", str(out), "--",
            *TINY.split()]  # fmt: skip


TWELVE = "--grid init_lr=0.05,0.1 --grid batch_size=5,0"  # with three seeds


def untimed(out: Path) -> dict:
    """The table without seconds, which no two sweeps share."""
    told = json.loads((out / "table.json").read_text())
    for one in told["experiments"]:
        del one["quantities"]["round_seconds"]
    return told


@pytest.mark.slow
def test_real_runs_are_those_of_the_script(tmp_path, command):
    done = subprocess.run(
        command_line(tmp_path / "out", "--grid algorithm=fedavg,scaffold", 1),
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "out" / "algorithm=scaffold" / "seed0" / "summary.json").read_text())
    alone = command("federated", f"{TINY} --algorithm scaffold", folder="alone")
    assert found["model_sha256"] == alone.sha256


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The table of a sweep of 12 runs that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command_line(out, TWELVE, 3), cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == 0
    return untimed(out)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_a_killed_sweep_goes_on_to_the_same_table(turn, whole, tmp_path):
    killed = subprocess.Popen(
        command_line(tmp_path, TWELVE, 3), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    # Counted in finished runs, because a fast machine is done in ten seconds and a busy one is not.
    moment = random.Random(turn)
    finished, deadline = moment.randrange(10), time.monotonic() + 200
    while len(list(tmp_path.glob("*/*/summary.json"))) < finished and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(moment.uniform(0, 1))
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "table.json").exists()  # or it would not have been killed in time
    again = subprocess.run(command_line(tmp_path, TWELVE, 3), cwd=ROOT, capture_output=True, timeout=300)
    assert (again.returncode, again.stderr) == (0, b"")
    assert untimed(tmp_path) == whole

"""Odd streams, environments and numbers: one line and an exit code, and a finished run stays finished."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fl.guard import guarded
from fl.streams import complain
from tests.conftest import ROOT, SMALL
from tests.sweeps import CODE
from tests.sweeps.environments import closed, environments, limited


def run(folder, *flags, env=(), **more):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHON"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | dict(env)
    argv = [*SMALL.split(), "--run_dir", str(folder), *flags]
    return subprocess.run([sys.executable, "-c", CODE, *argv], cwd=ROOT, env=environment, text=True,
                          capture_output=True, **more)  # fmt: skip


@pytest.mark.parametrize("number", [1, 2])
def test_a_closed_stream_costs_nothing_but_its_text(number, tmp_path):
    done = run(tmp_path / "run", preexec_fn=closed(number))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "summary.json").exists()
    assert b"Test Accuracy" not in (tmp_path / "run" / "metrics.jsonl").read_bytes()  # it took no one's place


def test_errors_keep_their_exit_code_without_a_stderr(tmp_path):
    assert run(tmp_path / "run", "--model", "x", preexec_fn=closed(2)).returncode == 2


def test_an_ascii_locale_and_a_path_with_an_umlaut(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / "Läufe"
    done = run(folder, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Test Accuracy = " in done.stdout


def test_what_stdout_cannot_encode_is_written_in_ascii():
    code = "from fl.guard import guarded; print(guarded('x', lambda: print('99 ± 1 ä \\udcff')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.splitlines() == ["99 +- 1 \\xe4 \\udcff", "0"]


def test_a_stderr_that_takes_nothing_is_not_an_error_of_its_own(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        complain("a line")

        def work():
            raise OSError("without an errno")

        assert guarded("x", work) == 4


def test_an_error_of_the_system_is_never_none(capsys):
    def work():
        raise OSError("a mount that went away")

    assert guarded("x", work) == 4
    assert capsys.readouterr().err == "x: output: a mount that went away\n"


def test_too_little_memory_for_torch_is_one_line(tmp_path):
    import resource

    done = run(tmp_path / "run", preexec_fn=limited(resource.RLIMIT_AS, 400 << 20))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "memory" in done.stderr


@pytest.mark.slow
def test_a_long_tmpdir_does_not_matter_to_workers(tmp_path):
    long = tmp_path / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    done = run(tmp_path / "run", "--engine", "distributed", "--workers", "2", env={"TMPDIR": str(long)})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--init_lr 1e39", "--init_lr 1e39: expected a number in (0, 3.4e+38]"),
        ("--weight_decay 1e39", "--weight_decay 1e39: expected a number in [0, 3.4e+38]"),
        ("--timeout 1e-9", "--timeout 1e-9: expected a number in [1, 1e+06]"),
        ("--workers 9223372036854775807", "--workers 9223372036854775807: expected an integer from 0 to 10,000"),
        ("--workers 3",
         "--workers 3: expected at most --num_select_clients, which is 2; further processes would have no client"),
        ("--dry_run --local_epoch 9223372036854775807",
         "--local_epoch 9223372036854775807: expected an integer from 1 to 1,000,000,000"),
    ],
)  # fmt: skip
def test_numbers_that_are_too_large_or_too_small_are_refused(flags, line, command):
    done = command("federated", flags)
    assert (done.code, done.err) == (2, f"run_federated.py: {line}\n")


def test_the_plan_counts_steps_without_overflow(command):
    done = command("federated", "--dry_run --local_epoch 1000000000 --num_clients 2 --batch_size 1 --global_epoch 9")
    assert done.code == 0
    assert f"{61 * 9 * 10**9:,} gradient steps" in done.out


@pytest.mark.parametrize("flags", ["--algorithm fedprox --init_lr 1e38 --proximal_mu 1e38", "--init_lr 3e38"])
def test_rates_whose_products_overflow_diverge(flags, command):
    done = command("federated", flags)
    assert done.code == 5
    assert len(done.err.splitlines()) == 1


def test_a_loss_that_explodes_is_told_on_screen_and_in_the_record(command):
    done = command("federated", "--init_lr 1e6 --global_epoch 3")
    assert done.code == 0
    assert [record.get("exploded") for record in done.records] == [None, True, None, None]
    (line,) = done.err.splitlines()
    assert line.startswith("warning: round 1: the loss is ")
    assert "--init_lr 1e+06" in line
    assert not any("exploded" in record for record in command("federated").records)


def test_torchrun_environments_that_make_no_sense(command, monkeypatch):
    monkeypatch.setenv("RANK", "abc")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("federated").err.startswith("run_federated.py: MASTER_ADDR: not set")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert command("federated").err.startswith("run_federated.py: MASTER_PORT: not set")
    monkeypatch.setenv("MASTER_PORT", "1")
    done = command("federated")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert done.err.startswith("run_federated.py: RANK abc: expected an integer from 0 to 1")


@pytest.mark.parametrize(
    ("script", "flags", "start"),
    [
        ("baseline", "", "torchrun: run_baseline.py trains in one process"),
        ("federated", "--workers 2", "--workers 2: torchrun has started 2 processes already"),
        ("federated", "--engine stacked", "--engine stacked: torchrun starts several processes"),
    ],
)
def test_torchrun_refuses_what_several_processes_cannot_do(script, flags, start, command, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    done = command(script, flags)
    assert done.code == 2
    assert done.err.startswith(f"run_{script}.py: {start}")
    assert not done.folder.exists()


@pytest.mark.slow
def test_odd_environments(tmp_path):
    assert environments(4, 2, tmp_path) == []


@pytest.mark.slow
def test_more_odd_environments(tmp_path):
    assert environments(40, 1, tmp_path) == []

"""A federation of separate programs in which something dies, hangs or is slow: the record says what became of whom."""

from __future__ import annotations

import argparse
import os
import signal
from contextlib import suppress

import pytest

pytest.importorskip("flwr", reason="the network needs Flower: sh requirements.sh deploy")

from benchmarks.network import Relay
from deploy.up import federate
from tests.federation import TINY, done, federated, programs, records, sha256, up, wait_for

pytestmark = pytest.mark.slow


def killed(pids, number=signal.SIGKILL):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_killed_server_says_how_to_go_on_and_goes_on_with_the_same_cohorts(tmp, tmp_path):
    some = ["--num_clients", 2, "--num_select_clients", 1]
    run, here = tmp_path / "net", tmp_path / "here"
    child = up("--nodes", 2, *TINY, *some, "--seed", 3, "--global_epoch", 9, "--run_dir", run)
    wait_for(lambda: len(records(run)) > 1, 200)
    killed([pid for pid, command in programs(tmp, "server").items() if "flower-superlink" in command])
    code, _, err = done(child, tmp)
    assert code == 6
    assert err.count("\n") == 1
    assert err.endswith(f"; the same command with --resume --run_dir {run} goes on\n")
    T = len(records(run))  # one round more than there are
    code, _, err = done(up("--nodes", 2, *some, "--resume", "--global_epoch", T, "--run_dir", run), tmp)
    assert (code, err) == (0, "")
    federated(*TINY, *some, "--seed", 3, "--engine", "sequential", "--global_epoch", T, "--run_dir", here)
    assert sha256(run) == sha256(here)
    assert [one["clients"] for one in records(run)] == [one["clients"] for one in records(here)]


def test_a_node_that_hangs_is_left_out_of_the_round(tmp, tmp_path):
    """Its programs are stopped, so they are there and never answer. The later --timeout counts.

    It must be over before Flower misses the node's heartbeat, which takes a minute.
    """
    run = tmp_path / "run"
    child = up("--nodes", 2, *TINY, "--timeout", 40, "--global_epoch", 2, "--run_dir", run)
    wait_for(lambda: len(records(run)) > 1, 200)
    killed(programs(tmp, "node1"), signal.SIGSTOP)
    code, _, err = done(child, tmp)
    assert (code, err) == (0, "")
    whole, last = records(run)[1:]
    assert whole["clients"] == [0, 1]
    assert (last["clients"], last["dropped"]) == ([0], [1])
    assert last["lost"]["1"] == "no answer in time"


def test_a_slow_network_changes_nothing_but_the_time(tmp, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [*TINY, "--num_clients", "2", "--num_select_clients", "2", "--global_epoch", "1"]
    relay = Relay(seconds=0.3)
    own = argparse.Namespace(nodes=2, node_data=[])
    assert federate(own, [*words, "--run_dir", str(tmp_path / "net")], relay) == 0
    assert relay.bytes["up"] > 0
    assert "Test Accuracy = " in capsys.readouterr().out
    federated(*words, "--engine", "sequential", "--run_dir", tmp_path / "here")
    assert sha256(tmp_path / "net") == sha256(tmp_path / "here")


def test_nodes_with_a_folder_of_images_each(tmp, tmp_path):
    """The classes lie in brightness, and the sites differ in it, so that what they agree on is neither's own mean."""
    Image = pytest.importorskip("PIL.Image", reason="images need Pillow, which torchvision brings")
    sites = []
    for site in range(2):
        for label, base in (("dark", 20), ("light", 160)):
            folder = tmp_path / f"site{site}" / label
            folder.mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (8, 8), (base + 40 * site + i,) * 3).save(folder / f"{i}.png")
        sites += ["--node_data", tmp_path / f"site{site}"]
    words = ["--dataset", "folder", "--image_size", 8, "--model", "logistic", "--optimizer", "sgd", "--init_lr", 0.1,
             "--batch_size", 4, "--local_epoch", 5, "--global_epoch", 1, "--timeout", 90]  # fmt: skip
    code, out, err = done(up(*sites, *words, "--run_dir", tmp_path / "run"), tmp)
    assert (code, err) == (0, "")
    assert records(tmp_path / "run")[1]["clients"] == [0, 1]
    assert "Test Accuracy = 100.00%" in out


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux ends programs whose starter is killed")
def test_programs_end_when_the_one_that_started_them_is_killed(tmp, tmp_path):
    child = up(*TINY, "--nodes", 2, "--global_epoch", 50, "--run_dir", tmp_path / "run")
    wait_for(lambda: len(records(tmp_path / "run")) > 1, 200)
    assert len(programs(tmp)) > 2
    child.kill()
    child.wait()
    wait_for(lambda: not programs(tmp), 60)

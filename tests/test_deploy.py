"""A whole federation of separate programs on this machine: the bits of the simulation, own data, faults, clean ends."""

from __future__ import annotations

import os
import signal

import pytest

pytest.importorskip("flwr", reason="the network needs Flower: sh requirements.sh deploy")

from tests.federation import TINY, done, federated, programs, records, sha256, up, wait_for

pytestmark = pytest.mark.slow


def test_two_clients_give_the_bits_of_the_simulation_and_nothing_is_left(tmp, tmp_path):
    words = [*TINY, "--num_clients", 2, "--num_select_clients", 2, "--algorithm", "scaffold"]
    code, out, err = done(up(*words, "--nodes", 2, "--global_epoch", 1, "--run_dir", tmp_path / "net"), tmp)
    assert (code, err) == (0, "")
    assert out.splitlines()[-2].startswith("Test Accuracy = ")
    # The server is started anew, with other keys, and goes on where it was.
    code, out, err = done(
        up("--nodes", 2, "--num_clients", 2, "--num_select_clients", 2, "--global_epoch", 2, "--resume", "--run_dir",
           tmp_path / "net"), tmp
    )  # fmt: skip
    assert (code, err) == (0, "")
    federated(*words, "--engine", "sequential", "--global_epoch", 2, "--run_dir", tmp_path / "here")
    assert sha256(tmp_path / "net") == sha256(tmp_path / "here")
    for net, here in zip(records(tmp_path / "net"), records(tmp_path / "here"), strict=True):
        assert net["test_accuracy"] == here["test_accuracy"]
        assert net["clients"] == here["clients"]


def test_three_sites_with_a_table_each_and_one_of_them_killed(tmp, tmp_path):
    """Each site's file lies in a folder of its own, and the server's folder has none. Site 2 goes in mid-run."""
    sites = []
    for site, word in enumerate(("A", "B", "C")):
        rows = [f"{i % 7 + site},{word if i % 2 else 'both'},{'yes' if i % 7 > 3 else 'no'}" for i in range(24)]
        folder = tmp_path / f"site{site}"
        folder.mkdir()
        (folder / "patients.csv").write_text("\n".join(["marker,ward,ill", *rows]) + "\n")
        sites += ["--node_data", folder / "patients.csv"]
    words = ["--dataset", "csv", "--label", "ill", "--partition", "natural", "--optimizer", "sgd", "--batch_size", 4,
             "--local_epoch", 1, "--global_epoch", 2, "--eval_every", 2, "--timeout", 60]  # fmt: skip
    child = up(*sites, *words, "--run_dir", tmp_path / "run")
    try:
        wait_for(lambda: len(records(tmp_path / "run")) > 1, 200)
        for pid in programs(tmp, "node2"):
            os.kill(pid, signal.SIGKILL)
        code, out, err = done(child, tmp)
    finally:
        child.kill()
    assert (code, err) == (0, "")
    whole, last = records(tmp_path / "run")[1:]
    assert whole["clients"] == [0, 1, 2]
    assert last["clients"] == [0, 1]
    assert last["dropped"] == [2]
    assert last["lost"]["2"]
    assert "Test Accuracy = " in out


def test_ctrl_c_leaves_a_run_that_can_go_on_and_nothing_else(tmp, tmp_path):
    child = up(*TINY, "--nodes", 2, "--global_epoch", 50, "--run_dir", tmp_path / "run", start_new_session=True)
    wait_for(lambda: len(records(tmp_path / "run")) > 1, 200)
    child.send_signal(signal.SIGINT)
    code, _, err = done(child, tmp)
    assert code == 130
    assert err.startswith("deploy/up.py: interrupted")
    assert (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nodes 0", "--nodes 0: expected 1 or more"),
        ("--node_data /nowhere", "--node_data /nowhere: there is no such file or folder"),
        ("--nodes 2 --num_clients 3", "--num_clients 3: there are 2 nodes"),
        ("--nodes 2 --dropout_rate 0.1", "--dropout_rate 0.1: simulates what a real network does by itself"),
        ("--nodes 2 --dry_run", "--dry_run True: says what one machine would do; leave it out"),
        ("--nodes 2 --init_lr x", "--init_lr x: expected a number in"),
        ("--nodes two", "--nodes: invalid int value: 'two'"),
    ],
)
def test_wrong_flags_are_told_before_anything_starts(words, said, tmp):
    code, _, err = done(up(*words.split()), tmp)
    assert code == 2
    assert err.startswith(f"deploy/up.py: {said}")
    assert err.count("\n") == 1

"""The server's optimizers: what a run records of them, and values so small that they are zero."""

from __future__ import annotations

import json

import pytest

from fl.engines.sequential import Sequential
from fl.experiment import federated
from tests.rounds import run_rounds
from tests.test_golden import config, ragged


@pytest.mark.parametrize(
    ("algorithm", "momentum"), [("fedadagrad", 0.0), ("fedadam", 0.9), ("fedyogi", 0.9), ("fedavgm", 0.9)]
)
def test_momentum_is_the_papers_unless_given(algorithm, momentum, command):
    assert config(algorithm=algorithm).server_momentum == momentum
    assert config(algorithm=algorithm, server_momentum=0.3).server_momentum == 0.3
    done = command("federated", f"--algorithm {algorithm} --global_epoch 1")
    assert json.loads((done.folder / "config.json").read_text())["server_momentum"] == momentum
    given = command("federated", f"--algorithm {algorithm} --server_momentum {momentum} --global_epoch 1")
    assert done.sha256 == given.sha256


def test_a_run_that_recorded_another_momentum_goes_on_with_it(command):
    """FedAdagrad's default was 0.9 once; config.json says what a run began with."""
    words = "--algorithm fedadagrad --server_momentum 0.9"
    assert command("federated", f"{words} --global_epoch 2", folder="part").code == 0
    part = command("federated", "--resume --global_epoch 4", folder="part")
    assert part.code == 0
    assert part.sha256 == command("federated", f"{words} --global_epoch 4").sha256


@pytest.mark.parametrize("algorithm", ["fedadagrad", "fedadam", "fedyogi"])
def test_a_tau_that_is_zero_in_float32(algorithm):
    """Where no client moves a parameter, as from a pixel that is always black, m and v are 0."""
    c = config(algorithm=algorithm, server_tau=1e-60, init_lr=1e-44, global_epoch=2)
    task = federated(c)
    done = list(run_rounds(task, ragged(), Sequential(task.model, task.data, ragged(), c), c))[-1]
    assert all(w.isfinite().all() for w in done.w.values())

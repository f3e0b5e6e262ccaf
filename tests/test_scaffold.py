"""SCAFFOLD where there is nothing to divide by."""

from __future__ import annotations

import pytest
import torch

from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.experiment import federated
from tests.rounds import run_rounds
from tests.test_golden import config, ragged


@pytest.mark.parametrize("engine", [Sequential, Stacked])
@pytest.mark.parametrize("decay", [1e-30, 1e-200])  # rates that are zero in float32, and in float64 as well
def test_a_rate_that_decays_to_nothing(decay, engine):
    c = config(algorithm="scaffold", lr_decay=decay, global_epoch=5)
    task = federated(c)
    rounds = list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))
    assert c.lr(5) == 0 or torch.tensor(c.lr(5)) == 0
    for name, w in rounds[2].w.items():
        assert torch.equal(rounds[-1].w[name], w)
    before, after = rounds[-2].kept, rounds[-1].kept
    for name, c_before in before.server["c"].items():
        assert c_before.isfinite().all()
        assert torch.equal(after.server["c"][name], c_before)
        assert all(torch.equal(after.of(k, "c_k")[name], before.of(k, "c_k")[name]) for k in range(3))


def test_a_run_whose_rate_decays_to_nothing_ends_well(command):
    assert command("federated", "--algorithm scaffold --lr_decay 1e-30 --global_epoch 5").code == 0

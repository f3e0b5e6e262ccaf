"""SCAFFOLD where there is nothing to divide by."""

from __future__ import annotations

import pytest
import torch

from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.rounds import federated_averaging
from fl.task import prepare
from tests.test_golden import config, ragged


@pytest.mark.parametrize("engine", [Sequential, Stacked])
@pytest.mark.parametrize("decay", [1e-30, 1e-200])  # rates that are zero in float32, and in float64 as well
def test_a_rate_that_decays_to_nothing(decay, engine):
    c = config(algorithm="scaffold", lr_decay=decay, global_epoch=5)
    task = prepare(c)
    rounds = list(federated_averaging(task, ragged(), engine(task.model, task.data, ragged(), c), c))
    assert c.lr(5) == 0 or torch.tensor(c.lr(5)) == 0
    for name, w in rounds[2].w.items():
        assert torch.equal(rounds[-1].w[name], w)
    before, after = (done.carry["memory"] for done in (rounds[-2], rounds[-1]))
    for name, c_before in before["server"]["c"].items():
        assert c_before.isfinite().all()
        assert torch.equal(after["server"]["c"][name], c_before)
        assert all(torch.equal(after["clients"][k][name], before["clients"][k][name]) for k in range(3))


def test_a_run_whose_rate_decays_to_nothing_ends_well(command):
    assert command("federated", "--algorithm scaffold --lr_decay 1e-30 --global_epoch 5").code == 0

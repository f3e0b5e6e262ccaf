"""FedProx's pull mu (w - w_t): nothing where a client begins, and no rounding at the size of the weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.engines.stacked.weights import Weights
from fl.experiment import federated
from fl.models import MODELS
from fl.state import Correction
from tests.rounds import run_rounds
from tests.test_engines import OPTIMIZERS, both
from tests.test_golden import config, ragged, task_of
from tests.test_graphed import Recorder, graphed

ENGINES = {
    "sequential": Sequential,
    "stacked": partial(Stacked, stack_size=3),
    "graphed": partial(graphed(Recorder()), stack_size=3),
}
FEDPROX = {"algorithm": "fedprox", "proximal_mu": 1.0}


def last(c, engine, task=None):
    """The model after the last round, on three ragged clients; in float32 unless a task is given."""
    task, partition = task or federated(c), ragged()
    made = engine(task.model, task.data, partition, c)
    return list(run_rounds(task, partition, made, c))[-1].w


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("model", ["2nn", "small_cnn", "tanh"])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_the_first_step_is_fedavgs_bit_for_bit(engine, model, optimizer, monkeypatch):
    """A client begins at w_t, where the pull is zero: in float32 too, where mu w - mu w_t after g is not."""
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    flags = OPTIMIZERS[optimizer] | {"weight_decay": 0.0}
    one = dict(model=model, local_epoch=1, batch_size=0, global_epoch=3, **flags)
    expected, ours = (last(config(**one, **more), ENGINES[engine]) for more in ({}, FEDPROX))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("decay", [0.0, 1e-6])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_adam_takes_the_steps_of_float64_in_float32(engine, decay):
    """Adam divides the gradient by its size, so that what is lost of a small one shows as part of a whole step."""
    c = config(model="logistic", optimizer="adam", init_lr=1e-4, global_epoch=1, local_epoch=2, batch_size=3,
               weight_decay=decay, **FEDPROX)  # fmt: skip

    def with_small_gradients(task):
        return replace(task, data=replace(task.data, std=1e6))

    exact = last(c, ENGINES[engine], with_small_gradients(task_of(c)))
    ours = last(c, ENGINES[engine], with_small_gradients(federated(c)))
    off = max((exact[name] - ours[name]).abs().max().item() for name in exact)
    assert off < 0.01 * c.init_lr


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("model", ["2nn", "small_cnn", "tanh"])
def test_engines_agree_on_a_pull_with_and_without_decay(model, optimizer, monkeypatch):
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    c = config(model=model, local_epoch=3, batch_size=2, **FEDPROX, **OPTIMIZERS[optimizer])
    both(c, stack_size=3)
    recorder = Recorder()
    both(c, stack_size=3, engine=graphed(recorder))
    assert recorder.replayed


def test_a_client_without_a_gradient_stays_where_it_was_sent():
    """A weight goes a share of its way to w_t, which is nothing here; it is not scaled and moved back."""
    w = {"weight": torch.randn(40, 30, generator=torch.Generator().manual_seed(0))}
    weights = Weights({"weight": torch.empty(2, 40, 30)}, folded=True)
    weights.start_round(w, eta=0.05, correction=Correction(pull=1.0, centre={"weight": w["weight"].unsqueeze(0)}))
    for _ in range(100):
        weights.update("weight", torch.zeros(2, 40, 30))
        weights.update_product("weight", torch.zeros(2, 40, 5), torch.zeros(2, 5, 30))
    assert torch.equal(weights.in_use["weight"], w["weight"].expand(2, -1, -1))

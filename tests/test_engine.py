"""What passes through the interface of an engine: where clients start, and what they keep."""

from __future__ import annotations

import pytest
import torch

from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.models import MODELS
from fl.state import Kept, Told
from tests.test_engines import OPTIMIZERS
from tests.test_golden import begin, close, config, ragged, task_of


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("model", ["2nn", "small_cnn", "tanh"])
@pytest.mark.parametrize("leading", [1, 3])
def test_clients_start_where_they_are_told(leading, model, optimizer, monkeypatch):
    """Two parameters of each client replaced, in (S, ...) or (1, ...); the others begin at w_t."""
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    c = config(model=model, **OPTIMIZERS[optimizer])
    task, partition = task_of(c), ragged((4, 7, 1))  # in a stack, client 1 comes before client 0
    w, generator = task.w, torch.Generator().manual_seed(0)
    start = {name: torch.randn(leading, *w[name].shape, generator=generator, dtype=torch.float64) / 9
             for name in list(w)[1:3]}  # fmt: skip

    def of(clients):
        return {name: stack[clients if leading > 1 else [0]] for name, stack in start.items()}

    expected = {}
    for k in range(3):
        from_there = w | {name: stack[0] for name, stack in of([k]).items()}
        (update,) = Sequential(task.model, task.data, partition, c).train([k], begin(c, from_there))
        expected[k] = update.w
    for engine in (Sequential, Stacked):
        options = {} if engine is Sequential else {"stack_size": 3}
        made = engine(task.model, task.data, partition, c, **options)
        for update in made.train([0, 1, 2], begin(c, w), lambda clients: Told(start=of(clients))):
            for i, report in enumerate(update.reports):
                close({name: stack[i : i + 1] for name, stack in update.w.items()}, expected.pop(report.client), 1e-9)
                expected[report.client] = {name: stack[i : i + 1].clone() for name, stack in update.w.items()}


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_kept_optimizer_states_are_read_and_never_changed(optimizer):
    """Round 2 by an engine that never saw round 1; and once more from the same Kept, with the same result."""
    c = config(keep_optimizer_state=True, **OPTIMIZERS[optimizer])
    task = task_of(c)
    w, kept = task.w, Kept()

    def one_round(t, kept):
        updates = list(Sequential(task.model, task.data, ragged(), c).train([0, 1, 2], begin(c, w, t, kept)))
        return [update.w for update in updates], {k: new for update in updates for k, new in update.kept.items()}

    fresh, news = one_round(2, kept)
    assert set(news) == {0, 1, 2}
    kept = kept.with_clients(one_round(1, kept)[1])
    assert all(x.device.type == "cpu" for x in kept.of(0, "optimizer")["state"][0].values() if torch.is_tensor(x))
    first, _ = one_round(2, kept)
    again, _ = one_round(2, kept)
    for one, other, without in zip(first, again, fresh, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert not any(torch.equal(one[name], without[name]) for name in one)

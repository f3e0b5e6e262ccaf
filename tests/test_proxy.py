"""Proxy data: the server trains the first model on examples that no client has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fl.check import resolve
from fl.client import load_state, make_optimizer, minibatches, one_pass, train
from fl.experiment import federated
from fl.proxy import SERVER, pretrained, set_aside
from tests.tiny import tiny


def test_the_servers_examples_are_nobody_elses(tmp_path):
    data = tiny(tmp_path)
    numbered = replace(data, train=replace(data.train, targets=torch.arange(len(data.train))))
    rest, proxy = set_aside(numbered, 0.25, seed=3)
    assert len(proxy.train) == round(0.25 * 61)
    assert sorted([*rest.train.targets.tolist(), *proxy.train.targets.tolist()]) == list(range(61))
    for part in (rest, proxy):
        assert torch.equal(part.train.examples, data.train.examples[part.train.targets])


def test_clients_without_examples_are_gone():
    data = tiny(None)
    owned = replace(data, clients=torch.tensor([0] * 30 + [1] + [2] * 30))
    rest = owned.only(torch.tensor([0, 1, 40, 60]))
    assert rest.clients.tolist() == [0, 0, 1, 1]


def test_the_first_model_is_that_of_training_on_the_servers_data():
    c = resolve({"dataset": "tiny", "model": "2nn", "optimizer": "sgd", "init_lr": 0.1, "batch_size": 4,
                 "proxy_fraction": 0.3, "proxy_epochs": 2})  # fmt: skip
    x = federated(c)
    w, n = x.w, len(x.proxy.train)
    trained = pretrained(x.model, x.proxy, c)
    assert all(torch.equal(w[name], tensor) for name, tensor in x.w.items())  # the resident model is as it was
    load_state(x.model, w)
    batches = minibatches(torch.arange(n), (one_pass(x.proxy, 0, SERVER, e, n) for e in range(2)), 4)
    train(x.model, make_optimizer(x.model.parameters(), c, 0.1), x.proxy, batches)
    assert all(torch.equal(trained[name], tensor) for name, tensor in x.w.items())
    assert not all(torch.equal(w[name], tensor) for name, tensor in trained.items())


def test_round_0_is_evaluated_after_it_and_a_resumed_run_has_the_same_bits(command, same_anyhow):
    plain, whole = command("federated"), same_anyhow("--proxy_fraction 0.2 --proxy_epochs 3")
    assert whole.records[0]["test_loss"] < plain.records[0]["test_loss"]
    assert sum(record["examples"] for record in whole.records[1:]) < sum(r["examples"] for r in plain.records[1:])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--proxy_fraction 0.001", "--proxy_fraction 0.001: is 0 of the 61 training examples"),
        ("--proxy_fraction 1", "--proxy_fraction 1: expected a number in [0, 1)"),
        ("--proxy_epochs 2", "--proxy_epochs 2: needs a --proxy_fraction"),
    ],
)
def test_what_is_no_share_is_refused(flags, words, command):
    done = command("federated", flags)
    assert done.code == 2
    assert words in done.err

"""Proxy data: the server's own examples, on which it trains the first model before any client is called.

As the language models of Hard et al. 2018, "Federated Learning for Mobile Keyboard Prediction", arXiv 1811.03604,
section 4, which were first trained on a public corpus. Here the server's examples are taken out of the training set,
so that no client has them.
"""

from __future__ import annotations

import torch
from torch import nn

from data.dataset import Dataset
from fl.client import load_state, make_optimizer, minibatches, one_pass, state_of, train
from fl.config import Config
from fl.errors import FlagError
from fl.rng import seed_training, seeded
from fl.state import State

SERVER = -1  # in place of a client's number, in the streams of random numbers


def set_aside(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """The data sets of the clients and of the server, which gets round(fraction n) training examples by the seed."""
    n = len(data.train)
    count = round(fraction * n)
    if not 0 < count < n:
        raise FlagError(
            f"--proxy_fraction {fraction:g}: is {count} of the {n} training examples; leave some for each side"
        )
    with seeded(seed, "proxy"):
        order = torch.randperm(n)
    return data.only(order[count:].sort().values), data.only(order[:count].sort().values)


def pretrained(model: nn.Module, proxy: Dataset, config: Config) -> State:
    """The model after --proxy_epochs on the server's data. The resident model itself stays as it is."""
    w, n, device = state_of(model), len(proxy.train), proxy.train.targets.device
    passes = (one_pass(proxy, config.seed, SERVER, e, n) for e in range(config.proxy_epochs))
    batches = minibatches(torch.arange(n, device=device), passes, config.batch_size)
    optimizer = make_optimizer(model.parameters(), config, config.init_lr)
    seed_training(device, config.seed, 0, SERVER)
    train(model, optimizer, proxy, batches)
    trained = state_of(model)
    load_state(model, w)
    return trained

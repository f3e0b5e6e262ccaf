"""Clients that send what harms: --attack, to show what --aggregate withstands.

Which clients attack follows from the seed alone: the first --attackers K of a shuffle.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from data.partition import Partition
from fl.config import Config
from fl.rng import derive, seeded
from fl.state import State, floating
from fl.task import Task


def attackers(config: Config) -> set[int]:
    """The clients that attack: round(--attackers K) of them."""
    if config.attack is None:
        return set()
    order = random.Random(derive(config.seed, "attackers")).sample(range(config.num_clients), config.num_clients)
    return set(order[: round(config.attackers * config.num_clients)])


def poisoned(task: Task, partition: Partition, config: Config) -> Task:
    """The task with the attackers' labels y turned into classes - 1 - y (label_flip)."""
    if config.attack != "label_flip":
        return task
    labels = task.data.train.targets.clone()
    for k in sorted(attackers(config)):
        own = partition[k].to(labels.device)
        labels[own] = task.data.classes - 1 - labels[own]
    return replace(task, data=replace(task.data, train=replace(task.data.train, targets=labels)))


@torch.inference_mode()  # an engine's models may be tensors of that mode
def attack(config: Config, bad: set[int], t: int, w: State, clients: Sequence[int], w_k: State) -> None:
    """Turn the attackers' models among w_k (S, ...) into what they send, in place.

    With Delta = w_k - w and lambda = --attack_scale: sign_flip sends w - lambda Delta, scaled w + lambda Delta, and
    gaussian w plus normal noise of standard deviation lambda.
    """
    for i, k in enumerate(clients):
        if k not in bad or config.attack == "label_flip":
            continue
        for number, (name, base) in enumerate(floating(w).items()):
            if config.attack == "gaussian":
                with seeded(config.seed, "attack", t, k, number):
                    noise = torch.randn(base.shape, dtype=base.dtype).to(base.device)
                w_k[name][i] = base + config.attack_scale * noise
            else:
                sign = -1 if config.attack == "sign_flip" else 1
                w_k[name][i] = base + sign * config.attack_scale * (w_k[name][i] - base)

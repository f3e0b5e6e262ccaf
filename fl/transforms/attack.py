"""Malicious clients: --attack, to show which attacks the rules of --aggregate withstand.

Which clients attack follows from the seed alone: the first --attackers K of a shuffle.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from data.dataset import IGNORED, Dataset
from data.partition import Partition
from fl.config import Config
from fl.rng import derive, seeded
from fl.state import RoundStart, Update, floating
from fl.transforms.transform import Transform


def attackers(config: Config) -> set[int]:
    """The clients that attack: round(--attackers K) of them."""
    if config.attack is None:
        return set()
    order = random.Random(derive(config.seed, "attackers")).sample(range(config.num_clients), config.num_clients)
    return set(order[: round(config.attackers * config.num_clients)])


def poisoned(data: Dataset, partition: Partition, config: Config) -> Dataset:
    """The data set with the attackers' labels y turned into classes - 1 - y (label_flip)."""
    if config.attack != "label_flip":
        return data
    labels = data.train.targets.clone()
    for k in sorted(attackers(config)):
        held = partition[k].to(labels.device)
        flipped = data.classes - 1 - labels[held]
        labels[held] = flipped.where(labels[held] != IGNORED, IGNORED)
    return replace(data, train=replace(data.train, targets=labels))


def attack(config: Config) -> Transform | None:
    """What the attackers send instead of their models w_k; None if all send what they have trained.

    With Delta = w_k - w and lambda = --attack_scale: sign_flip sends w - lambda Delta, scaled w + lambda Delta, and
    gaussian w plus normal noise of standard deviation lambda.
    """
    bad = attackers(config)
    if not bad or config.attack == "label_flip":
        return None

    @torch.inference_mode()  # an engine's models may be tensors of that mode
    def send_harm(now: RoundStart, update: Update) -> Update:
        for i, report in enumerate(update.reports):
            if report.client not in bad:
                continue
            for number, (name, base) in enumerate(floating(now.w).items()):
                w_k = update.w[name]
                if config.attack == "gaussian":
                    with seeded(config.seed, "attack", now.t, report.client, number):
                        noise = torch.randn(base.shape, dtype=base.dtype).to(base.device)
                    w_k[i] = base + config.attack_scale * noise
                else:
                    sign = -1 if config.attack == "sign_flip" else 1
                    w_k[i] = base + sign * config.attack_scale * (w_k[i] - base)
        return update

    return Transform(client=send_harm)

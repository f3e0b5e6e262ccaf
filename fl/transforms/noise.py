"""Noise on what was clipped: on the sum, by the server (--noise_multiplier), or by each client (--local_noise).

McMahan, Ramage, Talwar and Zhang 2018, "Learning Differentially Private Recurrent Language Models", arXiv 1710.06963,
algorithm 1 with the estimator f_f and weights w_k = 1:

    w_{t+1} = w_t + (sum over those who reported of (w_k - w_t) + z C N(0, I)) / m

All clients have equal weight. The sum is divided by the m of --num_select_clients, however many clients reported,
because their number would tell who took part. For the same reason noise is added even if nobody reports. Frozen
parameters get no noise, because no client changes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fl.accountant import epsilon, noise_on_updates
from fl.config import Config
from fl.noise import noise_like
from fl.state import Got, RoundStart, Update
from fl.transforms.clip import norm_at
from fl.transforms.transform import Transform, same_update


@torch.inference_mode()  # an engine's models may be tensors of that mode
def add_own_noise(now: RoundStart, update: Update) -> Update:
    """What each client does before it sends."""
    deviation = now.config.local_noise * norm_at(now)
    for i, report in enumerate(update.reports):
        drawn = noise_like(now.moving, deviation, now.noise_key, "local", now.t, report.client)
        for name, tensor in drawn.items():
            update.w[name][i] += tensor
    return update


def hide(now: RoundStart, got: Got) -> Got:
    """The noisy sum over m, out of the plain mean of the models that have come."""
    c = now.config
    share = len(got.reports) / c.num_select_clients
    deviation = noise_on_updates(c) * norm_at(now) / c.num_select_clients
    drawn = noise_like(now.moving, deviation, now.noise_key, "sum", now.t)
    mean = {name: w + share * (got.mean[name] - w) + drawn[name] for name, w in now.moving.items()}
    return replace(got, mean=got.mean | mean, is_noised=True)


def record(now: RoundStart, got: Got) -> dict[str, Any]:
    """epsilon at --delta of the rounds so far together."""
    return {"epsilon": epsilon(now.config, now.t)}


def noise(config: Config) -> Transform | None:
    """None without noise. It comes after clip, which bounds what it hides."""
    client = add_own_noise if config.local_noise else same_update
    if config.noise_multiplier:
        return Transform(client=client, finish=hide, record=record)
    return Transform(client=client) if config.local_noise else None

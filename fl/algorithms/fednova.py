"""FedNova: clients' changes are normalised by their numbers of steps before they are averaged.

Wang, Liu, Liang, Joshi and Poor 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", arXiv 2007.07481, section 4:

    w_{t+1} = w_t + tau_eff sum of n_k / n (w_k - w_t) / a_k,    tau_eff = sum of n_k / n a_k

where a_k is the 1-norm of the weights that the steps' gradients have in the client's change. In the paper n counts the
examples of all clients; here, as in the mean of every algorithm, those of the round's clients that reported. Buffers
are averaged by n_k alone, because no step made them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from fl.algorithms.algorithm import Algorithm
from fl.state import Got, Kept, Report, RoundStart, State


@lru_cache(maxsize=4096)
def effective_steps(rho: float, steps: int) -> float:
    """a_k (section 4.2): `steps` for plain SGD; with momentum rho, how far `steps` gradients of 1 move a weight (lr 1).

    The momentum buffer is 0 at the start of the round. The loop adds up positive terms only, so it is accurate. The
    closed form, (steps - rho (1 - rho^steps) / (1 - rho)) / (1 - rho), loses all its digits as rho comes near 1.
    """
    moved = velocity = 0.0
    for _ in range(steps):
        velocity = rho * velocity + 1
        moved += velocity
    return moved


def weights(now: RoundStart, reports: Sequence[Report]) -> list[float]:
    """n_k / a_k, times a power of two: about the a_k of a client with one minibatch an epoch.

    WeightedMean expects weights about as large as numbers of examples, and many steps with a momentum near 1 would
    make them much smaller.
    """
    rho, E = now.config.momentum, now.config.local_epoch
    unit = math.ldexp(1.0, math.frexp(effective_steps(rho, E))[1] - 1)
    return [unit * report.n_k / effective_steps(rho, report.steps) for report in reports]


def server(now: RoundStart, got: Got) -> tuple[State, Kept]:
    """w_{t+1} and the Kept for the next round.

    got.mean is weighted by n_k / a_k and divided by the sum of these weights. So its change w - w_t is multiplied by
    tau_eff and by the sum of n_k / (n a_k), which undoes that division.
    """
    a = [effective_steps(now.config.momentum, report.steps) for report in got.reports]
    if min(a) == max(a):
        return got.mean, got.kept  # FedAvg
    n = sum(report.n_k for report in got.reports)
    tau_eff = sum(report.n_k * a_k for report, a_k in zip(got.reports, a, strict=True)) / n
    factor = tau_eff * sum(report.n_k / a_k for report, a_k in zip(got.reports, a, strict=True)) / n
    new = {name: w + factor * (got.mean[name] - w) for name, w in now.parameters.items()}
    return got.mean | new, got.kept


fednova = Algorithm(weights=weights, server=server)

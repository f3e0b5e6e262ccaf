"""Aggregation rules that some bad updates do not break, by name.

A rule takes the models of the round, (m, P), their weights (m,), and the flags; it gives one model, (P,).
f is --byzantine, the number of bad clients that a rule is to withstand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fl.config import Config


def median(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """Coordinate-wise median, all clients alike (Yin, Chen, Ramchandran and Bartlett 2018, arXiv 1803.01498)."""
    ordered = models.sort(0).values
    m = len(models)
    return (ordered[(m - 1) // 2] + ordered[m // 2]) / 2


def trimmed_mean(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """Per coordinate, the weighted mean without the --trim share of values at either end (arXiv 1803.01498)."""
    m = len(models)
    cut = int(config.trim * m + 1e-9)
    order = models.argsort(0)[cut : m - cut]
    share = weights[order].double()
    return ((models.gather(0, order).double() * share).sum(0) / share.sum(0)).to(models.dtype)


def krum(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """The model with the least sum of squared distances to its m - f - 2 nearest.

    Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries".
    """
    return models[_krum_scores(models, config).argmin()]


def multi_krum(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """The weighted mean of the m - f models with the best of Krum's scores."""
    best = _krum_scores(models, config).argsort(stable=True)[: max(len(models) - config.byzantine, 1)].sort().values
    share = weights[best].double()
    return ((models[best].double() * share[:, None]).sum(0) / share.sum()).to(models.dtype)


def _krum_scores(models: Tensor, config: Config) -> Tensor:
    m, f = len(models), config.byzantine
    near = max(m - f - 2, 1)  # fewer than f + 3 models are left only if others were rejected
    distances = torch.stack([(models - one).double().square().sum(1) for one in models])  # (m, m)
    return distances.sort(1).values[:, 1 : 1 + near].sum(1)


def geometric_median(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """The point with the least weighted sum of distances, by the smoothed Weiszfeld algorithm.

    Pillutla, Kakade and Harchaoui 2022, "Robust Aggregation for Federated Learning", arXiv 1912.13445, Algorithm 2.
    """
    values, share = models.double(), weights.double() / weights.double().sum()
    point = share @ values
    for _ in range(100):
        distance = (values - point).norm(dim=1).clamp_min(1e-6)
        moved = (share / distance) @ values / (share / distance).sum()
        if (moved - point).norm() <= 1e-10 * (1 + point.norm()):
            break
        point = moved
    return moved.to(models.dtype)


RULES: dict[str, Callable[[Tensor, Tensor, Config], Tensor]] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
}


def rule_of(config: Config) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The rule of --aggregate; None is the weighted mean, which needs no more than sums.

    Nothing trimmed is the mean, too.
    """
    if config.aggregate == "mean" or (config.aggregate == "trimmed_mean" and config.trim == 0):
        return None
    rule = RULES[config.aggregate]
    return lambda models, weights: rule(models, weights, config)

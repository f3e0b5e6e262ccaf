"""Aggregation rules that some bad updates do not break, by name.

A rule takes the models of the round, (m, P), their weights n_k (m,), and the flags; it gives one model, (P,). A model
is one vector here: all of its parameters and floating buffers. Distances are Euclidean, over that whole vector.
f is --byzantine, the number of bad clients that a rule is to withstand. The order of the clients does not matter,
except that Krum gives the first one precedence among equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fl.aggregates.models import Models
from fl.config import Config
from fl.group import Group
from fl.state import RoundStart, State, Update, floating
from fl.streams import warn

Rule = Callable[[Tensor, Tensor, Config], Tensor]
MOST_STEPS = 100_000  # of the geometric median: some seconds


def median(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """Coordinate-wise median (Yin, Chen, Ramchandran and Bartlett 2018, arXiv 1803.01498, Definition 1).

    As in the paper, all clients have equal weight, whatever their n_k. If m is even, it is the mean of the two middle
    values.
    """
    ordered = models.sort(0).values
    m = len(models)
    return (ordered[(m - 1) // 2] + ordered[m // 2]) / 2


def trimmed_mean(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """Per coordinate, the mean without the --trim share of the values at either end (arXiv 1803.01498, Definition 2).

    In the paper all clients have equal weight. Here floor(trim m) values are trimmed at either end, whatever their
    n_k, and the mean of the remaining values is weighted by n_k. Equal values are sorted by n_k, so that the result
    does not depend on the order of the clients. At least one value remains if m is odd, and two if m is even.
    """
    m = len(models)
    cut = min(int(config.trim * m + 1e-9), (m - 1) // 2)
    lightest_first = weights.argsort(stable=True)
    models, weights = models[lightest_first], weights[lightest_first]
    order = models.argsort(stable=True, dim=0)[cut : m - cut]
    share = weights[order].double()
    return ((models.gather(0, order).double() * share).sum(0) / share.sum(0)).to(models.dtype)


def krum(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """The model with the least sum of squared distances to its m - f - 2 nearest, whatever its n_k.

    Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent". Of equal scores the first client's wins, as in the paper.
    """
    return models[_krum_scores(models, config).argmin()]


def multi_krum(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """The mean of the m - f models with the best of Krum's scores.

    The paper leaves the number of models open and takes their plain mean; here it is m - f, weighted by n_k.
    """
    best = _krum_scores(models, config).argsort(stable=True)[: max(len(models) - config.byzantine, 1)].sort().values
    share = weights[best].double()
    return ((models[best].double() * share[:, None]).sum(0) / share.sum()).to(models.dtype)


def _krum_scores(models: Tensor, config: Config) -> Tensor:
    m, f = len(models), config.byzantine
    near = max(m - f - 2, 1)  # fl/aggregates/__init__.py asks for enough reports; some may have been rejected since
    distances = torch.stack([(models - one).double().square().sum(1) for one in models])  # (m, m)
    return distances.sort(1).values[:, 1 : 1 + near].sum(1)


def geometric_median(models: Tensor, weights: Tensor, config: Config) -> Tensor:
    """The point with the least sum of distances, each times n_k, by the smoothed Weiszfeld algorithm.

    Pillutla, Kakade and Harchaoui 2022, "Robust Aggregation for Federated Learning", arXiv 1912.13445, Algorithm 2,
    with the paper's weights n_k and a smoothing nu = 1e-6. It has converged when a step is shorter than 1e-10 of the
    point. If that takes more than MOST_STEPS, the last point is returned and a line on stderr says so. Two models of
    almost the same weight do that, because the points between them all have nearly the same sum.
    """
    values, share = models.double(), weights.double() / weights.double().sum()
    # Every iterate is a weighted mean of the models, and its weights depend on distances only. So we iterate on m
    # points in m dimensions with the same distances: the weights are the same, and a step costs almost nothing.
    points = torch.linalg.qr(values.T, mode="r").R.T  # (m, min(m, P))
    weight = share  # of the models in the point
    for _ in range(MOST_STEPS):
        distance = (points - weight @ points).norm(dim=1).clamp_min(1e-6)
        before, weight = weight, share / distance / (share / distance).sum()
        if ((weight - before) @ points).norm() <= 1e-10 * (1 + (before @ points).norm()):
            break
    else:
        warn(f"--aggregate geometric_median: has not converged in {MOST_STEPS:,} steps")
    return (weight @ values).to(models.dtype)


class Robust:
    """The Aggregate of a robust rule: it stores all models of the round, and applies the rule at the end."""

    def __init__(self, rule: Rule, now: RoundStart):
        self.rule, self.now, self.models = rule, now, Models(now)
        self.weights = torch.zeros(len(now.sizes), dtype=torch.float64)

    def add(self, update: Update, weights: Sequence[float]) -> None:
        """weights: n_k of the S models, as far as the rule weighs them."""
        self.models.add(update)
        for report, weight in zip(update.reports, weights, strict=True):
            self.weights[self.models.row[report.client]] = weight

    def gather(self, group: Group, more: Tensor) -> Tensor:
        """All models at every rank. Returns the sum of the ranks' `more`."""
        self.models.gather(group)
        both = group.sum(torch.cat([self.weights, more.flatten().to(self.weights)]).to(group.device))
        self.weights, more = both[: len(self.weights)], both[len(self.weights) :].view_as(more)
        return more

    def result(self, denominator: float) -> State:
        """The model that the rule returns. `denominator` is not used, because a rule normalises the weights itself."""
        counted = (self.weights > 0).nonzero().flatten()
        models = {name: tensor[counted.to(tensor.device)] for name, tensor in self.models.stacked.items()}
        parts = {name: tensor.reshape(len(tensor), -1) for name, tensor in floating(models).items()}
        flat = torch.cat(list(parts.values()), 1)  # (m, P)
        if flat.device.type == "mps":
            flat = flat.cpu()  # Apple's GPUs have no float64
        one = self.rule(flat, self.weights[counted].to(flat), self.now.config).split(
            [p.shape[1] for p in parts.values()]
        )
        w = {name: tensor.amax(0) for name, tensor in models.items() if name not in parts}
        like = self.now.w
        w |= {name: part.view(like[name].shape).to(like[name]) for name, part in zip(parts, one, strict=True)}
        return {name: w[name] for name in self.now.w}

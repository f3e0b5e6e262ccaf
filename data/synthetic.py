"""Synthetic(alpha, beta): devices whose models and inputs differ, as far as two numbers say.

Li et al. 2020, Federated Optimization in Heterogeneous Networks, arXiv 1812.06127, section 5.1 and appendix C.1, after
Shamir et al. 2014. Where the paper leaves something open, this follows the authors' code (litian96/FedProx):

- alpha and beta are standard deviations; the paper's N(0, alpha) could also mean variances.
- u_k is one number for all classes. So it adds the same to all logits of an example, and alpha changes no label:
  Synthetic(0, 1) and Synthetic(1, 1) are alike. Devices differ because each draws a model of its own, and by beta.
- A device has 50 examples and a number drawn from a lognormal distribution, exp(N(4, 2^2)), rounded down. Here it has
  at most MOST_EXAMPLES: of ten thousand devices one would have more.
- The last tenth of a device's examples, which are in no order, is its part of the test set.

Device k is the same whatever the number of devices is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data.dataset import Dataset, Split
from fl.rng import seeded

DIMENSIONS, CLASSES = 60, 10
MOST_EXAMPLES = 100_000  # of a device
TRAINED_ON = 0.9  # share of a device's examples


def synthetic(data_dir: Path, num_clients: int, alpha: float, beta: float, seed: int) -> Dataset:
    """Devices k with y = argmax softmax(W_k x + b_k) for float32 inputs x (60,), and ten classes.

    The entries of W_k and b_k are drawn from N(u_k, 1), where u_k ~ N(0, alpha^2). The inputs are drawn from
    N(v_k, Sigma), where Sigma is diagonal with entries j^-1.2, the entries of v_k are drawn from N(B_k, 1), and
    B_k ~ N(0, beta^2).
    """

    def device(k: int) -> tuple[Tensor, Tensor]:
        with seeded(seed, "synthetic", k):
            u, B, size = normal(3).mul(torch.tensor([alpha, beta, 1.0], dtype=torch.float64))
            W, b = u + normal(DIMENSIONS, CLASSES), u + normal(CLASSES)
            return labelled(B + normal(DIMENSIONS), W, b, float(size))

    return collected("synthetic", [device(k) for k in range(num_clients)])


def synthetic_iid(data_dir: Path, num_clients: int, seed: int) -> Dataset:
    """The same, with one W and b for all devices, and inputs around zero: the paper's IID variant."""
    with seeded(seed, "synthetic_iid"):
        W, b = normal(DIMENSIONS, CLASSES), normal(CLASSES)

    def device(k: int) -> tuple[Tensor, Tensor]:
        with seeded(seed, "synthetic_iid", k):
            return labelled(torch.zeros(DIMENSIONS), W, b, float(normal(1)))

    return collected("synthetic_iid", [device(k) for k in range(num_clients)])


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def labelled(mean: Tensor, W: Tensor, b: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Inputs (n_k, 60) around `mean` and their labels (n_k,), where n_k follows from the normal draw `size`."""
    n_k = min(50 + int(torch.tensor(4 + 2 * size).exp()), MOST_EXAMPLES)
    deviation = torch.arange(1, DIMENSIONS + 1, dtype=torch.float64) ** -0.6
    x = mean + normal(n_k, DIMENSIONS) * deviation
    return x.float(), (x @ W + b).argmax(1)


def collected(name: str, devices: list[tuple[Tensor, Tensor]]) -> Dataset:
    """The data set of all devices: of each the first nine tenths to train on, and the others to test on."""
    cuts = [int(TRAINED_ON * len(y)) for _, y in devices]
    first = [(x[:cut], y[:cut]) for (x, y), cut in zip(devices, cuts, strict=True)]
    last = [(x[cut:], y[cut:]) for (x, y), cut in zip(devices, cuts, strict=True)]
    train, test = (Split(*map(torch.cat, zip(*parts, strict=True))) for parts in (first, last))
    clients = torch.arange(len(devices)).repeat_interleave(torch.tensor(cuts))
    return Dataset(name, train, test, CLASSES, source="draws from the seed", clients=clients)

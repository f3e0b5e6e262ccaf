"""A file such as users write, which tests copy out of here: twins of what the package has by name."""

import torch
from torch import nn

from data.dataset import Dataset, Split
from data.partition import Partition
from fl.aggregates.mean import Mean
from fl.algorithms.algorithm import Algorithm
from fl.rng import seeded
from fl.state import Correction, Told
from fl.transforms.transform import Transform


class Net(nn.Sequential):
    """2nn."""

    def __init__(self, shape, classes):
        super().__init__(
            nn.Flatten(),
            nn.Linear(shape[0] * shape[1] * shape[2], 200),
            nn.ReLU(),
            nn.Linear(200, 200),
            nn.ReLU(),
            nn.Linear(200, classes),
        )


def net(shape, classes):
    return nn.Sequential(*Net(shape, classes))


def patterns(data_dir):
    """tiny."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randint(0, 200, (3, 1, 8, 8), generator=generator)

    def split(n):
        labels = torch.randint(0, 3, (n,), generator=generator)
        noise = torch.randint(0, 56, (n, 1, 8, 8), generator=generator)
        return Split((base[labels] + noise).to(torch.uint8), labels)

    return Dataset("patterns", split(61), split(20), 3, mean=0.5, std=0.25, source="made up")


def dealt(labels, num_clients, seed, shards_per_client):
    """shards."""
    pieces, n = num_clients * shards_per_client, len(labels)
    with seeded(seed, "partition"):
        order = torch.randperm(pieces)
    owner_of_piece = torch.empty(pieces, dtype=torch.int64)
    owner_of_piece[order] = torch.arange(pieces) * num_clients // pieces
    owners = torch.empty_like(labels)
    owners[labels.argsort(stable=True)] = owner_of_piece[torch.arange(n) * pieces // n]
    return Partition.from_owners(owners, num_clients)


def tell(now, clients):
    centre = {name: w.unsqueeze(0) for name, w in now.parameters.items()}
    return Told(Correction(pull=now.config.proximal_mu, centre=centre))


prox = Algorithm(tell=tell)  # fedprox


def server(now, got):
    beta, v = now.config.server_momentum, now.kept.server.get("velocity")
    new, after = dict(got.mean), {}
    for name, w in now.parameters.items():
        target = got.mean[name] + beta * (v[name] if v else torch.zeros_like(w))
        after[name] = target - w
        new[name] = torch.lerp(w, target, now.config.server_lr)
    return new, got.kept.with_server(velocity=after)


heavy_ball = Algorithm(server=server)  # fedavgm


@torch.inference_mode()
def halve(now, update):
    for name, base in now.w.items():
        for i in range(len(update.reports)):
            update.w[name][i] = base + 0.5 * (update.w[name][i] - base)
    return update


half = Transform(client=halve)


def by_flags(config):
    return Transform(client=halve) if config.attack_scale == 0.5 else Transform()


def middle(models, weights, config):
    """median."""
    ordered, m = models.sort(0).values, len(models)
    return (ordered[(m - 1) // 2] + ordered[m // 2]) / 2


class Plain(Mean):
    """mean."""

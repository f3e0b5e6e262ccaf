"""From flags to all parts of a run, put together: this is where both scripts, workers and benchmarks start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from data.dataset import Dataset
from data.drift import Held
from data.held_out import hold_out
from data.heterogeneity import heterogeneity
from data.niid_bench import noisy
from data.partition import Partition
from fl.accountant import check_buffers, clients_called
from fl.aggregates.secure.allowed import check_no_buffers
from fl.aggregates.secure.wire import bytes_of_one
from fl.aggregates.total import Aggregate
from fl.algorithms.algorithm import Algorithm
from fl.check import with_clients
from fl.client import load_state, state_of, tensors_of
from fl.cohort import NOBODY, Cohort, check_cohorts, cohort
from fl.config import DEFAULTS, Config
from fl.device import choose_device, keep_freed_memory, make_deterministic
from fl.devices import has_clock
from fl.errors import FlagError
from fl.evaluate import evaluate
from fl.group import Group
from fl.load import load_data
from fl.names import named
from fl.parts import aggregate_of, algorithm_of, build_model, split, transforms_of
from fl.proxy import set_aside
from fl.state import Kept, RoundStart, State
from fl.transforms.attack import poisoned
from fl.transforms.personal import personal_names, starting_with_own, withhold, withhold_again
from fl.transforms.transform import Transform


@dataclass(frozen=True)
class Experiment:
    """data: what the clients train on, with noise and attackers' labels; clean: without them. Both on `device`.

    model: the one resident network, holding w_0 at first. partition: who owns which training example; centralised
    training is that of one client with all of them. proxy: what the server has for itself.
    noise_key, mask_key: what the noise of the run and the clients' secrets are drawn from (fl/state.py).
    held_out: training examples that each client is tested on and never trained on. first: w_0, from which --local_only
    trains each client after the rounds; None without it. personal: names of the tensors that each client keeps.
    """

    config: Config
    clean: Dataset
    data: Dataset
    model: nn.Module
    device: torch.device
    partition: Partition
    proxy: Dataset | None = None
    noise_key: bytes = b""
    mask_key: bytes = b""
    held_out: Partition | None = None
    first: State | None = None
    personal: Sequence[str] = ()

    @property
    def w(self) -> State:
        """A copy of the model's current state."""
        return state_of(self.model)

    @cached_property
    def trained(self) -> list[str]:
        """The parameters' names."""
        return [name for name, _ in self.model.named_parameters()]

    @cached_property
    def frozen(self) -> list[str]:
        """The names of the parameters that are not trained, because requires_grad is False."""
        return [name for name, p in self.model.named_parameters() if not p.requires_grad]

    @cached_property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def model_bytes(self) -> int:
        """What one transfer of the model costs: parameters and buffers."""
        return sum(tensor.nbytes for tensor in tensors_of(self.model).values())

    @cached_property
    def algorithm(self) -> Algorithm:
        algorithm = algorithm_of(self.config)
        return starting_with_own(self.personal, algorithm) if self.personal else algorithm

    @cached_property
    def aggregate(self) -> Callable[[RoundStart], Aggregate]:
        return aggregate_of(self.config)

    @cached_property
    def transforms(self) -> Sequence[Transform]:
        others = transforms_of(self.config)
        if not self.personal:
            return others
        # The first transform hides the personal layers from all others. The last one resets them to w_t once more,
        # because an attack or noise may have changed them.
        return [withhold(self.personal), *others, withhold_again(self.personal)]

    @cached_property
    def partition_at(self) -> Held:
        """A function from t to what clients hold in round t: `partition` itself, or part of it with --data_drift."""
        c = self.config
        drift: Callable[..., Held] = named("data_drift", c.data_drift)
        return drift(self.partition, self.clean.labels, c.seed, c.drift_share, c.drift_rounds)

    @cached_property
    def n(self) -> int:
        """Training examples of all clients together."""
        return int(self.partition.sizes.sum())

    @property
    def label_counts(self) -> Tensor:
        """(K, classes): how many examples of each label each client owns, before anyone attacks."""
        return self.partition.label_counts(self.clean.labels, self.clean.classes)

    def label_counts_at(self, rounds: Iterable[int]) -> dict[int, Tensor]:
        """The same of what each client holds in these rounds."""
        return {t: self.partition_at(t).label_counts(self.clean.labels, self.clean.classes) for t in rounds}

    @cached_property
    def heterogeneity(self) -> dict[str, Any]:
        """How much the clients differ, in a few numbers."""
        return heterogeneity(self.label_counts)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the run trains on, as hashes."""
        return {"data_sha256": self.clean.sha256(), "partition_sha256": self.partition.sha256()}

    @cached_property
    def transfer_bytes(self) -> tuple[int, int]:
        """What each client of a round gets, and sends."""
        sent = {name: tensor for name, tensor in self.w.items() if name not in self.personal}
        whole = model = sum(tensor.nbytes for tensor in sent.values())
        down, up = (vectors * whole for vectors in self.algorithm.transfers)
        if self.config.secure_aggregation:
            more_down, up = bytes_of_one(clients_called(self.config), self.parameters)
            return down + more_down, up
        for transform in self.transforms:
            if transform.bytes:
                model = transform.bytes(sent)
        return down, up - whole + model if up else 0

    @cached_property
    def clocks(self) -> list[float]:
        """Simulated seconds at which the rounds 0, 1, ... were over, as far as they are known."""
        return [0.0]

    def cohort(self, t: int) -> Cohort:
        """Who is called in round t, and who reports.

        With simulated time the cohorts of all earlier rounds are computed first, because they say when round t begins.
        """

        def at(t: int, clock: float) -> Cohort:
            return cohort(self.config, self.partition_at(t), t, clock, self.transfer_bytes)

        if has_clock(self.config):
            for earlier in range(len(self.clocks), t):
                self.clocks.append(self.clocks[-1] + (at(earlier, self.clocks[-1]).seconds or 0.0))
        return at(t, self.clocks[t - 1] if has_clock(self.config) else 0.0)

    def evaluate(self, w: State, group: Group) -> tuple[float, float]:
        """Accuracy in [0, 1] and loss in nats of the model w on the whole test set."""
        load_state(self.model, w)
        return evaluate(self.model, self.data, group)

    def round_start(self, t: int, w: State, kept: Kept, S_t: Cohort = NOBODY) -> RoundStart:
        held = self.partition_at(t)
        sizes = dict(zip(S_t.reporting, held.sizes_of(S_t.reporting), strict=True))
        now = RoundStart(self.config, t, w, kept, self.trained, len(held.indices), sizes, cohort=S_t)
        changed = None if held is self.partition else held
        return replace(now, noise_key=self.noise_key, mask_key=self.mask_key, partition=changed, frozen=self.frozen)


def federated(config: Config, device: torch.device | None = None) -> Experiment:
    """The experiment of run_federated.py, on `device` or that of --device.

    Raises FlagError (exit 2) and DataError (exit 3).
    """
    data, model, device = prepare(config, device)
    proxy = None
    if config.proxy_fraction:
        data, proxy = set_aside(data, config.proxy_fraction, config.seed)
    partition = split(config, data)
    config = with_clients(config, len(partition))
    harmed, held_out = noisy(data, partition, config.feature_noise, config.seed), None
    if config.client_test_fraction:
        partition, held_out = hold_out(partition, config.client_test_fraction, config.seed)
    x = Experiment(
        config, data, poisoned(harmed, partition, config), model, device, partition, proxy,
        held_out=held_out,
        first=state_of(model) if config.local_only else None,
        personal=personal_names(model, config.personal_layers),
    )  # fmt: skip
    buffers = x.w.keys() - set(x.trained)
    check_buffers(config, buffers)
    check_no_buffers(config, buffers)
    check_no_statistics(config, [name for name in buffers if x.w[name].is_floating_point()])
    if has_clock(config):
        check_cohorts(config, x.partition_at(1), x.transfer_bytes)
    _ = x.algorithm, x.aggregate, x.transforms  # if one of the user's own fails, it does so before a run begins
    return x


def check_no_statistics(config: Config, names: Sequence[str]) -> None:
    """Raise FlagError if running statistics would be compressed: a variance might come out negative."""
    if config.compress != DEFAULTS["compress"] and names:
        raise FlagError(
            f"--compress {config.compress}: would change buffers of --model {config.model}, such as {min(names)}; "
            "choose a model with GroupNorm in place of BatchNorm, and register constants with persistent=False"
        )


def centralised(config: Config) -> Experiment:
    """The experiment of run_baseline.py: one client with all the data. Raises as `federated` does."""
    data, model, device = prepare(config)
    partition = Partition.from_owners(torch.zeros(len(data.train), dtype=torch.int64), 1)
    return Experiment(config, data, data, model, device, partition)


def prepare(
    config: Config, device: torch.device | None = None, load: Callable[[Config], Dataset] = load_data
) -> tuple[Dataset, nn.Module, torch.device]:
    """The data set and the model with its first weights, on the device."""
    device = device or choose_device(config.device)
    make_deterministic(config.precision, device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # CUDA graphs are recorded on a stream of the current device
    keep_freed_memory()
    data = load(config)
    return data.to(device), build_model(config, data).to(device), device

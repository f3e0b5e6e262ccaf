"""The reference engine: one client after another, on one model that stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from data.dataset import Dataset
from data.partition import Partition
from fl.client import gradient_sums, load_state, make_optimizer, minibatches, offload, one_pass, state_of, train
from fl.config import Config
from fl.rng import seed_training
from fl.state import Report, RoundStart, State, Tell, Told, Update, tell_nothing


class Sequential:
    """config: flags E, B, optimizer and the rest of the local training. tick: called with 1 after every step."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        partition: Partition,
        config: Config,
        tick: Callable[[int], None] = lambda steps: None,
    ):
        self.model, self.data, self.partition, self.config, self.tick = model, data, partition, config, tick
        self.device = data.train.targets.device

    def train(self, clients: Sequence[int], now: RoundStart, tell: Tell = tell_nothing) -> Iterator[Update]:
        """Algorithm 1: w_{t+1}^k <- ClientUpdate(k, w_t), for k in S_t."""
        for k in clients:
            yield self.client_update(k, now, tell([k]))

    def gradients(self, clients: Sequence[int], now: RoundStart) -> Iterator[tuple[int, State]]:
        yield from gradient_sums(self.model, self.data, now.partition or self.partition, clients, now.w)

    def client_update(self, k: int, now: RoundStart, told: Told) -> Update:
        c, t = self.config, now.t
        indices = (now.partition or self.partition)[k].to(self.device)
        first = (t - 1) * c.local_epoch
        passes = (one_pass(self.data, c.seed, k, e, len(indices)) for e in range(first, first + now.epochs_of(k)))
        batches = minibatches(indices, passes, c.batch_size)

        own_start = {name: stack[0] for name, stack in (told.start or {}).items()}
        load_state(self.model, now.w | own_start)
        # A fresh optimizer: Adam's moments of another client, or of an old model, are not this client's.
        optimizer = make_optimizer(self.model.parameters(), c, c.lr(t))
        if kept := now.kept.of(k, "optimizer"):
            optimizer.load_state_dict(offload(kept))  # a copy, because the optimizer's steps change it in place
            optimizer.param_groups[0]["lr"] = c.lr(t)  # the schedule's rate, not the saved one
        # For models that draw while they train, such as dropout; nothing else uses torch's own generator.
        seed_training(self.device, c.seed, t, k)
        loss, examples, steps = train(self.model, optimizer, self.data, batches, self.tick, told.correction)
        w_k = {name: tensor.unsqueeze(0) for name, tensor in state_of(self.model).items()}
        news = {k: {"optimizer": offload(optimizer.state_dict())}} if c.keep_optimizer_state else {}
        return Update([Report(k, len(indices), loss, examples, steps)], w_k, news)

"""After the rounds: does federation help each client? The model of all, each client's tuned one, and its own alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fl.client import load_state
from fl.client_eval import Models, accuracies_of, client_accuracies, spread, tested_clients
from fl.cohort import Cohort
from fl.config import DEFAULTS, Config
from fl.engines.engine import Engine
from fl.experiment import Experiment
from fl.flags.personal import has_client_tests
from fl.group import Group
from fl.proxy import pretrained
from fl.recorded import Round, everywhere, federated_rounds
from fl.state import Kept, RoundStart, State, Tell, Told, Update, tell_nothing
from fl.transforms.personal import layers_of


@dataclass(frozen=True)
class Outcome:
    """Accuracies in [0, 1] by name, each (c,), of the c clients that have test examples.

    before: of the final model; with --personal_layers each client has its own layers in it. after: of this model after
    the client has tuned it on its own data. local_only: of the model that the client has trained alone, from w_0 on.
    """

    clients: list[int]
    accuracies: dict[str, Tensor]

    def summary(self, config: Config) -> dict[str, Any]:
        """The keys of summary.json that it adds."""
        spreads = {name: spread(values) for name, values in self.accuracies.items()}
        added: dict[str, Any] = {"client_accuracy": spreads["before"]} if config.client_eval_every else {}
        return added | ({"personalised": spreads} if len(spreads) > 1 else {})

    def as_json(self) -> bytes:
        columns = {name: values.tolist() for name, values in self.accuracies.items()}
        return (json.dumps({"clients": self.clients} | columns) + "\n").encode()


def take_part(x: Experiment, engine: Engine, group: Group) -> None:
    """What every rank but the first does: the same rounds on its share of the clients, and no records."""
    for _ in federated_rounds(x, engine, group):
        pass
    final_tests(x, engine, group)


def final_tests(x: Experiment, engine: Engine, group: Group, end: Round | None = None) -> Outcome | None:
    """How the clients do once the rounds are over, at every rank; None if no flag asks for it.

    end: rank 0's last round; it may have been trained before the run was resumed. The tests depend only on this round
    and the flags, and do not change it. So if the run is killed here, a resumed run repeats them with the same result.
    """
    c = x.config
    if not has_client_tests(c):
        return None
    group.end_rounds()
    t, w, kept, _ = everywhere(x, group, end)
    clients = tested_clients(x)
    accuracies = {"before": client_accuracies(x, w, kept, group)}

    def trained(now: RoundStart, tell: Tell) -> Tensor:
        return accuracies_of(x, one_by_one(engine.train(group.share(now.sizes), now, tell)), group)

    if c.personalise_epochs:
        # The round after the last, so that its batches are drawn from streams that no round has drawn from. Optimizers
        # begin afresh, because Kept() has no states of theirs.
        now = of_all(x, t + 1, w, c.personalise_epochs, clients)
        with_layers = x.round_start(t, w, kept)
        tell = (lambda S: Told(start=layers_of(with_layers, S, x.personal))) if x.personal else tell_nothing
        accuracies["after"] = trained(now, tell)
    if c.local_only:
        # All that a client owns: with --data_drift round 1 has a part of it, and the rounds together have all.
        still = replace(x, config=replace(c, data_drift=DEFAULTS["data_drift"]))
        now = of_all(still, 1, first_model(x), local_epochs(c, t), clients)
        accuracies["local_only"] = trained(now, tell_nothing)
    return Outcome(clients, accuracies)


def of_all(x: Experiment, t: int, w: State, epochs: int, clients: Sequence[int]) -> RoundStart:
    """Round t with all of `clients` at once, in which each makes `epochs` passes and begins with the model w."""
    return x.round_start(t, w, Kept(), Cohort(clients, clients, epochs=dict.fromkeys(clients, epochs)))


def local_epochs(config: Config, rounds: int) -> int:
    """Passes that a client makes in the federation on average, T E m / K, rounded; at least one."""
    return max(round(rounds * config.local_epoch * config.num_select_clients / config.num_clients), 1)


def first_model(x: Experiment) -> State:
    """w_0, with what the server has taught it before the first round."""
    assert x.first, "needs --local_only"
    load_state(x.model, x.first)
    return pretrained(x.model, x.proxy, x.config) if x.proxy else x.first


def one_by_one(updates: Iterator[Update]) -> Models:
    """The clients of the updates, each with its own model."""
    for update in updates:
        for i, report in enumerate(update.reports):
            yield report.client, {name: tensor[i] for name, tensor in update.w.items()}

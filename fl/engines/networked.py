"""The engine of a real network: clients are other machines, which are asked, and may not answer.

How messages travel is the channel's affair (deploy/flower.py, or the calls of a test). What a client does with one is
the sequential engine's ClientUpdate (deploy/node.py), and so the same seed gives the same bits as a simulation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fl.client import steps_of
from fl.config import Config
from fl.errors import FlagError, WorkerError
from fl.experiment import Experiment
from fl.flags.privacy import is_noisy
from fl.parts import transforms_of
from fl.records.reading import NUMBER
from fl.returned import is_like
from fl.state import Kept, Report, RoundStart, State, Tell, Told, Update, tell_nothing

MALFORMED, WRONG_COUNT = "malformed answer", "claims {} examples and has {}"


class Asked(NamedTuple):
    """What came of a question to several clients.

    answers: by client. lost: why there is none, by client. down, up: bytes of the questions and of the answers.
    """

    answers: dict[int, Any]
    lost: dict[int, str]
    down: int
    up: int


class Channel(Protocol):
    def ask(self, what: str, contents: Mapping[int, Any]) -> Asked:
        """Send each client its content, and wait for the answers until all are there or time is up.

        Contents are nested dicts and lists of tensors, numbers and words. A client answers once or is lost.
        """
        ...


class Networked:
    """An Engine whose clients are on the network. also: content that is added to every question.

    outcome: keys for the record of the last round, such as bytes that were sent and clients that did not answer.
    """

    def __init__(self, x: Experiment, channel: Channel, also: Mapping[str, Any]):
        self.config, self.device = x.config, x.device
        self.partition, self.channel, self.also = x.partition, channel, dict(also)
        self.outcome: dict[str, Any] = {}
        check_forgetful(x)
        # Of what the server keeps, clients get what belongs to transforms, because these act on the clients, too.
        self.told = sorted({name for transform in x.transforms for name in transform.keeps(x.w).server})

    def train(self, clients: Sequence[int], now: RoundStart, tell: Tell = tell_nothing) -> Iterator[Update]:
        """The models of those who answer, if they are enough; a round with too few is abandoned, and yields none."""
        asked = self.ask("train", {k: task(now, k, self.told) | spoken(tell([k])) for k in clients})
        updates: dict[int, Update] = {}
        for k, answer in asked.answers.items():
            made = checked(answer, k, now)
            if isinstance(made, Update):
                updates[k] = made
            else:
                asked.lost[k] = made
        self.note(asked, min(self.config.min_reports, len(clients)) if clients else 0, updates)
        if "abandoned" in self.outcome:
            return
        for _, update in sorted(updates.items()):
            yield update._replace(w={name: tensor.to(self.device) for name, tensor in update.w.items()})

    def gradients(self, clients: Sequence[int], now: RoundStart) -> Iterator[tuple[int, State]]:
        asked = self.ask("gradient", {k: task(now, k, self.told) for k in clients})
        for k, answer in sorted(asked.answers.items()):
            found: Any = answer.get("gradient") if isinstance(answer, dict) else None
            if is_like(found, now.parameters) and all(tensor.isfinite().all() for tensor in found.values()):
                yield k, {name: tensor.to(self.device) for name, tensor in found.items()}

    def evaluate(self, w: State) -> tuple[float, float]:
        """Accuracy and loss over the test examples of all clients that answer. Raises WorkerError if none does."""
        everyone = range(len(self.partition))
        asked = self.ask("evaluate", {k: {"flags": flags_of(self.config), "k": k, "w": w} for k in everyone})
        sums = [found for _, found in sorted(asked.answers.items()) if is_score(found)]
        if not sums:
            why = "; ".join(sorted(set(asked.lost.values()))) or MALFORMED
            raise WorkerError(f"no client has evaluated the model ({why})")
        n = sum(found["counted"] for found in sums)
        accuracy, loss = (sum(found[name] * found["counted"] for found in sums) / n for name in ("accuracy", "loss"))
        return accuracy, loss

    def ask(self, what: str, contents: Mapping[int, Any]) -> Asked:
        return self.channel.ask(what, {k: {**content, **self.also} for k, content in contents.items()})

    def note(self, asked: Asked, fewest: int, updates: Mapping[int, Update]) -> None:
        self.outcome = {"downlink_bytes": asked.down, "uplink_bytes": asked.up}
        if asked.lost:
            self.outcome |= {"called": sorted({*asked.lost, *updates}), "dropped": sorted(asked.lost)}
            self.outcome["lost"] = {k: asked.lost[k] for k in sorted(asked.lost)}
        too_few = len(updates) < max(fewest, 1)
        if too_few and not is_noisy(self.config):  # with noise the server takes a step all the same
            self.outcome["abandoned"] = True


def check_forgetful(x: Experiment) -> None:
    """Raise FlagError for a transform that keeps something of a client, because a client on a network keeps nothing.

    Looked for with an update of a client whose model is w_0, because a transform need not say what it keeps.
    """
    now = x.round_start(1, x.w, Kept())
    update = Update([Report(0, 1, 0.0, 1, 1)], {name: tensor.unsqueeze(0).clone() for name, tensor in x.w.items()})
    for transform in transforms_of(x.config):  # with what clients do, which the server's own leave out
        update = transform.client(now, update)
        if update.kept or transform.keeps(x.w).clients:
            said = " ".join(x.config.transform)
            raise FlagError(f"--transform {said}: keeps something of a client, but on a network clients keep nothing")


def flags_of(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def task(now: RoundStart, k: int, told: Sequence[str]) -> dict[str, Any]:
    """What client k must know of the round, beside what the algorithm tells it.

    told: names in what the server keeps.
    """
    return {
        "flags": flags_of(now.config), "t": now.t, "k": k, "n": now.n, "n_k": now.sizes[k], "w": now.w,
        "kept": {name: now.kept.server[name] for name in told if name in now.kept.server},
    }  # fmt: skip


def spoken(told: Told) -> dict[str, Any]:
    """What the algorithm tells, in plain tensors and numbers."""
    correction = {field.name: getattr(told.correction, field.name) for field in dataclasses.fields(told.correction)}
    return {"correction": correction, "start": told.start}


def checked(answer: Any, k: int, now: RoundStart) -> Update | str:
    """The update in client k's answer, or what is wrong with it. Whether it is finite is seen when it is added up."""
    if not isinstance(answer, dict) or not is_like(answer.get("w"), now.w):
        return MALFORMED
    numbers: list[Any] = [answer.get(name) for name in ("n_k", "examples", "steps", "loss", "clipped")]
    if not all(type(number) is kind for number, kind in zip(numbers, (int, int, int, float, float), strict=True)):
        return MALFORMED
    n_k, examples, steps, loss, clipped = numbers
    if n_k != now.sizes[k]:
        return WRONG_COUNT.format(n_k, now.sizes[k])
    E, absurd = now.epochs_of(k), math.isfinite(loss) and not NUMBER.holds(loss)  # no record can hold it
    if examples != E * n_k or steps != steps_of(now.config, n_k, E) or absurd:
        return MALFORMED
    report = Report(k, n_k, loss, examples, steps, float(bool(clipped)))
    return Update([report], {name: tensor.unsqueeze(0) for name, tensor in answer["w"].items()})


def is_score(answer: Any) -> bool:
    """Whether that is a client's accuracy and loss over some test targets."""
    if not isinstance(answer, dict) or type(answer.get("counted")) is not int or answer["counted"] < 1:
        return False
    accuracy, loss = answer.get("accuracy"), answer.get("loss")
    return type(accuracy) is float and 0 <= accuracy <= 1 and type(loss) is float and math.isfinite(loss)

"""Figure 1 of McMahan et al. 2017 (arXiv 1602.05629), section 2: what becomes of two models that are averaged.

Two clients with 600 digits each train the 2NN apart, 20 passes in minibatches of 50, so 240 updates. Then the models
theta w + (1 - theta) w' are tested on the whole training set: once for clients that began with different random
weights, and once for clients that began with the same ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from fl.client import state_of
from fl.command_line import parse
from fl.comparing.tables import aligned, spread
from fl.config import Config
from fl.engines import make_engine
from fl.errors import RunFolderError
from fl.experiment import Experiment, federated
from fl.group import Group
from fl.parts import build_model
from fl.pictures.style import COLOURS, DASHES, Figure, as_shipped, encoded
from fl.recorded import diverged
from fl.records.files import write_atomic
from fl.records.reading import NUMBER
from fl.records.strict_json import loads, read_regular
from fl.rng import derive
from fl.state import Kept, State, Told, floating

FLAGS = [
    "--model", "2nn", "--num_clients", "100", "--num_select_clients", "2", "--partition", "iid",
    "--local_epoch", "20", "--batch_size", "50", "--optimizer", "sgd", "--init_lr", "0.1",
]  # fmt: skip
STARTS = ("different", "shared")
THETAS = [-0.2 + 1.4 * i / 49 for i in range(50)]  # 1/2 is not among them


class Mixed(NamedTuple):
    """Losses in nats on the whole training set: of both parents, of their average, and of the mixture at each theta."""

    start: str
    seed: int
    parents: tuple[float, float]
    average: float
    losses: list[float]

    @property
    def gain(self) -> float:
        """By how much the average is better than the better parent, in nats; negative if it is worse."""
        return min(self.parents) - self.average


def mixture(theta: float, w: State, other: State) -> State:
    """theta w + (1 - theta) other; of integers, such as BatchNorm's counter, those of `other`."""
    return other | {name: theta * tensor + (1 - theta) * other[name] for name, tensor in floating(w).items()}


def trained_apart(x: Experiment, starts: Sequence[State]) -> list[State]:
    """The models of the clients 0 and 1 after a round of which each begins with its own of the two `starts`."""

    def tell(clients: Sequence[int]) -> Told:
        own = [starts[k] for k in clients]
        return Told(start={name: torch.stack([state[name] for state in own]) for name in starts[0]})

    engine = make_engine("sequential", x)
    updates = engine.train(range(2), x.round_start(1, starts[0], Kept()), tell)
    return [{name: tensor[0].clone() for name, tensor in update.w.items()} for update in updates]


def mixed(x: Experiment, start: str, w_0: State) -> Mixed:
    """Train both clients, of which the first begins with w_0, and test what lies between. Raises DivergedError."""
    second = w_0
    if start == "different":
        elsewhere = replace(x.config, seed=derive(x.config.seed, "figure1"))
        second = state_of(build_model(elsewhere, x.data).to(x.device))
    w, other = trained_apart(x, [w_0, second])
    whole = replace(x, data=replace(x.data, test=x.data.train))

    def loss(theta: float) -> float:
        return whole.evaluate(mixture(theta, w, other), Group())[1]

    found = Mixed(start, x.config.seed, (loss(1), loss(0)), loss(0.5), [loss(theta) for theta in THETAS])
    if not all(math.isfinite(one) for one in (*found.parents, found.average)):
        raise diverged(1, x.config)
    return found


def reproduce(seeds: int, flags: Sequence[str], place: Path, look: Callable[[], None]) -> bool:
    """Measure, print, and write figure1.json and figure1.png into `place`; whether the paper's claim holds.

    Seeds that an earlier call has measured with these flags count, too, also beyond `seeds`. flags: of
    run_federated.py, which say where it runs. look: called before each further seed; what it raises ends it. Raises
    FlagError, DataError, DivergedError, RunFolderError and OSError.
    """
    config = parse([*FLAGS, *flags], "federated", "")
    print("figure1: the loss of two models and of their average, on the whole training set", flush=True)
    path = place / "figure1.json"
    found = measured(path, config)
    for seed in range(seeds):
        if not any(one.seed == seed for one in found):
            look()
            x = federated(replace(config, seed=seed))
            w_0 = x.w
            found += [mixed(x, start, w_0) for start in STARTS]
            write(path, config, found)
    print(on_screen(found))
    for start in STARTS:
        gain = [one.gain for one in found if one.start == start]
        print(f"{start} start: the average is {words(gain)} (n={len(gain)})")
    holds = claim_holds(found)
    print(f"claim: with a shared start the average is better than both, with different ones worse: {verdict(holds)}")
    draw(place / "figure1.png", found)
    print(f"figure1.json and figure1.png in {place}")
    return holds


def write(path: Path, config: Config, found: Sequence[Mixed]) -> None:
    """Write what was measured, as JSON. Raises OSError."""
    told = {
        "flags": asdict(config), "seeds": len(found) // len(STARTS), "theta": THETAS,
        "mixed": [one._asdict() for one in found], "verdict": verdict(claim_holds(found)),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(told, indent=2) + "\n").encode())


def measured(path: Path, config: Config) -> list[Mixed]:
    """What an earlier call has measured, seed by seed; nothing if it was with other flags.

    Raises RunFolderError for a file that is damaged.
    """
    if not path.exists():
        return []
    try:
        told = loads(read_regular(path))
        if told["flags"] != json.loads(json.dumps(asdict(config))) or told["theta"] != THETAS:
            return []
        found = [Mixed(**one)._replace(parents=tuple(one["parents"])) for one in told["mixed"]]
        numbers = [number for one in found for number in (one.seed, *one.parents, one.average, *one.losses)]
        shapes = [(one.start in STARTS, len(one.parents), len(one.losses)) for one in found]
        if not all(map(NUMBER.holds, numbers)) or set(shapes) - {(True, 2, len(THETAS))}:
            raise ValueError("not what this figure has")
        if [one.start for one in found] != [*STARTS] * (len(found) // 2) or not found:
            raise ValueError("not both starts of every seed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); delete it and run the cell again") from None
    return found


def claim_holds(found: Sequence[Mixed]) -> bool:
    """Whether each average is better than both parents if their start was shared, and worse than both if it was not."""
    return all(
        one.average < min(one.parents) if one.start == "shared" else one.average > max(one.parents) for one in found
    )


def holds_so_far(place: Path, flags: Sequence[str]) -> bool:
    """Whether the claim holds for all seeds that were measured with these flags, if any."""
    return claim_holds(measured(place / "figure1.json", parse([*FLAGS, *flags], "federated", "")))


def verdict(holds: bool) -> str:
    return "within" if holds else "out"


def words(gains: Sequence[float]) -> str:
    """ "better than the better model by 0.090 ± 0.011 nats", or "worse than" it if the mean gain is not above 0."""
    is_better = fmean(gains) > 0
    sizes: list[float | None] = [gain if is_better else -gain for gain in gains]
    return f"{'better' if is_better else 'worse'} than the better model by {spread(sizes, '.3f')} nats"


def on_screen(found: Sequence[Mixed]) -> str:
    """A row for each start and seed."""
    heading = ["start", "seed", "loss of w", "loss of w'", "average", "lowest", "at theta"]
    rows = [heading]
    for one in found:
        low = min(one.losses)
        numbers = [*one.parents, one.average, low]
        at = THETAS[one.losses.index(low)]
        rows.append([one.start, str(one.seed), *(f"{number:.3f}" for number in numbers), f"{at:.2f}"])
    return aligned(rows)


@as_shipped
def draw(path: Path, found: Sequence[Mixed]) -> None:
    """A panel for each start: a line for each seed, and the loss of its better parent dashed in the same colour."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(STARTS))
    for axes, start in zip(panels, STARTS, strict=True):
        for number, one in enumerate(one for one in found if one.start == start):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(THETAS, one.losses, color=colour, label=f"seed {one.seed}")
            axes.axhline(min(one.parents), color=colour, linestyle=DASHES[1], linewidth=1)
        for theta in (0, 1):
            axes.axvline(theta, color="0.6", linewidth=0.8, zorder=1)
        axes.set_title("different random weights at first" if start == "different" else "the same weights at first")
        axes.set_xlabel("θ of θ w + (1 − θ) w′")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss on the training set (nats)")
    panels[1].legend(frameon=False, loc="upper center", title="dashed: the better of w and w′")
    write_atomic(path, encoded(figure, path))

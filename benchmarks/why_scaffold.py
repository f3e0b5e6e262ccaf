"""Why does SCAFFOLD end at 10 % on Fashion-MNIST with two labels a client, and what pushes it there?

    python3 -m benchmarks.why_scaffold                          # the rate 0.1, one pass a round
    python3 -m benchmarks.why_scaffold --rate 0.01              # a rate that does not diverge
    python3 -m benchmarks.why_scaffold --algorithm fedavg       # the same without control variates
    python3 -m benchmarks.why_scaffold --forget 9@8             # after round 8 the control variate of client 9 is 0

The cell fashion_mnist/labels_2 of NIID-Bench (`reproduce.py niid_bench`) with LeNet and 10 clients. One line per round:

  - the accuracy and the loss;
  - over the clients whose models stayed finite, the mean norm of the gradient of a client's own loss before training
    and after, and of c - c_k, which SCAFFOLD adds to the gradient in each of its steps;
  - the largest control variate c_k after the round, whose it is, and the c - c_k of this client;
  - the clients that were left out of the mean because their model was not finite;
  - of each ReLU, the share of its channels or units that are 0 for every test image.

One thread, and no run folder.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from data.dataset import Dataset
from fl.client import Batch, gradient_sum, load_state, train
from fl.command_line import parse
from fl.engines.sequential import Sequential
from fl.errors import FlagError
from fl.experiment import Experiment, federated
from fl.guard import guarded, leave
from fl.published import targets_of
from fl.recorded import Round, federated_rounds
from fl.state import NO_CORRECTION, Correction, Kept, State, zeros_as
from fl.words import Words

CELL = "fashion_mnist/labels_2/scaffold"
LINE = "{:>5} {:>9} {:>10} {:>9} {:>9} {:>9}  {:20} {:>9}  {:12} {}"
HEADING = LINE.format(
    "round", "accuracy", "loss", "before", "after", "c - c_k", "largest c_k", "its c-c_k", "left out", "dead"
)


class Push(NamedTuple):
    """What moved one client: norms of the gradient of its loss before and after its training, and of c - c_k."""

    before: float
    after: float
    drift: float


def setting() -> list[str]:
    """The flags of the cell but for the rate."""
    return targets_of("niid_bench")[CELL].flags


def parser_of(prog: str, description: str | None) -> Words:
    """The flags that the experiments on this cell share."""
    made = Words(prog=prog, description=description, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument("--rate", default="0.1", help="learning rate (default: %(default)s)")
    made.add_argument("--global_epoch", default="16", help="rounds (default: %(default)s)")
    return made


def experiment_of(words: Namespace, flags: Sequence[str]) -> Experiment:
    """The cell with the flags of `parser_of` and further ones, on one thread of the CPU."""
    torch.set_num_threads(1)
    asked = ["--init_lr", words.rate, "--global_epoch", words.global_epoch, "--device", "cpu", *flags]
    return federated(parse([*setting(), *asked], "federated", ""))


def norm(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def watched(pushes: list[Push]) -> Callable[..., tuple[Tensor, int, int]]:
    """fl.client.train, which also notes what pushed the client. Clients whose model is not finite are left out."""

    def training(
        model: nn.Module, optimizer: torch.optim.Optimizer, data: Dataset, batches: Iterable[Batch],
        tick: Callable[[int], None] = lambda steps: None, correction: Correction = NO_CORRECTION,
    ) -> tuple[Tensor, int, int]:  # fmt: skip
        kept = list(batches)
        own = torch.cat([batch.rows for batch in kept]).unique()

        def slope() -> float:
            return norm(gradient_sum(model, data, own).values()) / len(own)

        before = slope()
        done = train(model, optimizer, data, kept, tick, correction)
        push = Push(before, slope(), norm((correction.drift or {}).values()))
        if all(map(math.isfinite, push)):
            pushes.append(push)
        return done

    return training


def dead(x: Experiment, w: State) -> list[float]:
    """Of each ReLU, the share of its channels or units that are 0 for every test image."""
    alive: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        fired = (output > 0).transpose(0, 1).flatten(1).any(1)
        alive[module] = fired | alive.get(module, torch.zeros_like(fired))

    hooks = [module.register_forward_hook(look) for module in x.model.modules() if isinstance(module, nn.ReLU)]
    load_state(x.model, w)
    with torch.no_grad():
        for rows in torch.arange(len(x.data.test)).split(1000):
            x.model(x.data.batch(x.data.test, rows)[0])
    for hook in hooks:
        hook.remove()
    return [1 - fired.double().mean().item() for fired in alive.values()]


def variates(kept: Kept) -> dict[int, float]:
    """The norm of c_k, by client; none for a client that has not been part of a mean yet."""
    return {k: norm(own["c_k"].values()) for k, own in kept.clients.items() if "c_k" in own}


def push_on(kept: Kept, k: int) -> float:
    """The norm of c - c_k, which client k will add to its gradients in the next round."""
    c, c_k = kept.server["c"], kept.of(k, "c_k")
    return norm(c[name] - c_k[name] for name in c)


def without_variate(kept: Kept, k: int, share: float) -> Kept:
    """What is kept, with c_k set to 0 and taken out of c. share: the weight n_k / n of c_k in c."""
    c, c_k = kept.server["c"], kept.of(k, "c_k")
    forgotten = kept.with_clients({k: {"c_k": zeros_as(c_k)}})
    return forgotten.with_server(c={name: c[name] - share * c_k[name] for name in c})


def who_and_when(text: str, x: Experiment) -> tuple[int, int]:
    """K and T of --forget. Raises FlagError."""
    if x.config.algorithm != "scaffold":
        raise FlagError(f"--forget {text}: needs --algorithm scaffold")
    k, sign, t = text.partition("@")
    if sign and k.isdecimal() and t.isdecimal() and int(k) < len(x.partition) and 0 < int(t) < x.config.global_epoch:
        return int(k), int(t)
    raise FlagError(f"--forget {text}: expected CLIENT@ROUND, such as 9@8, before the last round")


def rounds_of(x: Experiment, forget: tuple[int, int] | None) -> Generator[Round]:
    """The recorded rounds; from the one after `forget` on without what SCAFFOLD keeps of that client."""
    engine, start = Sequential(x.model, x.data, x.partition, x.config), None
    if forget:
        k, t = forget
        with closing(federated_rounds(x, engine)) as rounds:
            for done in rounds:
                yield done
                if done.t == t:
                    start = replace(done, kept=without_variate(done.kept, k, len(x.partition[k]) / x.n))
                    break
    with closing(federated_rounds(x, engine, start=start)) as rounds:
        yield from rounds


def main(argv: Sequence[str]) -> None:
    parser = parser_of("why_scaffold", __doc__)
    parser.add_argument("--algorithm", default="scaffold", help="(default: %(default)s)")
    parser.add_argument("--local_epoch", default="1", help="passes a round (default: %(default)s)")
    parser.add_argument("--forget", metavar="K@T", help="after round T, set c_k of client K to 0 and take it out of c")
    words = parser.parse_args(argv)
    x = experiment_of(words, ["--algorithm", words.algorithm, "--local_epoch", words.local_epoch])
    forget = who_and_when(words.forget, x) if words.forget else None
    pushes: list[Push] = []
    print(HEADING)
    with patch("fl.engines.sequential.train", watched(pushes)), closing(rounds_of(x, forget)) as rounds:
        for done in rounds:
            means = [f"{fmean(column):.3g}" for column in zip(*pushes, strict=True)] or ["-"] * 3
            sizes = variates(done.kept)
            largest = max(sizes, key=lambda k: sizes[k]) if sizes else None
            told = "-" if largest is None else f"{sizes[largest]:.3g} (client {largest})"
            own = "-" if largest is None else f"{push_on(done.kept, largest):.3g}"
            out = ", ".join(map(str, done.record.get("rejected", {}))) or "-"
            share = " ".join(f"{one:.0%}" for one in dead(x, done.w))
            ends = [f"{done.record['test_accuracy']:.2%}", f"{done.record['test_loss'] or float('nan'):.4g}"]
            line = [str(done.t), *ends, *means, told, own, out, share]
            print(LINE.format(*line), flush=True)
            pushes.clear()


if __name__ == "__main__":
    leave(guarded("why_scaffold", lambda: main(sys.argv[1:])))

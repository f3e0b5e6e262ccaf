r"""Why does the 2NN of table 1 (McMahan et al. 2017, arXiv 1602.05629) need fewer rounds here than in the paper?

    python3 -m benchmarks.why_2nn                 # each hypothesis at three rates: rounds to 97 %, C = 0.1
    python3 -m benchmarks.why_2nn --only 'as*' --rate 0.0215 --fraction 0 --fraction 1    # other C at one rate
    python3 -m benchmarks.why_2nn --conditioning  # how alike images are, by what is made of pixels

IID MNIST over 100 clients, E = 1, B = 10. A hypothesis is one change of that run: by flags, by other first weights,
which run_federated.py takes too (`--model benchmarks/why_2nn.py:tutorial`), or by pixels or an order of examples that
no flag makes. One thread, and no run folders.
"""

from __future__ import annotations

import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from statistics import mean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fl.command_line import parse
from fl.engines import make_engine
from fl.errors import DivergedError, FlagError
from fl.experiment import federated
from fl.guard import guarded, leave
from fl.load import load_data
from fl.models.mcmahan2017 import two_nn
from fl.recorded import federated_rounds
from fl.records.reading import rounds_to_target
from fl.rng import shuffles
from fl.words import Words, count

SETTING = [
    "--model", "2nn", "--num_clients", "100", "--local_epoch", "1", "--batch_size", "10", "--optimizer", "sgd",
    "--device", "cpu",
]  # fmt: skip
TARGET = 0.97
PAPER = {"0": 316, "0.1": 87, "0.2": 77, "0.5": 75, "1": 70}  # rounds by C; C = 0 is one client a round
RATES, UNIT_RATES = ("0.0464", "0.1", "0.215"), ("0.1", "0.215", "0.464")
UNIT, CENTRED = "--normalise unit", "--normalise centred"
PATIENCE = 1.5  # times the paper's rounds, after which a run ends
HERE = shlex.quote(__file__)


def tutorial(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 2NN with weights as in TensorFlow's "Deep MNIST for experts" of 2016: standard deviation 0.1, biases of 0.1.

    TensorFlow's example of 2015, convolutional.py, drew them in the same way, except that its first biases were 0.
    """
    return drawn(two_nn(shape, classes), lambda inputs, outputs: 0.1, bias=0.1)


def fan_in(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 2NN as TensorFlow's mnist.py of 2016 did: deviation 1/sqrt(inputs of the layer), biases of 0."""
    return drawn(two_nn(shape, classes), lambda inputs, outputs: inputs**-0.5)


def glorot(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Uniform with deviation sqrt(2 / (inputs + outputs)) (Glorot and Bengio 2010), biases of 0."""
    model = two_nn(shape, classes)
    for layer in layers(model):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def small(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Deviation 0.01, biases of 0, as AlexNet had it (Krizhevsky et al. 2012)."""
    return drawn(two_nn(shape, classes), lambda inputs, outputs: 0.01)


def drawn(model: nn.Module, deviation: Any, bias: float = 0.0) -> nn.Module:
    """Weights from a normal distribution, cut off at two standard deviations, as by tf.truncated_normal."""
    for layer in layers(model):
        std = deviation(layer.in_features, layer.out_features)
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.constant_(layer.bias, bias)
    return model


def layers(model: nn.Module) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def same_order(seed: int, streams: Sequence[tuple[int, int]], n: int, device: torch.device) -> Tensor:
    """fl.rng.shuffles of a client that goes through its examples in the same order in every round."""
    return shuffles(seed, [(k, 0) for k, _ in streams], n, device)


# What no flag says: the order of examples, and pixels (x - mean) / deviation that --normalise does not make. The mean
# of MNIST's pixels is 0.1307, and their deviation 0.3081.
SAME_ORDER = "same order"
PIXELS = {"mean 0, deviation 0.31": (0.1307, 1.0), "mean -1.2, deviation 1": (0.5, 0.3081)}
HYPOTHESES = {
    "as it is here": "",
    "pixels in [0, 1]": UNIT,
    "pixels in [-0.5, 0.5]": CENTRED,
    "pixels with the deviation of [0, 1], and mean 0": "mean 0, deviation 0.31",
    "pixels with the mean of [-0.5, 0.5], and deviation 1": "mean -1.2, deviation 1",
    "first weights: deviation 0.1, biases 0.1": f"--model {HERE}:tutorial",
    "first weights: deviation 1/sqrt(fan in)": f"--model {HERE}:fan_in",
    "first weights: Glorot uniform": f"--model {HERE}:glorot",
    "first weights: deviation 0.01": f"--model {HERE}:small",
    "pixels in [0, 1], deviation 0.1, biases 0.1": f"{UNIT} --model {HERE}:tutorial",
    "pixels in [0, 1], deviation 1/sqrt(fan in)": f"{UNIT} --model {HERE}:fan_in",
    "pixels in [0, 1], Glorot uniform": f"{UNIT} --model {HERE}:glorot",
    "pixels in [0, 1], deviation 0.01": f"{UNIT} --model {HERE}:small",
    "pixels in [-0.5, 0.5], deviation 0.1, biases 0.1": f"{CENTRED} --model {HERE}:tutorial",
    "pixels in [-0.5, 0.5], deviation 1/sqrt(fan in)": f"{CENTRED} --model {HERE}:fan_in",
    "pixels in [-0.5, 0.5], deviation 0.01": f"{CENTRED} --model {HERE}:small",
    "rate times 0.99 every round": "--lr_decay 0.99",
    "pixels in [0, 1], rate times 0.99": f"{UNIT} --lr_decay 0.99",
    "pixels in [0, 1], deviation 0.01, rate times 0.99": f"{UNIT} --model {HERE}:small --lr_decay 0.99",
    "same order in every round": SAME_ORDER,
    "evaluated every 5 rounds": "--eval_every 5",
    "evaluated every 10 rounds": "--eval_every 10",
}


def own_flags(flags: str) -> list[str]:
    """The flags of a hypothesis; none if it changes what no flag says."""
    return shlex.split(flags) if flags.startswith("--") else []


def conditioning(pixels: str) -> tuple[float, float]:
    """Of the mean of x x^T over the training images x: the largest eigenvalue over the second, and over their sum.

    This matrix is a factor of the first layer's Hessian, if the layer is taken alone. Gradient descent is slow if one
    eigenvalue is much larger than the others (LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", sections 4.3
    and 5.3). What all images have in common makes one eigenvalue that large.
    """
    data = load_data(parse([*SETTING, "--normalise", pixels], "federated", ""))
    x = data.inputs(torch.arange(len(data.train))).flatten(1)
    eigenvalues = torch.linalg.eigvalsh((x.T @ x / len(x)).double())
    return (eigenvalues[-1] / eigenvalues[-2]).item(), (eigenvalues[-1] / eigenvalues.sum()).item()


def rounds_of(flags: str, rate: str, C: str, seed: int, limit: int) -> float | None:
    """Rounds to the target; None if it is not reached in `limit` rounds. C = "0" is one client a round."""
    clients = ["--client_fraction", C] if C != "0" else ["--num_select_clients", "1"]
    where = ["--init_lr", rate, "--seed", str(seed), "--global_epoch", str(limit)]
    words = [*SETTING, *clients, *own_flags(flags), *where]
    x = federated(parse(words, "federated", ""))
    if pixels := PIXELS.get(flags):
        x = replace(x, data=replace(x.data, mean=pixels[0], std=pixels[1]))
    order = same_order if flags == SAME_ORDER else shuffles
    records: list[dict[str, Any]] = []
    with (
        patch("fl.engines.stacked.schedule.shuffles", order),
        closing(federated_rounds(x, make_engine("stacked", x))) as rounds,
        suppress(DivergedError),
    ):
        for done in rounds:
            records.append(done.record)
            if (done.record["test_accuracy"] or 0) >= TARGET:
                break
    return rounds_to_target(records, TARGET)


def said(rounds: Sequence[float | None], limit: int) -> str:
    """ "31.2 (28.9 to 35.2)": the mean, with the range of several seeds."""
    known = [one for one in rounds if one is not None]
    if len(known) < len(rounds):
        return f">{limit}"
    return f"{mean(known):.1f}" + (f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else "")


def main(argv: Sequence[str]) -> None:
    parser = Words(prog="why_2nn", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="hypotheses, such as 'pixels*' (default: all)")
    parser.add_argument("--rate", action="append", help="learning rate; repeatable (default: three by the pixels)")
    parser.add_argument("--fraction", action="append", choices=PAPER, help="C; repeatable (default: 0.1)")
    parser.add_argument("--seeds", default="1", help="(default: %(default)s)")
    parser.add_argument(
        "--conditioning", action="store_true", help="compare inputs and train nothing; takes no other flag"
    )
    words = parser.parse_args(argv)
    seeds, names = count("--seeds", words.seeds), [name for name in HYPOTHESES if fnmatchcase(name, words.only)]
    if not names:
        raise FlagError(f"--only {words.only}: expected a pattern of {', '.join(HYPOTHESES)}")
    torch.set_num_threads(1)
    if words.conditioning:
        for pixels in ("standard", "unit", "centred"):
            times, share = conditioning(pixels)
            print(f"{pixels}: largest eigenvalue {times:.1f} times the second, {share:.0%} of all")
        return
    print(f"rounds to {TARGET:.0%}, n = {seeds}")
    for name in names:
        flags = HYPOTHESES[name]
        for C in words.fraction or ["0.1"]:
            limit = round(PATIENCE * PAPER[C])
            cells = []
            for rate in words.rate or (UNIT_RATES if UNIT in flags else RATES):
                found = [rounds_of(flags, rate, C, seed, limit) for seed in range(seeds)]
                cells.append(f"rate {rate}: {said(found, limit)}")
            print(f"{name}; C = {C}, paper {PAPER[C]}; {'; '.join(cells)}", flush=True)


if __name__ == "__main__":
    leave(guarded("why_2nn", lambda: main(sys.argv[1:])))

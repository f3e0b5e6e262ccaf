r"""What noise costs in accuracy, and what it takes from an attacker.

    python3 -m benchmarks.privacy --out docs/privacy.png

Two experiments, each with three seeds, Poisson sampling, delta = 1e-5 and noise from the seed (--insecure_noise), so
that the figures can be made again; the norms were chosen by trials on seed 0, which cost privacy of their own. Runs
that are there already are not run again.

Accuracy: MNIST dealt at random to K = 1,000 clients of 60 examples each, and to K = 6,000 clients of 10; a tenth of
them a round, 40 rounds, logistic regression, E = 1, B = 10, SGD with rate 0.1. The noise is what --target_epsilon asks
for.

Membership: 500 examples of MNIST, a fifth of them with labels drawn at random, each of them a client of its own; a
fifth of the clients a round, 100 rounds, logistic regression, E = 5, SGD with rate 1: far too much for so few
examples. The attack of Yeom, Giacomelli, Fredrikson and Jha 2018, "Privacy Risk in Machine
Learning", arXiv 1709.01604, says "member" of every example whose loss is at most the mean loss of the members. Its
advantage is the share of members that it finds, less the share of 500 others that it takes for members: 0 is guessing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F

import fl.pictures.plot
from benchmarks.runs import records_of, spread
from data.dataset import Dataset, Split
from data.mnist import mnist
from fl.client import load_state
from fl.config import Config
from fl.config_file import read_config
from fl.experiment import federated
from fl.pictures.style import SIZES, Figure, as_shipped, encoded, matplotlib, style
from fl.records.files import write_atomic

COMMON = "--sampling poisson --optimizer sgd --quiet --overwrite --device cpu"
ACCURACY = "--model logistic --local_epoch 1 --batch_size 10 --init_lr 0.1 --global_epoch 40 --eval_every 40 " \
           "--checkpoint_every 40"  # fmt: skip
ATTACKED = "--dataset benchmarks/privacy.py:some_digits --model logistic --num_clients 500 --num_select_clients 100 " \
           "--local_epoch 5 --batch_size 0 --init_lr 1 --global_epoch 100 --eval_every 100 " \
           "--checkpoint_every 100"  # fmt: skip
CLIENTS = (1000, 6000)
EPSILONS = (0.5, 1.0, 2.0, 8.0)
CLIP = 0.3
MEMBERS = 500


def some_digits(data_dir: Path, seed: int) -> Dataset:
    """500 training and 500 test examples of MNIST, a fifth of them with random labels."""
    data = mnist(data_dir)
    generator = torch.Generator().manual_seed(1000 + seed)

    def some(split: Split) -> Split:
        rows = torch.randperm(len(split), generator=generator)[:MEMBERS]
        labels = split.targets[rows]
        labels[: MEMBERS // 5] = torch.randint(data.classes, (MEMBERS // 5,), generator=generator)
        return Split(split.examples[rows], labels)

    return replace(data, train=some(data.train), test=some(data.test))


def hidden(epsilon: float, clip: float) -> str:
    return f"--clip_norm {clip} --target_epsilon {epsilon:g} --insecure_noise"


def accuracies(out_dir: Path, clients: int, epsilon: float | None, seeds: int) -> list[float]:
    """The final test accuracy in per cent, for each seed."""
    words = f"{COMMON} {ACCURACY} --num_clients {clients} --client_fraction 0.1"
    words += f" {hidden(epsilon, CLIP)}" if epsilon else ""
    name = f"K{clients}-{epsilon or 'plain'}"
    return [
        100 * records_of(out_dir / f"{name}-seed{seed}", f"{words} --seed {seed}")[-1]["test_accuracy"]
        for seed in range(seeds)
    ]


def attacked(out_dir: Path, name: str, words: str, seed: int) -> tuple[float, float, float]:
    """Accuracy on the members, on the others, and the advantage of the attack, all in per cent."""
    folder = out_dir / f"{name}-seed{seed}"
    records_of(folder, f"{COMMON} {ATTACKED} {words} --seed {seed}")
    flags = read_config(folder)
    flags.pop("script")
    x = federated(Config(**flags))
    load_state(x.model, torch.load(folder / "model.pt", weights_only=True))
    losses, right = [], []
    for split in (x.data.train, x.data.test):
        inputs, targets = x.data.batch(split, slice(None))
        with torch.no_grad():
            logits = x.model(inputs)
        losses.append(F.cross_entropy(logits, targets, reduction="none"))
        right.append(100 * float((logits.argmax(1) == targets).double().mean()))
    found, mistaken = (float((one <= losses[0].mean()).double().mean()) for one in losses)
    return right[0], right[1], 100 * (found - mistaken)


@as_shipped
def draw(path: Path, found: dict[int, dict[float | None, list[float]]]) -> None:
    """Accuracy against epsilon: a line for each number of clients, and what it is without noise."""
    size = SIZES["column"]
    with matplotlib.rc_context(size.settings):
        figure = Figure((5.0, 3.2), layout="constrained")
        axes = figure.subplots()
        for number, (clients, by_epsilon) in enumerate(found.items()):
            look = style(number)
            points = {epsilon: values for epsilon, values in by_epsilon.items() if epsilon}
            middle = [mean(values) for values in points.values()]
            spread = [[m - min(v) for m, v in zip(middle, points.values(), strict=True)],
                      [max(v) - m for m, v in zip(middle, points.values(), strict=True)]]  # fmt: skip
            axes.errorbar([*points], middle, spread, color=look.colour, marker=look.marker, capsize=2,
                          label=f"K = {clients:,} clients")  # fmt: skip
            axes.axhline(
                mean(by_epsilon[None]),
                color=look.colour,
                linestyle=":",
                label=f"K = {clients:,}, no clipping and no noise",
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks([*EPSILONS], [f"{epsilon:g}" for epsilon in EPSILONS])
        axes.minorticks_off()
        axes.set(xlabel="epsilon at delta = 1e-5 after 40 rounds (less is more private)", ylabel="test accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend()
        write_atomic(path, encoded(figure, path, "Accuracy against epsilon"))


def main() -> None:
    # The pictures would take longer than the runs.
    fl.pictures.plot.save_curves = fl.pictures.plot.save_partition = lambda *_: None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", default="runs/privacy", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", help="the picture (default: privacy.png in --out_dir)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    words = parser.parse_args()
    out_dir = Path(words.out_dir)
    columns: tuple[float | None, ...] = (*EPSILONS, None)
    print("test accuracy, %   " + "".join(f"{f'epsilon {e:g}' if e else 'no noise':>14s}" for e in columns))
    found: dict[int, dict[float | None, list[float]]] = {}
    for clients in CLIENTS:
        found[clients] = {epsilon: accuracies(out_dir, clients, epsilon, words.seeds) for epsilon in columns}
        print(
            f"K = {clients:<15,}" + "".join(f"{spread(values):>14s}" for values in found[clients].values()), flush=True
        )
    draw(Path(words.out or out_dir / "privacy.png"), found)
    print("\nattacked, %            members    others   advantage")
    defences = {"plain": "", "clipped": "--clip_norm 0.5"} | {f"epsilon {e:g}": hidden(e, 0.5) for e in (8, 1)}
    for name, flags in defences.items():
        three = [attacked(out_dir, f"attacked-{name.replace(' ', '')}", flags, seed) for seed in range(words.seeds)]
        print(f"{name:16s}" + "".join(f"{spread(values):>14s}" for values in zip(*three, strict=True)), flush=True)


if __name__ == "__main__":
    main()

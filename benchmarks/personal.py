r"""Does federation help each client? The model of all, tuned by each, FedPer, and each client alone.

    python3 -m benchmarks.personal            # the table, and docs/personalisation.png
    python3 -m benchmarks.personal --cost     # what client tests and tuning cost, on one thread

MNIST over 100 clients, 10 a round, E = 1, B = 10, SGD with rate 0.1, the 2NN, 100 rounds, a fifth of each client's
examples held out. Runs that are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.runs import records_of, spread
from fl.check import resolve
from fl.client_eval import client_accuracies
from fl.engines import make_engine
from fl.evaluate import evaluate
from fl.experiment import federated
from fl.group import Group
from fl.personalise import final_tests
from fl.pictures.style import COLOURS, DASHES, Figure, as_shipped, encoded
from fl.recorded import Round
from fl.records.files import write_atomic
from fl.state import Kept

SETTING = "--model 2nn --num_clients 100 --num_select_clients 10 --local_epoch 1 --batch_size 10 --optimizer sgd " \
          "--init_lr 0.1 --global_epoch 100 --eval_every 10 --client_test_fraction 0.2 --client_eval_every 10 " \
          "--personalise_epochs 1 --quiet --overwrite"  # fmt: skip
PARTITIONS = {
    "two shards a client": "--partition shards",
    "Dirichlet, alpha 0.1": "--partition dirichlet --alpha 0.1 --min_examples 10",
}
RUNS = {"fedavg": "--local_only", "fedper": "--personal_layers 1"}
ROWS = {
    "FedAvg": ("fedavg", "before"), "FedAvg, tuned for one epoch": ("fedavg", "after"),
    "FedPer, one own layer": ("fedper", "before"), "FedPer, tuned for one epoch": ("fedper", "after"),
    "each client alone, ten epochs": ("fedavg", "local_only"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", default="runs/personal", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("docs/personalisation.png"), help="(default: %(default)s)")
    parser.add_argument("--cost", action="store_true", help="measure times instead")
    words = parser.parse_args()
    if words.cost:
        cost()
        return
    folders = {
        (partition, run): [trained(Path(words.out_dir), partition, run, seed) for seed in range(words.seeds)]
        for partition in PARTITIONS
        for run in RUNS
    }
    print(f"| % | {' | '.join(f'{one}: mean | std | worst decile' for one in PARTITIONS)} |")
    print("|---" * (1 + 3 * len(PARTITIONS)) + "|")
    for row, (run, kind) in ROWS.items():
        cells = []
        for partition in PARTITIONS:
            ends = [json.loads((one / "summary.json").read_text()) for one in folders[partition, run]]
            found = [end["personalised"][kind] for end in ends]
            cells += [spread([100 * one[key] for one in found]) for key in ("mean", "std", "worst_decile")]
        print(f"| {row} | {' | '.join(cells)} |")
    draw(words.picture, folders)


def trained(place: Path, partition: str, run: str, seed: int) -> Path:
    folder = place / f"{partition.split()[0].lower().strip(',')}-{run}-seed{seed}"
    records_of(folder, f"{SETTING} {PARTITIONS[partition]} {RUNS[run]} --seed {seed}")
    return folder


@as_shipped
def draw(path: Path, folders: dict[tuple[str, str], list[Path]]) -> None:
    """For each partition, the share of clients below an accuracy, all seeds together."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(PARTITIONS), sharey=True)
    for axes, partition in zip(panels, PARTITIONS, strict=True):
        for number, (row, (run, kind)) in enumerate(ROWS.items()):
            values = [v for one in folders[partition, run] for v in table(one)[kind]]
            axes.ecdf([100 * v for v in values], color=COLOURS[number], linestyle=DASHES[number % 4], label=row)
        axes.set_title(partition, fontsize="medium")
        axes.set_xlabel("accuracy on the client's own test examples, %")
        axes.set_xlim(75, 100)
    panels[0].set_ylabel("share of clients at or below")
    panels[0].legend(frameon=False, loc="upper left")
    write_atomic(path, encoded(figure, path))


def table(folder: Path) -> dict[str, list[float]]:
    content: dict[str, list[float]] = json.loads((folder / "client_accuracy.json").read_text())
    return content


def cost() -> None:
    """Medians of interleaved turns, in processor time: of a pass over all held-out examples, and of what tests them."""
    torch.set_num_threads(1)
    flags = {"model": "2nn", "num_clients": 100, "num_select_clients": 10, "batch_size": 10, "optimizer": "sgd",
             "local_epoch": 1, "init_lr": 0.1, "partition": "shards", "client_test_fraction": 0.2,
             "device": "cpu"}  # fmt: skip
    x, own = (federated(resolve(flags | more)) for more in ({"personalise_epochs": 1}, {"personal_layers": 1}))
    rows, w, nobody = x.held_out.indices, x.w, Group()  # type: ignore[union-attr]
    as_test_set = replace(x.data, test=x.data.only(rows).train)
    kept = Kept(clients={k: {"personal": {name: own.w[name] for name in own.personal}} for k in range(100)})
    engine = make_engine("stacked", x)
    end, now = Round(1, {}, w, Kept()), x.round_start(1, w, Kept(), x.cohort(1))
    turns: dict[str, Callable[[], object]] = {
        "a pass over the held-out examples": lambda: evaluate(x.model, as_test_set, nobody),
        "one model, by client": lambda: client_accuracies(x, w, Kept(), nobody),
        "100 clients with own layers": lambda: client_accuracies(own, w, kept, nobody),
        "a round of 10 clients": lambda: [update.reports for update in engine.train(list(now.sizes), now)],
        "tuning and tests of 100 clients": lambda: final_tests(x, engine, nobody, end),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(12):
        for name, work in turns.items():
            began = time.process_time()
            work()
            if turn:  # the first loads what it needs
                times[name].append(1e3 * (time.process_time() - began))
    first = median(times["a pass over the held-out examples"])
    print(f"{len(rows):,} held-out examples of 100 clients, medians of 11 turns, torch {torch.__version__}")
    for name, found in times.items():
        spread = f"from {min(found):.1f} to {max(found):.1f}"
        print(f"{name:34s} {median(found):8.1f} ms, {spread}; {median(found) / first:.2f} passes")


if __name__ == "__main__":
    main()

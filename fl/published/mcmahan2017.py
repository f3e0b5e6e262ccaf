"""Tables 1 to 3 of McMahan et al. 2017 (arXiv 1602.05629) as cells: rounds to a target, at the best rate."""

from __future__ import annotations

from typing import Any

from fl.published.cells import Target

# The paper does not say how it scaled pixels. On IID data the 2NN needs a third of the paper's rounds if pixels have
# mean 0 and standard deviation 1, and about as many as the paper if they are in [-0.5, 0.5] (docs/reproduction.md). So
# there are cells for both.
PIXELS = {"2nn": {"2nn": [], "2nn-centred": ["--normalise", "centred"]}}
START = 0.1  # the rate with which a search begins
FULL_BATCH_START = 0.464  # few steps, with little noise, want a larger one; a search that begins far off takes long
STARTS = {("cnn", "noniid"): 0.0464}  # near the best one, 0.0681 (docs/reproduction.md)
SPLITS = {"iid": ["--partition", "iid"], "noniid": ["--partition", "shards", "--shards_per_client", "2"]}  # MNIST's


def mcmahan2017(facts: dict[str, Any]) -> list[Target]:
    """The cells for which the paper reports rounds."""
    return [*table1(facts["table1"]), *table2(facts["table2"]), *table3(facts["table3_cifar10"])]


def mnist(model: str, split: str, C: float, E: int, B: str, accuracy: float) -> list[str]:
    """100 clients of 600 digits; C = 0 stands for one client a round, and B = inf for all that a client has."""
    clients = ["--client_fraction", f"{C:g}"] if C else ["--num_select_clients", "1"]
    return [
        "--model", model, "--num_clients", "100", *clients, *SPLITS[split], "--local_epoch", str(E),
        "--batch_size", "0" if B == "inf" else B, "--optimizer", "sgd", "--target_accuracy", f"{accuracy:g}",
        "--stop_at_target",
    ]  # fmt: skip


def start_of(model: str, split: str, B: str) -> float:
    if B == "inf":
        return FULL_BATCH_START
    return STARTS.get((model, split), START)


def table1(facts: dict[str, Any]) -> list[Target]:
    """The effect of C: table1/2nn/iid/B10/C0.1 and so on."""
    found = []
    for model, table in facts.items():
        for at, column in enumerate(table["columns"][1:], start=1):
            split, B = column.split("_B")
            for row in table["rows"]:
                C, rounds = row[0], row[at]
                if rounds is None:
                    continue
                flags = mnist(model, split, C, table["E"], B, table["target_accuracy"])
                start = start_of(model, split, B)
                for name, pixels in PIXELS.get(model, {model: []}).items():
                    found.append(Target(f"table1/{name}/{split}/B{B}/C{C:g}", [*flags, *pixels], rounds, start))
    return found


def table2(facts: dict[str, Any]) -> list[Target]:
    """The effect of E and B: table2/cnn/iid/E5B10 and so on. FedSGD is the row with E = 1 and B = inf."""
    found = []
    for model, table in facts.items():
        for _, E, B, _, *rounds in table["rows"]:
            for split, theirs in zip(table["columns"][4:], rounds, strict=True):
                flags = mnist(model, split, table["C"], E, str(B), table["target_accuracy"])
                start = start_of(model, split, str(B))
                found.append(Target(f"table2/{model}/{split}/E{E}B{B}", flags, theirs, start))
    return found


def table3(facts: dict[str, Any]) -> list[Target]:
    """CIFAR-10: table3/fedavg/0.80 and so on. The row of central training has no rounds."""
    found = []
    for algorithm, *rounds in facts["rows"]:
        if algorithm not in facts["federated"]:
            continue
        own = {"E": 1, "B": 0} | facts[algorithm]
        for accuracy, theirs in zip(facts["columns"][1:], rounds, strict=True):
            if theirs is None:
                continue
            flags = [
                "--dataset", "cifar10", "--model", "cifar_cnn", "--augment", "mcmahan2017", "--num_clients", "100",
                "--client_fraction", f"{facts['C']:g}", "--partition", facts["partition"], "--local_epoch",
                str(own["E"]), "--batch_size", str(own["B"]), "--optimizer", "sgd", "--lr_decay",
                f"{own['lr_decay_per_round']:g}", "--target_accuracy", accuracy, "--stop_at_target",
            ]  # fmt: skip
            start = START if own["B"] else FULL_BATCH_START
            found.append(Target(f"table3/{algorithm}/{accuracy}", flags, theirs, start))
    return found

"""NIID-Bench (Li, Diao, Chen and He 2022, arXiv 2102.02079) as cells: the accuracy after 50 rounds.

Their SCAFFOLD differs from ours: after each momentum step it subtracts eta (c - c_k) from the parameters, and c_k is
the mean of such steps, divided by eta. Ours follows SCAFFOLD's paper: it adds c - c_k to the gradient and has no
momentum. So our cells have momentum 0 and the learning rate eta / (1 - momentum); a constant gradient then moves a
client equally far in both.

If clients have few labels each, much depends on which labels those are. The cells labels_C draw them anew with each
seed, and labels_C-theirs have those that the replication's code draws.
"""

from __future__ import annotations

from typing import Any

from fl.published.cells import Final

AUGMENT = {"cifar10": ["--augment", "crop_flip"]}


def niid_bench(facts: dict[str, Any]) -> list[Final]:
    """The cells of the table: mnist/iid/fedavg and so on."""
    common = facts["settings"]
    return [
        Final(f"{dataset}/{name}/{algorithm}", flags(common, dataset, held, algorithm), theirs, common["rounds"],
              settings(common, algorithm))
        for dataset, table in facts["final_accuracy_percent"].items()
        for split, row in table.items()
        for name, held in partitions(facts, split).items()
        for algorithm, theirs in zip(facts["algorithms"], row, strict=True)
    ]  # fmt: skip


def partitions(facts: dict[str, Any], split: str) -> dict[str, list[str]]:
    """By the name of a cell what its clients hold: drawn here, and, where they draw labels, as it was drawn there."""
    found = {split: partition(split)}
    if sets := facts["label_sets"].get(split):
        found[f"{split}-theirs"] = ["--partition", "label_sets", "--label_sets", sets]
    return found


def flags(common: dict[str, Any], dataset: str, held: list[str], algorithm: str) -> list[str]:
    """All but rate, momentum and mu. held: those that say what each client holds."""
    return [
        "--dataset", dataset, *AUGMENT.get(dataset, []), "--normalise", "unit", "--model", "lenet",
        "--algorithm", algorithm, "--num_clients", str(common["num_clients"]),
        "--num_select_clients", str(common["clients_a_round"]), *held,
        "--local_epoch", str(common["local_epochs"]), "--batch_size", str(common["batch_size"]),
        "--optimizer", common["optimizer"], "--weight_decay", f"{common['weight_decay']:g}",
        "--global_epoch", str(common["rounds"]),
    ]  # fmt: skip


def partition(split: str) -> list[str]:
    """iid, dirichlet_ALPHA or labels_C."""
    kind, _, value = split.partition("_")
    return {
        "iid": ["--partition", "iid"],
        "dirichlet": ["--partition", "dirichlet_balanced", "--alpha", value, "--min_examples", "10"],
        "labels": ["--partition", "labels", "--labels_per_client", value],
    }[kind]


def settings(common: dict[str, Any], algorithm: str) -> list[dict[str, str]]:
    """Rate and momentum; FedProx has one setting for each mu."""
    eta, rho = common["rate"], common["momentum"]
    plain = {"init_lr": f"{eta:g}", "momentum": f"{rho:g}"}
    own = {
        "fedprox": [plain | {"proximal_mu": f"{mu:g}"} for mu in common["fedprox_mu"]],
        "scaffold": [{"init_lr": f"{eta / (1 - rho):g}", "momentum": "0"}],
    }
    return own.get(algorithm, [plain])

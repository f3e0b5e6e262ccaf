"""Data sets, augmentations, partitioners and drifts by name; downloads land beside this file too, by default.

The names stand here without their modules, so that reading the flags imports no torch.
A new data set or partitioner is one function and one line here; an Entry says what it asks of other flags.
"""

from typing import Any

from fl.errors import FlagError
from fl.flags.entry import Entry
from fl.flags.flag import sets


def _concentration(config: Any) -> None:
    """Raise FlagError if --alpha cannot be the concentration: it is too small, or the data set reads it."""
    dataset = DATASETS.get(config.dataset)
    if isinstance(dataset, Entry) and "alpha" in dataset.reads:
        both = f"reads --alpha, and so does --dataset {config.dataset}"
        raise FlagError(f"--partition {config.partition}: {both}; choose another one")
    if config.alpha < 1e-6:
        raise FlagError(f"--alpha {config.alpha:g}: expected 1e-06 or more for --partition {config.partition}")


def _set_a_client(config: Any) -> None:
    """Raise FlagError unless --label_sets has a set for each client."""
    if config.label_sets is None:
        raise FlagError(f"--partition {config.partition}: needs --label_sets, such as '0,7;1,6' for two clients")
    if len(sets(config.label_sets)) != config.num_clients:
        raise FlagError(
            f"--label_sets {config.label_sets}: --num_clients is {config.num_clients}; expected a set for each client "
            "(in a shell, with quotes around all of them)"
        )


# A data set is a function (data folder, flags that it reads) that returns a data.dataset.Dataset.
DATASETS: dict[str, str | Entry] = {
    "mnist": "data.mnist:mnist",
    "fashion_mnist": "data.mnist:fashion_mnist",
    "shakespeare": Entry("data.shakespeare:shakespeare", reads=("text",), defaults={"model": "char_lstm"}, tokens=True),
    "cifar10": "data.cifar:cifar10",
    "cifar100": "data.cifar:cifar100",
    "emnist_balanced": "data.emnist:emnist_balanced",
    "emnist_byclass": "data.emnist:emnist_byclass",
    "synthetic": Entry(
        "data.synthetic:synthetic",
        reads=("alpha", "beta"),
        made_of=("num_clients", "alpha"),
        defaults={"model": "logistic", "partition": "natural", "num_clients": 30, "alpha": 1.0},
    ),
    "synthetic_iid": Entry(
        "data.synthetic:synthetic_iid",
        made_of=("num_clients",),
        defaults={"model": "logistic", "partition": "natural", "num_clients": 30},
    ),
    "folder": Entry("data.folder:folder", reads=("image_size", "grey", "test_fraction", "skip_bad"), of_the_user=True),
    "csv": Entry(
        "data.table:table",
        reads=("label", "client", "drop", "test_fraction"),
        defaults={"model": "mlp"},  # other networks are for images
        of_the_user=True,
    ),
}

# An augmentation is a function (Dataset) that returns the data set with it.
AUGMENTS: dict[str, str | Entry] = {
    "none": "data.augment:none",
    "crop_flip": "data.augment:crop_flip",
    "mcmahan2017": Entry("data.augment:mcmahan2017", fixes={"normalise": "unit"}, meaning="a whitening of each image"),
}

# A partitioner is a function (labels, num_clients, seed, flags that it reads) that returns a Partition. An argument
# `clients` is no flag: it gets the data set's own client of each example, (n,) int64 or None. num_clients = 0 stands
# for the number of these clients.
PARTITIONS: dict[str, str | Entry] = {
    "iid": "data.partition:iid",
    "shards": Entry("data.partition:shards", reads=("shards_per_client",)),
    "labels": Entry("data.label_sets:labels_only", reads=("labels_per_client",)),
    "label_sets": Entry("data.label_sets:label_sets", reads=("label_sets",), check=_set_a_client),
    "dirichlet": Entry("data.partition:dirichlet", reads=("alpha", "min_examples"), check=_concentration),
    "dirichlet_balanced": Entry(
        "data.niid_bench:dirichlet_balanced",
        reads=("alpha", "min_examples"),
        defaults={"min_examples": 10},
        check=_concentration,
    ),
    "natural": Entry("data.partition:natural", defaults={"num_clients": 0}),
    "quantity": Entry("data.partition:quantity", reads=("alpha", "min_examples"), check=_concentration),
}

# A drift is a function (partition, labels, seed, share, rounds) that returns a function from a round to a Partition.
DRIFTS: dict[str, str | Entry] = {
    "none": "data.drift:none",
    "grow": Entry("data.drift:grow", reads=("drift_share", "drift_rounds")),
    "shift": Entry("data.drift:shift", reads=("drift_share", "drift_rounds")),
}

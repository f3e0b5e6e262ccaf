"""Data sets and partitioners by name; downloads land beside this file too, by default.

The names stand here without their modules, so that reading the flags imports no torch.
A new data set or partitioner is one function and one line here; an Entry says what it asks of other flags.
"""

from fl.entry import Entry

# A data set is a function (data folder, flags that it reads) that returns a data.dataset.Dataset.
DATASETS: dict[str, str | Entry] = {
    "mnist": "data.mnist:mnist",
    "fashion_mnist": "data.mnist:fashion_mnist",
    "folder": Entry("data.folder:folder", reads=("image_size", "grey", "test_fraction", "skip_bad")),
}

# A partitioner is a function (labels, num_clients, seed, flags that it reads) that returns a Partition. An argument
# `clients` is not a flag, but whose each example is. num_clients 0 stands for as many as these are.
PARTITIONS: dict[str, str | Entry] = {
    "iid": "data.partition:iid",
    "shards": Entry("data.partition:shards", reads=("shards_per_client",)),
    "labels": Entry("data.partition:labels_only", reads=("labels_per_client",)),
    "dirichlet": Entry("data.partition:dirichlet", reads=("alpha", "min_examples")),
    "dirichlet_balanced": Entry(
        "data.niid_bench:dirichlet_balanced", reads=("alpha", "min_examples"), defaults={"min_examples": 10}
    ),
    "natural": Entry("data.partition:natural", defaults={"num_clients": 0}),
    "quantity": Entry("data.partition:quantity", reads=("alpha", "min_examples")),
}

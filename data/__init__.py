"""Data sets and partitioners by name; downloads land beside this file too, by default.

The names stand here without their modules, so that reading the flags imports no torch.
A new data set or partitioner is one function and one line here.
"""

# A data set is a function of the data folder (a Path) that returns a data.dataset.Dataset.
DATASETS = {
    "mnist": "data.mnist:mnist",
    "fashion_mnist": "data.mnist:fashion_mnist",
}

# A partitioner is a function (labels, num_clients, seed, flags of its own) that returns a Partition.
PARTITIONS = {
    "iid": "data.partition:iid",
    "shards": "data.partition:shards",
    "dirichlet": "data.partition:dirichlet",
    "quantity": "data.partition:quantity",
}

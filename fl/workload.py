"""The flags of model and data: a part of the table in fl/config.py, which is one with the others."""

from __future__ import annotations

import dataclasses

from data import DATASETS, PARTITIONS
from fl.errors import DataError
from fl.flags import FEDERATED, FREE, PATH, SWITCH, flag, integer, named, number
from fl.models import MODELS


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained, on what, and who holds it."""

    # fmt: off
    model: str = flag("fast_cnn", "Model and data", named(MODELS), "network", matched=True)
    dataset: str = flag("mnist", "Model and data", named(DATASETS, DataError), "data set", matched=True)
    data_dir: str = flag("data/", "Model and data", PATH,
        "where data sets are looked for and downloaded to", matched=True, resume=FREE, experiment=False)
    image_size: int = flag(32, "Model and data", integer(1, high=10**4), "pixels of an image's side after scaling", matched=True)
    grey: bool = flag(False, "Model and data", SWITCH, "take images as grey, not as colour", matched=True)
    test_fraction: float = flag(0.2, "Model and data", number(0, 1, "(0, 1)"),
        "share of each class that is put aside for the test, where there is no test folder", matched=True)
    skip_bad: bool = flag(False, "Model and data", SWITCH, "leave out files that cannot be read, and say which", matched=True)
    partition: str = flag("iid", "Model and data", named(PARTITIONS), "how the training set is split over clients", reads=FEDERATED)
    shards_per_client: int = flag(2, "Model and data", integer(1), "label-sorted shards a client", reads=FEDERATED)
    labels_per_client: int = flag(2, "Model and data", integer(1), "c, labels that a client holds", reads=FEDERATED)
    alpha: float = flag(0.5, "Model and data", number(0, 1e6, "[0, 1e+06]"),
        "concentration, smaller is more skewed; or alpha of Synthetic(alpha, beta)", reads=FEDERATED)
    feature_noise: float = flag(0.0, "Model and data", number(0, 1e6, "[0, 1e+06]"),
        "sigma, variance of the noise in the last client's examples; client k of K has sigma k / K", reads=FEDERATED)
    beta: float = flag(1.0, "Model and data", number(0, 1e6, "[0, 1e+06]"),
        "beta of Synthetic(alpha, beta), how far apart the devices' inputs are", matched=True)
    min_examples: int = flag(1, "Model and data", integer(1), "least number of examples of a client", reads=FEDERATED)
    # fmt: on

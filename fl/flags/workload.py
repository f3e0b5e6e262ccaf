"""The flags of model and data: a part of the table in fl/config.py, which is one with the others."""

from __future__ import annotations

import dataclasses

from data import AUGMENTS, DATASETS, PARTITIONS
from fl.errors import DataError
from fl.flags.flag import COLUMN, FEDERATED, FILE, FREE, PATH, SETS, SWITCH, UNITS, choice, flag, integer, named, number
from fl.models import MODELS


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained, on what, and who holds it."""

    # fmt: off
    model: str = flag("fast_cnn", "Model and data", named(MODELS), "network", matched=True)
    hidden: str = flag("64,64", "Model and data", UNITS, "units of the hidden layers, from the input on", matched=True)
    dataset: str = flag("mnist", "Model and data", named(DATASETS, DataError), "data set", matched=True)
    data_dir: str = flag("data/", "Model and data", PATH,
        "where data sets are looked for and downloaded to; for --dataset csv, the file itself", matched=True, resume=FREE, experiment=False)
    label: str | None = flag(None, "Model and data", COLUMN, "the column to predict", matched=True)
    client: str | None = flag(None, "Model and data", COLUMN, "the column that says whose each row is, for --partition natural", matched=True)
    drop: str | None = flag(None, "Model and data", COLUMN, "columns to leave out, with commas between them", matched=True)
    normalise: str = flag("standard", "Model and data", choice(["standard", "unit", "centred"]),
        "how bytes are scaled: to mean 0 and standard deviation 1 (standard), or to numbers in [0, 1] (unit) or [-0.5, 0.5] (centred)", matched=True)
    augment: str = flag("none", "Model and data", choice(AUGMENTS),
        "how training images are changed at every visit: cropped and flipped, or as in the 2017 paper", matched=True)
    image_size: int = flag(32, "Model and data", integer(1, high=10**4), "pixels of an image's side after scaling", matched=True)
    grey: bool = flag(False, "Model and data", SWITCH, "take images as grey, not as colour", matched=True)
    test_fraction: float = flag(0.2, "Model and data", number(0, 1, "(0, 1)"),
        "share of each class that is held out for the test, if no test data is given; also for arrays of your own", matched=True)
    skip_bad: bool = flag(False, "Model and data", SWITCH, "leave out files that cannot be read, and say which", matched=True)
    text: str | None = flag(None, "Model and data", FILE,
        "play in place of the known text: NAME: on a line of its own, after an empty one, then the lines of that role", matched=True, resume=FREE)
    partition: str = flag("iid", "Model and data", named(PARTITIONS), "how the training set is split over clients", reads=FEDERATED)
    shards_per_client: int = flag(2, "Model and data", integer(1), "label-sorted shards per client", reads=FEDERATED)
    labels_per_client: int = flag(2, "Model and data", integer(1), "c, labels that a client holds", reads=FEDERATED)
    label_sets: str | None = flag(None, "Model and data", SETS,
        "which labels each client holds, counted from 0 in ascending order, one set for each client", reads=FEDERATED)
    alpha: float = flag(0.5, "Model and data", number(0, 1e6, "[0, 1e+06]"),
        "concentration, smaller is more skewed; or alpha of Synthetic(alpha, beta)", reads=FEDERATED)
    feature_noise: float = flag(0.0, "Model and data", number(0, 1e6, "[0, 1e+06]"),
        "sigma, variance of the noise in the last client's examples; client k of K has sigma k / K", reads=FEDERATED)
    beta: float = flag(1.0, "Model and data", number(0, 1e6, "[0, 1e+06]"),
        "beta of Synthetic(alpha, beta), how far apart the devices' inputs are", matched=True)
    min_examples: int = flag(1, "Model and data", integer(1), "least number of examples of a client", reads=FEDERATED)
    # fmt: on

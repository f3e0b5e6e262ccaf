import json
from dataclasses import asdict

import pytest

from fl.check import resolve
from fl.comparing.compared import distinct, read
from fl.comparing.labels import distinguished, labelled, partition_title, run_title, shared_title
from fl.errors import FlagError
from tests.folders import make_run


@pytest.fixture
def experiments(tmp_path):
    """experiments({...}, {...}): one each, from flags as a command line would give them."""

    def make(*runs, script="federated"):
        folders = []
        for given in runs:
            given = dict(given)
            script = given.pop("script", "federated")
            flags = asdict(resolve(given, script))
            folders.append(make_run(tmp_path / str(len(list(tmp_path.iterdir()))), **flags | {"script": script}))
        return distinct(read(folders))

    return make


SGD = {"optimizer": "sgd", "init_lr": 0.1}


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([{}], ["fedavg"]),
        ([{"algorithm": "scaffold", **SGD}], ["scaffold"]),
        ([{"script": "baseline"}], ["baseline"]),
        ([{}, {"script": "baseline"}], ["fedavg", "baseline"]),
        ([SGD, {"algorithm": "scaffold", **SGD}, {"script": "baseline", **SGD}], ["fedavg", "scaffold", "baseline"]),
        ([{"local_epoch": 1}, {"local_epoch": 5}], ["E=1", "E=5"]),
        ([{"batch_size": 0}, {"batch_size": 10}], ["B=all", "B=10"]),
        ([{}, {"partition": "shards"}], ["iid", "shards"]),
        # alpha does nothing on iid, and one value tells nothing apart.
        ([{}, {"partition": "dirichlet", "alpha": 0.1}], ["iid", "dirichlet"]),
        (
            [{}, *({"partition": "dirichlet", "alpha": alpha} for alpha in (0.1, 1.0))],
            ["iid", "dirichlet, alpha=0.1", "dirichlet, alpha=1"],
        ),
        # trim is the trimmed mean's alone.
        ([{}, {"aggregate": "trimmed_mean", "trim": 0.25}], ["mean", "trimmed_mean"]),
        (
            [{"aggregate": "median"}, *({"aggregate": "trimmed_mean", "trim": trim} for trim in (0.25, 0.4))],
            ["median", "trimmed_mean, trim=0.25", "trimmed_mean, trim=0.4"],
        ),
        ([{}, {"attack": "sign_flip"}], ["no attack", "sign_flip attack"]),
        (
            [{}, {"compress": "quantise", "compress_bits": 4}, {"compress": "quantise"}],
            ["compress=none", "compress=quantise, 4 bits", "compress=quantise, 8 bits"],
        ),
        # What an algorithm fixes or sets by itself follows from its name.
        ([SGD | {"local_epoch": 3}, SGD | {"algorithm": "fedsgd"}], ["fedavg", "fedsgd"]),
        ([SGD | {"algorithm": "fedadam"}, SGD | {"algorithm": "fedadagrad"}], ["fedadam", "fedadagrad"]),
        (
            [SGD | {"algorithm": "fedadam"}, SGD | {"algorithm": "fedadam", "server_lr": 0.1}],
            ["server_lr=0.01", "server_lr=0.1"],
        ),
        # A flag that the baseline has as well does not say which of the two it is.
        ([{"init_lr": 1e-3}, {"script": "baseline", "init_lr": 1e-4}], ["fedavg, lr=0.001", "baseline, lr=0.0001"]),
        ([{}, {"partition": "shards"}, {"script": "baseline"}], ["iid", "shards", "baseline"]),
        ([{}, {"keep_optimizer_state": True}], ["fedavg", "keep optimizer state"]),
    ],
)
def test_labels_name_the_flags_that_differ_and_matter(runs, labels, experiments):
    assert distinguished(experiments(*runs)) == labels


def test_labels_that_flags_cannot_tell_apart_are_numbered(experiments):
    first, second = (experiments({"init_lr": lr})[0] for lr in (1e-3, 1e-4))
    assert distinguished([first, second._replace(key=first.key)]) == ["fedavg", "fedavg #2"]


def test_matched_baselines_say_what_they_match(experiments):
    one, two = (experiments({"script": "baseline", "init_lr": lr})[0] for lr in (1e-3, 1e-4))
    one, two = (
        each._replace(
            key=one.key | {"matched": (0, n)},
            runs=[each.runs[0]._replace(flags=each.runs[0].flags | {"match": f"runs/{name}"})],
        )
        for each, n, name in ((one, 5, "a"), (two, 6, "b\n"))
    )
    assert distinguished([one]) == ["baseline"]
    assert distinguished([one, two]) == ["baseline, matched to a", "baseline, matched to 'b\\n'"]
    seeds = [run._replace(flags=run.flags | {"match": f"runs/seed{k}"}) for k in range(2) for run in one.runs[:1]]
    assert distinguished([one._replace(runs=seeds), two])[0] == "baseline, matched to seed0 and seed1"


def test_labels_of_the_users_own(experiments):
    both = experiments({}, {"local_epoch": 1})
    assert list(labelled(both, ["α = 1", "$x_1"])) == ["α = 1", "$x_1"]
    for given, said in (
        (["a"], "--label a: is label 1 of 2; expected one for each experiment, in this order: E=5, E=1"),
        (["a", "b", "c"], "--label c: is label 3 of 2; expected one for each experiment, in this order: E=5, E=1"),
        (["a", "a"], "--label a: is given twice"),
        (["a", " "], "--label ' ': expected a word"),
        (["a", "b\nc"], r"--label 'b\nc': expected a word or more, on one line"),
        (["a", "\udcff"], r"--label '\udcff': expected a word"),
    ):
        with pytest.raises(FlagError) as error:
            labelled(both, given)
        assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("script", "given", "title"),
    [
        (
            "federated",
            {"partition": "dirichlet", "alpha": 0.1, "local_epoch": 1, "batch_size": 10, "seed": 3, **SGD},
            "fedavg, fast_cnn on mnist, dirichlet, alpha=0.1, K=8, m=4, E=1, B=10, sgd, lr=0.1, seed 3",
        ),
        (
            "federated",
            {"partition": "shards", "client_fraction": 1.0, "momentum": 0.9, "precision": "bf16", **SGD},
            "fedavg, fast_cnn on mnist, shards, 2 shards a client, K=8, m=8, E=5, B=100, sgd, lr=0.1, bf16, "
            "momentum=0.9, seed 0",
        ),
        (
            "federated",
            {"attack": "sign_flip", "aggregate": "trimmed_mean", "trim": 0.25, "init_lr": 1e-3},
            "fedavg, fast_cnn on mnist, iid, K=8, m=4, E=5, B=100, adam, lr=0.001, trim=0.25, sign_flip attack, "
            "attackers=0.2, attack_scale=10, trimmed_mean, seed 0",
        ),
        (
            "baseline",
            {"batch_size": 0, "init_lr": 1e-3},
            "centralised, fast_cnn on mnist, B=all, adam, lr=0.001, seed 0",
        ),
    ],
)
def test_a_title_has_what_defines_the_run(script, given, title):
    assert run_title(resolve(given, script), script) == title


def test_the_title_of_a_partition():
    config = resolve({"partition": "dirichlet", "alpha": 0.1, "num_clients": 20, "seed": 2})
    assert partition_title(config) == "mnist, dirichlet, alpha=0.1, K=20, seed 2"
    config = resolve({"partition": "labels", "num_clients": 20})
    assert partition_title(config) == "mnist, labels, 2 labels a client, K=20, seed 0"


def test_a_title_has_no_defaults_that_only_ones_own_code_may_read():
    own = {"partition": "own.py:p", "algorithm": "own.py:a", "num_clients": 20}
    assert partition_title(resolve(own)) == "mnist, own.py:p, K=20, seed 0"
    assert partition_title(resolve(own | {"alpha": 0.1})) == "mnist, own.py:p, alpha=0.1, K=20, seed 0"
    title = "own.py:a, fast_cnn on mnist, own.py:p, K=20, m=4, E=5, B=100, adam, lr=5e-05, {}seed 0"
    assert run_title(resolve(own), "federated") == title.format("")
    assert run_title(resolve(own | {"proximal_mu": 0.5}), "federated") == title.format("proximal_mu=0.5, ")


def test_a_shared_title_has_what_all_runs_share(experiments):
    both = experiments(
        SGD | {"local_epoch": 1}, SGD | {"local_epoch": 1, "seed": 1}, SGD | {"local_epoch": 2, "seed": 4}
    )
    assert shared_title(both) == "fedavg, fast_cnn on mnist, iid, K=8, m=4, B=100, sgd, lr=0.1, seeds 0, 1, 4"
    skewed = experiments(SGD, SGD | {"partition": "dirichlet", "alpha": 0.1}, SGD | {"script": "baseline"})
    title = "fedavg, fast_cnn on mnist, K=8, m=4, E=5, B=100, sgd, lr=0.1, dirichlet: alpha=0.1, seed 0"
    assert shared_title(skewed) == title
    assert shared_title(experiments({"script": "baseline"})).startswith("centralised, fast_cnn on mnist, B=100, adam")
    seeds = experiments(*({"seed": seed} for seed in range(3)))
    assert shared_title(seeds).endswith(", seeds 0 to 2")


def test_a_run_folder_that_a_later_version_wrote_has_no_label(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "config.json").write_text(json.dumps({"script": "federated", "algorithm": "own.py:gone"}))
    assert distinguished(distinct(read([folder]))) == ["own.py:gone"]

"""The devices of Synthetic(alpha, beta), whose number is a flag of the federation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import run_baseline
import run_federated
from data.synthetic import synthetic, synthetic_iid

HERE = Path()


def test_devices_follow_from_the_seed_alone_and_not_from_their_number():
    three, five = synthetic(HERE, 3, 1.0, 1.0, 0), synthetic(HERE, 5, 1.0, 1.0, 0)
    n = len(three.train)
    assert torch.equal(three.train.examples, five.train.examples[:n])
    assert torch.equal(three.clients, five.clients[:n])
    assert synthetic(HERE, 3, 1.0, 1.0, 1).sha256() != three.sha256() == synthetic(HERE, 3, 1.0, 1.0, 0).sha256()


def test_a_tenth_of_each_device_is_its_part_of_the_test():
    data = synthetic(HERE, 20, 1.0, 1.0, 0)
    sizes = data.clients.bincount()
    assert int(sizes.min()) >= 45
    assert int(sizes.max()) > 10 * int(sizes.min())
    assert abs(len(data.test) / (len(data.train) + len(data.test)) - 0.1) < 0.005


def spread(data):
    """The variance of the devices' mean inputs, and the mean share of each device's most frequent label."""
    devices = [data.clients == k for k in range(int(data.clients.max()) + 1)]
    means = torch.stack([data.train.examples[mine].mean(0) for mine in devices])
    shares = [data.train.targets[mine].bincount().max() / mine.sum() for mine in devices]
    return float(means.mean(1).var()), float(torch.stack(shares).mean())


def test_beta_sets_devices_apart_and_alpha_does_not():
    inputs = [spread(synthetic(HERE, 40, 0.0, beta, 0))[0] for beta in (0.0, 2.0)]
    assert inputs[0] < 0.05
    assert 2 < inputs[1] < 7  # beta^2
    assert synthetic(HERE, 4, 0.0, 1.0, 0).sha256() == synthetic(HERE, 4, 3.0, 1.0, 0).sha256()


def test_inputs_vary_less_from_one_dimension_to_the_next():
    data = synthetic_iid(HERE, 20, 0)
    variance = data.train.examples.var(0)
    torch.testing.assert_close(variance, torch.arange(1, 61) ** -1.2, rtol=0.1, atol=0)
    assert abs(float(data.train.examples.mean())) < 0.01


def test_labels_of_the_iid_variant_follow_one_linear_rule():
    from torch import nn

    data = synthetic_iid(HERE, 8, 0)
    x, y = data.train.examples, data.train.targets
    torch.manual_seed(0)
    model = nn.Linear(60, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)

    def loss():
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(x), y)
        value.backward()
        return value

    optimizer.step(loss)
    accuracy = (model(data.test.examples).argmax(1) == data.test.targets).double().mean()
    assert accuracy > 0.8


FLAGS = "--dataset synthetic --batch_size 10 --optimizer sgd --init_lr 0.01 --global_epoch 3 --local_epoch 1"


@pytest.fixture
def run(tmp_path, capsys):
    def run(script, flags, folder):
        capsys.readouterr()
        code = script.run([*flags.split(), "--run_dir", str(tmp_path / folder)])
        read = lambda name: json.loads((tmp_path / folder / name).read_text())  # noqa: E731
        assert code == 0, capsys.readouterr().err
        return read("config.json"), read("environment.json"), read("summary.json"), capsys.readouterr().err

    return run


def test_a_run_has_as_many_devices_as_it_asks_for_and_a_matching_baseline_the_same(run, tmp_path):
    flags, facts, _, _ = run(run_federated, f"{FLAGS} --num_clients 12 --beta 0.5 --alpha 2", "a")
    assert (flags["num_clients"], flags["partition"], flags["model"]) == (12, "natural", "logistic")
    taken, same, _, err = run(run_baseline, f"--match {tmp_path / 'a'}", "b")
    assert (taken["num_clients"], taken["alpha"], taken["beta"], err) == (12, 2.0, 0.5, "")
    assert same["data_sha256"] == facts["data_sha256"]
    usual, other, _, _ = run(run_baseline, f"{FLAGS} --epoch 1", "c")
    assert usual["num_clients"] == 30
    assert other["data_sha256"] != facts["data_sha256"]
    assert run(run_federated, f"{FLAGS} --partition iid --num_clients 4", "d")[0]["partition"] == "iid"


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_a_cut_run_goes_on_to_the_same_bits_on_every_engine(engine, run, tmp_path):
    _, _, whole, _ = run(run_federated, f"{FLAGS} --num_clients 5 --engine {engine}", "a")
    run(run_federated, f"{FLAGS} --num_clients 5 --engine {engine} --global_epoch 1", "b")
    assert run(run_federated, "--resume --global_epoch 3", "b")[2]["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--dataset synthetic --partition dirichlet",
            "--partition dirichlet: reads --alpha, and so does --dataset synthetic; choose another one",
        ),
        ("--dataset mnist --beta 1", "--beta 1.0: needs --dataset synthetic"),
        (
            "--dataset mnist --alpha 1",
            "--alpha 1.0: needs --dataset synthetic, or --partition dirichlet, dirichlet_balanced or quantity",
        ),
        ("--partition quantity --alpha 0", "--alpha 0: expected 1e-06 or more for --partition quantity"),
    ],
)
def test_what_is_refused(words, message, capsys):
    assert run_federated.run(words.split()) == 2
    assert capsys.readouterr().err == f"run_federated.py: {message}\n"


def test_one_number_of_devices_is_one_experiment(run, tmp_path):
    from fl.comparing.compared import experiment, read

    for name, flags in (("a", "--num_clients 3"), ("b", "--num_clients 4")):
        run(run_baseline, f"{FLAGS} --epoch 1 {flags}", name)
    one, other = read([tmp_path / "a", tmp_path / "b"])
    assert experiment(one) != experiment(other)

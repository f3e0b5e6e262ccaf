"""Identities that hold whatever the numbers are, each on ragged clients in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.partition import Partition
from fl.baseline import centralised_rounds
from fl.check import resolve
from fl.client import load_state, state_of
from fl.config import Config
from fl.engines.sequential import Sequential
from fl.experiment import Experiment, federated
from fl.models import MODELS
from fl.names import entry_of, named
from fl.rng import select_clients
from fl.state import Kept, RoundStart, State
from tests.rounds import run_rounds

SIZES = (7, 4, 1)
# The models that read images, but for one that is large, and tested in tests/test_resnet.py.
OF_IMAGES = [name for name in MODELS if not entry_of("model", name).tokens and name != "resnet18_gn"]


def config(**flags) -> Config:
    data = {"lenet": "tiny16", "char_lstm": "ragged_tokens"}.get(flags.get("model"), "tiny")
    base = {"dataset": data, "model": "2nn", "device": "cpu", "num_clients": 3, "num_select_clients": 3,
            "optimizer": "sgd", "init_lr": 0.1, "batch_size": 3, "global_epoch": 3, "local_epoch": 2}  # fmt: skip
    return resolve(base | flags)


def task_of(c: Config) -> Experiment:
    """The task in float64, on the first twelve examples."""
    task = federated(c)
    train = task.data.train
    train = replace(train, examples=train.examples[: sum(SIZES)], targets=train.targets[: sum(SIZES)])
    return replace(task, data=replace(task.data, train=train, dtype=torch.float64), model=task.model.double())


def begin(c: Config, w: State, t: int = 1, kept: Kept | None = None) -> RoundStart:
    """Round t of the ragged clients, from the model w on."""
    return RoundStart(c, t, w, kept or Kept(), list(w), sum(SIZES), dict(enumerate(SIZES)))


def ragged(sizes=SIZES) -> Partition:
    owners = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Partition.from_owners(
        owners[torch.randperm(len(owners), generator=torch.Generator().manual_seed(2))], len(sizes)
    )


def run(c: Config, task: Experiment, partition: Partition):
    engine = Sequential(task.model, task.data, partition, c)
    return list(run_rounds(task, partition, engine, c))


def close(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("optimizer", "E", "T"), [("sgd", 1, 3), ("sgd", 3, 2), ("adam", 1, 3), ("adam", 2, 2)])
def test_one_client_is_the_baseline_step_for_step(optimizer, E, T):
    c = config(num_clients=1, num_select_clients=1, optimizer=optimizer, init_lr=0.01, local_epoch=E, global_epoch=T,
               keep_optimizer_state=True, batch_size=5, lr_decay=0.9)  # fmt: skip
    task = task_of(c)
    n = len(task.data.train)
    w0 = task.w
    federated = run(c, task, ragged((n,)))
    load_state(task.model, w0)
    central = list(centralised_rounds(task, [n * E * t for t in range(1, T + 1)]))
    for one, other in zip(federated, central, strict=True):
        close(one.w, other.w)
        for key in ("test_accuracy", "test_loss", "train_loss", "examples", "local_steps"):
            a, b = one.record[key], other.record[key]
            assert a == b or a == pytest.approx(b, rel=1e-12)


def test_one_client_is_the_baseline_bit_for_bit_in_float32(command):
    one = (
        "--num_clients 1 --num_select_clients 1 --local_epoch 2 --keep_optimizer_state --optimizer adam --init_lr 0.01"
    )
    federated = command("federated", one)
    central = command("baseline", f"--match {federated.folder}")
    assert federated.code == central.code == 0
    assert federated.sha256 == central.sha256


def test_all_clients_one_epoch_whole_batches_is_one_full_batch_step():
    c = config(local_epoch=1, batch_size=0, global_epoch=1)
    task = task_of(c)
    w0 = task.w
    after = run(c, task, ragged())[-1].w
    load_state(task.model, w0)
    x, y = task.data.batch(task.data.train, slice(None))
    task.model.zero_grad()
    F.cross_entropy(task.model(x), y).backward()
    expected = {name: p.detach() - 0.1 * p.grad for name, p in task.model.named_parameters()}
    close(after, expected)


def by_hand(c: Config, task: Experiment, partition: Partition):
    """Algorithm 1 written again with autograd alone: no optimizer, engine or aggregation of ours."""
    from fl.rng import shuffles

    w = task.w
    for t in range(1, c.global_epoch + 1):
        total = {name: torch.zeros_like(value) for name, value in w.items()}
        S_t = select_clients(c.seed, t, len(partition), c.num_select_clients)
        n = sum(len(partition[k]) for k in S_t)
        for k in S_t:
            load_state(task.model, w)
            mine = partition[k]
            for e in range(c.local_epoch):
                order = shuffles(c.seed, [(k, (t - 1) * c.local_epoch + e)], len(mine), task.device)[0]
                for b in range(0, len(mine), c.batch_size):
                    x, y = task.data.batch(task.data.train, mine[order[b : b + c.batch_size]])
                    parameters = list(task.model.parameters())
                    gradients = torch.autograd.grad(F.cross_entropy(task.model(x), y), parameters)
                    with torch.no_grad():
                        for p, g in zip(parameters, gradients, strict=True):
                            p -= c.lr(t) * g
            for name, value in state_of(task.model).items():
                total[name] += value * len(mine) / n
        w = total
    return w


@pytest.mark.parametrize("model", OF_IMAGES)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_ragged_clients_equal_algorithm_1_by_hand(m, model):
    c = config(num_select_clients=m, global_epoch=2, lr_decay=0.5, model=model, init_lr=0.05)
    task = task_of(c)
    w0 = task.w
    after = run(c, task, ragged())[-1]
    load_state(task.model, w0)
    close(after.w, by_hand(c, task, ragged()), 1e-9)


def test_no_client_is_dropped_when_it_is_smaller_than_a_batch():
    c = config(batch_size=6, local_epoch=1, global_epoch=1)
    task = task_of(c)
    record = run(c, task, ragged())[-1].record
    assert record["clients"] == [0, 1, 2]
    assert record["examples"] == 12
    assert record["local_steps"] == 2 + 1 + 1


def test_losses_are_means_over_examples():
    c = config(batch_size=5, local_epoch=1, global_epoch=1, init_lr=1e-30, optimizer="sgd")
    task = task_of(c)
    x, y = task.data.batch(task.data.train, slice(None))
    expected = F.cross_entropy(task.model(x), y).item()
    record = run(c, task, ragged())[-1].record
    assert record["train_loss"] == pytest.approx(expected, rel=1e-12)
    x, y = task.data.batch(task.data.test, slice(None))
    assert record["test_loss"] == pytest.approx(F.cross_entropy(task.model(x), y).item(), rel=1e-12)
    assert record["test_accuracy"] == (task.model(x).argmax(1) == y).double().mean().item()


def test_batchnorm_buffers(monkeypatch):
    """Running statistics are averaged like weights; the counter takes the maximum, not a sum or a mean."""
    monkeypatch.setitem(MODELS, "bn", "tests.test_golden:bn_net")
    c = config(model="bn", global_epoch=1, local_epoch=1, batch_size=2)
    task = task_of(c)
    w0 = task.w
    partition = ragged((7, 4, 2))
    task = replace(task, data=federated(c).data.to(task.device, torch.float64))
    engine = Sequential(task.model, task.data, partition, c)
    updates = list(engine.train([0, 1, 2], begin(c, w0)))
    assert [u.w["1.num_batches_tracked"][0].item() for u in updates] == [4, 2, 1]
    load_state(task.model, w0)
    w = list(run_rounds(task, partition, Sequential(task.model, task.data, partition, c), c))[-1].w
    assert w["1.num_batches_tracked"].item() == 4
    expected = sum(u.reports[0].n_k * u.w["1.running_mean"][0] for u in updates) / 13
    torch.testing.assert_close(w["1.running_mean"], expected)


def bn_round(c: Config):
    """The model after one round with BatchNorm, on clients of at least two examples."""
    task = task_of(c)
    task = replace(task, data=federated(c).data.to(task.device, torch.float64))
    partition = ragged((7, 4, 2))
    return list(run_rounds(task, partition, Sequential(task.model, task.data, partition, c), c))[-1].w


def bn_net(shape, classes):
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, classes))


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("logistic", 7_850),
        ("2nn", 199_210),
        ("cnn", 1_663_370),
        ("lenet", 44_426),
        ("small_cnn", 28_938),
        ("gn_cnn", 390_858),
        ("fast_cnn", 30_074),
        ("mlp", 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10),
    ],
)
def test_parameter_counts(model, parameters):
    network = named("model", model)((1, 28, 28), 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_cnn_goes_28_26_14_12_7():
    from fl.models.mcmahan2017 import cnn

    sides, x = [], torch.zeros(1, 1, 28, 28)
    for layer in cnn((1, 28, 28), 10):
        x = layer(x)
        if x.dim() == 4 and not isinstance(layer, nn.ReLU):
            sides.append(x.shape[-1])
    assert sides == [26, 14, 12, 7]


@pytest.mark.parametrize("model", OF_IMAGES)
def test_models_take_colour_and_other_sizes(model):
    assert named("model", model)((3, 32, 40), 7)(torch.zeros(2, 3, 32, 40)).shape == (2, 7)


def test_adam_starts_fresh_every_round_unless_kept():
    c = config(optimizer="adam", init_lr=0.01, num_select_clients=1, num_clients=1, global_epoch=2)
    task = task_of(c)
    w0 = task.w
    rounds = run(c, task, ragged((12,)))
    load_state(task.model, w0)
    # Round 2 alone, by an engine that never saw round 1, gives the same model.
    again = next(Sequential(task.model, task.data, ragged((12,)), c).train([0], begin(c, rounds[1].w, t=2)))
    close({name: stack[0] for name, stack in again.w.items()}, rounds[2].w)


def test_dropout_draws_follow_from_seed_round_and_client(monkeypatch):
    monkeypatch.setitem(MODELS, "dropout", "tests.test_golden:dropout_net")
    c = config(model="dropout")
    task = task_of(c)
    w0 = task.w
    whole = run(c, task, ragged())
    load_state(task.model, w0)
    torch.manual_seed(99)
    rest = list(run_rounds(task, ragged(), Sequential(task.model, task.data, ragged(), c), c, start=whole[1]))
    assert all(torch.equal(whole[-1].w[name], rest[-1].w[name]) for name in w0)


def test_dropout_draws_of_the_baseline_repeat(monkeypatch):
    monkeypatch.setitem(MODELS, "dropout", "tests.test_golden:dropout_net")
    c = config(model="dropout")
    task = task_of(c)
    w0 = task.w
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        load_state(task.model, w0)
        ends.append(list(centralised_rounds(task, [12, 24]))[-1].w)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in w0)


def dropout_net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, classes))

"""Every algorithm against its paper, written again in NumPy, and against FedAvg where it must be FedAvg."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl.algorithms import ALGORITHMS
from fl.client import load_state
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.rng import shuffles
from fl.rounds import federated_averaging
from fl.workers import start
from tests.test_golden import close, config, ragged, task_of

FLAGS = {
    "fedavg": {},
    "fedsgd": {"local_epoch": 1, "batch_size": 0},
    "fedprox": {"proximal_mu": 0.3},
    "fedavgm": {"server_lr": 0.7, "server_momentum": 0.5},
    "fedadagrad": {"server_lr": 0.05, "server_momentum": 0.3},
    "fedadam": {"server_lr": 0.05, "server_beta2": 0.9},
    "fedyogi": {"server_lr": 0.05, "server_tau": 0.01},
    "scaffold": {},
    "fednova": {},
    "fsvrg": {"init_lr": 0.5},
}


def test_every_algorithm_is_tested():
    assert set(FLAGS) == set(ALGORITHMS)


def flags(name, **more):
    return {"algorithm": name, "init_lr": 0.05, "global_epoch": 4} | FLAGS[name] | more


def run(c, engine=Sequential, partition=None, **options):
    task = task_of(c)
    partition = partition or ragged()
    return list(federated_averaging(task, partition, engine(task.model, task.data, partition, c, **options), c))


# --- the papers, in NumPy: softmax regression on three ragged clients


class Toy:
    """The clients' data and minibatches, and the gradient of the mean cross-entropy of softmax regression."""

    def __init__(self, c):
        self.c, task = c, task_of(c)
        self.partition = ragged()
        self.n = np.array(self.partition.sizes.tolist(), dtype=float)
        x, y = task.data.batch(task.data.train, slice(None))
        self.x, self.y = x.flatten(1).numpy(), np.eye(task.data.classes)[y.numpy()]
        self.w = np.concatenate([task.w["1.weight"].numpy(), task.w["1.bias"].numpy()[:, None]], 1)

    def gradient(self, w, b):
        x = np.concatenate([self.x[b], np.ones((len(b), 1))], 1)
        z = x @ w.T
        p = np.exp(z - z.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True) - self.y[b]).T @ x / len(b)

    def batches(self, k, t):
        mine = self.partition[k].numpy()
        B = self.c.batch_size or len(mine)
        for e in range((t - 1) * self.c.local_epoch, t * self.c.local_epoch):
            order = mine[shuffles(self.c.seed, [(k, e)], len(mine), torch.device("cpu"))[0].numpy()]
            yield from (order[i : i + B] for i in range(0, len(mine), B))

    def local(self, k, t, w_t, direction):
        """Client k's model and number of steps, each step along -direction(gradient, w, batch)."""
        w, steps = w_t.copy(), 0
        for b in self.batches(k, t):
            w, steps = w - self.c.init_lr * direction(self.gradient(w, b), w, b), steps + 1
        return w, steps

    def mean(self, values):
        return sum(n * v for n, v in zip(self.n, values, strict=True)) / self.n.sum()


def plain(toy, t, w, memory):
    return toy.mean([toy.local(k, t, w, lambda g, *_: g)[0] for k in range(3)])


def fedprox(toy, t, w, memory):
    mu = toy.c.proximal_mu
    return toy.mean([toy.local(k, t, w, lambda g, v, b: g + mu * (v - w))[0] for k in range(3)])


def fedavgm(toy, t, w, memory):
    v = toy.c.server_momentum * memory.get("v", 0) + plain(toy, t, w, memory) - w
    memory["v"] = v
    return w + toy.c.server_lr * v


def adaptive(rule):
    def server(toy, t, w, memory):
        c = toy.c
        delta = plain(toy, t, w, memory) - w
        memory["m"] = c.server_momentum * memory.get("m", 0) + (1 - c.server_momentum) * delta
        memory["v"] = rule(memory.get("v", np.full_like(w, c.server_tau**2)), delta**2, c.server_beta2)
        return w + c.server_lr * memory["m"] / (np.sqrt(memory["v"]) + c.server_tau)

    return server


def scaffold(toy, t, w, memory):
    c = memory.setdefault("c", np.zeros_like(w))
    c_k = memory.setdefault("c_k", [np.zeros_like(w) for _ in range(3)])
    models, new = [], []
    for k in range(3):
        w_k, steps = toy.local(k, t, w, lambda g, *_, k=k: g - c_k[k] + c)
        models.append(w_k)
        new.append(c_k[k] - c + (w - w_k) / (steps * toy.c.init_lr))
    memory["c"] = c + toy.mean([after - before for after, before in zip(new, c_k, strict=True)])
    memory["c_k"] = new
    return toy.mean(models)


def fednova(toy, t, w, memory):
    done = [toy.local(k, t, w, lambda g, *_: g) for k in range(3)]
    tau_eff = toy.mean([steps for _, steps in done])
    return w - tau_eff * toy.mean([(w - w_k) / steps for w_k, steps in done])


def fsvrg(toy, t, w, memory):
    full = toy.mean([toy.gradient(w, toy.partition[k].numpy()) for k in range(3)])
    return toy.mean([
        toy.local(k, t, w, lambda g, v, b, k=k: (g - toy.gradient(w, b) + full) / toy.n[k])[0] for k in range(3)
    ])  # fmt: skip


PAPERS = {
    "fedavg": plain,
    "fedsgd": lambda toy, t, w, memory: w - toy.c.init_lr * toy.gradient(w, np.concatenate([*toy.partition])),
    "fedprox": fedprox,
    "fedavgm": fedavgm,
    "fedadagrad": adaptive(lambda v, d, beta2: v + d),
    "fedadam": adaptive(lambda v, d, beta2: beta2 * v + (1 - beta2) * d),
    "fedyogi": adaptive(lambda v, d, beta2: v - (1 - beta2) * d * np.sign(v - d)),
    "scaffold": scaffold,
    "fednova": fednova,
    "fsvrg": fsvrg,
}


@pytest.mark.parametrize("name", list(FLAGS))
def test_equals_its_paper_in_numpy(name):
    c = config(model="logistic", **flags(name))
    toy, memory = Toy(c), {}
    w = toy.w
    for t in range(1, c.global_epoch + 1):
        w = PAPERS[name](toy, t, w, memory)
    ours = run(c)[-1].w
    np.testing.assert_allclose(ours["1.weight"].numpy(), w[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours["1.bias"].numpy(), w[:, -1], rtol=1e-9, atol=1e-12)
    if name != "fedavg":  # and it is not FedAvg under another name
        assert not np.allclose(
            ours["1.weight"].numpy(), run(config(model="logistic", **flags("fedavg")))[-1].w["1.weight"]
        )


# --- where it must be FedAvg, to the bit


@pytest.mark.parametrize(
    "degenerate",
    [
        {"algorithm": "fedprox", "proximal_mu": 0.0},
        {"algorithm": "fedavgm", "server_lr": 1.0, "server_momentum": 0.0},
        {"algorithm": "fednova", "batch_size": 0},  # as many steps at each client
        {"algorithm": "scaffold", "global_epoch": 1},  # no control variates yet
        {"aggregate": "trimmed_mean", "trim": 0.0},
    ],
)
def test_degenerate_cases_are_fedavg_to_the_bit(degenerate):
    common = {key: value for key, value in degenerate.items() if key in ("batch_size", "global_epoch")}
    expected, ours = (run(config(**more))[-1].w for more in (common, degenerate))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


# --- engines


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("model", ["2nn", "small_cnn"])
@pytest.mark.parametrize("name", list(FLAGS))
def test_stacked_equals_sequential(name, model, optimizer):
    more = {"sgd": {}, "momentum": {"momentum": 0.9}, "adam": {"optimizer": "adam", "init_lr": 0.003}}[optimizer]
    if (name in ("scaffold", "fsvrg") and more) or (name in ("fednova", "fedsgd") and optimizer == "adam"):
        pytest.skip("refused by the flags")
    c = config(model=model, **flags(name, **({} if name == "fsvrg" else {"weight_decay": 0.1}), **more))
    for one, other in zip(run(c), run(c, Stacked, stack_size=2), strict=True):
        close(one.w, other.w, 1e-9)


@pytest.mark.parametrize("name", ["fedprox", "scaffold", "fsvrg"])
def test_the_general_path_equals_sequential(name, monkeypatch):
    from fl.models import MODELS

    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    c = config(**flags(name, model="tanh"))
    for one, other in zip(run(c), run(c, Stacked, stack_size=3), strict=True):
        close(one.w, other.w, 1e-9)


def all_algorithms(c, group):
    """Every algorithm and rule in turn, in one group."""
    results = {}
    for name, rule in [*((name, "mean") for name in FLAGS), ("fedavg", "median"), ("fedadam", "geometric_median")]:
        each = config(model="2nn", **flags(name, aggregate=rule))
        task = task_of(each)
        engine = Stacked(task.model, task.data, ragged(), each)
        results[name, rule] = list(federated_averaging(task, ragged(), engine, each, group))
    return results


def test_workers_equal_sequential():
    c = config(engine="distributed")
    with start(c, 2, all_algorithms) as group:
        together = all_algorithms(c, group)
    for (name, rule), rounds in together.items():
        for one, other in zip(run(config(model="2nn", **flags(name, aggregate=rule))), rounds, strict=True):
            close(one.w, other.w, 1e-9)
            assert one.record["local_steps"] == other.record["local_steps"]


# --- what survives


@pytest.mark.parametrize("name", list(FLAGS))
def test_memory_survives_resume(name, command):
    words = " ".join(f"--{key} {value}" for key, value in flags(name).items() if key not in ("init_lr", "global_epoch"))
    part = command("federated", f"{words} --global_epoch 2", folder="part")
    assert part.code == 0
    assert command("federated", "--resume --global_epoch 5", folder="part").code == 0
    whole = command("federated", f"{words} --global_epoch 5")
    assert part.sha256 == whole.sha256
    assert part.untimed == whole.untimed


def test_scaffold_keeps_state_of_selected_clients_only():
    c = config(**flags("scaffold", num_select_clients=1, global_epoch=1, model="logistic"))
    last = run(c)[-1]
    assert sorted(last.carry["memory"]["clients"]) == last.record["clients"]


def test_transfers_are_counted():
    for name, times in (("fedavg", 1), ("scaffold", 2), ("fsvrg", 2)):
        c = config(**flags(name, model="logistic", global_epoch=1))
        bytes_ = 3 * task_of(c).model_bytes * times
        assert run(c)[-1].record["downlink_bytes"] == bytes_ == run(c)[-1].record["uplink_bytes"]


@pytest.mark.parametrize("name", list(FLAGS))
def test_buffers_are_averaged_whatever_the_algorithm(name, monkeypatch):
    """A momentum or a sign on running_var could make it negative."""
    from fl.models import MODELS
    from tests.test_golden import bn_round

    monkeypatch.setitem(MODELS, "bn", "tests.test_golden:bn_net")
    expected, ours = (bn_round(config(**flags(each, model="bn", global_epoch=1))) for each in ("fedavg", name))
    if name in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"):  # the clients' models are FedAvg's
        for buffer in ("1.running_mean", "1.running_var"):
            assert torch.equal(ours[buffer], expected[buffer])
    assert (ours["1.running_var"] > 0).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algorithm scaffold --optimizer adam", "--algorithm scaffold: needs --optimizer sgd"),
        ("--algorithm fsvrg --momentum 0.9", "--momentum 0.9: needs another --algorithm"),
        ("--algorithm fedsgd --local_epoch 3", "--local_epoch 3: --algorithm fedsgd is E = 1 and B = 0"),
        ("--proximal_mu 1", "--proximal_mu 1.0: needs --algorithm fedprox"),
        ("--server_lr 1", "--server_lr 1.0: needs --algorithm fedavgm"),
        ("--algorithm fedavgm --server_beta2 0.9", "--server_beta2 0.9: needs --algorithm fedadam"),
        ("--aggregate krum --byzantine 2", "--byzantine 2: krum needs at least 2 f + 3 = 7 clients a round"),
        ("--algorithm scaffold --aggregate krum --byzantine 0", "--aggregate krum: needs another --algorithm"),
        ("--algorithm fsvrg --weight_decay 0.1", "--weight_decay 0.1: needs another --algorithm"),
        ("--aggregate trimmed_mean", "--trim 0.2: leaves out none of 2 clients a round; expected at least 0.5, or"),
        ("--attack scaled --attackers 0.1", "--attackers 0.1: is none of --num_clients 4"),
        (
            "--algorithm fedsgd --optimizer adam --batch_size 0 --local_epoch 1",
            "--algorithm fedsgd: needs --optimizer sgd",
        ),
        ("--attackers 0.1", "--attackers 0.1: needs an --attack"),
        ("--attack label_flip --attack_scale 2", "--attack_scale 2.0: needs --attack sign_flip"),
    ],
)
def test_flags_that_nothing_would_read_are_refused(words, message, command):
    done = command("federated", words)
    assert done.code == 2
    assert message in done.err


def test_load_state_is_not_disturbed_by_a_full_gradient():
    """The full gradient leaves the model as it was found by the clients: at w_t."""
    c = config(**flags("fsvrg", model="logistic"))
    task = task_of(c)
    w0 = task.w
    first = run(c)[1].w
    load_state(task.model, w0)
    close(first, run(c)[1].w)

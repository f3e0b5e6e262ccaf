"""Every algorithm on every engine and through a resume, and where it must be FedAvg."""

from __future__ import annotations

import pytest
import torch

from fl.algorithms import ALGORITHMS
from fl.client import load_state
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.models import MODELS
from fl.processes.workers import start
from tests.rounds import run_rounds
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
    return list(run_rounds(task, partition, engine(task.model, task.data, partition, c, **options), c))


# --- where it must be FedAvg, bit for bit


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
def test_degenerate_cases_are_fedavg_bit_for_bit(degenerate):
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
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    c = config(**flags(name, model="tanh"))
    for one, other in zip(run(c), run(c, Stacked, stack_size=3), strict=True):
        close(one.w, other.w, 1e-9)


def all_algorithms(c, group):
    """Every algorithm and rule in turn, in one group, and a model with buffers."""
    MODELS["bn"] = "tests.test_golden:bn_net"
    results = {}
    for name, rule, model in [
        *((name, "mean", "2nn") for name in FLAGS),
        ("fedavg", "median", "2nn"),
        ("fedadam", "geometric_median", "2nn"),
        ("fednova", "mean", "bn"),
    ]:
        each = config(**flags(name, model=model, aggregate=rule))
        task = task_of(each)
        engine = (Sequential if model == "bn" else Stacked)(task.model, task.data, ragged(), each)
        results[name, rule, model] = list(run_rounds(task, ragged(), engine, each, group))
    return results


def test_workers_equal_sequential(monkeypatch):
    monkeypatch.setitem(MODELS, "bn", "tests.test_golden:bn_net")
    c = config(engine="distributed")
    with start(c, 2, all_algorithms) as group:
        together = all_algorithms(c, group)
    for (name, rule, model), rounds in together.items():
        for one, other in zip(run(config(**flags(name, model=model, aggregate=rule))), rounds, strict=True):
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
    assert sorted(last.kept.clients) == last.record["clients"]


def test_transfers_are_counted():
    for name, times in (("fedavg", 1), ("scaffold", 2), ("fsvrg", 2)):
        c = config(**flags(name, model="logistic", global_epoch=1))
        bytes_ = 3 * task_of(c).model_bytes * times
        assert run(c)[-1].record["downlink_bytes"] == bytes_ == run(c)[-1].record["uplink_bytes"]


@pytest.mark.parametrize("name", list(FLAGS))
def test_buffers_are_averaged_whatever_the_algorithm(name, monkeypatch):
    """A momentum or a sign on running_var could make it negative."""
    from tests.test_golden import bn_round

    monkeypatch.setitem(MODELS, "bn", "tests.test_golden:bn_net")
    expected, ours = (bn_round(config(**flags(each, model="bn", global_epoch=1))) for each in ("fedavg", name))
    if name in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fednova"):  # the clients' models are FedAvg's
        for buffer in ("1.running_mean", "1.running_var"):
            assert torch.equal(ours[buffer], expected[buffer])
    assert (ours["1.running_var"] > 0).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algorithm scaffold --optimizer adam", "--algorithm scaffold: needs --optimizer sgd"),
        (
            "--algorithm fednova --momentum 0.9 --keep_optimizer_state",
            "--keep_optimizer_state: needs --momentum 0 with",
        ),
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

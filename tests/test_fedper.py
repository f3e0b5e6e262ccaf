"""FedPer: the last layers stay with each client, whoever trains it, and the server never sees them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl.check import resolve
from fl.client import load_state
from fl.client_eval import client_accuracies
from fl.engines import make_engine
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.errors import FlagError
from fl.experiment import federated
from fl.group import Group
from fl.models import MODELS
from fl.names import entry_of
from fl.processes.workers import start
from fl.rng import shuffles
from fl.state import Kept, Report, RoundStart, Update
from fl.transforms.personal import personal_names, withhold
from tests.rounds import run_rounds
from tests.test_engines import OPTIMIZERS
from tests.test_golden import SIZES, close, config, ragged, task_of


def by_hand(c, task, partition):
    """FedPer with autograd alone: a body for all and a head a client. Returns both after all rounds."""
    w = task.w
    head_names = task.personal
    heads = {k: {name: w[name] for name in head_names} for k in range(len(SIZES))}
    for t in range(1, c.global_epoch + 1):
        total = {name: torch.zeros_like(v) for name, v in w.items()}
        for k in range(len(SIZES)):
            rows, begin = partition[k], w | heads[k]
            load_state(task.model, begin)
            for e in range((t - 1) * c.local_epoch, t * c.local_epoch):
                for b in rows[shuffles(c.seed, [(k, e)], len(rows), rows.device)[0]].split(c.batch_size):
                    x, y = task.data.batch(task.data.train, b)
                    task.model.zero_grad()
                    F.cross_entropy(task.model(x), y).backward()
                    with torch.no_grad():
                        for name, p in task.model.named_parameters():
                            pull = c.proximal_mu * (p - begin[name]) if c.algorithm == "fedprox" else 0
                            p -= c.init_lr * (p.grad + pull)
            heads[k] = {name: task.w[name] for name in head_names}
            for name, v in task.w.items():
                total[name] += SIZES[k] / sum(SIZES) * v
        w = {name: w[name] if name in head_names else total[name] for name in w}
    return w, heads


@pytest.mark.parametrize("engine", [Sequential, Stacked])
@pytest.mark.parametrize("more", [{}, {"algorithm": "fedprox", "proximal_mu": 1.0}])
@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_the_algorithm_of_its_paper(layers, more, engine):
    c = config(personal_layers=layers, **more)
    task = task_of(c)
    w, heads = by_hand(c, task_of(c), ragged())
    end = list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))[-1]
    close(end.w, w, 1e-12)
    for k, head in heads.items():
        close(end.kept.of(k, "personal"), head, 1e-12)
        assert not torch.allclose(head[task.personal[0]], w[task.personal[0]])


ALGORITHMS = [
    {}, {"algorithm": "fedprox", "proximal_mu": 0.5}, {"algorithm": "scaffold"},
    {"algorithm": "fednova", "momentum": 0.5}, {"algorithm": "fedadam"}, {"aggregate": "median"},
    {"aggregate": "krum", "byzantine": 0}, {"clip_norm": 0.1, "noise_multiplier": 0.5, "insecure_noise": True},
    {"attack": "gaussian", "attackers": 0.4}, {"model": "small_cnn"}, {"model": "gn_cnn", "personal_layers": 2},
]  # fmt: skip


@pytest.mark.parametrize("flags", ALGORITHMS)
def test_every_engine_agrees_and_the_servers_own_layers_never_move(flags):
    c = config(**{"personal_layers": 1, **flags})
    task = task_of(c)
    w0, results = task.w, []
    for engine in (Sequential, Stacked):
        load_state(task.model, w0)
        results.append(list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c)))
    assert task.personal
    for one, other in zip(*results, strict=True):
        close(one.w, other.w, 1e-9)
        assert one.kept.clients.keys() == other.kept.clients.keys()
        for k in one.kept.clients:
            close(one.kept.of(k, "personal"), other.kept.of(k, "personal"), 1e-9)
        for name in task.personal:
            assert torch.equal(one.w[name], w0[name])
    assert any(not torch.equal(one.w[name], w0[name]) for name in w0)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_fedprox_pulls_a_clients_layers_alike_under_every_optimizer(optimizer):
    c = config(algorithm="fedprox", proximal_mu=0.5, personal_layers=1, **OPTIMIZERS[optimizer])
    ends = []
    for engine in (Sequential, Stacked):
        task = task_of(c)
        ends.append(list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))[-1])
    for k in range(3):
        close(*(end.kept.of(k, "personal") for end in ends), 1e-9)


def rounds_of(c, group):
    task = replace(task_of(c), partition=ragged(), held_out=ragged())
    rounds = list(run_rounds(task, ragged(), make_engine("stacked", task), c, group))
    return rounds[-1], client_accuracies(task, rounds[-1].w, rounds[-1].kept, group)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_workers_agree_with_one_process():
    c = config(personal_layers=1, engine="distributed")
    with start(c, 2, rounds_of) as group:
        together, tested = rounds_of(c, group)
    alone, tested_alone = rounds_of(c, Group())
    close(alone.w, together.w, 1e-9)
    for k in range(3):
        close(alone.kept.of(k, "personal"), together.kept.of(k, "personal"), 1e-9)
    assert torch.equal(tested, tested_alone)


MODEL = "--model mlp --hidden 9,7 --personal_layers 2"


def test_stopped_and_resumed_or_in_two_processes_gives_the_same_bits(same_anyhow):
    whole = same_anyhow(
        f"{MODEL} --global_epoch 5 --client_test_fraction 0.2 --client_eval_every 1 --personalise_epochs 1"
    )
    assert (whole.folder / "clients").is_dir()
    assert whole.summary["personalised"]


def test_the_bytes_of_own_layers_are_not_counted(command):
    flags = "--model mlp --hidden 9 --global_epoch 1"
    head = 4 * (9 * 3 + 3)
    for more in ("", "--algorithm scaffold"):
        whole, shared = (
            command("federated", f"{flags} {more} {own}").records[1] for own in ("", "--personal_layers 1")
        )
        for key in ("downlink_bytes", "uplink_bytes"):
            assert whole[key] - shared[key] == 2 * head * (2 if more else 1)


def test_each_client_is_tested_with_its_own_layers():
    c = config(personal_layers=1)
    task = replace(task_of(c), held_out=ragged())
    w, right = task.w, []
    kept = Kept(clients={0: {"personal": {name: -w[name] for name in task.personal}}})
    for k, sign in enumerate((-1, 1, 1)):  # clients 1 and 2 have not trained yet
        load_state(task.model, w | {name: sign * w[name] for name in task.personal})
        x, y = task.data.batch(task.data.train, task.held_out[k])
        right.append(float((task.model(x).argmax(1) == y).double().mean()))
    assert client_accuracies(task, w, kept, Group()).tolist() == right


def test_an_update_is_rejected_if_own_layers_are_not_finite():
    transform, w = withhold(["b"]), {"a": torch.zeros(2), "b": torch.zeros(3)}
    now = RoundStart(config(), 1, w, Kept(), ["a", "b"], 12, {0: 4, 1: 4})
    models = {"a": torch.ones(2, 2), "b": torch.tensor([[1.0, 2, 3], [1, math.inf, 3]])}
    sent = transform.client(now, Update([Report(k, 4, 0.0, 4, 1) for k in (0, 1)], models, {0: {"optimizer": {}}}))
    assert torch.equal(sent.w["b"][0], w["b"])
    assert not sent.w["b"][1].isfinite().all()
    assert sent.kept[0].keys() == {"optimizer", "personal"}
    assert torch.equal(sent.kept[0]["personal"]["b"], models["b"][0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.two.weight = self.one.weight


def test_what_a_layer_is():
    last = ["last.weight", "last.bias"]
    assert personal_names(Tied(), 0) == []
    assert personal_names(Tied(), 1) == last
    untied = Tied()
    untied.two = nn.Linear(4, 4)
    norm = [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert personal_names(untied, 3) == [*norm, "two.weight", "two.bias", *last]
    with pytest.raises(FlagError, match="--personal_layers 2: the layer one shares a parameter with them"):
        personal_names(Tied(), 2)
    with pytest.raises(FlagError, match="--personal_layers 4: the model has 4 layers"):
        personal_names(untied, 4)


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("resnet18_gn", "logistic")])
def test_every_models_last_layer_makes_its_logits(model):
    data = {"lenet": "tiny16", "char_lstm": "ragged_tokens"}.get(model, "tiny")
    x = federated(resolve({"dataset": data, "model": model, "device": "cpu", "personal_layers": 1}))
    assert x.w[x.personal[0]].shape[0] == x.data.classes
    assert entry_of("model", model)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "--personal_layers 1: the model has 1 layers, and one at least must be shared; lower it"),
        ("--algorithm fsvrg", "--personal_layers 1: needs another --algorithm"),
        ("--compress sign", "--personal_layers 1: needs another --compress"),
    ],
)
def test_flags_that_do_not_fit_are_refused(more, words, command):
    done = command("federated", f"--personal_layers 1 {more}")
    assert done.code == 2
    assert words in done.err
    assert not done.folder.exists()


def test_the_baseline_has_no_clients_to_keep_a_layer(command):
    """Nor examples of theirs: one command line serves both scripts."""
    flags = "--personal_layers 1 --client_test_fraction 0.2 --client_eval_every 1 --local_only --epoch 1"
    assert command("baseline", flags).sha256 == command("baseline", "--epoch 1").sha256

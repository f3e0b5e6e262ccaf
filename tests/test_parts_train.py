"""Models and algorithms of the user's own that are out of the ordinary, and train all the same."""

from __future__ import annotations

import json

import pytest
import torch

import compare
from tests.conftest import OWN

ODD_TENSORS = """
class Tied(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.first, self.scale = nn.Linear(64, 64), nn.Parameter(torch.tensor(1.0))
        self.again = nn.Linear(64, 64)
        self.again.weight = self.first.weight
        self.last = nn.Linear(64, classes)
        self.register_buffer("mask", torch.arange(64) > 0)
    def forward(self, x):
        return self.last(self.again(self.first(x.flatten(1) * self.mask)).relu() * self.scale)
"""


@pytest.mark.parametrize("more", ["--algorithm fedadam", "--clip_norm 0.1", "--aggregate median", "--compress top_k"])
def test_tensors_that_layers_share_scalars_and_masks(more, own, command):
    own.write_text(OWN + ODD_TENSORS)
    flags = f"--model own.py:Tied --optimizer sgd --init_lr 0.5 --global_epoch 1 {more}"
    one = command("federated", flags)
    assert one.code == 0, one.err
    w, w_0 = (torch.load(run.folder / "model.pt") for run in (one, command("federated", f"{flags} --global_epoch 0")))
    assert torch.equal(w["first.weight"], w["again.weight"])
    parameters = [name for name in w if name not in ("again.weight", "mask")]
    step = torch.cat([(w[name] - w_0[name]).flatten() for name in parameters])
    assert not torch.equal(w["first.weight"], w_0["first.weight"])
    if "fedadam" in more:
        assert step.abs().max() <= 0.011  # the server's rate, not the clients'
    if "clip" in more:
        assert step.norm() <= 0.1 * (1 + 1e-6)
    assert command("federated", f"{flags} --workers 2").sha256 == one.sha256
    nbytes = sum(w[name].nbytes for name in [*parameters, "mask"])
    assert one.records[1]["downlink_bytes"] == 2 * nbytes


COSTS = """
class Counted(Mean):
    def result(self, denominator):
        self.costs = {"weight": denominator}
        return super().result(denominator)
"""


def test_what_an_aggregate_costs_may_be_known_only_with_its_result(own, command):
    own.write_text(OWN + COSTS)
    done = command("federated", "--aggregate own.py:Counted --global_epoch 1 --local_epoch 1")
    assert done.records[1]["weight"] == done.records[1]["examples"]


PREPARED = """
def prepare(engine, now, mine, group):
    return replace(now, gradient={name: torch.ones_like(w) for name, w in now.w.items()})
def server(now, got):
    return {name: w - 0.01 * now.gradient[name] for name, w in got.mean.items()}, got.kept
prepared = Algorithm(prepare=prepare, server=server)
"""


def test_an_algorithm_is_not_asked_about_a_round_that_there_was_not(own, command):
    own.write_text(OWN + PREPARED)
    assert command("federated", "--algorithm own.py:prepared --global_epoch 1", folder="a").code == 0
    rest = command("federated", "--resume --global_epoch 2", folder="a")
    assert rest.code == 0, rest.err


CHANGING = """
def tell(now, clients):
    w = {name: w.unsqueeze(0) for name, w in now.parameters.items()}
    ones = {name: torch.ones_like(v) for name, v in w.items()}
    S = len(clients)
    return [
        Told(Correction(pull=1.0)),
        Told(Correction(scale=torch.full((S,), 0.5), drift=ones)),
        Told(Correction(drift={name: v.expand(S, *v.shape[1:]) for name, v in ones.items()})),
        Told(Correction(anchor=w, drift=ones, pull=0.1, centre=w)),
        Told(),
    ][(now.t - 1) % 5]
changing = Algorithm(tell=tell)
"""


def test_what_clients_are_told_may_change_from_round_to_round(own, command):
    own.write_text(OWN + CHANGING)
    flags = "--algorithm own.py:changing --model 2nn --optimizer sgd --init_lr 0.05 --global_epoch 6"
    one, other = (command("federated", f"{flags} --engine {engine}") for engine in ("sequential", "stacked"))
    for a, b in zip(one.records, other.records, strict=True):
        assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-5)


IDLE = """
class Idle(Net):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.idle = nn.Parameter(torch.ones(2))
"""


def test_parameters_that_a_model_does_not_use_do_not_decay(own, command):
    """A stack would move them, so the sequential engine trains."""
    own.write_text(OWN + IDLE)
    flags = "--model own.py:Idle --weight_decay 0.1 --global_epoch 1"
    done = command("federated", flags)
    assert json.loads((done.folder / "environment.json").read_text())["engine"] == "sequential"
    assert done.sha256 == command("federated", f"{flags} --engine sequential").sha256
    assert "has parameters that it does not use" in command("federated", f"{flags} --engine stacked").err


def test_parameters_that_a_model_does_not_use_stay_as_they_are(own, command):
    own.write_text(OWN + IDLE)
    done = command("federated", "--model own.py:Idle --algorithm fsvrg --optimizer sgd")
    assert done.code == 0, done.err
    assert torch.equal(torch.load(done.folder / "model.pt")["idle"], torch.ones(2))


LATE = """
def server(now, got):
    kept = got.kept
    if now.t > 2:
        before = kept.server.get("mean", got.mean)
        kept = kept.with_server(mean=got.mean).with_clients({0: {f"round {now.t}": got.mean}})
        return {name: (w + before[name]) / 2 for name, w in got.mean.items()}, kept
    return got.mean, kept
late = Algorithm(server=server)
"""


def test_what_an_algorithm_keeps_may_begin_in_a_later_round(own, command):
    own.write_text(OWN + LATE)
    assert command("federated", "--algorithm own.py:late --global_epoch 3", folder="part").code == 0
    rest = command("federated", "--resume --global_epoch 5", folder="part")
    assert rest.code == 0, rest.err
    assert rest.sha256 == command("federated", "--algorithm own.py:late --global_epoch 5").sha256


IN_PLACE = """
@torch.no_grad()
def shrink(now, update):
    for name, w in update.w.items():
        w.lerp_(now.w[name], 0.5)
    return update
shrunk = Transform(client=shrink)
def descend(now, update):
    w = {name: tensor.detach().requires_grad_() for name, tensor in update.w.items()}
    sum((tensor - now.w[name]).square().sum() for name, tensor in w.items()).backward()
    return update._replace(w={name: (tensor - 0.25 * tensor.grad).detach() for name, tensor in w.items()})
descended = Transform(client=descend)  # shrunk
"""


@pytest.mark.parametrize("name", ["shrunk", "descended"])
def test_a_transform_may_change_an_update_in_place_or_take_gradients_on_every_engine(name, own, command):
    own.write_text(OWN + IN_PLACE)
    one, stacked = (command("federated", f"--transform own.py:{name} --engine {e}") for e in ("sequential", "stacked"))
    assert one.code == stacked.code == 0, stacked.err
    assert stacked.summary["test_loss"] == pytest.approx(one.summary["test_loss"], abs=1e-5)
    assert one.summary["test_loss"] != command("federated").summary["test_loss"]


BY_CLIENTS = """
def data(data_dir, num_clients, labels_per_client, quiet):
    t = patterns(data_dir)
    return replace(t, train=Split(t.train.examples + num_clients + 9 * labels_per_client, t.train.targets))
"""


def test_the_baseline_has_the_data_that_ones_own_function_made_for_the_federated_run(own, command, capsys):
    """Its function may take flags of the federation, which the baseline then takes from the run that it matches."""
    own.write_text(OWN + BY_CLIENTS)
    flags = "--dataset own.py:data --partition labels --labels_per_client 3 --num_clients 5 --global_epoch 1"
    federated = command("federated", flags)
    matched = command("baseline", f"--match {federated.folder}")
    assert matched.code == 0, matched.err
    read = [json.loads((run.folder / "environment.json").read_text())["data_sha256"] for run in (federated, matched)]
    assert read[0] == read[1]
    given = command("baseline", f"--match {federated.folder} --num_clients 5 --labels_per_client 3")
    assert (given.code, given.err) == (0, "")
    other = command("baseline", f"--match {federated.folder} --num_clients 6")
    assert compare.run([str(one.folder) for one in (matched, given, other)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "baseline" in line]
    assert [("K=5" in row, "K=6" in row) for row in rows] == [(True, False), (False, True)]

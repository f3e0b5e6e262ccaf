"""The engine of a real network, whose messages here are calls: the bits of the simulation, and every kind of fault."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

pytest.importorskip("safetensors", reason="the messages need safetensors: sh requirements.sh deploy")

from deploy.limits import REFUSED, check_deployable
from deploy.node import answer
from deploy.server import Deployed, explained
from deploy.wire import pack, unpack
from fl.algorithms import ALGORITHMS
from fl.check import resolve
from fl.config import DEFAULTS
from fl.engines.networked import Asked, Networked
from fl.engines.sequential import Sequential
from fl.errors import FlagError, RunnerError
from fl.experiment import federated
from fl.group import Group
from fl.names import entry_of
from fl.recorded import federated_rounds
from fl.records.checkpoint import model_sha256
from tests.conftest import OWN

Fault = Callable[[str, int, dict], dict | None]


class Calls:
    """A channel to clients of this process. fault(what, k, answer): what client k sends instead; None is nothing."""

    def __init__(self, fault: Fault = lambda what, k, answer: answer):
        self.fault = fault

    def ask(self, what, contents):
        answers, lost, down, up = {}, {}, 0, 0
        for k, content in contents.items():
            question = pack(content)
            down += len(question)
            made = self.fault(what, k, answer(what, unpack(question), {"partition": k, "device": "cpu"}))
            if made is None:
                lost[k] = "no answer in time"
                continue
            reply = pack(made)
            up += len(reply)
            answers[k] = unpack(reply)
        return Asked(answers, lost, down, up)


def flags(**more):
    base = {"dataset": "tiny", "model": "2nn", "device": "cpu", "num_clients": 4, "num_select_clients": 3,
            "optimizer": "sgd", "init_lr": 0.1, "batch_size": 5, "global_epoch": 3, "local_epoch": 2,
            "partition": "dirichlet"}  # fmt: skip
    return resolve(base | more)


def deployed(c, fault: Fault = lambda what, k, answer: answer, start=None):
    x = federated(c)
    x = Deployed(x.config, x.clean, x.data, x.model, x.device, x.partition, x.proxy)
    engine = Networked(x, Calls(fault), {"common": None})
    return list(explained(federated_rounds(x, engine, Group(), start), engine))


def simulated(c):
    x = federated(c)
    return list(federated_rounds(x, Sequential(x.model, x.data, x.partition, x.config), Group()))


def rounds_of(rounds):
    return [{k: v for k, v in one.record.items() if not k.endswith(("_seconds", "link_bytes"))} for one in rounds]


SETTINGS = [
    *({"algorithm": name} for name in ALGORITHMS if not entry_of("algorithm", name).fixes),
    {"aggregate": "median"}, {"clip_norm": 0.05}, {"model": "small_cnn", "augment": "none"}, {"proxy_fraction": 0.1},
    {"clip_norm": 0.05, "local_noise": 0.1, "insecure_noise": True}, {"optimizer": "adam", "init_lr": 0.01},
    {"clip_norm": 0.05, "clip_quantile": 0.5}, {"batch_size": 0}, {"feature_noise": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("more", SETTINGS, ids=str)
def test_the_network_gives_the_bits_of_the_simulation(more):
    c = flags(**more)
    here, there = simulated(c), deployed(c)
    assert [model_sha256(one.w) for one in here] == [model_sha256(one.w) for one in there]
    assert rounds_of(here) == rounds_of(there)


def only_of(k, what="train"):
    """A fault of one client's answers to one kind of question."""

    def decorate(change: Callable[[dict], dict | None]) -> Fault:
        return lambda asked, client, made: change(made) if (asked, client) == (what, k) else made

    return decorate


WRONG = {
    "no answer in time": lambda made: None,
    "malformed answer": lambda made: {"w": made["w"]},
    "claims 1000000000 examples and has": lambda made: made | {"n_k": 10**9},
}
SPOILT = {
    "another shape": lambda made: made | {"w": {name: v.flatten() for name, v in made["w"].items()}},
    "another dtype": lambda made: made | {"w": {name: v.double() for name, v in made["w"].items()}},
    "a missing tensor": lambda made: made | {"w": dict(list(made["w"].items())[1:])},
    "no tensors": lambda made: made | {"w": [1, 2]},
    "words for numbers": lambda made: made | {"loss": "nan"},
    "more work than asked": lambda made: made | {"examples": made["examples"] * 10},
    "negative steps": lambda made: made | {"steps": -1},
    "fewer steps than were taken": lambda made: made | {"steps": made["steps"] - 1},
    "a loss that no record could hold": lambda made: made | {"loss": 1e200},
}


@pytest.mark.parametrize(("why", "change"), [*WRONG.items(), *(("malformed answer", one) for one in SPOILT.values())])
def test_a_client_that_fails_is_left_out_and_the_record_says_why(why, change):
    c = flags(num_select_clients=4, num_clients=4)
    rounds = deployed(c, only_of(1)(change))
    for one in rounds[1:]:
        assert one.record["clients"] == [0, 2, 3]
        assert one.record["dropped"] == [1]
        assert one.record["lost"][1].startswith(why)
    # The mean is that of the others.
    others = deployed(c, lambda what, k, made: None if (what, k) == ("train", 1) else made)
    assert model_sha256(rounds[-1].w) == model_sha256(others[-1].w)


def test_an_answer_that_is_not_finite_is_rejected():
    def spoil(made):
        return made | {"w": {name: v * math.nan for name, v in made["w"].items()}}

    rounds = deployed(flags(num_select_clients=4), only_of(2)(spoil))
    assert [one.record["rejected"] for one in rounds[1:]] == [{2: "not finite"}] * 3
    assert rounds[-1].record["clients"] == [0, 1, 3]


def test_a_round_with_too_few_answers_leaves_the_model_as_it_is():
    rounds = deployed(flags(num_select_clients=4, min_reports=4), only_of(3)(lambda made: None))
    assert all(one.record["abandoned"] for one in rounds[1:])
    assert {model_sha256(one.w) for one in rounds} == {model_sha256(rounds[0].w)}
    assert [one.record["clients"] for one in rounds] == [[]] * 4


def test_nobody_answers():
    rounds = deployed(flags(), lambda what, k, made: None)
    assert all(one.record["abandoned"] and one.record["train_loss"] is None for one in rounds[1:])


def test_a_client_that_is_missing_from_the_full_gradient_is_missing_from_its_denominator():
    """FSVRG asks twice; the gradient is the mean over those who answered."""
    rounds = deployed(flags(algorithm="fsvrg", num_select_clients=4), only_of(0, "gradient")(lambda made: None))
    assert torch.isfinite(torch.cat([v.flatten() for v in rounds[-1].w.values()])).all()
    assert rounds[-1].record["clients"] == [0, 1, 2, 3]


def test_a_gradient_that_is_not_finite_is_as_good_as_none():
    def spoil(made):
        return {"gradient": {name: v / 0 for name, v in made["gradient"].items()}}

    c = flags(algorithm="fsvrg")
    spoilt, none = (deployed(c, only_of(1, "gradient")(change)) for change in (spoil, lambda made: {}))
    assert model_sha256(spoilt[-1].w) == model_sha256(none[-1].w) != model_sha256(deployed(c)[-1].w)


def test_if_nobody_sends_a_gradient_no_client_moves():
    rounds = deployed(flags(algorithm="fsvrg"), lambda what, k, answer: None if what == "gradient" else answer)
    assert all(torch.equal(w, rounds[0].w[name]) for name, w in rounds[-1].w.items())


def test_a_stopped_run_goes_on_with_the_same_cohorts():
    c = flags(algorithm="scaffold", global_epoch=4)
    whole, begun = deployed(c), deployed(replace(c, global_epoch=2))
    rest = deployed(c, start=begun[-1])
    assert [one.record["clients"] for one in rest] == [one.record["clients"] for one in whole[3:]]
    assert model_sha256(rest[-1].w) == model_sha256(whole[-1].w)


def test_a_node_answers_for_its_own_share_alone():
    with pytest.raises(RunnerError, match="holds the share 1"):
        answer("train", {"flags": {"num_clients": 4}, "k": 0}, {"partition": 1})


def test_a_rule_gets_the_answers_that_it_needs():
    c = resolve({"aggregate": "krum", "byzantine": 1, "num_clients": 6, "num_select_clients": 6})
    with pytest.raises(FlagError, match="--aggregate krum: needs 5 answers to withstand anything"):
        check_deployable(c)
    check_deployable(replace(c, min_reports=5))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_network_cannot_have_is_refused(name):
    values = {"charging": "0.5,0.5", "unmetered": "0.5,0.5", "idle": "0.5,0.5", "attack": "sign_flip",
              "keep_optimizer_state": True, "compress": "sign", "secure_aggregation": True,
              "data_drift": "grow", "over_select": 1.5}  # fmt: skip
    kind = type(DEFAULTS[name])
    value = values.get(name, kind(DEFAULTS[name] + 0.5) if kind is float else 2 if kind is int else 1.0)
    with pytest.raises(FlagError, match=f"--{name} .*leave it out"):
        check_deployable(replace(flags(), **{name: value}))


@pytest.mark.parametrize(
    "message", [b"", b"\0" * 8, b"\xff" * 100, pack({"w": torch.zeros(3)})[:-1], pack({"a": 1})[:20]]
)
def test_what_is_no_message_is_refused(message):
    with pytest.raises(ValueError, match="no message of ours"):
        unpack(message)


def test_a_message_says_what_was_put_into_it():
    w = {"a": torch.randn(3, 4), "b": torch.zeros(0, 2), "n": torch.tensor(7)}
    content = {"w": w, "centre": {name: v.unsqueeze(0) for name, v in w.items()}, "more": [1, 2.5, None, True, "x"],
               3: {"deep": torch.eye(2, dtype=torch.float64)}}  # fmt: skip
    again = unpack(pack(content))
    assert again["more"] == content["more"]
    assert torch.equal(again[3]["deep"], content[3]["deep"])
    for name, v in w.items():
        assert torch.equal(again["w"][name], v)
        assert again["centre"][name].shape == (1, *v.shape)
    assert len(pack(content)) < len(pack({"w": w})) + 600  # the centre is w again, and is not sent twice


KEEPS = """
from fl.state import Kept
def client(now, update):
    before = now.kept.server.get("mark", {"a": torch.zeros(1)})["a"]
    return update._replace(w={name: w + before.to(w) for name, w in update.w.items()})
def finish(now, got):
    return replace(got, kept=got.kept.with_server(mark={"a": torch.full((1,), 0.01 * now.t)}))
def remember(now, update):
    return update._replace(kept={report.client: {"n": report.n_k} for report in update.reports})
server = Transform(client=client, finish=finish, keeps=lambda w: Kept(server={"mark": {"a": torch.zeros(1)}}))
clients = Transform(client=remember)
"""


def test_what_transforms_keep_on_the_server_reaches_the_clients(tmp_path):
    (tmp_path / "own.py").write_text(OWN + KEEPS)
    c = flags(transform=(f"{tmp_path}/own.py:server",))
    here, there = simulated(c), deployed(c)
    assert [model_sha256(one.w) for one in here] == [model_sha256(one.w) for one in there]
    assert model_sha256(here[-1].w) != model_sha256(simulated(flags())[-1].w)


def test_a_transform_that_keeps_something_of_clients_is_refused_on_a_network(tmp_path):
    (tmp_path / "own.py").write_text(OWN + KEEPS)
    own, asked = f"{tmp_path}/own.py:clients", []
    with pytest.raises(FlagError, match=re.escape(f"--transform {own}: keeps something of a client, but on a network")):
        deployed(flags(transform=(own,)), lambda what, k, answer: asked.append(k))
    assert not asked  # it is refused before a client is asked, who could only be lost

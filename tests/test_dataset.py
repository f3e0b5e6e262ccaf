"""What a data set makes of its examples, whatever they are, and that every engine sees the same."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from data import DATASETS
from data.dataset import Dataset, Split
from fl.baseline import centralised_rounds
from fl.client import load_state
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.errors import DataError
from fl.evaluate import evaluate
from fl.group import Group
from fl.models import MODELS
from tests.rounds import run_rounds
from tests.test_engines import OPTIMIZERS, both, hand_made
from tests.test_golden import close, config, ragged, task_of
from tests.tiny import jitter, jittered, tiny, tokens

ROWS = torch.tensor([[[3, 0], [3, 7]], [[1, 1], [2, 5]]])


def made(examples, **more):
    split = Split(examples, torch.zeros(len(examples), dtype=torch.int64))
    return Dataset("made", split, split, 3, **more)


@pytest.mark.parametrize("data", [tiny(Path()), jittered(Path()), tokens(Path())], ids=lambda data: data.name)
def test_inputs_are_gathered_in_the_shape_of_the_rows(data):
    x = data.inputs(ROWS)
    assert x.shape == (2, 2, 2, *data.shape)
    expected, _ = data.batch(data.train, ROWS.flatten())
    assert torch.equal(x, expected.view_as(x))
    assert torch.equal(data.inputs(ROWS[0, 0]), x[0, 0])


def test_normalisation_is_of_bytes_and_floats_and_not_of_tokens():
    values = torch.tensor([[0, 51], [255, 102]])
    by_255 = made(values.to(torch.uint8), mean=0.2, std=0.5).inputs(torch.arange(2))
    torch.testing.assert_close(by_255, torch.tensor([[-0.4, 0], [1.6, 0.4]]), atol=1e-6, rtol=0)
    floats = made(values.float(), mean=1.0, std=2.0).inputs(torch.arange(2))
    torch.testing.assert_close(floats, (values - 1) / 2)
    assert torch.equal(made(values.float()).inputs(torch.arange(2)), values.float())
    for dtype in (torch.int64, torch.int32, torch.int16, torch.bool):
        x = made(values.to(dtype), mean=0.2, std=0.5).inputs(torch.arange(2))
        assert x.dtype == dtype
        assert torch.equal(x, values.to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 4)])
def test_mean_and_deviation_per_channel(shape, dtype):
    examples = (torch.rand(5, *shape) * 255).to(dtype)
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)
    x = made(examples, mean=mean, std=std).inputs(torch.arange(5))
    assert x.dtype == torch.float32
    for c in range(3):
        one = made(examples[:, c : c + 1], mean=mean[c], std=std[c]).inputs(torch.arange(5))
        assert torch.equal(x[:, c : c + 1], one)  # to the bit
    one_of_both = made(examples, mean=mean, std=2.0).inputs(torch.arange(5))
    assert torch.equal(one_of_both[:, 1], x[:, 1])


def test_the_examples_stay_as_they_are():
    for dtype in (torch.float32, torch.float64):
        data = made(torch.arange(12, dtype=dtype).view(4, 3), mean=(1.0, 2.0, 3.0), std=2.0)
        data.batch(data.train, slice(0, 2))[0].zero_()
        data.inputs(torch.arange(4)).zero_()
        assert torch.equal(data.train.examples, torch.arange(12, dtype=dtype).view(4, 3))


def test_every_visit_is_augmented_by_its_own_draw():
    data = replace(jittered(Path()), dtype=torch.float64)
    draws = torch.randint(-(2**63), 2**63 - 1, ROWS.shape, generator=torch.Generator().manual_seed(0))
    x = data.inputs(ROWS, draws)
    for place in [(0, 0, 0), (0, 1, 1), (1, 0, 1)]:
        plain = data.inputs(ROWS[place].view(1))
        assert torch.equal(x[place], jitter(plain, draws[place].view(1))[0])
        assert not torch.equal(x[place], plain[0])
    with torch.autocast("cpu", torch.bfloat16):
        by_product = replace(data, dtype=torch.float32, augment=lambda x, draws: x @ torch.eye(8))
        assert torch.equal(by_product.inputs(ROWS, draws), by_product.inputs(ROWS))


def test_an_augmentation_of_another_shape_is_refused():
    data = replace(jittered(Path()), augment=lambda x, draws: x[..., 1:])
    with pytest.raises(DataError, match=r"jittered: augment made \(2, 8, 7\) of examples of shape \(2, 8, 8\)"):
        data.inputs(ROWS, ROWS)


def test_evaluation_is_not_augmented():
    def refuse(x, draws):
        raise AssertionError("augmented")

    task = task_of(config())
    plain = evaluate(task.model, task.data, Group())
    assert evaluate(task.model, replace(task.data, augment=refuse), Group()) == plain


# --- engines


@pytest.fixture
def data_sets(monkeypatch):
    for name in ("jittered", "vectors", "tokens", "next_tokens"):
        monkeypatch.setitem(DATASETS, name, f"tests.tiny:{name}")
    for name in ("two_layers", "bag_of_words", "bigrams"):
        monkeypatch.setitem(MODELS, name, f"tests.test_dataset:{name}")
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")


def two_layers(shape, classes):
    return nn.Sequential(nn.Linear(*shape, 70), nn.ReLU(), nn.Linear(70, classes))


def bag_of_words(shape, classes):
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(4 * prod(shape), classes))


class bigrams(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.table = nn.Embedding(classes, classes)

    def forward(self, x):
        return self.table(x).transpose(1, 2)  # (B, classes, T)


@pytest.mark.parametrize("optimizer", ["decay", "adam"])
@pytest.mark.parametrize("model", ["2nn", "small_cnn", "tanh"])
def test_augmented_floats_give_the_same_on_every_engine(model, optimizer, data_sets):
    c = config(dataset="jittered", model=model, global_epoch=2, **OPTIMIZERS[optimizer])
    for stack_size in (1, 3):
        both(c, stack_size)
    ends = []
    for augment in (task_of(c).data.augment, None):
        task = task_of(c)
        data = replace(task.data, augment=augment)
        ends.append(list(run_rounds(task, ragged(), Stacked(task.model, data, ragged(), c), c))[-1].w)
    assert not any(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("engine", [Sequential, Stacked])
def test_draws_are_the_same_after_a_resume(engine, data_sets):
    c = config(dataset="jittered")
    task = task_of(c)
    w0 = task.w
    whole = list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))
    load_state(task.model, w0)
    made = engine(task.model, task.data, ragged(), c)
    rest = list(run_rounds(task, ragged(), made, c, start=whole[1]))
    assert all(torch.equal(whole[-1].w[name], rest[-1].w[name]) for name in w0)


def test_the_baseline_augments_as_one_client_does(data_sets):
    c = config(dataset="jittered", num_clients=1, num_select_clients=1, keep_optimizer_state=True, batch_size=5)
    task, n = task_of(c), 12
    w0 = task.w
    made = Sequential(task.model, task.data, ragged((n,)), c)
    federated = list(run_rounds(task, ragged((n,)), made, c))
    load_state(task.model, w0)
    central = list(centralised_rounds(task, [n * c.local_epoch * t for t in range(1, c.global_epoch + 1)]))
    for one, other in zip(federated, central, strict=True):
        close(one.w, other.w)
    load_state(task.model, w0)
    whole = list(centralised_rounds(task, [7, 20, 24]))  # resumed in the middle of a pass
    assert all(
        torch.equal(list(centralised_rounds(task, [7, 20, 24], whole[1]))[-1].w[name], whole[-1].w[name]) for name in w0
    )


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize(
    ("dataset", "model"),
    [("vectors", "two_layers"), ("vectors", "mlp"), ("vectors", "2nn"), ("tokens", "bag_of_words")],
)
def test_examples_of_other_shapes(dataset, model, optimizer, data_sets):
    c = config(dataset=dataset, model=model, **OPTIMIZERS[optimizer])
    assert hand_made(c) == (dataset == "vectors")
    both(c, stack_size=3)


def test_several_targets_an_example(data_sets):
    c = config(dataset="next_tokens", model="bigrams", init_lr=1.0)
    task = task_of(c)
    rounds = list(run_rounds(task, ragged(), Sequential(task.model, task.data, ragged(), c), c))
    first, last = rounds[0].record, rounds[-1].record
    assert last["train_loss"] < first["test_loss"]
    load_state(task.model, rounds[-1].w)
    x, y = task.data.batch(task.data.test, slice(None))
    assert last["test_accuracy"] == pytest.approx((task.model(x).argmax(1) == y).double().mean().item())
    assert last["test_loss"] == pytest.approx(nn.functional.cross_entropy(task.model(x), y).item())


def test_nothing_is_drawn_for_data_that_do_not_augment(monkeypatch):
    def refuse(*_):
        raise AssertionError("drawn for nothing")

    for room in ("fl.client", "fl.engines.stacked.schedule"):
        monkeypatch.setattr(f"{room}.visit_draws", refuse)
    both(config(global_epoch=1))

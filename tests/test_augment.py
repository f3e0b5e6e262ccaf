"""What --augment and --normalise make of images, and that every engine, a resumed run and the baseline see the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from data import DATASETS
from data.augment import crop_flip, cropped_and_flipped, distorted, mcmahan2017, middle_whitened, normalised
from data.dataset import Dataset, Split
from fl.client import gradient_sum
from fl.errors import FlagError
from fl.evaluate import evaluate
from fl.group import Group
from fl.models import MODELS
from fl.rng import visit_draws
from tests.test_engines import OPTIMIZERS, both
from tests.test_golden import close, config, task_of
from tests.tiny import floats, jittered, tiny, tokens

CPU = torch.device("cpu")


def images(n, *shape, dtype=torch.float64):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def draws_of(n):
    return visit_draws(0, [(0, 0)], n, CPU)[0]


def drawn(draw, choices):
    """Where the crop begins and whether it is flipped, and a share of one, by the bits that the module names."""
    bits = int(draw) % 2**64
    first, second = ((bits >> at) % 2**20 * choices >> 20 for at in (0, 20))
    return first, second, bits >> 40 & 1, (bits >> 41) / 2**23


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 5, 9)])
def test_crop_flip_is_a_crop_of_the_reflected_image(shape):
    x, draws = images(60, *shape), draws_of(60)
    made = cropped_and_flipped(x, draws)
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    for i, draw in enumerate(draws):
        top, left, flip, _ = drawn(draw, 9)
        part = padded[i, :, top : top + shape[1], left : left + shape[2]]
        assert torch.equal(made[i], part.flip(-1) if flip else part)


def standardised(pixels):
    """tf.image.per_image_standardization of pixels from 0 to 255."""
    return (pixels - pixels.mean()) / max(pixels.std(correction=0).item(), pixels.numel() ** -0.5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 24, 24)])
def test_mcmahan2017_is_the_tutorials_with_its_brightness(shape):
    x, draws = images(40, *shape), draws_of(40)
    x[0] = 0.3  # no deviation
    made, middle = distorted(x, draws), middle_whitened(x)
    for i, draw in enumerate(draws):
        top, left, flip, share = drawn(draw, shape[1] - 23)
        part = 255 * x[i, :, top : top + 24, left : left + 24]
        part = part.flip(-1) if flip else part
        part = part + (i / 20 - 1) * 63  # random_brightness, whatever it draws
        mean = part.mean((1, 2), keepdim=True)
        part = (part - mean) * (0.2 + 1.6 * share) + mean  # random_contrast
        torch.testing.assert_close(made[i], standardised(part), atol=1e-9, rtol=1e-9)
        first = (shape[1] - 24) // 2
        whole = 255 * x[i, :, first : first + 24, first : first + 24]
        torch.testing.assert_close(middle[i], standardised(whole), atol=1e-9, rtol=1e-9)


def test_every_crop_and_both_sides_are_as_likely():
    n = 20_000
    found = torch.tensor([drawn(draw, 9)[:3] for draw in draws_of(n)])
    for column, choices in ((0, 9), (1, 9), (2, 2)):
        shares = torch.bincount(found[:, column], minlength=choices).double() / n
        assert (shares - 1 / choices).abs().max() < 5 * (1 / choices / n) ** 0.5
    first_of_both = (found[:, :2] == 0).all(1).double().mean().item()
    assert first_of_both == pytest.approx(1 / 81, abs=5 * (1 / 81 / n) ** 0.5)  # neither follows from the other


@pytest.mark.parametrize("change", [cropped_and_flipped, distorted])
def test_an_image_has_the_same_bits_in_any_company(change):
    x, draws = images(50, 3, 32, 32, dtype=torch.float32), draws_of(50)
    whole = change(x, draws)
    for n in (1, 3, 17):
        assert torch.equal(change(x[:n], draws[:n]), whole[:n])
    assert torch.equal(middle_whitened(x[:1]), middle_whitened(x)[:1])


def test_the_shape_of_inputs_is_that_of_crops_and_the_data_stay():
    data = mcmahan2017(normalised(tiny(Path(), (3, 30, 26)), "unit"))
    before = data.sha256()
    assert data.shape == (3, 24, 24)
    rows = torch.arange(12).view(3, 4)
    x = data.inputs(rows, draws_of(12).view(3, 4))
    assert x.shape == (3, 4, 3, 24, 24)
    plain = data.inputs(rows)
    assert torch.equal(plain.flatten(0, 1), data.batch(data.train, rows.flatten())[0])
    bytes_ = data.train.examples[:12].float() / 255
    torch.testing.assert_close(plain.flatten(0, 1), middle_whitened(bytes_))
    assert not torch.equal(x, plain)
    assert data.sha256() == before


@pytest.mark.parametrize(("how", "least"), [("unit", 0), ("centred", -0.5)])
def test_plain_pixels_lie_in_an_interval_of_length_1(how, least):
    data = normalised(tiny(Path()), how)
    torch.testing.assert_close(data.inputs(torch.arange(9)), data.train.examples[:9] / 255 + least)
    assert normalised(data, "standard") is data


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        (crop_flip, tiny(Path(), (1, 4, 9)), r"--augment crop_flip: needs images \(C, H, W\) of 5x5 pixels or"),
        (crop_flip, floats("vectors", (5,)), r"and examples of vectors are \(5,\); choose another"),
        (crop_flip, tokens(Path()), r"and examples of tokens are \(6,\)"),
        (mcmahan2017, tiny(Path(), (1, 24, 23)), r"of 24x24 pixels or more, and examples of tiny are \(1, 24, 23\)"),
        (mcmahan2017, floats("soft", (3, 24, 24)), "mcmahan2017: needs images in bytes, and soft has others"),
        (crop_flip, jittered(Path()), "--augment crop_flip: jittered augments by itself; leave the flag out"),
        (lambda data: normalised(data, "unit"), jittered(Path()),
         "--normalise unit: needs examples of bytes, and jittered has float32; leave the flag out"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_data_is_one_line(change, data, message):
    with pytest.raises(FlagError, match=message) as error:
        change(data)
    assert len(str(error.value).splitlines()) == 1


def test_flags_that_say_the_same_twice(command):
    done = command("federated", "--augment mcmahan2017 --normalise standard")
    assert done.code == 2
    assert "--normalise standard: --augment mcmahan2017 is a whitening of each image; leave the flag out" in done.err
    done = command("federated", "--augment mcmahan2017")
    assert (done.code, done.folder.exists()) == (2, False)
    assert done.err.startswith("run_federated.py: --augment mcmahan2017: needs images (C, H, W) of 24x24 pixels")


# --- engines


@pytest.fixture
def _larger(monkeypatch):
    monkeypatch.setitem(DATASETS, "tiny26", "tests.test_augment:tiny26")
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")


def tiny26(data_dir):
    return tiny(data_dir, (3, 26, 26))


@pytest.mark.usefixtures("_larger")
@pytest.mark.parametrize("optimizer", ["decay", "adam"])
@pytest.mark.parametrize("model", ["2nn", "small_cnn", "tanh"])
@pytest.mark.parametrize(("augment", "dataset"), [("crop_flip", "tiny"), ("mcmahan2017", "tiny26")])
def test_every_engine_sees_the_same(augment, dataset, model, optimizer):
    c = config(augment=augment, dataset=dataset, model=model, global_epoch=2, **OPTIMIZERS[optimizer])
    for stack_size in (1, 3):
        both(c, stack_size)


@pytest.mark.usefixtures("_larger")
@pytest.mark.parametrize("model", ["2nn", "small_cnn"])
def test_workers_resumed_runs_and_the_baseline_see_the_same(model, command):
    flags = f"--augment crop_flip --model {model}"
    whole = command("federated", f"{flags} --engine stacked --global_epoch 4")
    assert command("federated", f"{flags} --engine distributed --workers 2 --global_epoch 4").sha256 == whole.sha256
    command("federated", f"{flags} --engine stacked --global_epoch 1", folder="part")
    assert command("federated", "--resume --global_epoch 4", folder="part").sha256 == whole.sha256
    one = command("federated", f"{flags} --num_clients 1 --num_select_clients 1 --keep_optimizer_state")
    assert command("baseline", f"--match {one.folder}").sha256 == one.sha256


@pytest.mark.usefixtures("_larger")
def test_evaluation_and_whole_gradients_are_of_the_middle(command):
    task = task_of(config(augment="mcmahan2017", dataset="tiny26", model="2nn"))
    parts = [
        Split(middle_whitened(part.examples.double() / 255), part.targets) for part in (task.data.train, task.data.test)
    ]
    by_hand = Dataset("made", *parts, classes=3, dtype=torch.float64)
    found, expected = (evaluate(task.model, data, Group()) for data in (task.data, by_hand))
    assert found == pytest.approx(expected, rel=1e-12)
    sums, right = (gradient_sum(task.model, data, torch.arange(5)) for data in (task.data, by_hand))
    close(sums, right)
    assert command("federated", "--dataset tiny26 --augment mcmahan2017 --algorithm fsvrg").code == 0

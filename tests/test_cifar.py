"""CIFAR-10 and CIFAR-100: archives of a few images with hashes of their own, on disk and from a local server."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import data.cifar as source
from fl.errors import DataError
from tests.conftest import ROOT

np = pytest.importorskip("numpy")


def batch(n, seed, key):
    draw = np.random.default_rng(seed)
    rows = {"data": draw.integers(0, 256, (n, 3072), dtype=np.uint8), key: draw.integers(0, 10, n).tolist()}
    return rows, pickle.dumps(rows, protocol=2)


def made(kind, **changes):
    """The kind with hashes of a small archive, its files by name, and what stands in them."""
    rows, files = {}, {}
    for seed, name in enumerate((*kind.train, kind.test)):
        rows[name], files[name] = batch(3 if name == kind.test else 4, seed, kind.labels)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{kind.folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    archive = buffer.getvalue()
    known = {name: hashlib.sha256(files[name]).hexdigest() for name in kind.members_sha256}
    sha256 = hashlib.sha256(archive).hexdigest()
    return replace(kind, sha256=sha256, members_sha256=known, **changes), archive, files, rows


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def small(request, monkeypatch):
    kind, *rest = made(getattr(source, request.param), url="http://127.0.0.1:9/nobody-listens")
    monkeypatch.setattr(source, request.param, kind)
    return kind, getattr(source, request.param.lower()), *rest


def is_right(loaded, kind, rows):
    assert loaded.train.examples.shape == (4 * len(kind.train), 3, 32, 32)
    assert loaded.train.examples.dtype == loaded.test.examples.dtype == torch.uint8
    assert loaded.train.examples[-1].flatten().tolist() == rows[kind.train[-1]]["data"][-1].tolist()
    assert loaded.test.examples[1, 2, 0, 5] == rows[kind.test]["data"][1][2 * 1024 + 5]
    assert loaded.train.targets.tolist() == [label for name in kind.train for label in rows[name][kind.labels]]
    assert loaded.test.targets.tolist() == rows[kind.test][kind.labels]
    assert loaded.classes == kind.classes


def test_the_archive_and_the_unpacked_folder_are_read(small, tmp_path):
    kind, load, archive, files, rows = small
    (tmp_path / kind.archive).write_bytes(archive)
    is_right(load(tmp_path), kind, rows)
    assert load(tmp_path).source == f"files in {tmp_path}"
    if kind.members_sha256:
        (tmp_path / kind.archive).unlink()
        (tmp_path / kind.folder).mkdir()
        for name, content in files.items():
            (tmp_path / kind.folder / name).write_bytes(content)
        is_right(load(tmp_path), kind, rows)
        assert load(tmp_path).source == f"files in {tmp_path / kind.folder}"
        (tmp_path / kind.folder / kind.test).unlink()
        with pytest.raises(DataError, match="nothing could serve it"):
            load(tmp_path)


def test_what_is_not_the_original_is_never_unpickled(small, tmp_path, monkeypatch):
    kind, load, archive, files, _ = small
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled"))
    path = tmp_path / kind.archive
    for other in (archive[:-1], archive[: len(archive) // 2], b"", archive[:-1] + bytes([archive[-1] ^ 1])):
        path.write_bytes(other)
        with pytest.raises(DataError, match=rf"{kind.archive}: corrupt: expected SHA-256 {kind.sha256}, .* delete it"):
            load(tmp_path)
    path.unlink()
    (tmp_path / kind.folder).mkdir()
    for name, content in files.items():
        (tmp_path / kind.folder / name).write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError, match="corrupt: expected SHA-256" if kind.members_sha256 else "nothing could serve"):
        load(tmp_path)


def test_without_it_one_line_says_what_was_tried_and_what_to_do(small, tmp_path):
    kind, load, *_ = small
    with pytest.raises(DataError) as error:
        load(tmp_path / "new")
    text = str(error.value)
    assert f"Tried: files in {tmp_path / 'new'} (not all there); {kind.url} (" in text
    assert text.endswith(f"Put {kind.archive} into {tmp_path / 'new'}, or name another folder with --data_dir")
    assert len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def server(tmp_path):
    """Serves a folder of this machine; `length` there is what it says that files have."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send_header(self, key, value):
            said = folder / "length"
            super().send_header(key, said.read_text() if key == "Content-Length" and said.exists() else value)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_it_is_fetched_verified_and_kept(small, tmp_path, monkeypatch, server, capsys):
    kind, load, archive, _, rows = small
    mirror, url = server
    kind = replace(kind, url=url + kind.archive)
    monkeypatch.setattr(source, "CIFAR100" if kind.classes == 100 else "CIFAR10", kind)
    place = tmp_path / "data"

    def refused(reason):
        with pytest.raises(DataError, match=reason):
            load(place)
        assert not place.exists()

    refused("File not found|Not Found")
    (mirror / kind.archive).write_bytes(archive[:-1] + b"x")
    refused(f"its {kind.archive} has another SHA-256 than {kind.sha256}")
    (mirror / kind.archive).write_bytes(archive)
    (mirror / "length").write_text(str(len(archive) + 7))
    refused(rf"it ended after {len(archive):,} of {len(archive) + 7:,} bytes")
    (mirror / "length").unlink()
    capsys.readouterr()
    assert load(place).source == kind.url
    told = capsys.readouterr().err.splitlines()
    assert f"data: fetching {kind.title} from {kind.url} ..." in told
    assert [path.name for path in place.iterdir()] == [kind.archive]
    (mirror / kind.archive).unlink()
    is_right(load(place), kind, rows)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_the_real_one(name):
    """Skipped if data/ has none, because tests download nothing."""
    kind = getattr(source, name)
    place = ROOT / "data"
    if not (place / kind.archive).exists() and not (place / kind.folder).exists():
        pytest.skip(f"{name} is not in data/; a run with --dataset {name.lower()} brings it")
    real = source.load(name, kind, place)
    assert torch.bincount(real.train.targets).tolist() == [50_000 // kind.classes] * kind.classes
    pixels = real.train.examples.double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(real.mean, abs=1e-4)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx(real.std, abs=1e-4)

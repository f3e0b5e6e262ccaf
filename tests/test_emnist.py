"""EMNIST out of its archive: a small one, from the data folder or from a server of this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import data.emnist as source
import run_federated
from data.idx import idx_bytes
from fl.errors import DataError

IMAGES = torch.arange(6 * 28 * 28).remainder(251).to(torch.uint8).view(6, 28, 28)
LABELS = torch.tensor([0, 46, 3, 3, 1, 2], dtype=torch.uint8)


@pytest.fixture
def archive(monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for split, step in (("balanced", 1), ("byclass", 2)):
            for part, n in (("train", 4), ("test", 2)):
                where = slice(0, n * step, step)
                for kind, values in (("images-idx3", IMAGES[where]), ("labels-idx1", LABELS[where])):
                    file.writestr(f"gzip/emnist-{split}-{part}-{kind}-ubyte.gz", gzip.compress(idx_bytes(values)))
    content = buffer.getvalue()
    monkeypatch.setattr(source, "MD5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(source, "URL", "http://127.0.0.1:9/gzip.zip")
    return content


def put(tmp_path, content):
    path = tmp_path / "EMNIST" / "raw" / "gzip.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_images_are_upright_and_splits_are_told_apart(archive, tmp_path):
    path = put(tmp_path, archive)
    data = source.emnist_balanced(tmp_path)
    assert (data.shape, data.classes, data.clients) == ((1, 28, 28), 47, None)
    assert data.source == f"files in {path.parent}"
    assert torch.equal(data.train.examples[1, 0], IMAGES[1].T)
    assert data.train.targets.tolist() == [0, 46, 3, 3]
    assert data.test.targets.tolist() == [0, 46]
    assert data.mean == pytest.approx([float(IMAGES[:4].double().mean() / 255)])
    other = source.emnist_byclass(tmp_path)
    assert (other.classes, other.train.targets.tolist()) == (62, [0, 3, 1])


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1], lambda raw: raw[:99] + b"?" + raw[100:], lambda raw: b""])
def test_a_damaged_archive_is_named(spoil, archive, tmp_path):
    path = put(tmp_path, spoil(archive))
    with pytest.raises(DataError, match=r"gzip.zip: corrupt: expected MD5 [0-9a-f]{32}, found [0-9a-f]{32}; delete it"):
        source.emnist_balanced(tmp_path)
    assert path.exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The folder of a server, which serves the archive's address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(source, "URL", f"http://127.0.0.1:{running.server_address[1]}/gzip.zip")
        yield folder
        running.shutdown()


def test_it_is_fetched_once(archive, server, tmp_path):
    (server / "gzip.zip").write_bytes(archive)
    first = source.emnist_balanced(tmp_path / "new")
    assert first.source == source.URL
    (server / "gzip.zip").unlink()
    again = source.emnist_balanced(tmp_path / "new")
    assert again.sha256() == first.sha256()


@pytest.mark.parametrize(("served", "words"), [(None, "404"), (b"another file", "its gzip.zip has another MD5")])
def test_what_the_server_has_not_leaves_nothing(served, words, archive, server, tmp_path):
    if served:
        (server / "gzip.zip").write_bytes(served)
    with pytest.raises(DataError, match=rf"nothing could serve it.*{words}.*Put gzip.zip into .*EMNIST/raw, or name"):
        source.emnist_balanced(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_it_has_no_writers(archive, tmp_path, capsys):
    put(tmp_path, archive)
    words = f"--dataset emnist_balanced --model logistic --data_dir {tmp_path} --partition natural"
    assert run_federated.run([*words.split(), "--run_dir", str(tmp_path / "run")]) == 2
    assert "--partition natural: the --dataset does not say whose its examples are" in capsys.readouterr().err

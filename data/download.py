"""Files that a data set consists of: verified where they lie, or fetched to where they belong.

Whatever the source, each file must have its pinned SHA-256, or MD5 where no other hash of it is published.
"""

from __future__ import annotations

import hashlib
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from fl.errors import DataError, reason
from fl.records.files import clear_stale, locked, write_atomic
from fl.streams import warn

Files = dict[str, bytes]  # contents by file name
TIMEOUT_SECONDS = 20  # without a byte from the other side
CHUNK_BYTES = 2**20


class SourceError(Exception):
    """A source cannot serve; the next one is tried."""


@dataclass(frozen=True)
class Wanted:
    """The files of a data set.

    title: what messages call it. folder: where the files belong, which is data_dir or within it. hashes: by file name.
    sources: what to call each, and what fetches the files; they are tried in this order. forms: what else messages say
    of the files.
    """

    title: str
    data_dir: Path
    folder: Path
    hashes: Mapping[str, str]
    sources: Sequence[tuple[str, Callable[[], Files]]]
    forms: str = ""


def found_or_fetched(wanted: Wanted, present: Callable[[], Files]) -> tuple[Files, str]:
    """The files and where they came from. present: those that are there, verified. Raises DataError.

    Two runs may fetch at once: the second waits, then finds the files of the first. No folder is made before there is
    something to put into it, so neither run ever removes a folder in which the other may be at work.
    """
    files, folder = present(), wanted.folder
    if len(files) == len(wanted.hashes):
        return files, f"files in {folder}"
    try:
        with locked(_fetch_lock(folder)):
            files = present()
            if len(files) == len(wanted.hashes):
                return files, f"files in {folder}"
            fetched, source = _first_source(wanted)
            if not wanted.data_dir.exists():
                warn(f"--data_dir {wanted.data_dir}: did not exist; it is made, and holds {wanted.title} now")
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                clear_stale(folder, wanted.hashes)
                for name, raw in fetched.items():
                    if name not in files:
                        write_atomic(folder / name, raw)
            return fetched, source
    except OSError as error:
        raise DataError(
            f"--data_dir: cannot write {error.filename or folder} ({reason(error)}); name another folder"
        ) from None


def verified(path: Path, raw: bytes, expected: str) -> bytes:
    """The content `raw` of the file, if its hash is the expected one. Raises DataError."""
    name, found = hashed(raw, expected)
    if found != expected:
        raise DataError(
            f"{path}: corrupt: expected {name} {expected}, found {found}; delete it to have it fetched again"
        )
    return raw


def hashed(raw: bytes, expected: str) -> tuple[str, str]:
    """The name of the hash that `expected` is one of, which its length tells, and that hash of the content."""
    if len(expected) == 32:
        return "MD5", hashlib.md5(raw, usedforsecurity=False).hexdigest()
    return "SHA-256", hashlib.sha256(raw).hexdigest()


def lying_in(folder: Path, hashes: Mapping[str, str]) -> Files:
    """Those of the files that are in the folder, verified. Raises DataError."""
    paths = {name: folder / name for name in hashes if (folder / name).exists()}
    try:
        return {name: verified(path, path.read_bytes(), hashes[name]) for name, path in paths.items()}
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({reason(error)}); see --data_dir") from None


def from_url(url: str) -> bytes:
    """What the address serves, with a bar, because it may take minutes. Raises SourceError."""
    from tqdm import tqdm

    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            length = int(response.headers.get("Content-Length") or 0)
            content = bytearray()
            with tqdm(
                total=length or None, desc="fetching", unit="B", unit_scale=True, leave=False, disable=None
            ) as bar:
                while chunk := response.read(CHUNK_BYTES):
                    content += chunk
                    bar.update(len(chunk))
    except (OSError, HTTPException, ValueError) as error:
        raise SourceError(reason(error)) from error
    if length and len(content) != length:
        raise SourceError(f"it ended after {len(content):,} of {length:,} bytes")
    return bytes(content)


def _fetch_lock(folder: Path) -> Path:
    """The lock for fetching into `folder`. It lies in `folder`, or in the nearest folder above it that exists."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    missing = folder.relative_to(there).parts
    return there / f".{missing[0] if missing else folder.name}.lock"


def _first_source(wanted: Wanted) -> tuple[Files, str]:
    tried = [f"files in {wanted.folder} (not all there)"]
    for label, serve in wanted.sources:
        print(f"data: fetching {wanted.title} from {label} ...", file=sys.stderr, flush=True)
        try:
            files = serve()
            for name, expected in wanted.hashes.items():
                kind, found = hashed(files[name], expected)
                if found != expected:
                    raise SourceError(f"its {name} has another {kind} than {expected}")
            return files, label
        except (SourceError, OSError) as error:
            tried.append(f"{label} ({reason(error)[:160]})")
    raise DataError(
        f"{wanted.title}: nothing could serve it. Tried: {'; '.join(tried)}. "
        f"Put {', '.join(wanted.hashes)}{wanted.forms} into {wanted.folder}, or name another folder with --data_dir"
    )

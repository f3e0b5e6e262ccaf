"""A file that grows by whole lines, and stays good when the disk refuses one of them."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from fl.records.files import open_regular


class Journal:
    """The lines of `path`, which must hold `content` or nothing at all when it is opened.

    size and sha256 are of the lines that the system has taken to their ends, and of no others.
    """

    def __init__(self, path: Path, content: bytes):
        self.size, self.digest = len(content), hashlib.sha256(content)
        self.lost = False
        self.descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @property
    def sha256(self) -> str:
        return self.digest.hexdigest()

    def append(self, line: bytes) -> None:
        """Write the line. Raises OSError, and takes back the half that may be there already."""
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except BaseException:
            with suppress(OSError):  # then half a line stays behind, but `size` says where it begins
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(line)
        self.digest.update(line)

    def sync(self) -> None:
        """Return when the lines are on the disk.

        Raises OSError, and after that always: the system may have dropped the pages that it could not write, and
        would report success the next time.
        """
        if self.lost:
            raise OSError(errno.EIO, "an earlier write was lost")
        try:
            os.fsync(self.descriptor)
        except OSError:
            self.lost = True
            raise

    def close(self) -> None:
        with suppress(OSError):  # what counts has been synced
            os.close(self.descriptor)

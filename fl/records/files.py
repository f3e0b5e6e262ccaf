"""Files that are either whole or absent, and one writer at a time."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A planted link is not followed, and a FIFO is not waited for. Windows knows only the last of these flags.
AS_IT_IS = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of the regular file at this very path. Raises OSError if it is a link or a special file."""
    try:
        descriptor = os.open(path, flags | AS_IT_IS, 0o666)
    except OSError as error:
        # Linux says ELOOP of a link, other systems EMLINK; all say ENXIO of a socket, or of a FIFO without a reader.
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "a link or a special file, where a plain file belongs; remove it", str(path))


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary name, sync, rename: a reader or a crash sees the old file or the new one.

    Raises OSError, with `path` for its filename.
    """
    # Nobody can guess this name, and so nobody can put a link there first.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a write and a sync name none
        raise


def clear_stale(folder: Path, names: Iterable[str]) -> None:
    """Remove what processes left behind that were killed while they wrote these files.

    Only for the holder of a lock that every writer takes: the file of a living process looks the same.
    """
    for name in names:
        for stale in folder.glob(temporary_names(name)):
            stale.unlink(missing_ok=True)


def temporary_names(name: str) -> str:
    """The pattern of the names that `write_atomic` writes to first."""
    return f".{name}.*.tmp"


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` while inside; it is removed afterwards.

    Raises BlockingIOError when another process holds it and `wait` is false.
    """
    while True:
        with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
            if os.fstat(file.fileno()).st_size:
                raise OSError(errno.EINVAL, "not a lock of ours, which would be empty; move it away", str(path))
            lock(file.fileno(), wait)
            # The holder before us may have removed the file while we waited: then what we hold guards nothing.
            if os.name == "posix" and not _is_at(file.fileno(), path):  # Windows removes no open file
                continue
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
            return


def lock(descriptor: int, wait: bool) -> None:
    """Lock the open file until it is closed. Raises BlockingIOError as `locked` does."""
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(descriptor, wait)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _lock_on_windows(descriptor: int, wait: bool) -> None:
    """A lock on the first byte, which need not exist. Windows' own way of waiting gives up after ten seconds."""
    import msvcrt

    while True:
        try:
            return msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, no-any-return, unused-ignore]
        except PermissionError as error:
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "held by another process") from error
        time.sleep(0.1)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False

"""What a user can cause. Each error is one line on stderr and an exit code; none is a traceback."""

import os


class RunnerError(Exception):
    """An expected failure: its text is the one line that the user reads."""

    exit_code = 1


class FlagError(RunnerError):
    """A flag, or a combination of flags, cannot be used."""

    exit_code = 2


class DataError(RunnerError):
    """A data set is missing or corrupt."""

    exit_code = 3


class RunFolderError(RunnerError):
    """A run folder or a checkpoint cannot be used."""

    exit_code = 4


class DivergedError(RunnerError):
    """Training produced a non-finite model."""

    exit_code = 5


class WorkerError(RunnerError):
    """A worker died or stopped answering."""

    exit_code = 6


INTERRUPTED = 130


def reason(error: BaseException) -> str:
    """What went wrong, in words and on one line. An OSError may come without words; str() would then say None."""
    words = getattr(error, "strerror", None)
    if not words and isinstance(error, OSError) and error.errno is not None:
        words = os.strerror(error.errno)
    return " ".join(str(words or error).split()) or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what the error says, in one of torch's or the system's ways."""
    needles = ("out of memory", "not enough memory", "can't allocate memory", "can't start new thread", "bad_alloc")
    said = isinstance(error, RuntimeError) and any(needle in str(error).lower() for needle in needles)
    return said or isinstance(error, MemoryError)

"""Odd environments: a script ends with a code of the list and one line at most, and no completed round is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.sweeps import CODE, CODES, ROOT, SMALL, sha256

ODD_NAMES = ["run", "Läufe/größter", "走る", "with space", "new\nline", "\udcff\udcfe", "x" * 200, "-dash", "%s{0}"]
LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"LC_ALL": "xx_YY.nonsense"},
]
VARIABLES = [
    {"MPLBACKEND": "junk"}, {"MPLBACKEND": "TkAgg"}, {"HOME": "/proc/nowhere"}, {"MPLCONFIGDIR": "/dev/null/x"},
    {"RANK": "abc", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "5", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, {"RANK": "0"},
    {"WORLD_SIZE": "99999999999999"}, {"GIT_DIR": "/nowhere"}, {"OMP_NUM_THREADS": "0"}, {"PATH": "/nowhere"},
    {"TMPDIR": "/nowhere"}, {"PYTHONWARNINGS": "error::DeprecationWarning"}, {"COLUMNS": "1"}, {"TZ": "junk"},
]  # fmt: skip


class Oddity(NamedTuple):
    """What is odd: `apply` runs in the new process before Python starts."""

    what: str
    env: dict[str, str]
    apply: Callable[[], None] = lambda: None
    folder: Path | None = None  # where the run is written, if not in the usual place
    silent: bool = False  # nothing that is said can be read


def closed(*numbers: int) -> Callable[[], None]:
    return lambda: [os.close(number) for number in numbers] and None


def limited(which: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (most, most))


def onto(number: int, path: str) -> Callable[[], None]:
    return lambda: os.dup2(os.open(path, os.O_WRONLY), number) and None


def draw_oddity(draw: random.Random, place: Path) -> Oddity:
    kind = draw.choice(["streams", "locale", "variable", "limit", "disk", "name", "rc"])
    if kind == "streams":
        which = draw.choice([(0,), (1,), (2,), (1, 2), (0, 1, 2)])
        if draw.random() < 0.5:
            return Oddity(f"closed {which}", {}, closed(*which), silent=2 in which)
        number = draw.choice([1, 2])
        return Oddity(f"{number} is full", {}, onto(number, "/dev/full"), silent=number == 2)
    if kind == "locale":
        env = draw.choice(LOCALES)
        return Oddity(f"locale {env}", env, folder=place / draw.choice(ODD_NAMES))
    if kind == "variable":
        env = draw.choice(VARIABLES)
        return Oddity(f"variables {env}", env)
    if kind == "limit":
        which, most = draw.choice([
            (resource.RLIMIT_FSIZE, draw.randint(0, 40_000)), (resource.RLIMIT_NOFILE, draw.randint(5, 40)),
            (resource.RLIMIT_AS, draw.randint(200, 6000) << 20), (resource.RLIMIT_NPROC, 1),
        ])  # fmt: skip
        name = next(name for name in dir(resource) if name.startswith("RLIMIT") and getattr(resource, name) == which)
        return Oddity(f"{name} {most}", {}, limited(which, most))
    if kind == "disk":
        return draw_disk(draw, place)
    if kind == "rc":
        rc = place / "matplotlibrc"
        rc.write_text(draw.choice(["text.usetex: True", "backend: junk", "font.family: Nowhere", "savefig.dpi: junk",
                                   "axes.prop_cycle: cycler(color=[])", "\0\xff"]))  # fmt: skip
        return Oddity(f"matplotlibrc {rc.read_text()!r}", {"MATPLOTLIBRC": str(rc)})
    name = draw.choice(ODD_NAMES)
    return Oddity(f"name {name!r}", {}, folder=place / name)


def draw_disk(draw: random.Random, place: Path) -> Oddity:
    """A disk that is full, fills up, or is read-only, where we may mount one; else a folder that is none."""
    disk = place / "disk"
    disk.mkdir()
    size = draw.choice([4, 8, 16, 32, 64, 128, 256])
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk]).returncode:
        (disk / "file").write_text("")
        return Oddity("a file for a folder", {}, folder=disk / "file" / "run")
    what = f"a disk of {size} kB"
    if draw.random() < 0.25:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        what = "a read-only disk"
    if draw.random() < 0.2:
        return Oddity(f"{what} for TMPDIR", {"TMPDIR": str(disk)})
    return Oddity(what, {}, folder=disk / "run")


def one_environment(number: int, seed: int, place: Path, expected: str) -> list[str]:
    """What is wrong with case `number`."""
    draw = random.Random(f"{seed}/{number}")
    here = place / str(number)
    here.mkdir()
    odd = draw_oddity(draw, here)
    folder = odd.folder or here / "run"
    workers = ["--engine", "distributed", "--workers", "2"] if draw.random() < 0.15 else []
    argv = [*SMALL[: -1 if draw.random() < 0.5 else None], *workers, "--run_dir=" + str(folder)]
    base = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    env = base | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | odd.env
    wrong = []
    try:
        done = subprocess.run([sys.executable, "-c", CODE, *argv], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, preexec_fn=odd.apply, timeout=120)  # fmt: skip
        err = done.stderr.decode(errors="replace")
        not_ours = ("warning: ", "libgomp: ")  # OpenMP speaks up when it is loaded
        said = [line for line in err.splitlines() if line and not line.startswith(not_ours)]
        one_line = odd.silent or len(said) == (done.returncode > 0)
        if done.returncode not in CODES or "Traceback" in err or not one_line:
            wrong.append(f"exit code {done.returncode}, stderr {err[-600:]!r}")
        begun = (folder / "config.json").exists()
        if done.returncode == 0 and not (begun and sha256(folder) == expected):
            wrong.append("no result, or another")
        if begun and done.returncode:
            kept = here / "kept"  # where there is room
            shutil.copytree(folder, kept)
            again = subprocess.run(
                [sys.executable, "-c", CODE, *argv[:-1], "--resume", "--run_dir", str(kept)], cwd=ROOT,
                env=base | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            )  # fmt: skip
            if again.returncode:
                wrong.append(f"--resume ends with {again.returncode}: {again.stderr[-600:]!r}")
            elif sha256(kept) != expected:
                wrong.append("resumed to another model")
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        if (here / "disk").is_mount():
            subprocess.run(["umount", here / "disk"], check=True)
        shutil.rmtree(here, ignore_errors=True)
    return [f"{number}: {odd.what}{', two workers' if workers else ''}: {what}" for what in wrong]


def environments(count: int, seed: int, place: Path) -> list[str]:
    whole = place / "whole"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", CODE, *SMALL, "--run_dir", str(whole)], cwd=ROOT, env=env, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    expected = sha256(whole)
    failures = []
    for number in range(count):
        failures += one_environment(number, seed, place, expected)
    return failures

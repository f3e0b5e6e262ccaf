"""How long data sets take to be ready, on two cores: MNIST, 60,000 small images, and a table of 100 MB.

    BENCHMARK_CIFAR=FOLDER python3 -m benchmarks.loading

mnist    its four files in data/ to tensors
folder   the images of FOLDER, decoded for the first time (in a folder of links to them), and again from the cache
csv      a made-up table of 100 MB with a label, a site, twelve columns of numbers and two of words

Each is timed in a process of its own, from after the import of torch until the data set is on the device and the first
model is built. What torch takes is the same for all, and shown beside it. Exit code 1 if a bar is
missed. The system's own cache of files is as it happens to be, which is warm after the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BARS = {"mnist": 1.0, "folder, first time": 60.0, "folder, from the cache": 2.0, "csv": 20.0}  # seconds
MEGABYTES = 100


def one(flags: dict[str, Any]) -> dict[str, float]:
    """Seconds that a data set takes in this process, and those that torch took before it."""
    began = time.perf_counter()
    import torch

    torch_seconds = time.perf_counter() - began
    from fl.check import resolve

    began = time.perf_counter()
    from fl.experiment import prepare

    data, *_ = prepare(resolve(flags))
    return {"seconds": time.perf_counter() - began, "import_torch_seconds": torch_seconds,
            "examples": len(data.train) + len(data.test), "threads": torch.get_num_threads()}  # fmt: skip


def measured(**flags: Any) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loading", "--one", json.dumps(flags)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{flags}: exit code {done.returncode}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def linked(images: Path, place: Path) -> None:
    """The same folders in `place`, with a link to each image, and so without a cache."""
    for path in images.glob("*/*/*"):
        link = place / path.relative_to(images)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def write_table(file: Path, megabytes: float) -> None:
    """Rows until the file is that large: label, site, numbers with some missing, and words."""
    draw = random.Random(0)
    names = [*(f"x{i}" for i in range(12)), "ward", "drug", "site", "label"]
    block = []
    for _ in range(1000):
        row = [f"{draw.gauss(0, 1):.4f}" if draw.random() > 0.01 else "" for _ in range(12)]
        row += [f"ward{draw.randrange(20)}", f"drug{draw.randrange(200)}", f"site{draw.randrange(3)}"]
        block.append(",".join([*row, draw.choice(("well", "ill"))]) + "\n")
    text = "".join(block)
    with file.open("w") as out:
        out.write(",".join(names) + "\n")
        for _ in range(int(megabytes * 1e6 / len(text)) + 1):
            out.write(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=["mnist", "folder", "csv"], help="repeatable (default: all)")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES, help="of the table (default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(one(json.loads(words.one))))
        return
    names = words.only or ["mnist", "folder", "csv"]
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if "mnist" in names:
            rows["mnist"] = measured(dataset="mnist")
        if "folder" in names:
            if "BENCHMARK_CIFAR" in os.environ:
                linked(Path(os.environ["BENCHMARK_CIFAR"]), place / "images")
                for when in ("first time", "from the cache"):
                    rows[f"folder, {when}"] = measured(dataset="folder", data_dir=str(place / "images"))
            else:
                print("folder: left out, because BENCHMARK_CIFAR names no folder of images", file=sys.stderr)
        if "csv" in names:
            write_table(place / "table.csv", words.megabytes)
            rows["csv"] = measured(dataset="csv", data_dir=str(place / "table.csv"), label="label", client="site")
            rows["csv"]["bytes"] = (place / "table.csv").stat().st_size
    for name, row in rows.items():
        row["bar"] = BARS[name]
        verdict = "held" if row["seconds"] < row["bar"] else "missed"
        print(f"{name:24s} {row['seconds']:6.2f} s  bar {row['bar']:3.0f} s {verdict}  "
              f"{row['examples']:.0f} examples; torch took {row['import_torch_seconds']:.2f} s before")  # fmt: skip
    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "loading.json").write_text(json.dumps(rows, indent=1) + "\n")
    raise SystemExit(any(row["seconds"] >= row["bar"] for row in rows.values()))


if __name__ == "__main__":
    main()

"""Run folders made by hand, so that a test of what reads them need not train; and what compare.py says of them."""

import json
import re

import compare


def record(t, accuracy=0.5, loss=1.0, **changes):
    return {"round": t, "test_accuracy": accuracy, "test_loss": loss, "train_loss": loss if t else None,
            "clients": [0] if t else [], "examples": 10 * (t > 0), "local_steps": 2 * (t > 0), "downlink_bytes": 5,
            "uplink_bytes": 5, "round_seconds": 0.1, "evaluate_seconds": 0.1} | changes  # fmt: skip


def lines(records):
    return "".join(json.dumps(one) + "\n" for one in records)


def make_run(folder, seed=0, accuracy=0.8, rounds=3, **flags):
    """A finished federated run whose accuracy rises to `accuracy`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"script": "federated", "seed": seed} | flags))
    records = [record(t, accuracy * (t + 1) / (rounds + 1)) for t in range(rounds + 1)]
    (folder / "metrics.jsonl").write_text(lines(records))
    (folder / "summary.json").write_text(json.dumps({"rounds": rounds}))
    return folder


def starts_in(place, workers=1):
    """How often each run of the stand-in was started, by its folder in `place`: <cell or setting>/seed<k>.

    workers: the most processes that one of them may have been given, of one thread each.
    """
    found = {path.parent: path.read_text().splitlines() for path in place.glob("*/*/starts")}
    assert {line for told in found.values() for line in told} <= {f"1 {n}" for n in range(1, workers + 1)}
    return {f"{folder.parent.name}/{folder.name}": len(told) for folder, told in found.items()}


def body(out):
    """The rows of the table: all between its heading and the differences, or what is said of files."""
    lines = out.splitlines()
    at = next((at for at, line in enumerate(lines) if line.startswith("run ")), len(lines))
    end = lines.index("") if "" in lines else len(lines)
    return [line for line in lines[at + 1 : end] if not line.startswith(("table in ", "curves in "))]


def told(capsys, *words):
    """Exit code, the rows of the table and the lines on stderr of a comparison."""
    capsys.readouterr()
    code = compare.run(list(map(str, words)))
    out, err = capsys.readouterr()
    return code, body(out), err.splitlines()


def n_of(row):
    return int(re.split(r"\s{2,}", row)[1])

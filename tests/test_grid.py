"""The grid of a sweep: its flags and values, checked before anything starts, and what its cells are called."""

from __future__ import annotations

import json
import re

import pytest

import compare
from tests.conftest import SWEPT as FLAGS
from tests.folders import starts_in


def starts(tmp_path):
    return starts_in(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "flags", "said"),
    [
        ("--grid init_lr", "", "--grid init_lr: expected FLAG=VALUE,VALUE"),
        ("--grid lr=1,2", "", "--grid lr=1,2: there is no flag --lr"),
        ("--grid init_lr=1,1.0", "", "--grid init_lr=1,1.0: has 1.0 twice"),
        ("--grid init_lr=1 --grid init_lr=2", "", "--grid init_lr: is given twice"),
        ("--grid init_lr=0.1,x", "", "--init_lr x: expected a number"),
        ("--grid seed=1,2", "", "--grid seed=1,2: a sweep sets --seed itself; see --seeds"),
        ("--grid grey=yes", "", "--grid grey=yes: expected on or off"),
        ("--grid init_lr=0.1", "--seed 3", "--seed 3: a sweep sets this flag itself"),
        ("--grid init_lr=0.1", "--quiet", "--quiet True: a sweep sets this flag itself"),
        ("--grid momentum=0,0.9", "", "--momentum 0.9: needs --optimizer sgd"),
        ("--grid init_lr=0.1,", "", "--grid init_lr=0.1,: has an empty value"),
        ("--grid epoch=1,2", "", "--grid epoch=1,2: --epoch does nothing in any of these runs"),
        ("--grid init_lr=0.1 --seeds 10001", "", "--seeds 10001: expected an integer from 1 to 10,000"),
        ("--grid init_lr=0.1 --seeds 0", "", "--seeds 0: expected an integer from 1"),
        ("--grid init_lr=0.1 --jobs two", "", "--jobs two: expected an integer from 1"),
        ("--grid init_lr=0.1", "-h", "-h: does not go with a sweep"),
        ("--grid init_lr=0.1", "--init_lr 0.2 0.3", "0.3: a value without a flag"),
        ("--grid keep_optimizer_state=on", "--keep_optimizer_state off", "off: a value without a flag"),
        ("--grid init_lr=0.1 --seed 2", "", "unrecognized arguments: --seed 2"),
    ],
)  # fmt: skip
def test_flags_are_refused_before_anything_starts(words, flags, said, quick, tmp_path):
    code, out, err = quick(words, flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"sweep.py: {said}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_values_with_commas_and_switches(quick, tmp_path):
    code, _, _ = quick("--grid hidden=5;6,7 --grid keep_optimizer_state=on,off", f"{FLAGS} --model mlp")
    assert code == 0
    assert sorted(starts(tmp_path)) == [
        "hidden=5,keep_optimizer_state=off/seed0", "hidden=5,keep_optimizer_state=on/seed0",
        "hidden=6,7,keep_optimizer_state=off/seed0", "hidden=6,7,keep_optimizer_state=on/seed0",
    ]  # fmt: skip
    flags = json.loads((tmp_path / "out/hidden=6,7,keep_optimizer_state=on/seed0/config.json").read_text())
    assert (flags["hidden"], flags["keep_optimizer_state"]) == ("6,7", True)


def test_sets_of_labels_have_a_sign_of_their_own_between_them(quick, tmp_path):
    flags = f"{FLAGS} --partition label_sets --num_clients 2 --num_select_clients 1"
    code, out, _ = quick("--grid label_sets=0,1,2,3,4;5,6,7,8,9|5,6,7,8,9;0,1,2,3,4", flags)
    assert code == 0
    assert "labels 0,1,2,3,4;5,6,7,8,9 " in out
    assert "labels 5,6,7,8,9;0,1,2,3,4 " in out
    code, _, err = quick("--grid label_sets=0,1,2,3,4;5,6,7,8,9;1", flags)
    assert code == 2
    assert "--num_clients is 2; expected a set for each client" in err


def test_the_grid_wins_over_other_flags_and_presets(quick, tmp_path):
    (tmp_path / "preset").write_text("--keep_optimizer_state --target_accuracy 0.9 --init_lr -1\n")
    grid = "--grid keep_optimizer_state=on,off --grid target_accuracy=0.3 --grid init_lr=0.1"
    assert quick(grid, f"@{tmp_path / 'preset'} {FLAGS}")[0] == 0
    told = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*/seed0/config.json"))]
    assert [(one["keep_optimizer_state"], one["target_accuracy"]) for one in told] == [(False, [0.3]), (True, [0.3])]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    names = [one["experiment"].partition(",")[0] for one in table["experiments"]]
    assert names == ["keep optimizer state", "keep_optimizer_state=off"]


def test_values_that_are_alike_to_six_digits_have_rows_of_their_own(quick, tmp_path, capsys):
    _, out, _ = quick("--grid init_lr=0.1000001,0.1000002")
    assert re.findall(r"^lr=\S+", out, re.MULTILINE)[:2] == ["lr=0.1000001", "lr=0.1000002"]
    assert compare.run([*map(str, (tmp_path / "out").glob("*/seed0")), "--out", str(tmp_path / "c.png")]) == 0
    assert {"lr=0.1000001", "lr=0.1000002"} <= set(capsys.readouterr().out.split())


def test_what_there_is_to_warn_of_is_said_once(quick):
    code, _, err = quick("--grid batch_size=1,2,3", f"{FLAGS} --epoch 3")
    assert (code, err) == (0, "warning: --epoch: does nothing in run_federated.py, only in run_baseline.py\n")

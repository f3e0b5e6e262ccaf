"""Differences paired by seed, their intervals, and where they are said."""

from __future__ import annotations

import json
import math
import re
from statistics import stdev

import pytest

import compare
from fl.comparing.compared import distinct, read
from fl.comparing.differences import Difference, differences, paired, t_quantile, within
from fl.comparing.labels import labelled
from fl.comparing.report import json_report, markdown_report
from fl.comparing.tables import measured
from tests.folders import make_run


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (10, 2.2281), (29, 2.0452), (30, 2.0423),
     (120, 1.9799)],
)  # fmt: skip
def test_student_s_quantiles_are_those_of_the_tables(freedom, t):
    assert t_quantile(freedom) == pytest.approx(t, abs=5e-5)


def test_student_s_distribution_where_it_is_known_in_closed_form():
    """Cauchy's with one degree of freedom, t / sqrt(2 + t^2) with two, and the normal one with very many."""
    for t in (0.1, 1.0, 7.0):
        assert within(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-14)
        assert within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-14)
        assert within(t, 100_000) == pytest.approx(math.erf(t / math.sqrt(2)), abs=1e-5)


def test_only_seeds_that_both_have_are_paired():
    gaps = [1.0, 2.0, 6.0]
    ours = {0: 11.0, 1: 22.0, 2: 36.0, 7: 1000.0}
    found = paired(ours, {2: 30.0, 1: 20.0, 0: 10.0, 9: -1000.0})
    assert (found.mean, found.n) == (3.0, 3)
    assert found.half == pytest.approx(4.3027 * stdev(gaps) / math.sqrt(3), rel=1e-4)
    assert found.is_noise  # 3 ± 6.6
    assert paired({0: 1.0, 1: 3.0}, {0: 0.0, 1: 1.0}) == Difference(1.5, None, 2)
    assert paired({0: 1.0}, {1: 1.0}) == Difference(None, None, 0)
    same = dict.fromkeys(range(3), 1.0)
    assert paired(same, same) == Difference(0.0, 0.0, 3)
    assert paired(same, same).is_noise
    assert not paired(same, dict.fromkeys(range(3), 0.5)).is_noise


@pytest.fixture
def folders(tmp_path):
    """Three seeds each: `better` is better by 0.10, 0.11 and 0.12; `alike` is now better and now worse."""
    made = []
    for seed, (lr, gap) in [(s, row) for s in range(3) for row in ((1e-3, 0), (1e-2, 0.1), (1e-1, 0.0))]:
        accuracy = 0.5 + 0.1 * seed + (gap and gap + 0.01 * seed) + (lr == 1e-1) * 0.05 * (-1) ** seed
        made.append(make_run(tmp_path / f"{lr}-{seed}", seed=seed, accuracy=accuracy, init_lr=lr))
    return sorted(made)


def rows_of(folders, targets=()):
    return measured(labelled(distinct(read(sorted(folders, key=lambda f: f.name[:5] != "0.001")))), targets)


def test_what_is_within_the_noise_is_said_to_be(folders, capsys, undrawn, tmp_path):
    first = [f for f in folders if f.name.startswith("0.001")]
    rest = [f for f in folders if f not in first]
    words = [*map(str, (*first, *rest)), "--out", str(tmp_path / "c.png"), "--target_accuracy", "0.55"]
    assert compare.run(words) == 0
    out = capsys.readouterr().out
    block = out.split("\n\n")[1].splitlines()
    assert block[0].startswith("against lr=0.001, paired by seed: mean difference ± half of its 95 % interval")
    lines = {line.split("  ")[0]: line for line in block[2:4]}
    assert re.search(r"^lr=0\.01 +\+11\.00 ± 2\.48 \(n=3\)  ", lines["lr=0.01"])
    assert "+1.67 ± 14.34 (n=3), within the noise" in lines["lr=0.1"]
    assert "(n=2, too few)" in lines["lr=0.01"]  # seed 0 of the first row did not reach the target
    assert compare.run([*map(str, first), "--out", str(tmp_path / "c.png")]) == 0
    assert "paired" not in capsys.readouterr().out


def test_single_seeds_have_no_block_of_differences(folders, capsys, undrawn, tmp_path):
    words = [str(f) for f in folders if f.name.endswith("-0")]
    assert compare.run([*words, "--out", str(tmp_path / "c.png")]) == 0
    assert "paired" not in capsys.readouterr().out


def test_reports_hold_the_differences(folders):
    rows = rows_of(folders, [0.99])
    told = json.loads(json_report(rows))
    assert [one["experiment"] for one in told["experiments"]] == ["lr=0.001", "lr=0.01", "lr=0.1"]
    assert told["differences"]["against"] == "lr=0.001"
    better = told["differences"]["experiments"]["lr=0.01"]
    exact = differences(rows)["lr=0.01"]
    for quantity, one in exact.items():
        assert (better[quantity.name]["mean"], better[quantity.name]["n"]) == (one.mean, one.n)
    assert better["test_accuracy"]["within_noise"] is False
    assert better["rounds_to_0.99"] == {"mean": None, "half_interval": None, "n": 0, "within_noise": None}
    text = markdown_report(rows)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| lr=0.01 | +11.00 ± 2.48 (n=3) |" in text


def test_markdown_keeps_bars_of_labels_out_of_the_columns(folders):
    rows = [row._replace(label=f"{row.label} | \\") for row in rows_of(folders)]
    heading, _, first, *_ = markdown_report(rows).splitlines()
    assert first.startswith(r"| lr=0.001 \| \\ | 3 |")
    assert first.replace(r"\|", "").count("|") == heading.count("|")

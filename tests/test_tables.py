import csv
import io
import statistics

import pytest

from fl.comparing.compared import Experiment, distinct, read
from fl.comparing.differences import differences
from fl.comparing.labels import labelled
from fl.comparing.tables import as_csv, as_latex, as_markdown, figure, measured, on_screen, spread
from tests.folders import make_run


@pytest.fixture
def rows(tmp_path):
    folders = [make_run(tmp_path / f"{n}", seed=n, accuracy=0.7 + 0.1 * n) for n in range(3)]
    folders.append(make_run(tmp_path / "other", init_lr=0.5))
    return measured(labelled(distinct(read(folders)), ["50% & {more}_#1~^\\$", "b"]), [0.85])


def test_spread():
    assert spread([1.0, 3.0], ".1f") == "2.0 ± 1.4"
    assert spread([1.0, 1.0], ".1f") == "1.0"
    assert spread([None, 2.0], ".1f") == "2.0 (1 of 2)"
    assert spread([None], ".1f") == "-"


def test_csv_has_every_digit(rows):
    first, second = csv.DictReader(io.StringIO(as_csv(rows)))
    assert first["experiment"] == "50% & {more}_#1~^\\$"
    assert first["seeds"] == "0 1 2"
    accuracies = [0.7, 0.7 + 0.1, 0.7 + 0.2]
    assert float(first["test_accuracy_mean"]) == statistics.mean(accuracies)
    assert float(first["test_accuracy_std"]) == statistics.stdev(accuracies)
    assert first["test_accuracy_n"] == "3"
    # One of three seeds reached it, and nobody of the other experiment.
    assert first["rounds_to_0.85_n"] == "1"
    assert first["rounds_to_0.85_std"] == second["rounds_to_0.85_mean"] == ""
    assert second["test_accuracy_std"] == ""
    assert first["uplink_bytes_mean"] == "20"  # bytes, where the screen has megabytes
    assert {len(line) for line in csv.reader(io.StringIO(as_csv(rows)))} == {len(first)}


def test_latex_has_the_figures_of_the_screen(rows):
    text = as_latex(rows)
    assert r"50\% \& \{more\}\_\#1\textasciitilde{}\textasciicircum{}\textbackslash{}\$ & 3 &" in text
    assert [rule for rule in ("toprule", "midrule", "bottomrule") if f"\\{rule}\n" in text] == [
        "toprule", "midrule", "bottomrule",
    ]  # fmt: skip
    body = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert {len(line) for line in body} == {len(columns)}
    screen = on_screen(rows)
    for cell in body[1][1:] + body[2][1:]:
        assert cell.replace(r"$\pm$", "±") in screen
    assert "±" not in text


@pytest.mark.parametrize(
    ("values", "spec", "said"),
    [
        ([2.5e11, 2.7e11], ".4f", "2.60e+11 ± 1.41e+10"),
        ([999999999.0], ".4f", "999999999.0000"),
        ([3e9], ",.0f", "3,000,000,000"),  # examples
        ([0.01464], ".3f", "0.015"),
    ],
)
def test_a_loss_that_exploded_is_said_in_powers_of_ten(values, spec, said):
    assert spread(values, spec) == said


def test_a_difference_of_losses_that_exploded_keeps_its_sign():
    assert figure(3e10, "+.4f") == "+3.00e+10"
    assert figure(-3e10, "+.4f") == "-3.00e+10"


def of_clients(mean):
    return {"mean": mean, "std": 0.1, "worst_decile": mean / 2}


def test_what_clients_do_on_their_own_tests(tmp_path):
    """By the model that they are tested with; each figure only if a run has it, and its differences paired by seed."""
    experiments = {}
    for label, gain in (("a", 0.0), ("b", 0.05)):
        runs = read([make_run(tmp_path / f"{label}{seed}", seed=seed) for seed in range(3)])
        tests = [{"before": of_clients(0.5 + 0.1 * seed + gain)} for seed in range(3)]
        experiments[label] = Experiment({}, [run._replace(clients=one) for run, one in zip(runs, tests, strict=True)])
    for run in experiments["b"].runs:
        run.clients["after"] = of_clients(0.9)
    rows = measured(experiments, [])
    first, second = csv.DictReader(io.StringIO(as_csv(rows)))
    assert float(first["client_before_mean_mean"]) == pytest.approx(0.6)
    assert float(first["client_before_worst_decile_mean"]) == pytest.approx(0.3)
    assert (first["client_after_mean_n"], second["client_after_mean_n"]) == ("0", "3")
    assert not any(name.startswith("client_local_only") for name in first)
    heading, line, _ = on_screen(rows).splitlines()
    assert "clients %" in heading
    assert "60.00 ± 10.00" in line
    found = {quantity.name: one for quantity, one in differences(rows)["b"].items()}
    assert found["client_before_mean"].mean == pytest.approx(0.05)
    assert found["client_before_mean"].half == pytest.approx(0, abs=1e-9)
    assert found["client_after_mean"].n == 0


def test_labels_are_no_markup(rows):
    label = "*a* <b> `c` ~~d~~ [e](f) &amp; g|h"
    (line,) = [one for one in as_markdown([["run"], [label]]).splitlines() if "a" in one]
    assert line == r"| \*a\* \<b> \`c\` \~\~d\~\~ \[e](f) \&amp; g\|h |"
    assert as_markdown([["_best_"], ["__init__.py, fast_cnn"]]).splitlines()[::2] == [
        r"| \_best\_ |", r"| \_\_init\_\_.py, fast_cnn |",
    ]  # fmt: skip
    quoted = as_latex([row._replace(label='"q" <b>') for row in rows])
    # At the beginning of a row a star would belong to the end of the row before.
    assert "{*}ours & 3" in as_latex([row._replace(label="*ours") for row in rows])
    assert r"\char34{}q\char34{} \textless{}b\textgreater{} & 3" in quoted

"""The commands of docs/your_data.md, one after the other, on small data of the kind that it speaks of."""

from __future__ import annotations

import re
import shlex

import run_baseline
import run_federated
from tests.conftest import ROOT
from tests.test_config import pictures

SCRIPTS = {"run_federated.py": run_federated.run, "run_baseline.py": run_baseline.run}
SHORT = ["--device", "cpu", "--quiet"]


def test_each_command_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    pictures(tmp_path / "my_images" / "train")
    pictures(tmp_path / "my_images" / "test")
    rows = "".join(f"{i % 7},{'ABC'[i // 10]},{int(i % 7 > 3)}\n" for i in range(30))
    (tmp_path / "cancer.csv").write_text("mean radius,site,target\n" + rows)
    shown = re.findall(r"^ {4}python3 (run_.*)$", (ROOT / "docs" / "your_data.md").read_text(), re.MULTILINE)
    assert len(shown) == 5
    for line in shown:
        script, *flags = shlex.split(line)
        rounds = [] if "--match" in flags else ["--global_epoch", "1", "--local_epoch", "1", "--batch_size", "500"]
        assert SCRIPTS[script]([*flags, *rounds, *SHORT]) == 0, line
        assert "Test Accuracy = " in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs").rglob("*ed*")} >= {"fed0", "fed"}

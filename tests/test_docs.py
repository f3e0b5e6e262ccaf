"""What the README and the pages under docs/ say is so: commands, flags, links, lists, and the notebook."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from itertools import takewhile
from pathlib import Path

import pytest

import compare
import reproduce
import run_federated
import sweep
from fl.algorithms import ALGORITHMS
from fl.command_line import parse
from fl.config import FLAGS
from tests.conftest import ROOT
from tests.folders import make_run

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"
SCRIPTS = {"run_federated.py": "federated", "run_baseline.py": "baseline"}
FOREIGN = {
    "--nproc_per_node",
    "--algorithms",
    "--workload",
    "--only",
    "--turns",
    "--cost",
    "--rate",
    "--fraction",
    "--dist",
    "--conditioning",
    "--forget",
    "--flower_rounds",
}  # of torchrun, pytest and the benchmarks


def texts() -> dict[str, str]:
    """What is written, by file: the pages, and the notebook's cells of words."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {str(path.relative_to(ROOT)): path.read_text() for path in PAGES} | {"docs/first_steps.ipynb": words}


def commands() -> list[str]:
    """Every command line that is shown: the indented lines, the fenced ones, and those between backticks."""
    shown = [line for text in texts().values() for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]
    shown += [line for text in texts().values() for line in re.findall(r"`([^`\n]*\.(?:py|sh) [^`\n]*)`", text)]
    found = [one.strip() for line in shown for one in line.split("#")[0].split("&&")]
    return sorted({one for one in found if re.match(r"(python3|sh|torchrun|jupyter) ", one)})


def ours(*scripts: str) -> list[str]:
    return [one for one in commands() if shlex.split(one)[1] in scripts]


def test_commands_are_found():
    assert len(ours(*SCRIPTS)) >= 12
    assert len(ours("compare.py")) >= 2


@pytest.mark.parametrize("line", ours(*SCRIPTS))
def test_a_command_is_one_that_the_script_takes(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("benchmarks", "configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    _, script, *flags = shlex.split(line)
    if "--target_epsilon" in flags:
        pytest.importorskip("dp_accounting", reason="needs the package of sh requirements.sh dp")
    if "--secure_aggregation" in flags:
        pytest.importorskip("cryptography", reason="needs the package of sh requirements.sh secure")
    if "--match" in flags:
        folder = flags[flags.index("--match") + 1]
        make_run(Path("runs/one" if folder == "latest" else folder))
    if "[flags]" not in flags:
        parse(flags, SCRIPTS[script], "")


@pytest.mark.parametrize("line", ours("compare.py"))
def test_compare_takes_what_is_shown(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fl.pictures.comparison.save_comparison", lambda path, *rest, **more: path.write_text("drawn"))
    _, _, *words = shlex.split(line)
    patterns = list(takewhile(lambda word: not word.startswith("-"), words)) or ["runs/one"]
    for pattern in patterns:  # a folder that it names: "one" for a star, and the first of what is in brackets
        make_run(Path(re.sub(r"\*|\[(.).*?\]", lambda found: found[1] or "one", pattern)))
    (tmp_path / "docs").mkdir()
    assert compare.run(words) == 0


@pytest.mark.parametrize("line", ours("sweep.py"))
def test_sweep_takes_what_is_shown(line, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setattr("fl.sweeps.sweep.carry_out", lambda *_: None)
    monkeypatch.setattr("fl.sweeps.sweep.publish", lambda *_: None)
    assert sweep.run(shlex.split(line)[2:]) == 0
    assert capsys.readouterr().out.startswith("12 runs: 4 cells, seeds 0 to 2; 0 done, 240 rounds to go at most")


# How many cells the patterns on that page are.
CELLS = {
    "table1/2nn*/*/B10/*": 20, "table1/2nn/iid/Binf/*": 4, "table2/cnn/iid/E*B[15]0": 6,
    "fashion_mnist/labels_2*/fednova": 4, "mnist/iid/fedavg": 4,
}  # fmt: skip


@pytest.mark.parametrize("line", ours("reproduce.py"))
def test_reproduce_takes_what_is_shown(line, capsys):
    words = shlex.split(line)
    assert reproduce.run([*words[2:], "--list"]) == 0
    cells = CELLS.get(words[words.index("--cell") + 1], 1)
    assert capsys.readouterr().out.count("\n") == cells


TAKEN = ("run_", "compare", "sweep", "reproduce")


@pytest.mark.parametrize("line", [one for one in commands() if not shlex.split(one)[1].startswith(TAKEN)])
def test_what_other_commands_name_is_there(line):
    """The modules, files and tests; a benchmark that is run would take minutes."""
    words = shlex.split(line)
    if words[:2] == ["python3", "-m"]:
        assert words[2] in ("venv", "pytest") or (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    for word in words:
        if "/" in word and not word.startswith((">", ".venv")):
            assert (ROOT / word).exists()
        if word.endswith((".py", ".sh")):
            assert (ROOT / word).is_file()


def test_the_examples_command_trains(tmp_path, capsys):
    """With fewer rounds than it shows; the figures of one's own data and model come out."""
    (line,) = [one for one in commands() if "spirals.py:load --model" in one]
    flags = [*shlex.split(line)[2:], "--global_epoch", "2", "--device", "cpu", "--run_dir", str(tmp_path / "run")]
    assert run_federated.run([*flags, "--quiet"]) == 0
    accuracy = float(re.search(r"^Test Accuracy = ([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)[1])
    assert accuracy > 55  # a guess is right for a third


def test_the_example_names_its_own_command():
    text = ast.get_docstring(ast.parse((ROOT / "examples" / "spirals.py").read_text()))
    shown = re.search(r"python3 run_federated.py ((?:.*\\\n)*.*)\n", text)[1].replace("\\\n", " ")
    (line,) = [one for one in commands() if "spirals.py:load --model" in one]
    assert Counter(shlex.split(shown)) == Counter(shlex.split(line)[2:])


@pytest.mark.parametrize("name", texts())
def test_every_flag_exists(name):
    known = FOREIGN | {f"--{flag}" for flag in FLAGS} | {"--help"}
    for path in (*ROOT.glob("*.py"), *(ROOT / "fl").glob("*.py"), ROOT / "deploy" / "up.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--\w+)"', path.read_text()))
    assert set(re.findall(r"(?<![\w-])--[a-z]\w*", texts()[name])) <= known


@pytest.mark.parametrize("name", texts())
def test_every_link_leads_somewhere(name):
    text = re.sub(r"```.*?```", "", texts()[name], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def anchors(path: Path) -> set[str]:
    """The names that headings have as targets of links."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", texts())
def test_every_file_between_backticks_exists(name):
    for word in re.findall(r"`@?((?:fl|data|tests|docs|configs|examples|benchmarks)/[\w./]*)`", texts()[name]):
        assert (ROOT / word).exists(), word


def test_every_file_of_the_package_is_in_the_layout():
    """By its own name, or by that of its folder. A name in brackets is a file of the folder that stands before it."""
    layout = (ROOT / "docs" / "code.md").read_text().split("## Your own parts")[0]
    named, folder = set(), ""
    for line in re.findall(r"^    .*$", layout, re.MULTILINE):
        heads = re.findall(r"(?<=  )([\w/]+(?:\.py|/))(?=  )", f"{line}  ")
        folder = next((head for head in heads if head.endswith("/")), folder)
        named |= {*heads, *(folder + name for name in re.findall(r"\((\w+\.py)\)", line))}
    files = [path.name for path in ROOT.glob("*.py")] + [f"fl/{path.name}" for path in (ROOT / "fl").glob("[!_]*.py")]
    folders = [f"fl/{path.parent.name}/" for path in (ROOT / "fl").glob("*/__init__.py")]
    assert {*files, *folders} - named == set()
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_every_algorithm_is_on_its_page_and_counted():
    page = (ROOT / "docs" / "algorithms.md").read_text()
    assert [name for name in ALGORITHMS if f"`{name}`" not in page] == []
    numbers = ("nine", "ten", "eleven", "twelve", "thirteen", "fourteen")
    assert f"[{numbers[len(ALGORITHMS) - 9]} algorithms](docs/algorithms.md)" in texts()["README.md"].replace("\n", " ")


def test_no_sentence_stands_twice():
    """In the README and the pages together: what is said twice is soon true once."""
    sentences = Counter()
    for name, text in texts().items():
        if name == "docs/flags.md":
            continue
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines = [line for line in prose.splitlines() if not line.startswith(("    ", "#", "|--"))]
        joined = "\n".join(lines).replace("\n\n", ". ").replace("|", ". ").replace("\n", " ")
        said = [one.strip() for one in re.split(r"[.:;?!] ", joined)]
        sentences.update(one for one in said if sum(map(str.isalpha, one.split())) >= 4)
    assert [sentence for sentence, times in sentences.items() if times > 1] == []


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 135


def test_the_page_of_flags_is_made_from_the_flags():
    """In a process of its own, where tests have registered nothing."""
    made = subprocess.run([sys.executable, "-m", "fl.flag_page"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "flags.md").read_text() == made.stdout, "python3 -m fl.flag_page > docs/flags.md"


def test_the_six_flags_have_the_defaults_that_the_readme_says():
    rows = re.findall(r"^\| `--(\w+)` \| ([\w.-]+) \|", README.read_text(), re.MULTILINE)
    assert len(rows) == 6
    for name, default in rows:
        assert float(default) == FLAGS[name].default


def project() -> str:
    return (ROOT / "pyproject.toml").read_text()


def listed(name: str) -> list[str]:
    """A list of strings in pyproject.toml, without tomllib, which Python 3.10 lacks."""
    return json.loads(re.search(rf"^{name} = (\[.*?\])$", project(), re.MULTILINE)[1])


def test_requirements_are_those_of_the_package():
    script = (ROOT / "requirements.sh").read_text()
    variables = dict(re.findall(r'^(\w+)="(.+)"$', script, re.MULTILINE))
    assert variables["core"].split() == listed("dependencies")
    variables["extra"] = ""  # what the words before have brought
    cases = dict(re.findall(r'^ +(\w+)\) extra="?([^";]*)"? ;;$', script, re.MULTILINE))
    for extra, words in cases.items():
        words = re.sub(r"\$(\w+)", lambda match: variables[match[1]], words)
        assert words.split() == listed(extra)
    section = project().split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert cases.keys() == set(re.findall(r"^(\w+) = ", section, re.MULTILINE))


def test_one_version_everywhere():
    version = re.search(r'^version = "(.+)"$', project(), re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    versions = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == version
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert 'license = "MIT"' in project()


def test_the_notebook_is_run_whole_and_small():
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < 300_000
    assert str(Path.home()) not in NOTEBOOK.read_text()


@pytest.mark.parametrize("folder", [ROOT, ROOT / "docs"])
def test_the_notebook_finds_the_project(folder):
    """Whether Jupyter was started in docs/ or in the root: its first cell of code says where the project is."""
    cell = next(cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code")
    code = "".join(cell["source"]) + "\nprint(ROOT)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT

"""From words to flags: what is wrong with them, presets, and --help."""

import re
import resource
import subprocess
import sys

import pytest

from fl.command_line import SYNONYMS, parse
from fl.config import FLAGS, Config
from fl.errors import FlagError
from fl.models import MODELS
from tests.conftest import ROOT


def federated(words: str) -> Config:
    return parse(words.split(), "federated", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--client_fraction 1.5", "--client_fraction 1.5: expected a number in (0, 1]"),
        ("--client_fraction nan", "--client_fraction nan: expected a number in (0, 1]"),
        ("--batch_size ten", "--batch_size ten: expected an integer >= 0 (0: the client's whole data set)"),
        ("--batch_size 1.5", "--batch_size 1.5: expected an integer >= 0 (0: the client's whole data set)"),
        ("--num_clients 0", "--num_clients 0: expected an integer >= 1"),
        ("--model vgg", f"--model vgg: expected one of {', '.join(MODELS)}, or FILE.py:NAME"),
        ("--num_select_clients 9", "--num_select_clients 9: expected at most --num_clients, which is 8"),
        ("--init_lr -1", "--init_lr -1: expected a number in (0, 3.4e+38]"),
        ("--init_lr -inf", "--init_lr -inf: expected a number in (0, 3.4e+38]"),
        ("--init_lr inf", "--init_lr inf: expected a number in (0, 3.4e+38]"),
        ("--device gpu", "--device gpu: expected auto, cpu, cuda, cuda:INDEX or mps"),
        ("--num_client 3", "--num_client: no such flag; did you mean --num_clients?"),
        ("--num_client=3", "--num_client: no such flag; did you mean --num_clients?"),
        ("--lr 3", "--lr: no such flag; did you mean --init_lr?"),
        ("--learning-rate 3", "--learning-rate: no such flag; did you mean --init_lr?"),
        ("--rounds=3", "--rounds: no such flag; did you mean --global_epoch?"),
        ("--local-epoch 3", "--local-epoch: no such flag; did you mean --local_epoch?"),
        ("--zzz", "--zzz: no such flag; --help lists them all"),
        ("runs/x", "runs/x: a value without a flag; every setting is --flag value"),
        ("--seed", "--seed: no value given; expected one argument"),
        ("--seed=--", "--seed --: expected an integer >= 0"),
        ("--momentum=--", "--momentum --: expected a number in [0, 1)"),
        ("--target_accuracy=--", "--target_accuracy --: expected a number in (0, 1]"),
        ("--momentum 0.9", "--momentum 0.9: needs --optimizer sgd"),
        ("--alpha 0.5",
         "--alpha 0.5: needs --dataset synthetic, or --partition dirichlet, dirichlet_balanced or quantity"),
        ("--shards_per_client 2", "--shards_per_client 2: needs --partition shards"),
        ("--stop_at_target", "--stop_at_target: needs a --target_accuracy"),
        ("--resume", "--resume: needs --run_dir, the folder of the run to continue"),
        ("--overwrite", "--overwrite: needs --run_dir"),
        ("--run_dir a --name b", "--name b: says nothing beside --run_dir, which names the folder"),
        ("--resume --overwrite --run_dir x", "--overwrite: cannot be combined with --resume; choose one"),
        ("--match x", "--match x: only run_baseline.py trains to match a run"),
        ("--name a/b", "--name a/b: expected letters, digits, '.', '_' and '-', at most 100"),
        ("--client_fraction 0.5 --num_select_clients 4",
         "--client_fraction 0.5: --num_select_clients says the same; give one of the two"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line_with_name_value_and_way_out(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlagError) as error:
        federated(flags)
    assert str(error.value) == message
    import run_federated

    assert run_federated.run(flags.split()) == 2
    assert capsys.readouterr().err == f"run_federated.py: {message}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "shown"), [("", "''"), (" ", " "), ('"', '"'), ("'", "'"), ("a b", "a b")])
def test_stray_words_are_named(word, shown):
    with pytest.raises(FlagError) as error:
        parse([word], "federated", "")
    assert str(error.value) == f"{shown}: a value without a flag; every setting is --flag value"


def test_presets_nest_and_later_flags_win(tmp_path):
    (tmp_path / "inner").write_text("--seed 3  # a comment\n--model cnn")
    (tmp_path / "outer").write_text(f"@{tmp_path}/inner --batch_size 10\n--name 'two'\n")
    config = federated(f"@{tmp_path}/outer --seed 4")
    assert (config.seed, config.model, config.batch_size, config.name) == (4, "cnn", 10, "two")


def test_a_preset_may_begin_with_a_byte_order_mark(tmp_path):
    """As Windows' editors write it, with their line ends."""
    (tmp_path / "inner").write_bytes(b"\xef\xbb\xbf# a comment\r\n--seed 3\r\n--model cnn\r\n")
    (tmp_path / "outer").write_bytes(f"\ufeff@{tmp_path}/inner --name 'two'".encode())
    config = federated(f"@{tmp_path}/outer")
    assert (config.seed, config.model, config.name) == (3, "cnn", "two")


def test_a_backslash_in_a_preset_is_itself(tmp_path):
    (tmp_path / "p").write_text("--data_dir C:\\data\\mnist\n--out_dir '\\\\server\\new runs\\' --seed 3")
    config = federated(f"@{tmp_path}/p")
    assert (config.data_dir, config.out_dir) == ("C:\\data\\mnist", "\\\\server\\new runs\\")
    assert config.seed == 3


@pytest.mark.parametrize("content", [b"--seed 'open", b"\xff\xfe\x00", None])
def test_an_unreadable_preset_is_named(content, tmp_path):
    path = tmp_path / "preset"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FlagError, match=rf"@{re.escape(str(path))}: cannot be read as a preset"):
        federated(f"@{path}")


def test_a_preset_that_includes_itself_ends(tmp_path):
    (tmp_path / "p").write_text(f"@{tmp_path}/p")
    with pytest.raises(FlagError, match="nested"):
        federated(f"@{tmp_path}/p")


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").rglob("*.*")), ids=lambda path: path.name)
def test_shipped_presets_parse(preset):
    federated(f"@{preset}")
    assert 1 < len(preset.read_text().splitlines()) <= 20


@pytest.mark.parametrize("script", ["run_federated.py", "run_baseline.py"])
def test_help_is_grouped_complete_and_fast(script):
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5  # of a core, because other programs may have the cores meanwhile
    for name, field in FLAGS.items():
        assert f"--{name}" in done.stdout
        assert f"\n{field.metadata['group']}:\n" in done.stdout


def test_reading_flags_imports_no_torch():
    code = "import sys, run_federated, run_baseline, compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("words", "init_lr"),
    [
        ("", 5e-5),
        ("--optimizer sgd", 0.001),
        ("--optimizer sgd --model 2nn", 0.1),
        ("--optimizer sgd --model 2nn --init_lr 0.3", 0.3),
        ("--optimizer adam --model 2nn", 5e-5),
    ],
)
def test_sgd_has_a_default_rate_of_its_own(words, init_lr):
    assert federated(words).init_lr == init_lr


def test_help_says_what_stands_for_a_value(capsys):
    with pytest.raises(SystemExit):
        federated("--help")
    out = capsys.readouterr().out
    for words in ("--shards_per_client N", "--match DIR", "--init_lr X", "--model NAME", "--name WORD", "--resume "):
        assert words in out
    assert all(synonym not in FLAGS and flag in FLAGS for synonym, flag in SYNONYMS.items())

import re
import subprocess
import sys
import time

import pytest

from fl.command_line import parse
from fl.config import FLAGS, Config
from fl.errors import FlagError, RunnerError
from tests.conftest import ROOT


def federated(words: str) -> Config:
    return parse(words.split(), "federated", "")


def test_the_eight_fixed_flags_and_their_defaults():
    fixed = {
        "data_dir": "data/", "batch_size": 100, "epoch": 15, "global_epoch": 5,
        "local_epoch": 5, "init_lr": 5e-5, "num_clients": 8, "num_select_clients": 4,
    }  # fmt: skip
    for script in ("federated", "baseline"):
        config = parse([], script, "")
        assert {name: getattr(config, name) for name in fixed} == fixed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--client_fraction 1.5", "--client_fraction 1.5: expected a number in (0, 1]"),
        ("--client_fraction nan", "--client_fraction nan: expected a number in (0, 1]"),
        ("--batch_size ten", "--batch_size ten: expected an integer >= 0 (0: the client's whole data set)"),
        ("--batch_size 1.5", "--batch_size 1.5: expected an integer >= 0 (0: the client's whole data set)"),
        ("--num_clients 0", "--num_clients 0: expected an integer >= 1"),
        ("--model vgg", "--model vgg: expected one of gn_cnn, cnn, 2nn, small_cnn, logistic, or FILE.py:NAME"),
        ("--num_select_clients 9", "--num_select_clients 9: expected at most --num_clients, which is 8"),
        ("--init_lr -1", "--init_lr -1: expected a number in (0, 3.4e+38]"),
        ("--init_lr -inf", "--init_lr -inf: expected a number in (0, 3.4e+38]"),
        ("--init_lr inf", "--init_lr inf: expected a number in (0, 3.4e+38]"),
        ("--device gpu", "--device gpu: expected auto, cpu, cuda, cuda:INDEX or mps"),
        ("--num_client 3", "--num_client: no such flag; did you mean --num_clients?"),
        ("--num_client=3", "--num_client: no such flag; did you mean --num_clients?"),
        ("--zzz", "--zzz: no such flag; --help lists them all"),
        ("runs/x", "runs/x: a value without a flag; every setting is --flag value"),
        ("--seed", "--seed: no value given; expected one argument"),
        ("--momentum 0.9", "--momentum 0.9: needs --optimizer sgd"),
        ("--alpha 0.5", "--alpha 0.5: needs --partition dirichlet or quantity"),
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


@pytest.mark.parametrize(
    ("K", "C", "m"), [(100, 0.29, 29), (100, 0.1, 10), (100, 0.001, 1), (8, 0.5, 4), (3, 1.0, 3), (1000, 0.57, 570)]
)
def test_client_fraction_rounds(K, C, m):
    assert federated(f"--num_clients {K} --client_fraction {C}").num_select_clients == m


@pytest.mark.parametrize(("word", "shown"), [("", "''"), (" ", " "), ('"', '"'), ("'", "'"), ("a b", "a b")])
def test_stray_words_are_named(word, shown):
    with pytest.raises(FlagError) as error:
        parse([word], "federated", "")
    assert str(error.value) == f"{shown}: a value without a flag; every setting is --flag value"


def test_few_clients_lower_the_default_cohort():
    assert federated("--num_clients 2").num_select_clients == 2


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


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").iterdir()), ids=lambda path: path.name)
def test_shipped_presets_parse(preset):
    federated(f"@{preset}")
    assert 1 < len(preset.read_text().splitlines()) <= 20


@pytest.mark.parametrize("script", ["run_federated.py", "run_baseline.py"])
def test_help_is_grouped_complete_and_fast(script):
    began = time.perf_counter()
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    assert done.returncode == 0
    assert seconds < 0.5
    for name, field in FLAGS.items():
        assert f"--{name}" in done.stdout
        assert f"\n{field.metadata['group']}:\n" in done.stdout


def test_reading_flags_imports_no_torch():
    code = "import sys, run_federated, run_baseline, compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_flag_is_read_by_something(command, monkeypatch, tmp_path):
    """Record which fields the code reads that does not itself make a Config, over runs that use every flag."""
    read = set()
    original = Config.__getattribute__

    def recording(self, name):
        caller = sys._getframe(1).f_globals["__name__"]
        ours = caller.split(".")[0] in ("fl", "data", "run_federated", "run_baseline")
        if ours and caller not in ("fl.config", "fl.command_line"):
            read.add(name)
        return original(self, name)

    monkeypatch.setattr(Config, "__getattribute__", recording)
    import fl.command_line

    lookup = fl.command_line.resolve

    def resolve(given, script="federated"):
        # These are read before there is a Config: they become --num_select_clients and the other script's flags.
        read.update({"client_fraction", "match"} & set(given))
        return lookup(given, script)

    monkeypatch.setattr(fl.command_line, "resolve", resolve)
    assert command("federated", "--target_accuracy 0.5 --stop_at_target --partition shards", folder="a").code == 0
    assert command("federated", "--partition dirichlet --dry_run").code == 0
    assert command("federated", "--resume", folder="a").code == 0
    import run_federated

    flags = "--dataset tiny --model logistic --num_clients 4 --global_epoch 1 --client_fraction 0.5 --name x"
    assert run_federated.run([*flags.split(), "--out_dir", str(tmp_path / "out")]) == 0
    assert command("baseline", "").code == 0
    assert command("federated", "--engine distributed --workers 1 --timeout 60").code == 0
    for flags in (
        "--algorithm fedprox --attack sign_flip --attackers 1.0",
        "--algorithm fedyogi --aggregate trimmed_mean --num_select_clients 4 --trim 0.25",
        "--aggregate krum --byzantine 0 --num_select_clients 4",
    ):
        assert command("federated", flags).code == 0
    argv = ["--match", str(tmp_path / "a"), "--run_dir", str(tmp_path / "b")]
    import run_baseline

    assert run_baseline.run(argv) == 0
    assert read >= set(FLAGS), set(FLAGS) - read


# For every flag that shapes training: two values must not give the same model (or the same cohorts, or records).
@pytest.mark.parametrize(
    ("flag", "one", "other"),
    [
        ("num_clients", "4", "5"), ("num_select_clients", "2", "3"), ("global_epoch", "3", "2"),
        ("local_epoch", "2", "1"), ("batch_size", "5", "0"), ("init_lr", "0.1", "0.05"), ("lr_decay", "1", "0.5"),
        ("optimizer", "sgd", "adam"), ("momentum", "0", "0.9"), ("weight_decay", "0", "0.1"),
        ("model", "logistic", "2nn"), ("partition", "iid", "shards"), ("seed", "0", "1"),
        ("shards_per_client", "1 --partition shards", "3 --partition shards"),
        ("alpha", "0.5 --partition dirichlet", "5 --partition dirichlet"),
        ("alpha", "0.5 --partition quantity", "5 --partition quantity"),
    ],
)  # fmt: skip
def test_a_training_flag_changes_the_model(flag, one, other, command):
    assert command("federated", f"--{flag} {one}").sha256 != command("federated", f"--{flag} {other}").sha256


@pytest.mark.parametrize(
    ("flag", "one", "other"),
    [
        ("epoch", "3", "2"), ("batch_size", "5", "0"), ("seed", "0", "1"), ("init_lr", "0.1", "0.05"),
        ("lr_decay", "1", "0.5"), ("optimizer", "sgd", "adam"), ("momentum", "0", "0.9"), ("weight_decay", "0", "0.1"),
        ("model", "logistic", "2nn"),
    ],
)  # fmt: skip
def test_a_training_flag_changes_the_baseline(flag, one, other, command):
    assert command("baseline", f"--{flag} {one}").sha256 != command("baseline", f"--{flag} {other}").sha256


def test_keep_optimizer_state_changes_the_model(command):
    momentum = "--momentum 0.9 --num_clients 2"
    assert command("federated", momentum).sha256 != command("federated", f"{momentum} --keep_optimizer_state").sha256


def test_every_error_class_has_an_exit_code_of_its_own():
    codes = [kind.exit_code for kind in RunnerError.__subclasses__()]
    assert sorted(codes) == [2, 3, 4, 5, 6]

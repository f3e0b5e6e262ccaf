"""Random valid command lines: each ends with a code of the list and one line at most, and resumes to the same bits."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import run_baseline
import run_federated
from fl.command_line import parse
from fl.errors import RunnerError
from fl.flags.privacy import has_noise
from tests.sweeps import sha256

VALUES: dict[str, list[Any]] = {
    "num_clients": [1, 2, 5, 12, 30], "num_select_clients": [1, 2, 3, 5, 8], "client_fraction": [0.1, 0.29, 1],
    "global_epoch": [0, 1, 2, 3, 4], "local_epoch": [1, 2, 3], "epoch": [0, 1, 2, 3], "batch_size": [0, 1, 3, 7, 100],
    "algorithm": ["fedavg", "fedsgd", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold", "fednova",
                  "fsvrg"],
    "proximal_mu": [0, 0.1, 1, 1e30], "server_lr": [1e-3, 1, 1e38], "server_momentum": [0, 0.5, 0.99],
    "server_beta2": [0, 0.9], "server_tau": [1e-30, 1e-3, 1e30],
    "aggregate": ["mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median"],
    "trim": [0, 0.1, 0.3, 0.49], "byzantine": [0, 1, 2], "attack": ["label_flip", "sign_flip", "gaussian", "scaled"],
    "attackers": [0, 0.2, 1], "attack_scale": [1e-3, 10, 1e30], "engine": ["auto", "sequential", "stacked"],
    "stack_size": [1, 2, 5], "precision": ["fp32", "bf16"], "init_lr": [1e-30, 1e-3, 0.1, 10, 1e30],
    "lr_decay": [1e-12, 0.5, 1], "optimizer": ["adam", "sgd"], "momentum": [0, 0.9, 0.999999999999],
    "weight_decay": [0, 1e-3, 1e30], "hidden": ["1", "5", "70,3"], "dataset": ["tiny", "ragged_tokens"],
    "model": ["logistic", "2nn", "small_cnn", "gn_cnn", "fast_cnn", "mlp", "char_lstm"],
    "partition": ["iid", "shards", "labels", "dirichlet", "dirichlet_balanced", "quantity"],
    "normalise": ["standard", "unit", "centred"], "augment": ["none", "crop_flip", "mcmahan2017"],
    "labels_per_client": [1, 2, 5], "min_examples": [1, 2, 10], "feature_noise": [0, 0.1, 1e6],
    "shards_per_client": [1, 2, 3], "alpha": [0.01, 0.5, 1e6],
    "compress": ["none", "quantise", "top_k", "random_mask", "sign"], "compress_bits": [1, 4, 16],
    "compress_density": [0.01, 0.3, 1],
    "data_drift": ["none", "grow", "shift"], "drift_share": [0.01, 0.3, 1], "drift_rounds": [1, 3, 50],
    "proxy_fraction": [0.1, 0.5], "proxy_epochs": [1, 2], "client_test_fraction": [0.1, 0.5],
    "client_eval_every": [1, 3], "personalise_epochs": [1, 2], "personal_layers": [1, 2],
    "charging": ["1,1", "0.9,0.2"], "idle": ["0.5,0.5"], "unmetered": ["1,0.3"], "decline_rate": [0.1, 0.9],
    "dropout_rate": [0.1, 0.9], "straggler_rate": [0.3, 1], "straggler_slowdown": [1, 10], "straggler_epochs": [0, 1],
    "over_select": [1, 1.3, 3], "min_reports": [1, 2], "round_deadline": [1e-3, 1, 100],
    "examples_per_second": [0.1, 10], "download_mbps": [1], "upload_mbps": [0.1], "speed_spread": [0, 2],
    "sampling": ["uniform", "poisson"], "clip_norm": [1e-3, 1, 1e30], "clip_quantile": [0.1, 0.9],
    "noise_multiplier": [0, 0.1, 1], "target_epsilon": [1, 10], "delta": [1e-5], "local_noise": [0, 0.1],
    "secure_threshold": [0.5, 0.9],
    "eval_every": [1, 2, 5], "target_accuracy": [0.3, 0.99], "stop_below": ["0.5@0", "0.9@2"],
    "seed": [0, 1, 2**62], "checkpoint_every": [1, 2, 7],
}  # fmt: skip
SWITCHES = ["keep_optimizer_state", "stop_at_target", "quiet", "secure_aggregation", "local_only"]
SCRIPTS = {"federated": run_federated.run, "baseline": run_baseline.run}


def valid_line(draw: random.Random, script: str) -> list[str]:
    """Flags that the parser accepts: drawn until it does."""
    while True:
        words = ["--dataset", "tiny", "--device", "cpu", "--model", "logistic"]
        for name in draw.sample(sorted(VALUES), draw.randint(2, 12)):
            words += [f"--{name}", str(draw.choice(VALUES[name]))]
        words += [f"--{name}" for name in SWITCHES if draw.random() < 0.2]
        with contextlib.suppress(RunnerError):
            # Noise of the system's generator is other noise after a resumption, so only the seed's can be compared.
            noisy = has_noise(parse(words, script, ""))
            return [*words, "--insecure_noise"] if noisy else words


def call(script: str, argv: list[str]) -> tuple[int, str]:
    """The exit code and what stands on stderr besides warnings."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = SCRIPTS[script](argv)
    return code, "\n".join(line for line in err.getvalue().splitlines() if not line.startswith("warning: "))


def one_line(number: int, seed: int, place: Path) -> list[str]:
    """What is wrong with case `number`: a run, and the same run stopped half-way and resumed."""
    draw = random.Random(f"{seed}/{number}")
    script = "baseline" if draw.random() < 0.2 else "federated"
    argv = valid_line(draw, script)
    whole, parts = place / f"{number}", place / f"{number}parts"
    wrong = []
    try:
        code, err = call(script, [*argv, "--run_dir", str(whole)])
        if code not in (0, 2, 5) or len(err.splitlines()) != (code > 0):
            wrong.append(f"exit code {code}, stderr {err!r}")
        if code == 2 and whole.exists():
            wrong.append("refused, and left a folder")
        if code == 5 and not (whole / "checkpoint.pt").exists():
            wrong.append("diverged, and lost the rounds before")
        if code == 0:
            records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
            rounds = records[-1]["round"]
            if [record["round"] for record in records] != list(range(rounds + 1)):
                wrong.append("rounds are missing")
            length = "--epoch" if script == "baseline" else "--global_epoch"
            half, resume = ["--run_dir", str(parts), length], ["--resume", "--run_dir", str(parts), length]
            if rounds > 1 and not {"--stop_at_target", "--stop_below"} & set(argv):
                codes = call(script, [*argv, *half, str(rounds // 2)]), call(script, [*resume, str(rounds)])
                if [code for code, _ in codes] != [0, 0]:
                    wrong.append(f"resumed: {codes}")
                elif sha256(parts) != sha256(whole):
                    wrong.append("resumed to another model")
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        for folder in (whole, parts):
            shutil.rmtree(folder, ignore_errors=True)
    return [f"{number}: {script} {' '.join(argv)}: {what}" for what in wrong]


def lines(count: int, seed: int, place: Path) -> list[str]:
    """The failures of `count` cases. Pictures are left out, as they would take most of the time."""
    import fl.pictures.plot

    fl.pictures.plot.save_curves = lambda path, *rest: path.write_bytes(b"")
    fl.pictures.plot.save_partition = lambda path, *rest: path.write_bytes(b"")
    return [failure for number in range(count) for failure in one_line(number, seed, place)]

"""Warnings of flags that do not end a run, but do not do what they seem to."""

from __future__ import annotations

import pytest

from fl.command_line import parse


@pytest.mark.parametrize(
    ("script", "words", "warning"),
    [
        ("federated", "--epoch 3", "--epoch: does nothing in run_federated.py, only in run_baseline.py"),
        ("baseline", "--partition shards", "--partition: does nothing in run_baseline.py, only in run_federated.py"),
        ("baseline", "--num_clients 8 --partition iid --quiet",
         "--num_clients and --partition: do nothing in run_baseline.py, only in run_federated.py"),
        ("federated", "--init_lr 0.1",
         "--init_lr 0.1: is large for adam, which moves every weight by about the rate in each step; 1e-4 to 1e-3 are "
         "usual (for --optimizer sgd 0.001)"),
        ("baseline", "--model 2nn --optimizer sgd --init_lr 5e-5",
         "--init_lr 5e-05: is small for sgd; without the flag it is 0.1 for --model 2nn"),
        ("federated", "--model 2nn --optimizer sgd --init_lr 1e-3", ""),
        ("federated", "--init_lr 1e-3", ""),
        ("federated", "--model 2nn --optimizer sgd", ""),
        ("baseline", "--epoch 3 --seed 2 --model 2nn", ""),
    ],
)  # fmt: skip
def test_one_line_and_on_it_goes(script, words, warning, capsys):
    assert parse(words.split(), script, "")
    assert capsys.readouterr().err == (f"warning: {warning}\n" if warning else "")


def test_what_a_matched_run_says_is_no_flag_of_the_baseline(command):
    fed = command("federated", "--partition quantity")
    assert command("baseline", f"--match {fed.folder}").err == ""

"""Registers the tiny data sets before anything reads the flags."""

from data import DATASETS
from fl.flags.entry import Entry
from fl.processes.worker import PRELOAD

DATASETS["tiny"] = "tests.tiny:tiny"
DATASETS["tiny16"] = "tests.tiny:tiny16"
DATASETS["ragged_tokens"] = Entry("tests.tiny:ragged_tokens", tokens=True)
PRELOAD.append("tests")  # so that workers know it too

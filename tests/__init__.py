"""Registers the tiny data set before anything reads the flags."""

from data import DATASETS
from fl.worker import PRELOAD

DATASETS["tiny"] = "tests.tiny:tiny"
PRELOAD.append("tests")  # so that workers know it too

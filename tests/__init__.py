"""Registers the tiny data set before anything reads the flags."""

from data import DATASETS

DATASETS["tiny"] = "tests.tiny:tiny"

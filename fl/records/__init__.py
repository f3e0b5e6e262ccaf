"""The run folder: what a run writes, what it goes on from, and how its records are read back."""

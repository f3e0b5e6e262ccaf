"""Several processes for one run: how they start, and the group that they are."""

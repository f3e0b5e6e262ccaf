"""The names of what Flower runs; the code is in the installed package deploy."""

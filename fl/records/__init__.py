"""The files of a run folder: written so that they are whole or absent, and read back."""

"""A play of four roles, small enough that a run on it takes milliseconds."""

from pathlib import Path

SPEECHES = [
    ("HAMLET", ["To be, or not to be: that is the question:", "Whether 'tis nobler in the mind to suffer"]),
    ("Ghost", ["Mark me."]),
    ("OPHELIA", ["Good my lord,", "How does your honour for this many a day?", "My lord:", "I have remembrances"]),
    ("HAMLET", ["The slings and arrows of outrageous fortune,", "Or to take arms", "against a sea of troubles Q"]),
    ("KING", ["Go", "Ay"]),
]
TEXT = "A preface.\n\n" + "\n\n".join(f"{name}:\n" + "\n".join(lines) for name, lines in SPEECHES) + "\n"


def play(folder: Path) -> Path:
    """The file."""
    path = folder / "play.txt"
    path.write_text(TEXT)
    return path

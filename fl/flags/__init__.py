"""What a flag is made of, and the parts of the table of flags in fl/config.py."""

"""The flags: what one is made of, the parts of the table in fl/config.py, and what they ask of each other."""

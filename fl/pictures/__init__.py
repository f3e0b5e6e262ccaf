"""The pictures of one run and of several: what is drawn, in numbers, and how it looks."""

"""Several runs side by side: which count, what to call them, their table, and what a difference is worth."""

"""Many runs: every combination of flags' values, as processes of their own, in one table and one picture."""

"""The pictures of one run and of several, as numbers first and then as matplotlib draws them."""

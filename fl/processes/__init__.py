"""The processes of one run: how they are started, and how they share out the clients of a round."""

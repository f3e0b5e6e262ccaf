"""How the clients of a round are executed.

An engine has `train(clients, t, w)`, which yields one Update a client in ascending client order, and
`state()` / `load_state(state)` for what survives rounds and goes into a checkpoint. The sequential engine is
the reference: every other one must give its result.
"""

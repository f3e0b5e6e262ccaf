"""Federated averaging from scratch: partition, select, local update, aggregate, evaluate, record, plot."""

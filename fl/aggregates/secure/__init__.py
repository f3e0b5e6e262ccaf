"""Secure aggregation: the server learns the sum of the clients' updates, and no single one of them.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth 2017, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS 2017; an earlier version is arXiv 1611.04482. docs/secure_aggregation.md says
what is simulated, and what is not protected.
"""

"""Federated averaging, and FedSGD, which is federated averaging with E = 1 and B = infinity.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", arXiv 1602.05629, Algorithm 1. Clients are drawn uniformly without replacement, and the model of
client k is weighted by n_k / n, where n counts the examples of the clients that reported.
"""

from fl.algorithms.algorithm import Algorithm

fedavg = Algorithm()

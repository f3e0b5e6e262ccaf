"""Federated algorithms by name.

The names stand here without their modules, so that reading the flags imports no torch.
A new algorithm is one file and one line here; fl/algorithms/algorithm.py says what it consists of.
"""

ALGORITHMS = {
    "fedavg": "fl.algorithms.fedavg:fedavg",
    "fedsgd": "fl.algorithms.fedavg:fedavg",  # with E = 1 and B = 0, which fl/config.py sees to
    "fedprox": "fl.algorithms.fedprox:fedprox",
    "fedavgm": "fl.algorithms.fedopt:fedavgm",
    "fedadagrad": "fl.algorithms.fedopt:fedadagrad",
    "fedadam": "fl.algorithms.fedopt:fedadam",
    "fedyogi": "fl.algorithms.fedopt:fedyogi",
    "scaffold": "fl.algorithms.scaffold:scaffold",
    "fednova": "fl.algorithms.fednova:fednova",
    "fsvrg": "fl.algorithms.fsvrg:fsvrg",
}

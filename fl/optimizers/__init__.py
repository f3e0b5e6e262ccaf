"""Federated optimizers for anyone's training code, without the runner: torch.optim.Optimizer subclasses.

    server = FederatedAvgServer(model.parameters())
    client = FederatedAvgClient(client_model.parameters(), lr=0.1)    # on every client
    client.zero_grad(); loss_fn(client_model(x), y).backward(); client.step()
    server.step([(n_1, client_model_1.parameters()), ...])            # average, then redistribute

A whole round of FSVRG stands in FSVRGClient's docstring.
"""

from fl.optimizers.features import FeatureCounts
from fl.optimizers.fedavg import FederatedAvgClient, FederatedAvgServer
from fl.optimizers.fsvrg import FSVRGClient, FSVRGServer

__all__ = ["FSVRGClient", "FSVRGServer", "FeatureCounts", "FederatedAvgClient", "FederatedAvgServer"]

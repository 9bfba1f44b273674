"""Models in: the catalogue, verified and resumed downloads from the hub, and the library of models on this machine."""

"""Teams of agents whose policies turn with the world (E2GN2, arXiv 2410.02581), on RLlib."""

"""Measurements of policies: symmetry certificates, returns, the bias of untrained policies, episodes."""

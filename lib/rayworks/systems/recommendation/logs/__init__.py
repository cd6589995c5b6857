"""Logs of what was recommended, accepted and chosen, read or simulated."""

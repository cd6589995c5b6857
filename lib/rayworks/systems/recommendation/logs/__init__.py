"""Logs of recommendations, decisions and natural events, read or simulated."""

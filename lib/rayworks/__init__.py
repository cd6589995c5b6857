"""Rayworks: ten published research systems for learned models, running as one platform on Ray."""

__version__ = "0.1.0"

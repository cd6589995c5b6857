"""Federated learning under label skew: mixups and labelled noise fill the labels that a client lacks (arXiv 2409.13235).

Flower's client and server apps on Ray: on persistent actors of the run, or in Flower's own simulation, with equal results.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.federation.config import Config

SPEC = SystemSpec(
    name="federation",
    title="Pseudo-images against label skew in federated learning",
    paper="arXiv 2409.13235",
    config=Config,
    system="rayworks.systems.federation.system:FederationSystem",
    smoke={
        "run.name": "smoke",
        "strategy.rounds": 10,
        "experiment.seeds": 3,
        "noise.bank": 300,
    },
    headline=(
        "accuracy_fedavg",
        "accuracy_balanced",
        "gain",
        "gain_low",
        "rounds_to_target",
        "seconds_per_round_engine",
        "seconds_per_round_flower",
        "epsilon",
    ),
    timed=frozenset(
        {"seconds_per_round", "seconds_per_round_engine", "seconds_per_round_flower", "seconds a round", "times ours"}
    ),
    figures=("partition.png", "accuracy.png", "clients.png", "pseudo.png"),
    needs=("digits",),
)

__all__ = ["SPEC", "Config"]
"""The registry's view; strategies and generators are imported from their modules."""

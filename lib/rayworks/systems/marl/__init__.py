"""Equivariant graph policies for teams of agents (E2GN2, arXiv 2410.02581), on RLlib.

A policy that is equivariant by construction need not learn the same thing again for every direction. Here it is an RLlib
module for any environment whose entities have positions, with its symmetry certified and its gain measured.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.marl.config import Config

SPEC = SystemSpec(
    name="marl",
    title="E2GN2: equivariant graph policies for teams of agents",
    paper="arXiv 2410.02581",
    config=Config,
    system="rayworks.systems.marl.system:MarlSystem",
    smoke={
        "run.name": "smoke",
        "training.steps": 20_000,
        "experiment.networks": ["e2gn2-last", "gnn", "mlp"],
        "experiment.seeds": 2,
        "experiment.initialisations": 4,
        "experiment.evaluation_episodes": 100,
        "experiment.episodes": 1,
    },
    headline=(
        "return_final",
        "return_iqm_low",
        "steps_to_threshold",
        "equivariance_error",
        "generalisation_ratio",
        "env_steps_per_second",
        "train_steps_per_second",
    ),
    optional_headline=("won_final",),
    timed=frozenset({"env_steps_per_second", "train_steps_per_second", "env steps/s sampling", "env steps/s in all"}),
    figures=("learning.png", "bias.png", "symmetry.png", "generalisation.png", "episode.png"),
)

__all__ = ["SPEC", "Config"]
"""The registry's view; networks and environments are imported from their modules."""

"""Predict and explain acceptance of recommended items (CSRec, arXiv 2409.05872).

An acceptance model of what users did by themselves, what they were recommended and what they decided, with the chance of a
decision under recommendations that are set instead of chosen, its causes, and the value of other recommenders.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.recommendation.config import Config

SPEC = SystemSpec(
    name="recommendation",
    title="Will a recommended item be accepted, and why",
    paper="CSRec, arXiv 2409.05872",
    config=Config,
    system="rayworks.systems.recommendation.system:RecommendationSystem",
    headline=(
        "auc",
        "auc_topk_rule",
        "auc_oracle",
        "ece",
        "policy_value_error",
        "effect_error",
        "sequences_per_second",
        "audit_warnings",
    ),
    timed=frozenset({"sequences_per_second", "sequences per second", "seconds", "labels_per_second"}),
    figures=("calibration.png", "attribution.png", "policies.png", "effects.png"),
    needs=("open-bandit",),
    smoke={
        "uncertainty.redrawn": 0,
        "run.name": "smoke",
        "compute.workers": 1,
        "simulator.users": 600,
        "natural.epochs": 20,
        "training.epochs": 30,
        "uncertainty.members": 4,
        "uncertainty.resamples": 100,
        "ablations.histories": ["natural"],
        "attribution.users": 100,
        "scope.stages": ["audit", "natural", "acceptance", "policies", "effects", "bandit"],
    },
)

__all__ = ["SPEC", "Config"]

"""SAFLEX: learned weights and soft labels for augmented samples (arXiv 2410.02512).

After any augmentation, the engine gives each sample a weight and a soft label by what a small step on it would do to the loss
of a few trusted rows. The run trains it beside everything that is cheaper, says which operations and rows do harm, and
whether to use it, to leave the augmentation as it is, or to drop it.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.augmentation.config import Config

SPEC = SystemSpec(
    name="augmentation",
    title="SAFLEX: learned weights and soft labels for augmented samples",
    paper="arXiv 2410.02512",
    config=Config,
    system="rayworks.systems.augmentation.system:AugmentationSystem",
    smoke={
        "run.name": "smoke",
        "data.training": 600,
        "data.noise": 0.4,
        "upstream.operations": ["identity", "rotate", "translate", "brightness", "paste"],
        "upstream.strength": 0.3,
        "training.steps": 600,
        "engine.gain_average": 0.8,
        "experiment.arms": [
            "plain and trusted rows",
            "upstream and trusted rows",
            "upstream stopped early",
            "upstream at equal seconds",
            "trusted rows only",
            "soft bootstrapping",
            "L2RW",
            "SAFLEX",
            "placebo",
        ],
        "experiment.seeds": 3,
    },
    headline=(
        "accuracy_plain",
        "accuracy_upstream",
        "accuracy_l2rw",
        "accuracy_saflex",
        "gain",
        "gain_low",
        "noise_auc",
        "step_cost_ratio",
    ),
    timed=frozenset({"step_cost_ratio", "seconds", "ratio"}),
    figures=("arms.png", "views.png", "operations.png", "labels.png"),
    needs=("digits",),
)

__all__ = ["SPEC", "Config"]

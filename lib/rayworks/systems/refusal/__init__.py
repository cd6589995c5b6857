"""PHTest: pseudo-harmful prompts that measure false refusals (arXiv 2409.00598).

A generator writes harmless prompts that a model nevertheless refuses, left to right, between what the model would say and
what makes it refuse; filters keep those that are fluent, on topic, refused again and harmless. A judge whose error is known
reads replies, and models are measured on harmless and on harmful requests at once, so that never refusing does not win.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.refusal.config import Config

SPEC = SystemSpec(
    name="refusal",
    title="PHTest: pseudo-harmful prompts that measure false refusals",
    paper="arXiv 2409.00598",
    config=Config,
    system="rayworks.systems.refusal.system:RefusalSystem",
    smoke={
        "run.name": "smoke",
        "target.name": "planted",
        "target.reply_tokens": 16,
        "generator.prompts": 40,
        "generator.floor": -5.0,
        "generator.max_tokens": 12,
        "evaluation.sets": ["planted-safe", "planted-control"],
    },
    headline=(
        "yield",
        "median_perplexity",
        "topic_kept",
        "prompts_per_minute",
        "judge_accuracy",
        "judge_kappa",
        "frr_harmless",
        "refused_control",
    ),
    timed=frozenset({"prompts_per_minute", "seconds"}),
    figures=("plane.png", "rates.png", "scan.png", "perplexity.png"),
)

__all__ = ["SPEC", "Config"]

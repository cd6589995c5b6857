"""GenARM: autoregressive reward models that guide a frozen language model token by token (arXiv 2410.08193, ICLR 2025).

A small causal LM is trained on preference pairs so that its log-probability of a response is the reward; while a frozen
base model writes, the reward model's logits are added to the base's, with weights that may differ per request and change
while it runs.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.alignment.config import Config

SPEC = SystemSpec(
    name="alignment",
    title="GenARM: token-level guidance of a frozen language model",
    paper="arXiv 2410.08193",
    config=Config,
    system="rayworks.systems.alignment.system:AlignmentSystem",
    smoke={
        "run.name": "smoke",
        "objectives.sentiment.pairs.max_pairs": 1200,
        "objectives.brevity.pairs.max_pairs": 600,
        "objectives.brevity.pairs.max_held_out": 300,
        "evaluation.samples": 48,
        "evaluation.best_of": 4,
    },
    headline=(
        "pair_accuracy",
        "reward_base",
        "reward_sharpened",
        "reward_guided",
        "reward_gain",
        "reward_gain_low",
        "perplexity_base",
        "perplexity_guided",
        "kl_to_base",
        "tokens_per_second_base",
        "tokens_per_second_guided",
    ),
    timed=frozenset({"tokens_per_second", "tokens_per_second_base", "tokens_per_second_guided", "tokens/s"}),
    figures=("frontier.png", "training.png", "objectives.png"),
    needs=("smollm2-135m-instruct", "clothing-reviews", "imdb-classifier"),
)

__all__ = ["SPEC", "Config"]

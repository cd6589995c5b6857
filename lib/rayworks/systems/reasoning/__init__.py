"""AlphaLLM-CPL: tree search of a language model over steps, and curriculum preference learning from its trees.

A policy's completions are searched as trees of steps (eta-MCTS, arXiv 2404.12253), hundreds at once; pairs of steps that the
search tells apart are learned by DPO in an order that follows the policy (arXiv 2410.06508), and the improved policy searches
again.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.reasoning.config import Config

SPEC = SystemSpec(
    name="reasoning",
    title="AlphaLLM-CPL: tree search and curriculum preference learning",
    paper="arXiv 2410.06508",
    config=Config,
    system="rayworks.systems.reasoning.system:ReasoningSystem",
    smoke={
        "run.name": "smoke",
        "task.count_search": 192,
        "task.count_validation": 128,
        "task.count_test": 400,
        "learning.arms": ["traces", "paths", "shuffled", "both"],
        "evaluation.questions": 64,
        "head.steps": 100,
    },
    headline=(
        "greedy_before",
        "search_accuracy",
        "greedy_after",
        "gain",
        "gain_low",
        "shuffled_dpo_after",
        "trees_per_second",
        "tokens_per_second",
        "prefix_reuse_share",
    ),
    timed=frozenset({"trees_per_second", "tokens_per_second", "seconds"}),
    figures=("arms.png", "drift.png", "methods.png"),
)

__all__ = ["SPEC", "Config"]

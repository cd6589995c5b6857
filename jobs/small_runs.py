"""For each system, the settings above its smoke run that the fault matrix tries: steps of seconds, and enough of them."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "alignment": {
        "model.reward_layers": 2,
        "objectives.sentiment.pairs.max_pairs": 96,
        "objectives.sentiment.pairs.max_held_out": 24,
        "objectives.sentiment.pairs.response_tokens": 6,
        "objectives.sentiment.judges": "[vader]",
        "objectives.brevity.pairs.max_pairs": 96,
        "objectives.brevity.pairs.max_held_out": 24,
        "training.steps_per_checkpoint": 3,
        "evaluation.weights": "[1.0]",
        "evaluation.prompt_count": 2,
        "evaluation.samples": 8,
        "evaluation.best_of": 2,
        "evaluation.bootstrap": 100,
    },
    "augmentation": {
        "experiment.arms": "[plain and trusted rows, upstream and trusted rows, upstream stopped early, L2RW, SAFLEX]",
        "training.steps": 400,
        "training.steps_per_call": 100,
    },
    "difficulty": {
        "uncertainty.bootstrap": 24,
        "uncertainty.refits_per_call": 2,
        "uncertainty.split_halves": 2,
    },
    "federation": {
        "engine.compared_rounds": 1,
        "experiment.methods": "[fedavg, balanced]",
        "experiment.seeds": 2,
    },
    "marl": {
        "training.steps": 2000,
        "sampling.num_envs": 10,
        "experiment.iterations_per_call": 1,
        "experiment.initialisations": 2,
        "experiment.networks": "[e2gn2-last, mlp]",
        "experiment.evaluation_episodes": 10,
    },
    "reasoning": {
        "task.count_search": 48,
        "task.count_validation": 32,
        "task.count_test": 64,
        "recipe.traces": 1000,
        "recipe.steps": 100,
        "search.open_trees": 8,
        "learning.arms": "[paths, both]",
        "head.steps": 20,
        "evaluation.questions": 16,
    },
    "recommendation": {
        "training.microbatches": 4,
        "training.epochs": 10,
        "simulator.users": 200,
    },
    "refusal": {"generator.prompts": 24, "generator.prompts_per_call": 4, "evaluation.prompts_per_call": 30},
    "regulation": {"price.models_per_call": 1},
    "supervision": {"boosting.rounds_per_call": 2, "experiment.seeds": 2},
}


def settings_of(system: str) -> list[str]:
    """As command-line words; none for a system that is not in the table, whose smoke run is small enough."""
    return [word for name, value in SMALL.get(system, {}).items() for word in (f"--{name}", str(value))]

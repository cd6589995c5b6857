"""For each system, the command-line settings of a run small enough for a test, with its models and data made in a folder."""

from pathlib import Path

from tests.tiny_models import save_pairs, save_tiny_model


def alignment(folder: Path) -> list[str]:
    """A random two-layer base and reward model, a hundred pairs, a few tokens."""
    model = save_tiny_model(folder / "model", seed=0)
    pairs = save_pairs(folder / "pairs.jsonl")
    settings = {
        "model.base": model,
        "model.reward_layers": 2,
        "objectives.sentiment.pairs.source": pairs,
        "objectives.sentiment.judges": "[vader]",
        "objectives.brevity.pairs.source": pairs,
        "training.epochs": 2,
        "training.learning_rate": 0.01,
        "training.steps_per_checkpoint": 6,
        "training.train_embeddings": "true",
        "objectives.sentiment.pairs.response_tokens": 6,
        "decoding.slots": 4,
        "evaluation.weights": "[1.0]",
        "evaluation.samples": 8,
        "evaluation.best_of": 2,
        "evaluation.prompt_count": 2,
        "evaluation.bootstrap": 100,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]

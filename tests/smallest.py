"""For each system, the command-line settings of a run small enough for a test, with its models and data made in a folder."""

from pathlib import Path

from tests.small_augmentation import save_rows
from tests.small_bandit import save_bandit_logs, save_natural_events
from tests.small_census import save_census
from tests.small_evidence import save_games, save_responses
from tests.small_federation import write_images
from tests.small_headlines import save_headlines
from tests.tiny_models import VLLM_HEAD, save_pairs, save_tiny_model


def alignment(folder: Path) -> list[str]:
    """A random two-layer base and reward model, a hundred pairs, a few tokens."""
    model = save_tiny_model(folder / "model", seed=0, head=VLLM_HEAD)
    pairs = save_pairs(folder / "pairs.jsonl")
    settings = {
        "compute.workers": 1,
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


def difficulty(folder: Path) -> list[str]:
    """Forty subjects of four families on twelve items, six players over three periods, one tiny model."""
    settings = {
        "compute.workers": 1,
        "data.responses": f"[{save_responses(folder / 'exam.csv')}]",
        "data.games": f"[{save_games(folder / 'league.csv')}]",
        "uncertainty.bootstrap": 8,
        "uncertainty.refits_per_call": 2,
        "uncertainty.split_halves": 2,
        "adaptive_tests.sizes": "[3, 6]",
        "adaptive_tests.folds": 2,
        "adaptive_tests.random_draws": 2,
        "labels.bins": 3,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def augmentation(folder: Path) -> list[str]:
    """Forty steps on two hundred and forty rows of a table made in the folder, four arms, two seeds."""
    settings = {
        "compute.workers": 1,
        "data.source": save_rows(folder / "rows.csv", 240),
        "data.training": 100,
        "data.trusted": 20,
        "data.selection": 40,
        "data.noise": 0.3,
        "upstream.operations": "[identity, noise, mixup]",
        "engine.warm_up": 10,
        "engine.progress": 0,
        "training.steps": 40,
        "training.steps_per_call": 20,
        "training.batch": 16,
        "training.held": 8,
        "training.width": 2,
        "experiment.arms": "[plain and trusted rows, upstream and trusted rows, upstream stopped early, L2RW, SAFLEX]",
        "experiment.seeds": 2,
        "experiment.retrain": True,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def federation(folder: Path) -> list[str]:
    """Four rounds of four clients with a label each, two methods, two seeds; small images made in the folder."""
    settings = {
        "compute.workers": 1,
        "data.source": write_images(folder / "images.npz", 120),
        "data.clients": 4,
        "model.hidden": 8,
        "local.epochs": 1,
        "strategy.rounds": 4,
        "noise.bank": 6,
        "engine.rounds_per_call": 1,
        "engine.compared_rounds": 1,
        "experiment.methods": "[fedavg, balanced]",
        "experiment.seeds": 2,
        "experiment.target_accuracy": 0.01,
        "experiment.resamples": 20,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def marl(folder: Path) -> list[str]:
    """Four iterations of two narrow networks on two copies of simple_spread."""
    settings = {
        "compute.workers": 1,
        "environment.actions": "vectors",
        "environment.horizon": 8,
        "network.hidden": 8,
        "network.mlp_hidden": 8,
        "training.steps": 64,
        "training.epochs": 1,
        "training.minibatch_size": 24,
        "sampling.groups": 2,
        "sampling.num_envs": 1,
        "sampling.steps": 8,
        "experiment.networks": "[e2gn2-last, mlp]",
        "experiment.seeds": 2,
        "experiment.iterations_per_call": 1,
        "experiment.threshold": -1000,
        "experiment.evaluation_episodes": 4,
        "experiment.initialisations": 2,
        "experiment.resamples": 20,
        "experiment.certificate_scenes": 4,
        "experiment.episodes": 1,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def reasoning(folder: Path) -> list[str]:
    """Two dozen sums of two or three terms, a policy of one layer, three arms, two rounds."""
    settings = {
        "compute.workers": 1,
        "task.terms": "[2, 3]",
        "task.count_search": 24,
        "task.count_validation": 16,
        "task.count_test": 24,
        "recipe.layers": 1,
        "recipe.traces": 1000,
        "recipe.steps": 300,
        "recipe.learning_rate": 0.008,
        "recipe.validation": 20,
        "recipe.steps_per_check": 75,
        "search.simulations": 12,
        "search.open_trees": 8,
        "learning.arms": "[paths, shuffled, both]",
        "learning.pairs_per_step": 8,
        "learning.anchors_per_step": 8,
        "head.steps": 10,
        "evaluation.questions": 8,
        "evaluation.resamples": 100,
        "evaluation.beams": 2,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def recommendation(folder: Path) -> list[str]:
    """Eighty users of twelve recommendations each, tiny models, two impressions a row of a bandit log made in the folder."""
    settings = {
        "compute.workers": 1,
        "simulator.users": 80,
        "simulator.items": 12,
        "simulator.observed": 5,
        "simulator.steps": 12,
        "natural.epochs": 2,
        "natural.width": 8,
        "model.width": 8,
        "model.length": 24,
        "training.epochs": 4,
        "training.batch_size": 40,
        "uncertainty.members": 3,
        "uncertainty.redrawn": 2,
        "uncertainty.resamples": 20,
        "ablations.histories": "[first-order]",
        "policies.explorations": "[0.5, 1.0]",
        "policies.steps": 6,
        "policies.paths": 4,
        "attribution.users": 10,
        "attribution.reference": 4,
        "attribution.shown": 2,
        "bandit.logs": save_bandit_logs(folder),
        "ranking.source": save_natural_events(folder / "natural.csv"),
        "ranking.backbones": "[gru]",
        "ranking.width": 8,
        "ranking.layers": 1,
        "ranking.length": 8,
        "ranking.epochs": 2,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def refusal(folder: Path) -> list[str]:
    """The toy, eight prompts in two calls, and a few requests to measure it on."""
    settings = {
        "compute.workers": 1,
        "target.name": "planted",
        "seeds.source": _seeds(folder),
        "generator.prompts": 8,
        "generator.prompts_per_call": 4,
        "generator.max_tokens": 12,
        "generator.scan_words": 40,
        "evaluation.sets": "[planted-safe, planted-control]",
        "evaluation.most_per_set": 12,
        "evaluation.prompts_per_call": 8,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def _seeds(folder: Path) -> Path:
    """Six requests that the toy reads."""
    things = ("door", "rope", "shirt", "lamp", "box", "chair")
    file = folder / "seeds.txt"
    file.write_text("".join(f"how do i clean the {thing} at home\n" for thing in things))
    return file


def supervision(folder: Path) -> list[str]:
    """Four hundred made-up headlines, six trees, one number of rounds in between, two seeds."""
    settings = {
        "compute.workers": 1,
        "task.name": save_headlines(folder / "headlines.csv"),
        "task.count": 400,
        "task.count_labelled": 100,
        "task.count_validation": 60,
        "task.count_unlabelled": 100,
        "task.count_test": 80,
        "task.hardness": "words:40",
        "weak.features": "words:20",
        "weak.depth": 2,
        "boosting.rounds": 6,
        "boosting.rounds_per_call": 2,
        "experiment.seeds": 2,
        "experiment.rounds_shown": "[1, 3, 6]",
        "experiment.resamples": 50,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def regulation(folder: Path) -> list[str]:
    """Two hundred rows of two groups to train on, a thousand builders, nine prices, a few rounds of learning."""
    settings = {
        "compute.workers": 1,
        "price.source": save_census(folder / "census.csv"),
        "price.label": "approved",
        "price.positive": "'yes'",
        "price.group": "side",
        "price.majority": "left",
        "price.minority": "right",
        "price.dropped": "[]",
        "price.shares": "[0.1, 0.3, 0.5]",
        "price.seeds": 2,
        "price.majority_rows": 60,
        "price.validation_rows": 20,
        "price.test_rows": 10,
        "price.epochs": 2,
        "price.models_per_call": 1,
        "price.resamples": 50,
        "population.builders": 1000,
        "population.prices": 9,
        "population.prices_per_call": 3,
        "certificate.types": 101,
        "certificate.deviations": 101,
        "learning.types": 20,
        "learning.bids": 30,
        "learning.rounds": 20,
        "noise.levels": "[0.0, 0.05]",
        "noise.values": 6,
        "noise.shares": 4,
        "noise.bids": 20,
        "noise.rounds": 10,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]

"""The export: one folder of weights per reward model, and the base they belong to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rayworks.core.exports import Write, reading
from rayworks.systems.alignment.config import Config

GUIDANCE = "guidance.json"


@dataclass(frozen=True)
class ExportedModels:
    """What a folder holds beside one folder of weights per objective."""

    base: str
    dtype: str
    objectives: Sequence[str]
    pair_accuracy: Mapping[str, float]
    """By objective, on held-out pairs."""
    prompts: Mapping[str, Sequence[str]]
    """By suite, those of the evaluation."""


def write_export(exported: ExportedModels, write: Write) -> None:
    """Write ``guidance.json``."""
    write(GUIDANCE, json.dumps(asdict(exported), indent=2).encode())


def read_export(folder: str | Path) -> ExportedModels:
    """Read what :func:`write_export` wrote.

    Raises:
        DataError: the file is missing or damaged, or a reward model is not beside it.
    """
    with reading(folder, "alignment") as path:
        exported = ExportedModels(**json.loads((path / GUIDANCE).read_text()))
        missing = [name for name in exported.objectives if not (path / reward_folder(name)).is_dir()]
        if missing:
            raise FileNotFoundError(f"reward model {missing[0]} is missing")
        return exported


def reward_folder(objective: str) -> str:
    """Where an objective's reward model lies inside the export."""
    return f"arms/{objective}"


def model_card(config: Config, held_out: dict[str, dict[str, float]]) -> str:
    """The README of the export."""
    rows = "\n".join(
        f"| {name} | {config.objectives[name].pairs.source} | {scores['accuracy']:.3f} |"
        for name, scores in held_out.items()
    )
    return (
        f"# Reward models of run {config.run.name}\n\n"
        f"Autoregressive reward models (arXiv 2410.08193) for `{config.model.base}`: add their logits, times a weight, to "
        "the base's before temperature.\n\n"
        f"| objective | pairs | held-out pair accuracy |\n|---|---|---|\n{rows}\n\n"
        f"Trained with seed {config.run.seed}, {config.model.reward_layers or 'all'} layers, {config.training.tuning} "
        f"tuning, at most {config.objectives[next(iter(held_out))].pairs.response_tokens} response tokens. A weight far "
        "above those in the report's frontier buys reward with broken text.\n"
    )

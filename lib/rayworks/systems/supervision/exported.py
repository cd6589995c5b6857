"""The export: the experts that teach, their weights, and what they see of a text; and what they say of new texts."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.exports import reading
from rayworks.core.run_directory import EXPORT, RunDirectory
from rayworks.systems.supervision.boosting.votes import Vote, ensembles
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.files import Files
from rayworks.systems.supervision.findings import students
from rayworks.systems.supervision.opening import Tracks
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.weak.classifiers import Expert, load_arrays
from rayworks.systems.supervision.weak.features import Features, features_named, restored

ENSEMBLE, FEATURES, EXPERTS = "ensemble.json", "features.json", "experts"


@dataclass(frozen=True)
class Label:
    """What an ensemble says of a text."""

    label: str
    probabilities: dict[str, float]
    votes: list[str]
    """Each expert's own label, in the order of their weights."""
    agreement: float
    """Share of the weight whose own label this is."""
    entropy: float
    """Of the probabilities, in nats."""


@dataclass(frozen=True)
class ExportedEnsemble:
    """Experts that label texts."""

    classes: tuple[str, ...]
    vote: Vote
    alphas: tuple[float, ...]
    experts: tuple[Expert, ...]
    features: Features

    def label(self, texts: Sequence[str]) -> list[Label]:
        """A label for every text."""
        if not texts:
            return []
        seen = self.features.of(texts)
        said = np.stack([expert.probabilities(seen) for expert in self.experts])
        alphas = np.array(self.alphas)
        mixed = ensembles(said, alphas, self.vote)[-1]
        own, best = said.argmax(axis=-1), mixed.argmax(axis=-1)
        agreement = ((own == best) * alphas[:, None]).sum(axis=0) / alphas.sum()
        return [
            Label(
                self.classes[best[row]],
                dict(zip(self.classes, mixed[row].tolist(), strict=True)),
                [self.classes[one] for one in own[:, row]],
                float(agreement[row]),
                float(-sum(p * math.log(p) for p in mixed[row].tolist() if p > 0)),
            )
            for row in range(len(texts))
        ]


def write_export(
    config: Config, results: Mapping[str, Any], tracks: Tracks, files: Files, directory: RunDirectory
) -> None:
    """Copy the first seed's experts that teach, and write what else must be known to label with them."""
    taught = results["taught"]["boosting"][0]
    chain = files.chain(0, "boosting")
    assert chain is not None
    count = taught["rounds"]
    folders = files.expert_folders(0, "boosting")[:count]
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(folders):
            shutil.copytree(folder, Path(scratch) / f"{number:05d}")
        directory.put_folder(Path(scratch), f"{EXPORT}/{EXPERTS}")
    alphas = [one.alpha for one in chain.kept[:count]] or [1.0]
    pool = tracks.pool
    described: dict[str, Any] = {"vote": taught["vote"], "alphas": alphas, "weak": config.weak.model_dump(mode="json")}
    if isinstance(pool, LabelledExamples):
        described["classes"] = list(pool.classes)
        features = features_named(config.weak.features, pool.texts)
        directory.write_json(f"{EXPORT}/{FEATURES}", features.state())
    directory.write_json(f"{EXPORT}/{ENSEMBLE}", described)


def read_export(folder: str | Path) -> ExportedEnsemble:
    """Read what :func:`write_export` wrote.

    Raises:
        DataError: files are missing, damaged, or do not fit each other.
    """
    with reading(folder, "supervision") as path:
        described = json.loads((path / ENSEMBLE).read_text())
        classes, alphas = tuple(map(str, described["classes"])), tuple(map(float, described["alphas"]))
        experts = tuple(load_arrays(path / EXPERTS / f"{number:05d}") for number in range(len(alphas)))
        if not alphas or not all(math.isfinite(alpha) and alpha > 0 for alpha in alphas):
            raise ValueError(f"its weights are {alphas}")
        vote: Vote = described["vote"]
        if vote not in ("share", "linear", "log-linear"):
            raise ValueError(f"its vote is {vote!r}")
        found = ExportedEnsemble(classes, vote, alphas, experts, restored(json.loads((path / FEATURES).read_text())))
        said = found.label(["a text", "another"])
        if not all(math.isfinite(value) for one in said for value in one.probabilities.values()):
            raise ValueError("its probabilities are no numbers")
        return found


def model_card(config: Config, results: Mapping[str, Any]) -> str:
    """The README of the export."""
    taught = results["taught"]["boosting"][0]
    accuracy = [float(marks.mean()) for marks in students(results, "single")]
    return (
        f"# Weak experts of run {config.run.name}\n\n"
        f"{taught['rounds']} of up to {config.boosting.rounds} experts ({config.weak.learner} on {config.weak.features}), "
        f"boosted (EnsemW2S, arXiv 2410.04571) on {config.task.count_labelled} easy examples of {config.task.name}, first of "
        f"{config.experiment.seeds} seeds; their number was chosen on validation, their vote is {taught['vote']}. "
        f"The student that one expert alone taught answered {np.mean(accuracy):.3f} of the hard test examples rightly.\n\n"
        "`ensemble.json` holds weights and vote, `experts/` the experts as arrays, `features.json` what they see of a text. "
        f"They know this task alone. Seed {config.run.seed}.\n"
    )

"""The export: the experts that teach, their weights, and what they see of a text; and what they say of new texts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.exports import Write, reading
from rayworks.systems.supervision.boosting.votes import VOTES, Vote, ensembles
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.files import Files
from rayworks.systems.supervision.findings import teachers
from rayworks.systems.supervision.opening import Tracks
from rayworks.systems.supervision.pupils import CHOSEN
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.tasks.opening import Examples
from rayworks.systems.supervision.weak.classifiers import FILE, Expert, from_bytes, to_bytes
from rayworks.systems.supervision.weak.features import MINILM, Features, features_named, is_counted, restored

ENSEMBLE, FEATURES = "ensemble.json", "features.json"


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
        same = own == best
        agreement = np.where(same.all(axis=0), 1.0, (same * alphas[:, None]).sum(axis=0) / alphas.sum())
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


def ensemble_of(config: Config, results: Mapping[str, Any], tracks: Tracks, files: Files) -> ExportedEnsemble:
    """The first seed's experts that teach."""
    taught, pool, chain = results["taught"]["boosting"][0], tracks.pool, files.chain(0, "boosting")
    assert chain is not None
    assert isinstance(pool, LabelledExamples)
    count = taught["rounds"]
    alphas = tuple(one.alpha for one in chain.kept[:count]) or (1.0,)
    experts = tuple(from_bytes((folder / FILE).read_bytes()) for folder in files.expert_folders(0, "boosting")[:count])
    return ExportedEnsemble(
        pool.classes, taught["vote"], alphas, experts, features_named(config.weak.features, pool.texts)
    )


def is_served(config: Config, pool: Examples) -> bool:
    """Whether an export can label: experts are arrays, and answers are classes."""
    return config.weak.learner != "adapter" and isinstance(pool, LabelledExamples)


def copy_experts(config: Config, results: Mapping[str, Any], files: Files, write: Write) -> None:
    """The first seed's experts that teach, as files, where they are not served: adapters are folders that PEFT reads."""
    taught, chain = results["taught"]["boosting"][0], files.chain(0, "boosting")
    assert chain is not None
    kind = (
        f"adapters of {config.weak.model}" if config.weak.learner == "adapter" else f"{config.weak.learner}s that write"
    )
    described = {
        "kind": kind,
        "vote": taught["vote"],
        "alphas": [one.alpha for one in chain.kept[: taught["rounds"]]] or [1.0],
        "weak": config.weak.model_dump(mode="json"),
    }
    write(ENSEMBLE, json.dumps(described, indent=2).encode())
    for number, folder in enumerate(files.expert_folders(0, "boosting")[: taught["rounds"]]):
        for file in sorted(folder.iterdir()):
            write(f"experts/{number:05d}/{file.name}", file.read_bytes())


def write_export(exported: ExportedEnsemble, write: Write) -> None:
    """Write weights, features and experts."""
    described = {"classes": exported.classes, "vote": exported.vote, "alphas": exported.alphas}
    write(ENSEMBLE, json.dumps(described, indent=2).encode())
    write(FEATURES, json.dumps(exported.features.state()).encode())
    for number, expert in enumerate(exported.experts):
        write(_expert_file(number), to_bytes(expert))


def read_export(folder: str | Path, trusted: Sequence[str] = ()) -> ExportedEnsemble:
    """Read what :func:`write_export` wrote.

    Args:
        trusted: names of features that may be loaded: a model, as MODEL@LAYERS, or a function, as module:function.

    Raises:
        DataError: files are missing, damaged, or do not fit each other, or features need what is not named.
    """
    with reading(folder, "supervision") as path:
        described = json.loads((path / ENSEMBLE).read_text())
        if "classes" not in described:
            raise ValueError(f"its experts are {described['kind']}; only trees and linear models of classes are served")
        classes, alphas = tuple(map(str, described["classes"])), tuple(map(float, described["alphas"]))
        if len(set(classes)) < max(len(classes), 2):
            raise ValueError(f"its classes are {classes}")
        if not alphas or not all(math.isfinite(alpha) and alpha > 0 for alpha in alphas):
            raise ValueError(f"its weights are {alphas}")
        vote: Vote = described["vote"]
        if vote not in VOTES:
            raise ValueError(f"its vote is {vote!r}")
        state = json.loads((path / FEATURES).read_text())
        name = state["name"]
        if not (is_counted(name) or name == MINILM or name in trusted):
            raise ValueError(f"its features are {name}: name them in trusted if you trust that model or function")
        features = restored(state)
        width = features.of(["a text"]).shape[1]
        experts = tuple(from_bytes((path / _expert_file(number)).read_bytes()) for number in range(len(alphas)))
        for expert in experts:
            expert.check(width, len(classes))
        return ExportedEnsemble(classes, vote, alphas, experts, features)


def model_card(config: Config, results: Mapping[str, Any]) -> str:
    """The README of the export."""
    taught = results["taught"]["boosting"][0]
    own, single = (teachers(results, f"boosting@{number}")[0].mean() for number in (CHOSEN, 1))
    weak = config.weak
    seen = f"{weak.model}, {weak.layers or 'all'} layers" if weak.learner == "adapter" else weak.features
    served = weak.learner != "adapter" and "classes" in results["facts"][0]
    files = (
        "`experts/` the experts as arrays, `features.json` what they see of a text."
        if served
        else "`experts/` each expert's files; they are not served over HTTP."
    )
    return (
        f"# Weak experts of run {config.run.name}\n\n"
        f"{taught['rounds']} of {results['chains']['boosting'][0]['kept']} experts that were kept ({weak.learner} on "
        f"{seen}), boosted (EnsemW2S, arXiv 2410.04571) on {config.task.count_labelled} labelled examples of "
        f"{config.task.name}, first of {config.experiment.seeds} seeds; their number was chosen on validation, their vote is "
        f"{taught['vote']}. Together they answer {own:.3f} of this seed's test examples rightly, the first alone "
        f"{single:.3f}.\n\n`ensemble.json` holds weights and vote, {files} They know this task alone. "
        f"Seed {config.run.seed}.\n"
    )


def _expert_file(number: int) -> str:
    return f"experts/{number:05d}.npz"

"""The export: the experts that teach, their weights, and what they see of a text; and what they say of new texts."""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rayworks.core.exports import Write, reading
from rayworks.systems.supervision.boosting.votes import VOTES, Vote, ensembles
from rayworks.systems.supervision.config import Config, WeakSection
from rayworks.systems.supervision.files import Files
from rayworks.systems.supervision.findings import teachers
from rayworks.systems.supervision.opening import Tracks
from rayworks.systems.supervision.pupils import CHOSEN
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.weak.classifiers import FILE, Expert, from_bytes, to_bytes
from rayworks.systems.supervision.weak.features import MINILM, Features, features_named, is_counted, restored

if TYPE_CHECKING:
    from rayworks.systems.supervision.weak.adapters import Adapter, AdapterBase

ENSEMBLE, FEATURES = "ensemble.json", "features.json"
BASE = "base"
"""Under which the ensemble's file names the base of adapters."""


class Voters(Protocol):
    """Experts of classes."""

    def __len__(self) -> int:
        """How many."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """``[experts, texts, classes]``."""

    def write(self, write: Write) -> dict[str, Any]:
        """Write what they are; what the ensemble's file says of it."""


@dataclass(frozen=True)
class ArrayVoters:
    """Trees and linear models."""

    experts: tuple[Expert, ...]
    features: Features

    def __len__(self) -> int:
        return len(self.experts)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """See :class:`Voters`."""
        seen = self.features.of(texts)
        return np.stack([expert.probabilities(seen) for expert in self.experts])

    def write(self, write: Write) -> dict[str, Any]:
        """See :class:`Voters`."""
        write(FEATURES, json.dumps(self.features.state()).encode())
        for number, expert in enumerate(self.experts):
            write(f"{_expert(number)}.npz", to_bytes(expert))
        return {}


@dataclass(frozen=True)
class AdapterVoters:
    """Adapters beside one base; one thread at a time reads with them."""

    base: "AdapterBase"
    adapters: tuple["Adapter", ...]
    classes: tuple[str, ...]
    _turn: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def __len__(self) -> int:
        return len(self.adapters)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """See :class:`Voters`."""
        from rayworks.systems.supervision.weak.adapters import ClassExperts

        with self._turn:
            experts = ClassExperts(self.base, texts, self.classes)
            return experts.probabilities(self.adapters, np.arange(len(texts)))

    def write(self, write: Write) -> dict[str, Any]:
        """See :class:`Voters`."""
        for number, adapter in enumerate(self.adapters):
            for name, content in adapter.files.items():
                write(f"{_expert(number)}/{name}", content)
        return {BASE: {"model": self.base.section.model, "layers": self.base.section.layers}}


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
    experts: Voters

    def label(self, texts: Sequence[str]) -> list[Label]:
        """A label for every text."""
        if not texts:
            return []
        said, alphas = self.experts.probabilities(texts), np.array(self.alphas)
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
    folders = files.expert_folders(0, "boosting")[:count]
    if config.weak.learner == "adapter":
        voters = _adapters(config.weak, pool.classes, folders)
    else:
        experts = tuple(from_bytes((folder / FILE).read_bytes()) for folder in folders)
        voters = ArrayVoters(experts, features_named(config.weak.features, pool.texts))
    return ExportedEnsemble(pool.classes, taught["vote"], alphas, voters)


def _adapters(section: WeakSection, classes: tuple[str, ...], folders: Sequence[Path]) -> Voters:
    from rayworks.systems.supervision.weak.adapters import Adapter, AdapterBase

    return AdapterVoters(AdapterBase(section), tuple(Adapter.load(folder) for folder in folders), classes)


def copy_experts(config: Config, results: Mapping[str, Any], files: Files, write: Write) -> None:
    """The first seed's experts that teach, as files, where they write and are not served: adapters as PEFT reads them."""
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
            write(f"{_expert(number)}/{file.name}", file.read_bytes())


def write_export(exported: ExportedEnsemble, write: Write) -> None:
    """Write weights, what experts see, and the experts."""
    described = {"classes": exported.classes, "vote": exported.vote, "alphas": exported.alphas}
    described |= exported.experts.write(write)
    write(ENSEMBLE, json.dumps(described, indent=2).encode())


def read_export(folder: str | Path, trusted: Sequence[str] = ()) -> ExportedEnsemble:
    """Read what :func:`write_export` wrote.

    Args:
        trusted: what may be loaded: a model that gives features or is the base of adapters, as MODEL@LAYERS, or MODEL
            where all its layers are kept; or a function, as module:function.

    Raises:
        DataError: files are missing, damaged, or do not fit each other, or experts need what is not named.
    """
    with reading(folder, "supervision") as path:
        described = json.loads((path / ENSEMBLE).read_text())
        if "classes" not in described:
            raise ValueError(f"its experts are {described['kind']}; only experts of classes are served")
        classes, alphas = tuple(map(str, described["classes"])), tuple(map(float, described["alphas"]))
        if len(set(classes)) < max(len(classes), 2):
            raise ValueError(f"its classes are {classes}")
        if not alphas or not all(math.isfinite(alpha) and alpha > 0 for alpha in alphas):
            raise ValueError(f"its weights are {alphas}")
        vote: Vote = described["vote"]
        if vote not in VOTES:
            raise ValueError(f"its vote is {vote!r}")
        names, base = [path / _expert(number) for number in range(len(alphas))], described.get(BASE)
        voters = (
            _read_arrays(path, names, len(classes), trusted)
            if base is None
            else _read_adapters(base, names, classes, trusted)
        )
        return ExportedEnsemble(classes, vote, alphas, voters)


def _read_arrays(path: Path, names: Sequence[Path], classes: int, trusted: Sequence[str]) -> Voters:
    state = json.loads((path / FEATURES).read_text())
    name = state["name"]
    if not (is_counted(name) or name == MINILM or name in trusted):
        raise ValueError(f"its features are {name}: name them in trusted if you trust that model or function")
    features = restored(state)
    width = features.of(["a text"]).shape[1]
    experts = tuple(from_bytes(one.with_suffix(".npz").read_bytes()) for one in names)
    for expert in experts:
        expert.check(width, classes)
    return ArrayVoters(experts, features)


def _read_adapters(
    base: Mapping[str, Any], folders: Sequence[Path], classes: tuple[str, ...], trusted: Sequence[str]
) -> Voters:
    section = WeakSection(learner="adapter", model=base["model"], layers=base["layers"])
    name = section.model if section.layers is None else f"{section.model}@{section.layers}"
    if name not in trusted:
        raise ValueError(f"its experts are adapters of {name}: name it in trusted if you trust that model")
    voters = _adapters(section, classes, folders)
    voters.probabilities(["a text"])
    return voters


def model_card(config: Config, results: Mapping[str, Any]) -> str:
    """The README of the export."""
    taught = results["taught"]["boosting"][0]
    own, single = (teachers(results, f"boosting@{number}")[0].mean() for number in (CHOSEN, 1))
    weak = config.weak
    seen = f"{weak.model}, {weak.layers or 'all'} layers" if weak.learner == "adapter" else weak.features
    files = "`experts/` each expert's files."
    if "classes" not in results["facts"][0]:
        files += " They write, and are not served over HTTP."
    elif weak.learner != "adapter":
        files += " `features.json` is what they see of a text."
    return (
        f"# Weak experts of run {config.run.name}\n\n"
        f"{taught['rounds']} of {results['chains']['boosting'][0]['kept']} experts that were kept ({weak.learner} on "
        f"{seen}), boosted (EnsemW2S, arXiv 2410.04571) on {config.task.count_labelled} labelled examples of "
        f"{config.task.name}, first of {config.experiment.seeds} seeds; their number was chosen on validation, their vote is "
        f"{taught['vote']}. Together they answer {own:.3f} of this seed's test examples rightly, the first alone "
        f"{single:.3f}.\n\n`ensemble.json` holds weights and vote, {files} They know this task alone. "
        f"Seed {config.run.seed}.\n"
    )


def _expert(number: int) -> str:
    return f"experts/{number:05d}"

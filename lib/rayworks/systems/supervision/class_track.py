"""Tasks whose answers are classes: labels are distributions, ``[rows, classes]``."""

import io
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.supervision.boosting.votes import Vote, ensembles, evidential, hardened
from rayworks.systems.supervision.boosting.weighting import RuleName
from rayworks.systems.supervision.config import Config, Loss
from rayworks.systems.supervision.generation.tokens import CLIP
from rayworks.systems.supervision.students.linear import fit_student
from rayworks.systems.supervision.tasks.hardness import hardness_of
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.tasks.splitting import SPLITS, Parts, Split, part, with_noise
from rayworks.systems.supervision.tracks import Lesson
from rayworks.systems.supervision.weak.classifiers import FILE, Expert, fit_expert, from_bytes, to_bytes
from rayworks.systems.supervision.weak.features import kept_features
from rayworks.systems.supervision.weak.places import HERE, Place


class ClassPool:
    """The examples that all seeds draw from, with their features and how hard they are: the same for all of them."""

    def __init__(self, config: Config, examples: LabelledExamples) -> None:
        self._name, self._by, self.examples = config.task.hardness, config.task.hardness_by, examples
        self._random = config.task.split == "random"
        self.features = lru_cache(maxsize=8)(lambda name: kept_features(name, examples.texts))

    @cached_property
    def hardness(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See :func:`~.tasks.hardness.hardness_of`."""
        found = self.examples
        if self._random:
            return np.zeros(len(found)), None
        return hardness_of(self._name, found.uids, found.texts, found.labels, found.columns, self.features, self._by)


class Experts(Protocol):
    """A kind of weak experts of classes; ``rows`` are indices of the pool."""

    def fit(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int) -> Any:
        """An expert of rows with their classes and weights, ``[rows]`` each."""

    def probabilities(self, experts: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        """``[experts, rows, classes]``."""

    def save(self, expert: Any, folder: Path) -> None:
        """Write an expert without pickles."""

    def load(self, folder: Path) -> Any:
        """Read it."""

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """See :meth:`~.tracks.Track.cost`; what is learned from and what is labelled are rows."""


class ArrayExperts:
    """Trees and linear models; see :class:`Experts`."""

    def __init__(self, config: Config, features: Any, classes: int) -> None:
        self._section, self._features, self._classes = config.weak, features, classes

    def fit(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int) -> Expert:
        """See :class:`Experts`."""
        return fit_expert(self._section, self._features[rows], labels, weights, self._classes, seed)

    def probabilities(self, experts: Sequence[Expert], rows: np.ndarray) -> np.ndarray:
        """See :class:`Experts`."""
        return np.stack([expert.probabilities(self._features[rows]) for expert in experts])

    def save(self, expert: Expert, folder: Path) -> None:
        """See :class:`Experts`."""
        (folder / FILE).write_bytes(to_bytes(expert))

    def load(self, folder: Path) -> Expert:
        """See :class:`Experts`."""
        return from_bytes((folder / FILE).read_bytes())

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """Not counted; the report has the seconds."""
        return {"train": None, "label": None}


class ClassTrack:
    """See :class:`~.tracks.Track`."""

    def __init__(self, config: Config, pool: "ClassPool", seed: int, place: Place = HERE) -> None:
        """The examples of all seeds, the seed of this one, and where language models are."""
        self._config, self._seed, self._place = config, seed, place
        self._pool, self._features, self._hardness = pool.examples, pool.features, pool.hardness
        self.classes = len(self._pool.classes)
        self.rule: RuleName = "adaboost" if self.classes == 2 else "samme"

    def facts(self) -> dict[str, Any]:
        """See :class:`~.tracks.Track`."""
        right, known = self._hardness[1], self._known
        if len(np.unique(known)) < 2:
            name = self._pool.classes[int(known[0])]
            raise DataError(
                f"task.count_labelled: all {len(known)} labelled examples are {name!r}, so there is nothing to tell "
                "apart; raise it, or part by another hardness"
            )
        on_hard = None if right is None else float(right[self._parts["test"]].mean())
        return {
            "counts": {split: len(self._parts[split]) for split in SPLITS},
            "classes": list(self._pool.classes),
            "commonest": float(np.bincount(known).max() / len(known)),
            "reference_accuracy_hard": on_hard,
        }

    def rows(self, split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        return self._parts[split]

    def prior_error(self) -> float:
        """Of always answering the commonest class."""
        commonest = float(np.bincount(self._known).max() / len(self._known))
        return float(np.clip(1 - commonest, *CLIP))

    def learner(self) -> "RowLearner":
        """See :class:`~.tracks.Track`."""
        return RowLearner(self._experts, self._parts["labelled"], self._known)

    def save_expert(self, expert: Any, folder: Path) -> None:
        """See :class:`~.tracks.Track`."""
        self._experts.save(expert, folder)

    def load_expert(self, folder: Path) -> Any:
        """See :class:`~.tracks.Track`."""
        return self._experts.load(folder)

    def label(
        self, experts: Sequence[Any], alphas: np.ndarray, split: Split, vote: Vote, rounds: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """See :class:`~.tracks.Track`."""
        found = ensembles(self._probabilities(experts, split), alphas, vote)
        return {number: found[min(number, len(found)) - 1] for number in rounds}

    def evidential(self, experts: Sequence[Any], split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        return evidential(self._probabilities(experts, split))

    def wrong(self, experts: Sequence[Any], split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        said = self._probabilities(experts, split).argmax(axis=-1)
        wrong: np.ndarray = said != self._labels(split)
        return wrong

    def hard(self, labels: np.ndarray) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        return hardened(labels)

    def known(self, split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        return np.eye(self.classes)[self._known] if split == "labelled" else self.truth(split)

    def truth(self, split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        truth: np.ndarray = np.eye(self.classes)[self._labels(split)]
        return truth

    def commonest(self, split: Split) -> float:
        """See :class:`~.tracks.Track`."""
        labels = self._labels(split)
        return float(np.bincount(labels).max() / len(labels))

    def rights(self, labels: np.ndarray, split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        rights: np.ndarray = labels.argmax(axis=1) == self._labels(split)
        return rights

    def learn(self, lesson: Lesson, splits: Sequence[Split], seed: int) -> tuple[list[np.ndarray], dict[str, float]]:
        """See :class:`~.tracks.Track`."""
        section, loss = self._config.student, cast(Loss, lesson.loss)
        rows, labels = self._parts[lesson.split], lesson.labels
        if section.confidence < 1 and lesson.split == "unlabelled" and not lesson.certain:
            kept = surest(labels, section.confidence)
            rows, labels = rows[kept], labels[kept]
        asked = [self._parts[split] for split in splits]
        if section.learner == "linear":
            features = self._features(lesson.features or section.features)
            student = fit_student(features[rows], labels, section, loss)
            return [student.probabilities(features[some]) for some in asked], {}
        from rayworks.systems.supervision.students.tuned import tune_on_classes

        texts = np.array(self._pool.texts, dtype=object)
        classes, place = self._pool.classes, self._place
        tuned = tune_on_classes(section, texts[rows], labels, classes, loss, seed, lesson.features, place)
        return [tuned.probabilities(texts[some]) for some in asked], {"flops": tuned.tuned.flops}

    def pack(self, labels: np.ndarray) -> bytes:
        """See :class:`~.tracks.Track`."""
        file = io.BytesIO()
        np.save(file, labels, allow_pickle=False)
        return file.getvalue()

    def unpack(self, data: bytes) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        labels: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return labels

    def by_place(self, distribution: np.ndarray) -> list[tuple[float, float]]:
        """See :class:`~.tracks.Track`."""
        return []

    def cost(self, experts: int) -> dict[str, float | None]:
        """See :class:`~.tracks.Track`."""
        return self._experts.cost(experts, self._parts["labelled"], self._parts["unlabelled"])

    @cached_property
    def _experts(self) -> Experts:
        weak = self._config.weak
        if weak.learner != "adapter":
            return ArrayExperts(self._config, self._features(weak.features), self.classes)
        from rayworks.systems.supervision.weak.adapters import AdapterBase, ClassExperts

        return ClassExperts(AdapterBase(weak, place=self._place), self._pool.texts, self._pool.classes)

    @cached_property
    def _parts(self) -> Parts:
        return part(self._config.task, self._hardness[0], self._seed)

    @cached_property
    def _known(self) -> np.ndarray:
        """Classes of the labelled examples, as the weak experts are told them."""
        return with_noise(self._labels("labelled"), self.classes, self._config.task.label_noise, self._seed)

    def _labels(self, split: Split) -> np.ndarray:
        labels: np.ndarray = self._pool.labels[self._parts[split]]
        return labels

    def _probabilities(self, experts: Sequence[Any], split: Split) -> np.ndarray:
        return self._experts.probabilities(experts, self._parts[split])


class RowLearner:
    """Fits classifiers to rows; see :class:`~.boosting.chain.Learner`."""

    def __init__(self, experts: Experts, rows: np.ndarray, labels: np.ndarray) -> None:
        self._experts, self._rows, self._labels = experts, rows, labels

    @property
    def owners(self) -> np.ndarray:
        """Every row is a sample."""
        return np.arange(len(self._labels))

    def fit(self, weights: np.ndarray, seed: int) -> Any:
        """See :class:`~.boosting.chain.Learner`."""
        return self._experts.fit(self._rows, self._labels, weights, seed)

    def misses(self, expert: Any) -> np.ndarray:
        """See :class:`~.boosting.chain.Learner`."""
        wrong: np.ndarray = self._experts.probabilities([expert], self._rows)[0].argmax(axis=1) != self._labels
        return wrong.astype(float)


def surest(labels: np.ndarray, share: float) -> np.ndarray:
    """Indices, growing, of the surest rows of each class, that share of them, at least one of each class that is there."""
    said, sure = labels.argmax(axis=1), labels.max(axis=1)
    kept = []
    for one in np.unique(said):
        rows = np.flatnonzero(said == one)
        kept.append(rows[np.argsort(-sure[rows], kind="stable")][: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(kept))

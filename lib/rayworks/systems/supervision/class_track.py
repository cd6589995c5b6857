"""Tasks whose answers are classes: labels are distributions, ``[rows, classes]``."""

import io
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from rayworks.systems.supervision.boosting.votes import Vote, ensembles, evidential, hardened
from rayworks.systems.supervision.config import Config, Loss
from rayworks.systems.supervision.students.linear import fit_student
from rayworks.systems.supervision.tasks.hardness import hardness_of
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.tasks.splitting import SPLITS, Parts, Split, part, with_noise
from rayworks.systems.supervision.tracks import Lesson
from rayworks.systems.supervision.weak.classifiers import FILE, Expert, fit_expert, from_bytes, to_bytes
from rayworks.systems.supervision.weak.features import kept_features


class ClassPool:
    """The examples that all seeds draw from, with their features and how hard they are: the same for all of them."""

    def __init__(self, config: Config, examples: LabelledExamples) -> None:
        self._name, self.examples = config.task.hardness, examples
        self.features = lru_cache(maxsize=8)(lambda name: kept_features(name, examples.texts))

    @cached_property
    def hardness(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See :func:`~.tasks.hardness.hardness_of`."""
        found = self.examples
        return hardness_of(self._name, found.uids, found.texts, found.labels, found.columns, self.features)


class ClassTrack:
    """See :class:`~.tracks.Track`."""

    def __init__(self, config: Config, pool: "ClassPool", seed: int) -> None:
        """The examples of all seeds, and the seed of this one."""
        self._config, self._seed = config, seed
        self._pool, self._features, self._hardness = pool.examples, pool.features, pool.hardness
        self.classes = len(self._pool.classes)

    def facts(self) -> dict[str, Any]:
        """See :class:`~.tracks.Track`."""
        right, known = self._hardness[1], self._known
        on_hard = None if right is None else float(right[self._parts["test"]].mean())
        return {
            "counts": {split: len(self._parts[split]) for split in SPLITS},
            "classes": list(self._pool.classes),
            "commonest": float(np.bincount(known).max() / len(known)),
            "reference_accuracy_hard": on_hard,
        }

    def prior_error(self) -> float:
        """Of always answering the commonest class."""
        return 1 - float(np.bincount(self._known).max() / len(self._known))

    def learner(self) -> "RowLearner":
        """See :class:`~.tracks.Track`."""
        rows = self._parts["labelled"]
        features = self._features(self._config.weak.features)[rows]
        return RowLearner(self._config, features, self._known, self.classes)

    def save_expert(self, expert: Any, folder: Path) -> None:
        """See :class:`~.tracks.Track`."""
        (folder / FILE).write_bytes(to_bytes(expert))

    def load_expert(self, folder: Path) -> Expert:
        """See :class:`~.tracks.Track`."""
        return from_bytes((folder / FILE).read_bytes())

    def label(
        self, experts: Sequence[Expert], alphas: np.ndarray, split: Split, vote: Vote, rounds: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """See :class:`~.tracks.Track`."""
        found = ensembles(self._probabilities(experts, split), alphas, vote)
        return {number: found[min(number, len(found)) - 1] for number in rounds}

    def evidential(self, experts: Sequence[Expert], split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        return evidential(self._probabilities(experts, split))

    def wrong(self, experts: Sequence[Expert], split: Split) -> np.ndarray:
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

    def rights(self, labels: np.ndarray, split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        rights: np.ndarray = labels.argmax(axis=1) == self._labels(split)
        return rights

    def learn(self, lesson: Lesson, split: Split, seed: int) -> tuple[np.ndarray, dict[str, float]]:
        """See :class:`~.tracks.Track`."""
        section = self._config.student
        features = self._features(lesson.features or section.features)
        rows, labels = self._parts[lesson.split], lesson.labels
        if section.confidence < 1 and lesson.split == "unlabelled":
            kept = surest(labels, section.confidence)
            rows, labels = rows[kept], labels[kept]
        student = fit_student(features[rows], labels, section, cast(Loss, lesson.loss))
        return student.probabilities(features[self._parts[split]]), {}

    def pack(self, labels: np.ndarray) -> bytes:
        """See :class:`~.tracks.Track`."""
        file = io.BytesIO()
        np.save(file, labels, allow_pickle=False)
        return file.getvalue()

    def unpack(self, data: bytes) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        labels: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return labels

    def cost(self, experts: int) -> dict[str, float | None]:
        """Not counted for trees and linear models, whose seconds stand in the report."""
        return {"train": None, "label": None}

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

    def _probabilities(self, experts: Sequence[Expert], split: Split) -> np.ndarray:
        features = self._features(self._config.weak.features)[self._parts[split]]
        return np.stack([expert.probabilities(features) for expert in experts])


class RowLearner:
    """Fits classifiers to rows; see :class:`~.boosting.chain.Learner`."""

    def __init__(self, config: Config, features: Any, labels: np.ndarray, classes: int) -> None:
        self._section, self._features, self._labels, self._classes = config.weak, features, labels, classes

    @property
    def owners(self) -> np.ndarray:
        """Every row is a sample."""
        return np.arange(len(self._labels))

    def fit(self, weights: np.ndarray, seed: int) -> Expert:
        """See :class:`~.boosting.chain.Learner`."""
        return fit_expert(self._section, self._features, self._labels, weights, self._classes, seed)

    def misses(self, expert: Expert) -> np.ndarray:
        """See :class:`~.boosting.chain.Learner`."""
        wrong: np.ndarray = expert.probabilities(self._features).argmax(axis=1) != self._labels
        return wrong.astype(float)


def surest(labels: np.ndarray, share: float) -> np.ndarray:
    """Indices, growing, of the surest rows of each class, that share of them, at least one of each class that is there."""
    said, sure = labels.argmax(axis=1), labels.max(axis=1)
    kept = []
    for one in np.unique(said):
        rows = np.flatnonzero(said == one)
        kept.append(rows[np.argsort(-sure[rows], kind="stable")][: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(kept))

"""Predict and score samples with the model of one export, without HTTP."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.augmentation.exported import CARD, ExportedModel, Scored, read_export

from ..common.pictures import Limits, read_inputs, require_card, the_inputs, wanted
from .augmentation_schemas import Guess, ModelCard, SamplesBody, Score

TAKES = {"images": ("images", "pixels"), "table": ("rows",), "texts": ("texts",)}
"""Kind of data to the fields that hold its samples."""
SLACK = 1e-3


class Scoring:
    """The model of one export, ``export`` of a finished run.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, folder: str, trusted: Sequence[str], limits: Limits) -> None:
        self.exported: ExportedModel = read_export(folder, trusted)
        self.limits = limits
        # A pass takes the module's parameters out, and derivatives of one thread are seen by all.
        self._turn = threading.Lock()
        require_card(self, folder)

    def card(self) -> ModelCard:
        """Describe the model."""
        exported = self.exported
        known = {name: exported.card[name] for name in CARD}
        classes, shape = list(exported.classes), list(exported.shape)
        return ModelCard(**known, kind=exported.kind, classes=classes, shape=shape, limits=self.limits)

    def inputs(self, body: SamplesBody) -> Any:
        """Images ``(n, C, H, W)`` in [0, 1], rows ``(n, columns)``, or texts.

        Raises:
            DataError: too many, of another size, or not what the model takes; names the sample.
        """
        exported = self.exported
        fields = [name for names in TAKES.values() for name in names]
        this_model = "texts" if exported.kind == "texts" else wanted(exported.shape)
        name, values = the_inputs(body, fields, TAKES[exported.kind], this_model, self.limits)
        if name == "texts":
            return np.array(values, object)
        read = read_inputs(name, values, exported.shape)
        return read / np.float32(255) if exported.kind == "images" else read

    def labels(self, given: Sequence[str | Mapping[str, float]], count: int) -> np.ndarray:
        """Distributions ``(count, K)``.

        Raises:
            DataError: a label is no class or no distribution, or there are more or fewer than samples; names it.
        """
        if len(given) != count:
            raise DataError(f"labels: {len(given)} for {count} samples; give each sample one")
        places = {name: place for place, name in enumerate(self.exported.classes)}
        found = np.zeros((count, len(places)), np.float32)
        for row, label in enumerate(given):
            shares = {label: 1.0} if isinstance(label, str) else label
            unknown = [name for name in shares if name not in places]
            if unknown:
                raise DataError(f"labels.{row}: {unknown[0]!r} is no class; choose of {', '.join(places)}")
            if abs(sum(shares.values()) - 1) > SLACK:
                raise DataError(f"labels.{row}: shares sum to {sum(shares.values()):g}; let them sum to 1")
            for name, share in shares.items():
                found[row, places[name]] = share
        return found

    def predict(self, asked: Sequence[Any]) -> list[np.ndarray]:
        """Probabilities ``(n, K)`` of each request, in one pass over all."""
        with self._turn:
            return np.split(self.exported.probabilities(np.concatenate(asked)), _ends(asked))

    def score(self, asked: Sequence[tuple[Any, np.ndarray]]) -> list[Scored]:
        """What is said of the samples and labels of each request, in one pass over all."""
        inputs, labels = zip(*asked, strict=True)
        with self._turn:
            whole = self.exported.score(np.concatenate(inputs), np.concatenate(labels))
        parts = [np.split(part, _ends(inputs)) for part in vars(whole).values()]
        return [Scored(*one) for one in zip(*parts, strict=True)]

    def guesses(self, probabilities: np.ndarray, top: int) -> list[list[Guess]]:
        """The most probable classes of each sample."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Guess(label=self.exported.classes[at], probability=float(row[at])) for at in best]
            for row, best in zip(probabilities, order, strict=True)
        ]

    def scores(self, found: Scored) -> list[Score]:
        """What is said of each sample."""
        classes = self.exported.classes
        return [
            Score(
                weight=float(found.weights[row]),
                label=classes[int(found.labels[row].argmax())],
                labels=dict(zip(classes, found.labels[row].tolist(), strict=True)),
                score=float(found.scores[row]),
                given=float(found.given[row]),
            )
            for row in range(len(found.scores))
        ]

    def check(self) -> None:
        """Predict and score something.

        Raises:
            DataError: the answer is not a distribution.
        """
        exported = self.exported
        inputs: Any = (
            np.array(["a text"], object) if exported.kind == "texts" else np.zeros((1, *exported.shape), np.float32)
        )
        labels = np.eye(len(exported.classes), dtype=np.float32)[:1]
        [found], [chances] = self.score([(inputs, labels)]), self.predict([inputs])
        if not np.isclose(chances.sum(), 1.0) or not np.isfinite(found.scores).all():
            raise DataError("model: its answers are not finite; export the run again")


def _ends(asked: Sequence[Any]) -> np.ndarray:
    ends: np.ndarray = np.cumsum([len(one) for one in asked])[:-1]
    return ends

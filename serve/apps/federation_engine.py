"""Classify images or features with the model of one export, without HTTP."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.federation.exported import CARD, ExportedModel, read_export

from ..common.pictures import Limits, read_inputs, require_card, the_inputs, wanted
from .federation_schemas import ClassifyBody, Label, ModelCard

Inputs = NDArray[Any]


class Classifying:
    """The model of one export, ``export`` of a finished run.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, folder: str, limits: Limits) -> None:
        self.exported: ExportedModel = read_export(folder)
        self.limits = limits
        require_card(self, folder)

    def card(self) -> ModelCard:
        """Describe the model."""
        exported = self.exported
        known = {name: exported.card[name] for name in CARD}
        return ModelCard(**known, classes=list(exported.classes), shape=list(exported.shape), limits=self.limits)

    def inputs(self, body: ClassifyBody) -> Inputs:
        """``(n, *shape)``, uint8 or float32.

        Raises:
            DataError: too many, of another size, or not what the model takes; names the input.
        """
        shape = self.exported.shape
        takes = ("images", "pixels") if len(shape) == 3 else ("features",)
        fields = ("images", "pixels", "features")
        return read_inputs(*the_inputs(body, fields, takes, wanted(shape), self.limits), shape)

    def answer(self, asked: Sequence[Inputs]) -> list[NDArray[np.float64]]:
        """Probabilities ``(n, K)`` of each request, in one pass over all."""
        found = self.exported.probabilities(np.concatenate(asked))
        return np.split(found, np.cumsum([len(inputs) for inputs in asked])[:-1])

    def labels(self, probabilities: NDArray[np.float64], top: int) -> list[list[Label]]:
        """The most probable labels of each input."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Label(label=self.exported.classes[at], probability=float(row[at])) for at in best]
            for row, best in zip(probabilities, order, strict=True)
        ]

    def check(self) -> None:
        """Classify something.

        Raises:
            DataError: the answer is not a distribution.
        """
        shape = self.exported.shape
        found = self.exported.probabilities(np.zeros((1, *shape), np.uint8 if len(shape) == 3 else np.float32))
        if not np.isclose(found.sum(), 1.0):
            raise DataError("model: its answers are not probabilities; export the run again")

"""Classify images or features with the model of one export, without HTTP."""

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from rayworks.core.errors import DataError
from rayworks.systems.federation.exported import CARD, ExportedModel, read_export

from .federation_schemas import ClassifyBody, Label, Limits, ModelCard

Inputs = NDArray[Any]
MODES = {1: "L", 3: "RGB"}
"""Channels to the kind of picture."""
TAKEN = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Kinds of pictures, by Pillow's names, that become either without a loss that nobody asked for."""
BROKEN = (ValueError, OSError, SyntaxError)
"""What Pillow raises of files that are not PNG, or only begin as one."""


class Classifying:
    """The model of one export, ``export`` of a finished run.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, folder: str, limits: Limits) -> None:
        self.exported: ExportedModel = read_export(folder)
        self.limits = limits
        try:
            self.card()
        except ValidationError as error:
            raise DataError(f"{folder}: its card is not that of a run ({error.errors()[0]['loc']})") from None

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
        given = {name: getattr(body, name) for name in ("images", "pixels", "features") if getattr(body, name)}
        takes = ("images", "pixels") if len(self.exported.shape) == 3 else ("features",)
        if len(given) != 1 or next(iter(given)) not in takes:
            raise DataError(f"body: give exactly one of {' and '.join(takes)}; this model takes {self._wanted}")
        name, values = next(iter(given.items()))
        if len(values) > self.limits.inputs:
            raise DataError(f"{name}: {len(values)}, at most {self.limits.inputs} are taken; send them in parts")
        readers: dict[str, Callable[[Any, str], Inputs]] = {
            "images": self._picture,
            "pixels": partial(self._array, np.uint8),
            "features": partial(self._array, np.float32),
        }
        return np.stack([readers[name](value, f"{name}.{number}") for number, value in enumerate(values)])

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

    @property
    def _wanted(self) -> str:
        shape = self.exported.shape
        if len(shape) == 1:
            return f"{shape[0]} features"
        channels, height, width = shape
        return f"{height} by {width} pixels of {channels} channel{'s' if channels > 1 else ''}"

    def _picture(self, text: str, where: str) -> Inputs:
        channels, height, width = self.exported.shape
        if channels not in MODES:
            raise DataError(f"{where}: a model of {channels} channels takes pixels, not images")
        try:
            # Only the header is read before the size is known to be right.
            picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
            if picture.size != (width, height):
                raise DataError(f"{where}: is {picture.size[1]} by {picture.size[0]} pixels; send {height} by {width}")
            if picture.mode not in TAKEN:
                raise DataError(f"{where}: is a PNG of kind {picture.mode}; send 8 bits of grey or of each colour")
            values = np.asarray(picture.convert(MODES[channels]))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise DataError(f"{where}: has far too many pixels; send {height} by {width}") from None
        except BROKEN as error:
            raise DataError(f"{where}: is not a PNG file in base64 ({type(error).__name__})") from None
        return values[None] if channels == 1 else values.transpose(2, 0, 1)

    def _array(self, kind: type[Any], values: list[Any], where: str) -> Inputs:
        try:
            found: Inputs = np.array(values, kind)
        except ValueError:
            raise DataError(f"{where}: its rows differ in length; send {self._wanted}") from None
        if found.shape != self.exported.shape:
            raise DataError(f"{where}: has shape {list(found.shape)}; send {self._wanted}")
        return found

"""Pictures in requests: PNG files in base64, of the size that a model takes."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError

MODES = {1: "L", 3: "RGB"}
"""Channels to the kind of picture."""
TAKEN = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Kinds of pictures, by Pillow's names, that become either without a loss that nobody asked for."""
BROKEN = (ValueError, OSError, SyntaxError)
"""What Pillow raises of files that are not PNG, or only begin as one."""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR4nGNgoA4AAABIAAEuuDx+AAAAAElFTkSuQmCC"
"""A black picture of 8 by 8 greys."""


def picture(text: str, where: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Bytes ``(channels, height, width)`` of a PNG file in base64.

    Args:
        where: it stands in the request.
        shape: that is wanted.

    Raises:
        DataError: it is no PNG, or of another size.
    """
    from PIL import Image

    channels, height, width = shape
    if channels not in MODES:
        raise DataError(f"{where}: a model of {channels} channels takes pixels, not images")
    try:
        # Only the header is read before the size is known to be right.
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
        if image.size != (width, height):
            raise DataError(f"{where}: is {image.size[1]} by {image.size[0]} pixels; send {height} by {width}")
        if image.mode not in TAKEN:
            raise DataError(f"{where}: is a PNG of kind {image.mode}; send 8 bits of grey or of each colour")
        values = np.asarray(image.convert(MODES[channels]))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where}: has far too many pixels; send {height} by {width}") from None
    except BROKEN as error:
        raise DataError(f"{where}: is not a PNG file in base64 ({type(error).__name__})") from None
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def array(values: list[Any], where: str, shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """Numbers of a shape.

    Raises:
        DataError: they have another.
    """
    try:
        found: NDArray[Any] = np.array(values, kind)
    except ValueError:
        raise DataError(f"{where}: its rows differ in length; send {wanted(shape)}") from None
    if found.shape != shape:
        raise DataError(f"{where}: has shape {list(found.shape)}; send {wanted(shape)}")
    return found


def wanted(shape: tuple[int, ...]) -> str:
    """What a model of inputs of a shape takes, in words."""
    if len(shape) == 1:
        return f"{shape[0]} features"
    channels, height, width = shape
    return f"{height} by {width} pixels of {channels} channel{'s' if channels > 1 else ''}"

"""Pictures in requests: PNG files in base64 or bytes of pixels, of the size that a model takes."""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from rayworks.core.errors import DataError

from .body import Body

MODES = {1: "L", 3: "RGB"}
"""Channels to the kind of picture."""
TAKEN = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Kinds of pictures, by Pillow's names, that become either without a loss that nobody asked for."""
BROKEN = (ValueError, OSError, SyntaxError)
"""What Pillow raises of files that are not PNG, or only begin as one."""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR4nGNgoA4AAABIAAEuuDx+AAAAAElFTkSuQmCC"
"""A black picture of 8 by 8 greys."""
MOST_INPUTS = 1024
"""Of one request."""
Byte = Annotated[int, Field(ge=0, le=255)]


class Limits(Body):
    """Limits of one request."""

    inputs: int = Field(64, ge=1, le=MOST_INPUTS, description="inputs of a request")


class PicturesBody(Body):
    """Pictures as files or as pixels; other kinds of inputs stand beside them, of all of which a request takes one."""

    images: list[str] | None = Field(
        None,
        min_length=1,
        max_length=MOST_INPUTS,
        description="PNG files in base64, of the card's size; colours become greys where the model knows greys only",
        examples=[[DOT]],
    )
    pixels: list[list[list[list[Byte]]]] | None = Field(
        None, min_length=1, max_length=MOST_INPUTS, description="channels, rows and columns of bytes, instead of images"
    )


class Described(Protocol):
    """A model that can say what it is."""

    def card(self) -> Any:
        """Its card, checked."""


def require_card(model: Described, folder: str) -> None:
    """Raise a :class:`DataError` where the card of the export in a folder lacks something, or is of another kind."""
    try:
        model.card()
    except ValidationError as error:
        raise DataError(f"{folder}: its card is not that of a run ({error.errors()[0]['loc']})") from None


def the_inputs(
    body: Body, fields: Sequence[str], takes: Sequence[str], this_model: str, limits: Limits
) -> tuple[str, Sequence[Any]]:
    """The one field of a body that holds inputs, and these.

    Args:
        fields: all that may hold inputs.
        takes: those of them that the model takes.
        this_model: what it takes, in words.

    Raises:
        DataError: there are none, of two kinds or of another, or too many.
    """
    given: Mapping[str, Any] = {name: getattr(body, name) for name in fields if getattr(body, name)}
    if len(given) != 1 or next(iter(given)) not in takes:
        raise DataError(f"body: give exactly one of {' and '.join(takes)}; this model takes {this_model}")
    name, values = next(iter(given.items()))
    if len(values) > limits.inputs:
        raise DataError(f"{name}: {len(values)}, at most {limits.inputs} are taken; send them in parts")
    return name, values


def read_inputs(name: str, values: Sequence[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """``(n, *shape)``: bytes of ``images`` and ``pixels``, else float32.

    Raises:
        DataError: one has another size, or is no picture; names it.
    """
    read = (
        partial(picture, shape=shape)
        if name == "images"
        else partial(array, shape=shape, kind=np.uint8 if name == "pixels" else np.float32)
    )
    return np.stack([read(value, f"{name}.{number}") for number, value in enumerate(values)])


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

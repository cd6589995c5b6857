"""Images that a generator has made offline from images of the data, such as diffusion edits: a folder and a table."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.augmentation.upstream.views import Views

TABLE = "views.csv"


def generated_views(folder: str, rows: Mapping[str, int], labels: Tensor, shape: tuple[int, ...]) -> Views:
    """All images of a folder that has a table ``views.csv`` of columns ``file``, ``source`` and, if known, ``operation`` and
    ``strength``.

    Args:
        rows: place of each source by its id, as text.
        labels: ``(rows, K)``, of the sources, which the views take over.
        shape: ``(channels, height, width)`` of the data, to which images are brought.

    Raises:
        DataError: the table or an image cannot be read, a source is none of the data's, or the column is missing.
    """
    path = Path(folder).expanduser()
    try:
        table = pd.read_csv(path / TABLE, dtype={"file": str, "source": str, "operation": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"upstream.folder {folder!r}: {TABLE} cannot be read ({error}); write one row an image"
        ) from None
    for column in ("file", "source"):
        if column not in table:
            raise DataError(
                f"upstream.folder {folder!r}: {TABLE} has no column {column}; give each image its file and its source id"
            )
    unknown = [source for source in table["source"] if source not in rows]
    if unknown or not len(table):
        first = f"the first is {unknown[0]!r}" if unknown else "the table is empty"
        raise DataError(f"upstream.folder {folder!r}: {len(unknown)} sources are none of the data's; {first}")
    images = np.stack([_picture(path / name, shape) for name in table["file"]])
    sources = torch.tensor([rows[source] for source in table["source"]])
    kinds = table["operation"].tolist() if "operation" in table else ["generated"] * len(table)
    names = tuple(sorted(set(kinds)))
    strengths = torch.tensor(table["strength"].astype(float).to_numpy() if "strength" in table else np.ones(len(table)))
    places = torch.tensor([names.index(kind) for kind in kinds])
    return Views(torch.from_numpy(images), labels[sources], sources, places, strengths.float(), names)


def _picture(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """``(channels, height, width)`` float32 in [0, 1]."""
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB").resize((width, height)), np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"upstream.folder: {path} cannot be read ({error}); generate it again") from None
    return pixels.reshape(height, width, channels).transpose(2, 0, 1) / 255

"""Images that a generator has made offline from images of the data, such as diffusion edits: a folder and a table."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.augmentation.data.splits import Part
from rayworks.systems.augmentation.upstream.views import Drawn, Views

TABLE = "views.csv"


def generated_views(
    folder: str, rows: Mapping[str, int], labels: Tensor, shape: tuple[int, ...], left_out: Collection[str] = ()
) -> Views:
    """All images of a folder that has a table ``views.csv`` of columns ``file``, ``source`` and, if known, ``operation`` and
    ``strength``.

    Args:
        rows: place of each source by its id, as text.
        labels: ``(rows, K)``, of the sources, which the views take over.
        shape: ``(channels, height, width)`` of the data, to which images are brought.
        left_out: sources whose images are not to be trained on, such as those of the test.

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
    table = table[~table["source"].isin(set(left_out))]
    unknown = [source for source in table["source"] if source not in rows]
    if unknown or not len(table):
        first = f"the first is {unknown[0]!r}" if unknown else "the table is empty"
        raise DataError(f"upstream.folder {folder!r}: {len(unknown)} sources are none of the data's; {first}")
    images = np.stack([_picture(path / name, shape) for name in table["file"]])
    sources = torch.tensor([rows[source] for source in table["source"]])
    kinds = table["operation"].tolist() if "operation" in table else ["generated"] * len(table)
    names = tuple(sorted(set(kinds)))
    amounts = pd.to_numeric(table["strength"], errors="coerce") if "strength" in table else pd.Series(1.0, table.index)
    wrong = table["file"][~amounts.between(0, 1)]
    if len(wrong):
        raise DataError(f"upstream.folder {folder!r}: the strength of {wrong.iloc[0]} is no number of 0 to 1; give one")
    strengths = torch.tensor(amounts.to_numpy(np.float64))
    places = torch.tensor([names.index(kind) for kind in kinds])
    return Views(torch.from_numpy(images), labels[sources], sources, places, strengths.float(), names)


def of_generated(found: Views, rows: Part, classes: int) -> Drawn:
    """One of the generated views of each row, or the row itself where it has none."""
    order = found.sources.argsort(stable=True)
    counts = torch.bincount(found.sources, minlength=len(rows))
    starts = counts.cumsum(0) - counts
    names = ("identity", *found.names)

    def draw(places: Tensor, random: np.random.Generator) -> Views:
        has = counts[places] > 0
        turn = (torch.from_numpy(random.random(len(places))) * counts[places]).long()
        one = order[(starts[places] + turn).clamp_max(len(order) - 1)]
        wide = has.view(-1, *[1] * (rows.inputs.dim() - 1))
        return Views(
            torch.where(wide, found.inputs[one], rows.inputs[places]),
            F.one_hot(rows.labels[places], classes).float(),
            torch.arange(len(places)),
            torch.where(has, found.operations[one] + 1, 0),
            torch.where(has, found.strengths[one], 0.0),
            names,
        )

    return draw


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

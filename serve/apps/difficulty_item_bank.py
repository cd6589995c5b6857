"""The calibrated sets that a difficulty run has exported, as answers tell of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rayworks.systems.difficulty.calibration import parameters_from_dict
from rayworks.systems.difficulty.exported import ExportedSet, read_export
from rayworks.systems.difficulty.item_response.curves import ItemParameters

from ..common.problems import Problem
from .difficulty_schemas import CalibratedItem

NORMAL_95 = 1.959964


@dataclass(frozen=True, eq=False)
class CalibratedSet:
    """The items of one set, in the order of their parameters."""

    name: str
    provenance: str
    parameters: ItemParameters
    items: list[CalibratedItem]
    position: dict[str, int]
    """Item to its position."""


class ItemBank:
    """The sets of one export.

    Args:
        folder: a finished run's ``export``; without one the bank is empty.

    Raises:
        DataError: the folder holds something else, or does not exist.
    """

    def __init__(self, folder: str | None) -> None:
        exported = {} if folder is None else read_export(folder).sets
        self.sets: dict[str, CalibratedSet] = {name: calibrated_set(one) for name, one in exported.items()}

    def find(self, name: str | None) -> CalibratedSet:
        """A set by name, or the first.

        Raises:
            Problem: 404, when it does not exist.
        """
        if not self.sets:
            raise Problem(
                404,
                "export: no calibration is loaded; send items with their parameters, or ask the operator to finish a run "
                "(python -m jobs.run difficulty --smoke), set export and deploy again",
            )
        if name is not None and name not in self.sets:
            raise Problem(404, f"set {name[:80]!r}: is not loaded; use one of {', '.join(self.sets)}")
        return self.sets[name] if name is not None else next(iter(self.sets.values()))


def calibrated_set(exported: ExportedSet) -> CalibratedSet:
    """A set as answers tell of it."""
    parameters = parameters_from_dict(exported.parameters)
    labels = label_fields(exported.labels)
    items = [
        CalibratedItem(
            **labels[item],
            text=text,
            discrimination=float(parameters.discrimination[position]),
            guessing=float(parameters.guessing[position]),
            ceiling=float(parameters.ceiling[position]),
        )
        for position, (item, text) in enumerate(zip(exported.items, exported.texts, strict=True))
    ]
    position = {item.item: number for number, item in enumerate(items)}
    return CalibratedSet(exported.set, exported.provenance, parameters, items, position)


def label_fields(labels: Mapping[Any, Any] | pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Item to the fields of ``LabelledItem``, from the columns of a label table."""
    columns = {str(name): list(labels[name]) for name in labels}
    bins = sum(name.startswith("p_bin_") for name in columns)
    fields = {}
    for row, item in enumerate(columns["item"]):
        difficulty, error = float(columns["unnorm_rating"][row]), float(columns["unnorm_rating_std"][row])
        fields[str(item)] = {
            "item": str(item),
            "difficulty": difficulty,
            "standard_error": error,
            "interval": interval(difficulty, error),
            **{name: float(columns[name][row]) for name in ("rating", "rating_std", "rating_quantile")},
            "bin": int(columns["bin"][row]),
            "bin_probabilities": [float(columns[f"p_bin_{number}"][row]) for number in range(bins)],
            "responses": int(columns["evidence"][row]),
        }
    return fields


def interval(value: float, error: float) -> tuple[float, float]:
    """95 % interval of an estimate with a normal error."""
    return value - NORMAL_95 * error, value + NORMAL_95 * error

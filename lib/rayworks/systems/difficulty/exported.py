"""The export: calibrated sets, with which Serve scores new subjects, and tables for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from rayworks.core.exports import Write, reading
from rayworks.systems.difficulty.calibration import parameters_from_dict

SETS, CALIBRATION, LABELS = "sets.json", "calibration.json", "labels.parquet"


@dataclass(frozen=True)
class ExportedSet:
    """Items of one set, as plain values; columns are in the order of ``items``."""

    set: str
    items: Sequence[str]
    texts: Sequence[str]
    parameters: Mapping[str, Any]
    """As :func:`~.calibration.parameters_from_dict` takes them."""
    errors: Mapping[str, Any]
    labels: Mapping[str, Sequence[Any]]
    """Columns of the label table."""
    provenance: str
    label_provenance: Mapping[str, Any]


@dataclass(frozen=True)
class ExportedSets:
    """Contents of an export."""

    sets: Mapping[str, ExportedSet]


def exported_sets(calibrated: Mapping[str, Mapping[str, Any]]) -> ExportedSets:
    """The part of a run's calibrations, by set, that is exported."""
    names = [field.name for field in fields(ExportedSet) if field.name != "set"]
    return ExportedSets(
        {name: ExportedSet(name, **{key: found[key] for key in names}) for name, found in calibrated.items()}
    )


def write_export(exported: ExportedSets, write: Write) -> None:
    """Write ``sets.json``, and for each set its calibration, and its labels as Parquet."""
    write(SETS, json.dumps(list(exported.sets), indent=2).encode())
    for name, one in exported.sets.items():
        write(f"{name}/{CALIBRATION}", json.dumps(asdict(one), indent=2).encode())
        write(f"{name}/{LABELS}", pd.DataFrame(one.labels).to_parquet())


def read_export(folder: str | Path) -> ExportedSets:
    """Read what :func:`write_export` wrote.

    Raises:
        DataError: files are missing, damaged or do not fit each other.
    """
    with reading(folder, "difficulty") as path:
        names = json.loads((path / SETS).read_text())
        sets = {name: ExportedSet(**json.loads((path / name / CALIBRATION).read_text())) for name in names}
        for name, one in sets.items():
            sizes = {len(one.items), len(one.texts), len(parameters_from_dict(one.parameters).difficulty)}
            if len(sizes) > 1:
                raise ValueError(f"set {name}: items, texts and parameters differ in number")
        return ExportedSets(sets)


def write_tables(results: Mapping[str, Any], write: Write) -> None:
    """Write the abilities, adaptive tests and ratings that the run found."""
    for name, found in results["calibrate"].items():
        abilities = {"subject": found["subject_names"], **found["abilities"]}
        if found["person_fit"] is not None:
            abilities["person_fit"] = found["person_fit"]
        write(f"{name}/abilities.parquet", pd.DataFrame(abilities).to_parquet())
    for name, found in results.get("new subjects", {}).items():
        items = results["calibrate"][name]["items"]
        chosen = {size: [items[position] for position in positions] for size, positions in found["subsets"].items()}
        write(f"{name}/subsets.json", json.dumps(chosen, indent=2).encode())
    for name, found in results.get("rate", {}).items():
        write(f"{name}/ratings.parquet", pd.DataFrame(found["table"]).to_parquet())

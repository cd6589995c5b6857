"""How hard each example is: by a reference model out of fold, by an export of difficulty, or by a column of the user's."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from rayworks.core import cache, seeds
from rayworks.core.errors import DataError
from rayworks.systems.supervision.config import EXPORT
from rayworks.systems.supervision.weak.features import check_features, is_function

COLUMN, LENGTH = "column:", "length"
FOLDS = 5
SETS, CALIBRATION = "sets.json", "calibration.json"


def hardness_of(
    name: str,
    uids: Sequence[str],
    texts: Sequence[str],
    labels: np.ndarray,
    columns: pd.DataFrame,
    features: Callable[[str], Any],
    by: Literal["truth", "margin"] = "truth",
) -> tuple[np.ndarray, np.ndarray | None]:
    """Hardness ``[examples]``, more is harder, and whether a reference model was right, where one was asked.

    Args:
        name: as in ``task.hardness``.
        labels: ``[examples]``, classes.
        by: see ``task.hardness_by``.
        features: from a name to features of all examples.

    What a reference model says is kept in the cache.

    Raises:
        DataError: an export or a column is missing or does not fit the examples.
    """
    if name.startswith(EXPORT):
        return _exported(name.removeprefix(EXPORT), uids, texts), None
    if name.startswith(COLUMN):
        return _column(name.removeprefix(COLUMN), columns), None
    if name == LENGTH:
        return np.array([float(len(text)) for text in texts]), None
    if is_function(name):
        return reference(features(name), labels, by)
    key = seeds.derive(0, "hardness", name, by, json.dumps([list(texts), labels.tolist()]))

    def build(folder: Path) -> None:
        hard, right = reference(features(name), labels, by)
        np.savez(folder / "hardness.npz", hard=hard, right=right)

    with np.load(cache.make_once(cache.root() / "features" / f"{key:032x}", build) / "hardness.npz") as found:
        return found["hard"], found["right"]


def check_hardness(name: str) -> None:
    """Raise what :func:`hardness_of` would of a name, without reading an example."""
    if name.startswith(EXPORT):
        folder = name.removeprefix(EXPORT)
        if not (Path(folder).expanduser() / SETS).is_file():
            raise DataError(f"task.hardness {folder!r}: is no export of difficulty; finish a run of it")
    elif not name.startswith(COLUMN) and name != LENGTH:
        check_features(name)


def reference(
    features: Any, labels: np.ndarray, by: Literal["truth", "margin"] = "truth"
) -> tuple[np.ndarray, np.ndarray]:
    """By a logistic regression out of fold: 1 - p(true class), or by how little its likeliest class leads; and whether it was
    right.

    A class with fewer examples than folds is predicted by models that never saw it where it must be.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold

    classes = int(labels.max()) + 1
    probabilities = np.zeros((len(labels), classes))
    for inner, outer in KFold(FOLDS, shuffle=True, random_state=0).split(labels):
        present = np.unique(labels[inner])
        if len(present) < 2:
            probabilities[np.ix_(outer, present)] = 1.0
            continue
        model = LogisticRegression(C=1.0, max_iter=100).fit(_scaled(features)[inner], labels[inner])
        probabilities[np.ix_(outer, model.classes_)] = model.predict_proba(_scaled(features)[outer])
    ordered = np.sort(probabilities, axis=1)
    margin, truth = ordered[:, -2] - ordered[:, -1], 1 - probabilities[np.arange(len(labels)), labels]
    return margin if by == "margin" else truth, probabilities.argmax(1) == labels


def _scaled(features: Any) -> Any:
    """Dense features in units of their spread, sparse ones as they are."""
    if not isinstance(features, np.ndarray):
        return features
    return features / (float(features.std()) or 1.0)


def _exported(folder: str, uids: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Difficulty of the items of an export, found by their texts, or by their names where these have no other text."""
    path = Path(folder).expanduser()
    by_text, by_name = dict[str, float](), dict[str, tuple[float, str]]()
    try:
        for name in json.loads((path / SETS).read_text()):
            one = json.loads((path / name / CALIBRATION).read_text())
            difficulty = [float(value) for value in one["parameters"]["difficulty"]]
            for item, text, value in zip(one["items"], one["texts"], difficulty, strict=True):
                by_text[str(text)], by_name[str(item)] = value, (value, str(text))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"task.hardness {folder!r}: is no export of difficulty ({error}); finish a run of it") from None

    def of(uid: str, text: str) -> float | None:
        if text in by_text:
            return by_text[text]
        value, other = by_name.get(uid, (None, ""))
        return value if other in ("", uid, text) else None

    found = [of(uid, text) for uid, text in zip(uids, texts, strict=True)]
    missing = [uid for uid, value in zip(uids, found, strict=True) if value is None]
    if missing:
        raise DataError(
            f"task.hardness {folder!r}: names other items than the task: {len(missing)} of {len(uids)} are not in it, the "
            f"first is {missing[0]!r}; its items must have the texts of the examples, or no texts and their uids"
        )
    if not np.isfinite(values := np.array(found, float)).all():
        raise DataError(f"task.hardness {folder!r}: the difficulty of some item is no number; calibrate it again")
    return values


def _column(name: str, columns: pd.DataFrame) -> np.ndarray:
    if name not in columns:
        raise DataError(
            f"task.hardness: there is no column {name}; there are {', '.join(map(str, columns.columns)) or 'none'}"
        )
    values = pd.to_numeric(columns[name], errors="coerce").to_numpy(float)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"task.hardness: column {name} holds no number for an example ({columns[name].iloc[row]!r})")
    return values

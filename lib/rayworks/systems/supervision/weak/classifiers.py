"""Weak classifiers as arrays: shallow trees and logistic regressions, fitted by scikit-learn, saved without pickles."""

import io
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rayworks.systems.supervision.config import WeakSection

FILE = "expert.npz"
"""As which a chain keeps one."""


@dataclass(frozen=True)
class TreeExpert:
    """A binary tree of questions about one feature each; the share of each class at a leaf is its probability."""

    features: np.ndarray
    """``[nodes]``, which feature a node asks for; below 0 at leaves."""
    thresholds: np.ndarray
    """``[nodes]``: at most this goes left."""
    left: np.ndarray
    right: np.ndarray
    values: np.ndarray
    """``[nodes, classes]``."""

    def check(self, width: int, classes: int) -> None:
        """Raise :class:`ValueError` where this is no tree over so many features and classes."""
        nodes, inner = len(self.features), self.features >= 0
        shapes = {len(part) for part in (self.thresholds, self.left, self.right, self.values)}
        if shapes != {nodes} or self.values.shape != (nodes, classes):
            raise ValueError("its nodes do not fit each other")
        if not ((self.values >= 0).all() and np.allclose(self.values.sum(axis=1), 1)):
            raise ValueError("its leaves hold no shares of classes")
        for child in (self.left[inner], self.right[inner]):
            # Further down and further on: a walk ends.
            if not ((child > np.flatnonzero(inner)) & (child < nodes)).all():
                raise ValueError("its nodes are no tree")
        if (self.features >= width).any():
            raise ValueError(f"it asks for more than {width} features")

    def probabilities(self, features: Any) -> np.ndarray:
        """``[rows, classes]`` of features ``[rows, features]``, dense or sparse."""
        asked = np.unique(self.features[self.features >= 0])
        columns = features[:, asked]
        seen = np.asarray(columns if isinstance(columns, np.ndarray) else columns.toarray(), np.float32)
        place = np.searchsorted(asked, self.features)
        nodes, rows = np.zeros(features.shape[0], int), np.arange(features.shape[0])
        while (inner := self.features[nodes] >= 0).any():
            at = nodes[inner]
            goes_left = seen[rows[inner], place[at]] <= self.thresholds[at]
            nodes[inner] = np.where(goes_left, self.left[at], self.right[at])
        found: np.ndarray = self.values[nodes]
        return found


@dataclass(frozen=True)
class LinearExpert:
    """Softmax of linear scores, or these scores themselves, cut to [0, 1], where they were fitted to labels."""

    weights: np.ndarray
    """``[features, classes]``."""
    bias: np.ndarray
    """``[classes]``."""
    link: Literal["softmax", "identity"] = "softmax"

    def check(self, width: int, classes: int) -> None:
        """Raise :class:`ValueError` where this is no map of so many features to so many classes."""
        if self.weights.shape != (width, classes) or self.bias.shape != (classes,):
            raise ValueError(f"its weights are {list(self.weights.shape)}, not {[width, classes]}")
        if not (np.isfinite(self.weights).all() and np.isfinite(self.bias).all()):
            raise ValueError("its weights are no numbers")

    def probabilities(self, features: Any) -> np.ndarray:
        """``[rows, classes]`` of features ``[rows, features]``, dense or sparse."""
        scores = np.asarray(features @ self.weights + self.bias, float)
        if self.link == "identity":
            masses = np.clip(scores, 1e-6, 1.0)
        else:
            masses = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: np.ndarray = masses / masses.sum(axis=1, keepdims=True)
        return shares


Expert = TreeExpert | LinearExpert


def fit_expert(
    section: WeakSection, features: Any, labels: np.ndarray, weights: np.ndarray, classes: int, seed: int
) -> Expert:
    """A tree or a logistic regression.

    Args:
        features: ``[rows, features]``.
        labels: ``[rows]``.
        weights: ``[rows]``, 1 on average; rows of weight 0 are not learned from.
        classes: of the task; a class that is not among the rows has no probability.
        seed: breaks ties between equal questions.
    """
    there = np.flatnonzero(weights > 0)
    features, labels, weights = features[there], labels[there], weights[there]
    if section.learner == "tree" or len(np.unique(labels)) < 2:
        return _tree(section, features, labels, weights, classes, seed)
    return logistic(features, labels, weights, classes, section.penalty)


def logistic(features: Any, labels: np.ndarray, weights: np.ndarray, classes: int, penalty: float) -> LinearExpert:
    """A logistic regression with a ridge penalty of inverse strength ``penalty``."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=penalty, max_iter=100).fit(features, labels, sample_weight=weights)
    kernel, bias = np.zeros((features.shape[1], classes)), np.full(classes, -np.inf)
    present = model.classes_
    if len(present) == 2:
        kernel[:, present[1]], bias[present] = model.coef_[0], [0.0, model.intercept_[0]]
    else:
        kernel[:, present], bias[present] = model.coef_.T, model.intercept_
    return LinearExpert(kernel, np.where(np.isfinite(bias), bias, -1e9))


def to_bytes(expert: Expert) -> bytes:
    """An expert as a file."""
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(expert).items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> Expert:
    """What :func:`to_bytes` gave."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if any(one.compress_type != zipfile.ZIP_STORED for one in packed.infolist()):
            raise ValueError("it is compressed, and may be of any size")
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    if "thresholds" in arrays:
        return TreeExpert(**arrays)
    link = str(arrays.pop("link"))
    return LinearExpert(**arrays, link="identity" if link == "identity" else "softmax")


def _tree(
    section: WeakSection, features: Any, labels: np.ndarray, weights: np.ndarray, classes: int, seed: int
) -> TreeExpert:
    from sklearn.tree import DecisionTreeClassifier

    leaf = min(section.leaf, len(labels))
    model = DecisionTreeClassifier(max_depth=section.depth, min_samples_leaf=leaf, random_state=seed % 2**32)
    tree = model.fit(features, labels, sample_weight=weights).tree_
    shares = np.zeros((tree.node_count, classes))
    shares[:, model.classes_] = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
    asked = np.where(tree.children_left < 0, -1, tree.feature)
    return TreeExpert(asked, tree.threshold, tree.children_left, tree.children_right, shares)

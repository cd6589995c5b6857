"""Linear students on soft labels: logistic on counts of words, a ridge probe on dense features."""

from typing import Any

import numpy as np

from rayworks.systems.supervision.config import Loss, StudentSection
from rayworks.systems.supervision.students.losses import class_offsets, targets
from rayworks.systems.supervision.weak.classifiers import LinearExpert, logistic

REFITS = 5
"""Of a loss whose targets depend on the student's own answers: after each, the targets are made anew."""


def fit_student(features: Any, labels: np.ndarray, section: StudentSection, loss: Loss) -> LinearExpert:
    """A student of labels.

    Losses that look at the student's own answers are reached by refitting to targets made anew, each fit to its end, as if
    training went through :data:`REFITS` stages; nothing depends on the size of a batch.

    Args:
        features: ``[rows, features]``.
        labels: ``[rows, classes]``, distributions.
    """
    model = _fit(features, labels, section.penalty)
    if loss != "cross-entropy":
        for stage in range(1, REFITS + 1):
            own = model.probabilities(features)
            drawn_to = targets(loss, labels, own, stage / REFITS, section, class_offsets(labels, own))
            model = _fit(features, drawn_to, section.penalty)
    return model


def _fit(features: Any, labels: np.ndarray, penalty: float) -> LinearExpert:
    if isinstance(features, np.ndarray):
        return _ridge(features, labels, penalty)
    from scipy import sparse

    rows, classes = labels.shape
    places, names = np.nonzero(labels > 0)
    if len(np.unique(names)) < 2:
        # All labels are one class: so is the answer.
        return LinearExpert(np.zeros((features.shape[1], classes)), np.where(labels.sum(axis=0) > 0, 0.0, -1e9))
    stacked = features if len(places) == rows else sparse.csr_matrix(features)[places]
    return logistic(stacked, names, labels[places, names], classes, penalty)


def _ridge(features: np.ndarray, labels: np.ndarray, penalty: float) -> LinearExpert:
    """Least squares to the labels on features in units of their spread, of any strength above 0."""
    from scipy import linalg

    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = ((features - mean) / scale).astype(float)
    gram = scaled.T @ scaled / len(scaled) + penalty * np.eye(scaled.shape[1])
    centre = labels.mean(axis=0)
    kernel = linalg.solve(gram, scaled.T @ (labels - centre) / len(scaled), assume_a="pos") / scale[:, None]
    return LinearExpert(kernel, centre - mean @ kernel, "identity")

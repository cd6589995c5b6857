"""What a student is drawn towards at a step: the weak label, or that and what it believes itself.

Targets are distributions that a cross-entropy is taken with; no gradient flows through them. The recipes are those of
openai/weak-to-strong and of Burns et al. (arXiv 2312.09390), for any number of classes.
"""

import numpy as np

from rayworks.systems.supervision.config import StudentSection

FLOOR = 1e-12
"""Least probability whose logarithm is taken."""
SWEEPS = 50


def targets(
    loss: str,
    weak: np.ndarray,
    own: np.ndarray,
    done: float,
    options: StudentSection,
    offsets: np.ndarray | None = None,
) -> np.ndarray:
    """The targets of some rows, ``[rows, classes]``, each a distribution.

    Args:
        loss: ``cross-entropy``, ``logconf`` or ``product``.
        weak: labels ``[rows, classes]``.
        own: what the student says at this step, ``[rows, classes]``.
        done: share of the steps taken, from 0 to 1.
        offsets: of :func:`class_offsets`, of all that the student learns from and not of these rows; for logconf.
    """
    if loss == "logconf":
        assert offsets is not None
        weight = own_weight(done, options)
        mixed: np.ndarray = (1 - weight) * weak + weight * own_answers(own, offsets)
        return mixed
    if loss == "product":
        of_own, of_weak = options.product_powers
        logs = of_own * np.log(np.maximum(own, FLOOR)) + of_weak * np.log(np.maximum(weak, FLOOR))
        scaled = np.exp(logs - logs.max(axis=1, keepdims=True))
        product: np.ndarray = scaled / scaled.sum(axis=1, keepdims=True)
        return product
    return weak


def own_weight(done: float, options: StudentSection) -> float:
    """Of the student's own answer: it grows linearly from 0 and stays. In openai/weak-to-strong it jumps, from the share of
    the warm-up itself to the full weight.
    """
    warmup = options.logconf_warmup
    return options.logconf_weight * (min(done / warmup, 1.0) if warmup else 1.0)


def own_answers(own: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The student's own answers without doubt, ``[rows, classes]``: the class of the largest log-probability plus offset."""
    answers: np.ndarray = np.eye(own.shape[1])[(np.log(np.maximum(own, FLOOR)) + offsets).argmax(axis=1)]
    return answers


def class_offsets(weak: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Offsets with which the student answers each class about as often as the weak labels have it, ``[classes]``.

    Both are of everything that the student learns from, ``[rows, classes]``, so that no threshold depends on the size of a
    batch. Of two classes it is the quantile of openai/weak-to-strong; of more, each class in turn gets its quantile against
    the best of the others, the last class's offset staying 0.
    """
    shares, logs = weak.mean(axis=0), np.log(np.maximum(own, FLOOR))
    offsets = np.where(shares > 0, 0.0, -np.inf)
    for _ in range(SWEEPS if len(shares) > 2 else 1):
        before = offsets.copy()
        for one in range(len(shares) - 1):
            if shares[one] > 0:
                others = np.delete(logs + offsets, one, axis=1).max(axis=1)
                offsets[one] = -_quantile(logs[:, one] - others, 1 - shares[one])
        if np.allclose(before, offsets, atol=1e-9):
            break
    return offsets


def _quantile(values: np.ndarray, level: float) -> float:
    """Of values some of which may be infinite, where no other class is asked for."""
    return float(np.quantile(np.clip(values, -1e9, 1e9), min(max(level, 0.0), 1.0)))

"""The step problem ``max sum_i w_i <Y_i, A_i>`` solved: soft labels from gains, and weights from scores.

A, ``(B, K)``, is by how much more of the log probability of each label lowers the validation loss; y, ``(B, K)``, are the
labels of the upstream augmentation. Without a regulariser each label is a vertex and no sample is ever dropped, since
``max_k A_ik >= 0``; weights act where beta or tau tie the label to something else.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.systems.augmentation.engine.settings import EngineSettings


def soft_labels(gains: Tensor, labels: Tensor, log_chances: Tensor, settings: EngineSettings) -> Tensor:
    """The labels of :attr:`EngineSettings.mode`, rows of the simplex ``(B, K)``.

    ``penalised`` maximises ``<Y, A> + beta <Y, y> + tau H(Y)``, ``lp`` ``<Y, A>``, ``prox`` ``<Y, A> - tau KL(Y | y0)`` with
    the smoothed label ``y0 = (1 - s) y + s / K``, and ``model-tilt`` the same with the model's own probabilities for y0.
    """
    if settings.mode == "lp":
        return F.one_hot(gains.argmax(1), gains.shape[1]).to(gains.dtype)
    if settings.mode == "prox":
        start = (1 - settings.smoothing) * labels + settings.smoothing / labels.shape[1]
        return (start.log() + gains / settings.tau).softmax(1)
    if settings.mode == "model-tilt":
        return (log_chances + gains / settings.tau).softmax(1)
    return ((gains + settings.beta * labels) / settings.tau).softmax(1)


def soft_marks(gains: Tensor, labels: Tensor, logits: Tensor, settings: EngineSettings) -> Tensor:
    """The same for labels that may hold together: each entry a simplex of two, in [0, 1]."""
    if settings.mode == "lp":
        return (gains >= 0).to(gains.dtype)
    if settings.mode == "prox":
        start = (1 - settings.smoothing) * labels + settings.smoothing / 2
        return (torch.logit(start) + gains / settings.tau).sigmoid()
    if settings.mode == "model-tilt":
        return (logits + gains / settings.tau).sigmoid()
    return ((gains + settings.beta * (2 * labels - 1)) / settings.tau).sigmoid()


def raw_weights(scores: Tensor, settings: EngineSettings) -> Tensor:
    """Weights ``(B,)`` in a unit of their own, at least 0: 0 or 1, the positive part, or the exponential of the score."""
    if settings.rule == "hard":
        return (scores >= 0).to(scores.dtype)
    if settings.rule == "relu":
        return scores.clamp_min(0)
    return (scores / settings.rule_temperature).clamp(-30, 30).exp()


def scaled_weights(raw: Tensor, settings: EngineSettings, trusted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights of mean 1 over the batch, and whether they vanished; then all are 1.

    Args:
        raw: ``(B,)``, at least 0.
        trusted: ``(B,)``, rows that keep a weight of 1 before scaling.
    """
    free = torch.ones_like(raw) if trusted is None else (~trusted).to(raw.dtype)
    own = torch.where(free > 0, raw, torch.zeros_like(raw))
    # Scores may be of any unit, such as that of a gradient that has all but vanished.
    own = own / own.max().clamp_min(torch.finfo(raw.dtype).tiny)
    unit = 1.0 if settings.rule == "hard" else _ratio(own, free)
    weights = torch.where(free > 0, settings.floor + (1 - settings.floor) * own / unit, torch.ones_like(own))
    vanished = (own + 1 - free).sum() <= 0
    weights = weights / weights.mean().clamp_min(1e-12)
    return torch.where(vanished, torch.ones_like(weights), weights), vanished


def _ratio(values: Tensor, counts: Tensor) -> Tensor:
    return values.mean().clamp_min(1e-12) / counts.mean().clamp_min(1e-12)

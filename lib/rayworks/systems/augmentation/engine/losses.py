"""Losses that the engine knows: what a sample's loss is at a soft label, what its gains are, which labels they make."""

import abc

import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.sample_gains import slopes_to_gains
from rayworks.systems.augmentation.engine.closed_forms import soft_labels, soft_marks
from rayworks.systems.augmentation.engine.settings import EngineSettings

SLACK = 1e-3
"""How far the sum of a distribution may be from 1."""


class Loss(abc.ABC):
    """One kind of label. Outputs, labels, slopes and gains are ``(B, K)``, losses and scores ``(B,)``."""

    fixed_labels = True
    """Whether label k means the same in every batch, so that gains may be averaged over batches."""

    @abc.abstractmethod
    def prepared(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """Labels as ``(B, K)`` of the outputs' width, checked.

        Raises:
            DataError: they are no labels of this kind; the message names the row.
        """

    @abc.abstractmethod
    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample."""

    def gains(self, outputs: Tensor, slopes: Tensor) -> Tensor:
        """By how much more of each label lowers the validation loss."""
        return -slopes

    @abc.abstractmethod
    def learned(self, gains: Tensor, labels: Tensor, outputs: Tensor, settings: EngineSettings) -> Tensor:
        """The closed form's labels."""

    @abc.abstractmethod
    def scores(self, labels: Tensor, outputs: Tensor, gains: Tensor) -> Tensor:
        """By how much a step on each sample with its label lowers the validation loss."""

    def check(self, settings: EngineSettings) -> None:
        """Raise a ConfigError for settings that this loss does not know."""
        if settings.gain_average and not self.fixed_labels:
            raise ConfigError(
                "gain_average: the labels of a contrastive batch are its own captions; set gain_average to 0"
            )


class Classification(Loss):
    """Softmax cross-entropy; labels are class numbers ``(B,)`` or distributions ``(B, K)``, such as MixUp's."""

    def prepared(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        if outputs.shape[1] < 2:
            raise DataError(
                "outputs: are one for each row, whose softmax is 1; give one for each class, or take MultiLabel"
            )
        return distributions(labels, outputs.shape[1], outputs)

    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``-<Y, log p>``."""
        return -(labels * outputs.log_softmax(1)).sum(1)

    def gains(self, outputs: Tensor, slopes: Tensor) -> Tensor:
        """``-(u - sum_k p u)``."""
        return slopes_to_gains(outputs, slopes)

    def learned(self, gains: Tensor, labels: Tensor, outputs: Tensor, settings: EngineSettings) -> Tensor:
        """See :func:`soft_labels`."""
        return soft_labels(gains, labels, outputs.log_softmax(1), settings)

    def scores(self, labels: Tensor, outputs: Tensor, gains: Tensor) -> Tensor:
        """``<Y, A>``."""
        return (labels * gains).sum(1)


class MultiLabel(Loss):
    """Binary cross-entropy of labels that may hold together, in [0, 1]."""

    def prepared(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        found = _shaped(labels, outputs)
        _refuse(found, ~((found >= 0) & (found <= 1)).all(1), "holds a mark outside [0, 1]; give marks of 0 to 1")
        return found

    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``sum_k softplus(z) - Y z``."""
        return (F.softplus(outputs) - labels * outputs).sum(1)

    def learned(self, gains: Tensor, labels: Tensor, outputs: Tensor, settings: EngineSettings) -> Tensor:
        """See :func:`soft_marks`."""
        return soft_marks(gains, labels, outputs, settings)

    def scores(self, labels: Tensor, outputs: Tensor, gains: Tensor) -> Tensor:
        """``<Y - sigmoid(z), A>``."""
        return ((labels - outputs.sigmoid()) * gains).sum(1)


class Regression(Loss):
    """Half the squared error; ``penalised`` is ``<y, A> - beta/2 |y - y0|^2`` with the upstream's y0: ``y = y0 + A/beta``."""

    def check(self, settings: EngineSettings) -> None:
        """See :class:`Loss`."""
        if settings.learn != "weights" and (settings.mode != "penalised" or settings.beta == 0):
            raise ConfigError("mode, beta: labels of a regression need mode penalised and a beta above 0")

    def prepared(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        found = _shaped(labels, outputs)
        _refuse(found, ~found.isfinite().all(1), "is not finite; drop or mend it")
        return found

    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``|z - y|^2 / 2``."""
        return (outputs - labels).square().sum(1) / 2

    def learned(self, gains: Tensor, labels: Tensor, outputs: Tensor, settings: EngineSettings) -> Tensor:
        """``y + A / beta``."""
        return labels + gains / settings.beta

    def scores(self, labels: Tensor, outputs: Tensor, gains: Tensor) -> Tensor:
        """``<y - z, A>``."""
        return ((labels - outputs) * gains).sum(1)


class Contrastive(Loss):
    """CLIP's loss over a batch of images and captions; outputs ``(B, B)`` are scaled similarities, rows images.

    Labels are numbers of captions ``(B,)``, where equal ones share the mass, or distributions ``(B, B)``.
    """

    fixed_labels = False

    def prepared(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        if outputs.shape[0] != outputs.shape[1]:
            raise DataError(f"outputs: are {tuple(outputs.shape)}; give the similarities of B images and B captions")
        if labels.dim() == 1:
            if len(labels) != len(outputs):
                raise DataError(
                    f"labels: are {len(labels)} for {len(outputs)} images; give one caption number for each"
                )
            same = (labels[:, None] == labels[None]).to(outputs)
            return same / same.sum(1, keepdim=True)
        return distributions(labels, outputs.shape[1], outputs)

    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean of both directions: ``-<Y, log p_row + log p_column> / 2``."""
        return -(labels * (outputs.log_softmax(1) + outputs.log_softmax(0))).sum(1) / 2

    def gains(self, outputs: Tensor, slopes: Tensor) -> Tensor:
        """Mean of both directions."""
        return (slopes_to_gains(outputs, slopes) + slopes_to_gains(outputs.T, slopes.T).T) / 2

    def learned(self, gains: Tensor, labels: Tensor, outputs: Tensor, settings: EngineSettings) -> Tensor:
        """See :func:`soft_labels`."""
        return soft_labels(gains, labels, outputs.log_softmax(1), settings)

    def scores(self, labels: Tensor, outputs: Tensor, gains: Tensor) -> Tensor:
        """``<Y, A>``."""
        return (labels * gains).sum(1)


def distributions(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Class numbers ``(B,)`` as one-hot rows, or checked rows of the simplex ``(B, K)``.

    Raises:
        DataError: a row is no distribution, or a number no class.
    """
    if labels.dim() == 1 and labels.is_floating_point():
        raise DataError(f"labels: are {labels.dtype}; give whole numbers, or {tuple(like.shape)}, as the outputs are")
    if labels.dim() == 1:
        wrong = (labels < 0) | (labels >= classes)
        _refuse(labels, wrong, f"is no class; give numbers of 0 to {classes - 1}, one for each output")
        labels = F.one_hot(labels.long(), classes)
    found = _shaped(labels, like)
    wrong = ~(found >= 0).all(1) | ~((found.sum(1) - 1).abs() <= SLACK)
    _refuse(found, wrong, "is no distribution; give values of at least 0 that sum to 1")
    return found


def _shaped(labels: Tensor, like: Tensor) -> Tensor:
    found = labels.to(like.device, like.dtype if like.dtype.itemsize >= 4 else torch.float32)
    if found.shape != like.shape:
        raise DataError(f"labels: are {tuple(labels.shape)}; give {tuple(like.shape)}, as the outputs are")
    return found


def _refuse(labels: Tensor, wrong: Tensor, why: str) -> None:
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(f"labels: row {row}, {labels[row].tolist()}, {why}")

"""Local losses: cross-entropy with soft labels, and the terms that federated methods add.

Every term is a pure function of tensors. B is the batch, K the number of classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.systems.federation.training.classifiers import Classifier

UNSEEN = 1e-8
"""Stands for the count of a label that a client lacks, as FedLC's authors do: its logit all but vanishes."""
ALIGNMENT_TEMPERATURE = 0.1

Adjust = Callable[[Tensor], Tensor]
"""A correction of logits ``(B, K)``."""


def soft_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """``mean_i w_i CE(logits_i, labels_i)``, a scalar; labels ``(B, K)`` are distributions, weights ``(B,)``.

    The mean is over the batch, not over the weights: with weights of mean 1 over the client's examples it is an unbiased
    estimate of the weighted mean over all of them.
    """
    return (weights * -(labels * F.log_softmax(logits, 1)).sum(1)).mean()


def restricted_softmax(present: Tensor, scale: float) -> Adjust:
    """FedRS (Li and Zhan 2021): logits of labels that the client lacks are scaled by ``scale``; present ``(K,)`` bool."""
    factors = torch.where(present, 1.0, scale)
    return lambda logits: logits * factors


def calibrated_logits(counts: Tensor, temperature: float) -> Adjust:
    """FedLC (Zhang et al. 2022): ``logit_c - tau n_c^(-1/4)``, counts ``(K,)``."""
    margins = temperature * counts.clamp_min(UNSEEN) ** -0.25
    return lambda logits: logits - margins


def balanced_softmax(counts: Tensor) -> Adjust:
    """Balanced softmax (Ren et al. 2020): ``logit_c + log n_c`` while training, counts ``(K,)``."""
    priors = counts.clamp_min(UNSEEN).log()
    return lambda logits: logits + priors


def model_contrast(features: Tensor, shared: Tensor, previous: Tensor, temperature: float) -> Tensor:
    """MOON (Li et al. 2021, equation 3): near the global model's features, far from the client's last; all ``(B, D)``."""
    near = F.cosine_similarity(features, shared) / temperature
    far = F.cosine_similarity(features, previous) / temperature
    return F.softplus(far - near).mean()


def feature_alignment(features: Tensor, labels: Tensor, noise: Tensor, noise_labels: Tensor) -> Tensor:
    """VHL's calibration (Tang et al. 2022): supervised contrast of real features with the noise of the same label.

    Args:
        features: features of real images, ``(B, D)``.
        labels: theirs, ``(B,)``.
        noise: features of noise images, ``(M, D)``.
        noise_labels: index of the label each stands for, ``(M,)``.

    An image whose label no noise image of the batch stands for adds nothing.
    """
    similarity = F.normalize(features) @ F.normalize(noise).T / ALIGNMENT_TEMPERATURE
    positive = (labels[:, None] == noise_labels[None, :]).float()
    anchors = positive.sum(1)
    per_anchor = -(positive * F.log_softmax(similarity, 1)).sum(1) / anchors.clamp_min(1.0)
    return per_anchor.sum() / (anchors > 0).sum().clamp_min(1)


@dataclass(frozen=True)
class Batch:
    """Examples with soft labels and weights of their own, such as those of one step."""

    inputs: Tensor
    """``(B, ...)``, float32 in [0, 1]."""
    labels: Tensor
    """``(B, K)``, distributions."""
    weights: Tensor
    """``(B,)``, at least 0."""


class Objective(Protocol):
    """A loss of a batch; ``step`` counts the client's steps in this round."""

    def __call__(self, model: Classifier, batch: Batch, step: int) -> Tensor:
        """A scalar."""


@dataclass(frozen=True)
class CrossEntropy:
    """The plain loss, its logits corrected if asked."""

    adjust: Adjust | None = None

    def __call__(self, model: Classifier, batch: Batch, step: int) -> Tensor:
        """:func:`soft_cross_entropy` of the corrected logits."""
        return self.of_features(model, model.features(batch.inputs), batch)

    def of_features(self, model: Classifier, features: Tensor, batch: Batch) -> Tensor:
        """The same behind features that are already at hand."""
        logits = model.logits(features)
        return soft_cross_entropy(logits if self.adjust is None else self.adjust(logits), batch.labels, batch.weights)


@dataclass(frozen=True)
class ModelContrastive:
    """MOON: cross-entropy plus ``contrast`` times :func:`model_contrast`."""

    shared: Classifier
    previous: Classifier
    contrast: float
    temperature: float
    plain: CrossEntropy

    def __call__(self, model: Classifier, batch: Batch, step: int) -> Tensor:
        """A scalar; two more forward passes."""
        features = model.features(batch.inputs)
        with torch.no_grad():
            shared, previous = self.shared.features(batch.inputs), self.previous.features(batch.inputs)
        loss = self.plain.of_features(model, features, batch)
        return loss + self.contrast * model_contrast(features, shared, previous, self.temperature)


@dataclass(frozen=True)
class MixedMeans:
    """FedMix (Yoon et al. 2021): a first-order mixup with means that other clients shared.

    ``(1-l) CE(f((1-l)x), y) + l CE(f((1-l)x), ybar) + l <dCE(f((1-l)x), y)/dx, xbar>``. The share l is a setting because
    the paper's value is unverified.
    """

    means: Tensor
    """``(M, ...)``, in [0, 1]."""
    labels: Tensor
    """``(M, K)``."""
    share: float
    plain: CrossEntropy

    def __call__(self, model: Classifier, batch: Batch, step: int) -> Tensor:
        """A scalar; differentiates twice."""
        chosen = (step * len(batch.inputs) + torch.arange(len(batch.inputs))) % len(self.means)
        inputs = ((1 - self.share) * batch.inputs).requires_grad_(True)
        logits = model(inputs)
        if self.plain.adjust is not None:
            logits = self.plain.adjust(logits)
        own = soft_cross_entropy(logits, batch.labels, batch.weights)
        (slope,) = torch.autograd.grad(own, inputs, create_graph=True)
        theirs = soft_cross_entropy(logits, self.labels[chosen], batch.weights)
        return (1 - self.share) * own + self.share * (theirs + (slope * self.means[chosen]).sum())


@dataclass(frozen=True)
class VirtualHomogeneity:
    """VHL (Tang et al. 2022): noise classes as extra outputs, and real features aligned with them."""

    images: Tensor
    """All noise images in an order drawn by seed, ``(M, ...)``."""
    labels: Tensor
    """The label each stands for, ``(M,)``; its output is that plus K."""
    weight: float
    align: float
    plain: CrossEntropy

    def __call__(self, model: Classifier, batch: Batch, step: int) -> Tensor:
        """A scalar; the batch is doubled by noise images."""
        size, classes = len(batch.inputs), batch.labels.shape[1]
        chosen = (step * size + torch.arange(size)) % len(self.images)
        features = model.features(torch.cat([batch.inputs, self.images[chosen]]))
        real = Batch(batch.inputs, F.pad(batch.labels, (0, classes)), batch.weights)
        loss = self.plain.of_features(model, features[:size], real)
        loss = loss + self.weight * F.cross_entropy(model.logits(features[size:]), self.labels[chosen] + classes)
        if self.align:
            own = batch.labels.argmax(1)
            loss = loss + self.align * feature_alignment(features[:size], own, features[size:], self.labels[chosen])
        return loss

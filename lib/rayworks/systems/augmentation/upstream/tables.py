"""Augmentations of rows of numbers ``(B, columns)``, standardised."""

import numpy as np
import torch
from torch import Tensor

from rayworks.core.errors import ConfigError
from rayworks.systems.augmentation.upstream.views import Upstream, Views, mixing, views


def noisy(strength: float = 0.5) -> Upstream:
    """Normal noise whose spread is drawn up to ``strength`` standard deviations for each row.

    Raises:
        ConfigError: the strength is below 0.
    """
    if not strength >= 0:
        raise ConfigError(f"strength: is {strength}; must be at least 0")

    def augment(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
        share = torch.from_numpy(random.random(len(inputs))).to(inputs)
        noise = torch.from_numpy(random.standard_normal(inputs.shape)).to(inputs)
        return views(inputs + strength * share[:, None] * noise, labels, 0, share, ("noise",))

    return augment


def columns_swapped(inputs: Tensor, labels: Tensor, random: np.random.Generator, alpha: float = 1.0) -> Views:
    """CutMix of tables: a random set of columns of another row, labels by the share of columns, which is the strength."""
    share, other = mixing(random, len(inputs), alpha)
    taken = torch.from_numpy(random.random(inputs.shape)) < 1 - share[:, None]
    part = taken.to(labels.dtype).mean(1)
    made = torch.where(taken, inputs[other], inputs)
    return views(made, torch.lerp(labels, labels[other], part[:, None]), 0, part, ("cutmix",))


def between_neighbours(inputs: Tensor, labels: Tensor, random: np.random.Generator, neighbours: int = 5) -> Views:
    """SMOTE (Chawla et al. 2002): a point between a row and one of its nearest of the same largest label in the batch.

    A row that is alone in its class stays as it is. The strength is twice the share of the other row, at most 1.
    """
    if not len(inputs):
        return views(inputs, labels, names=("smote",))
    flat, kinds = inputs.flatten(1), labels.argmax(1)
    distances = torch.cdist(flat, flat)
    distances[kinds[:, None] != kinds[None]] = torch.inf
    distances.fill_diagonal_(torch.inf)
    near = distances.topk(min(neighbours, len(inputs)), largest=False)
    usable = near.values.isfinite().sum(1)
    pick = (torch.from_numpy(random.random(len(inputs))) * usable).long()
    share = torch.from_numpy(random.random(len(inputs))).to(inputs) / 2 * (usable > 0)
    other = near.indices.gather(1, pick.clamp_max(near.indices.shape[1] - 1)[:, None])[:, 0]
    made = torch.lerp(flat, flat[other], share[:, None]).view_as(inputs)
    return views(made, labels, 0, 2 * share, ("smote",))

"""Augmentations of images in [0, 1], ``(B, C, H, W)``, each view with its operation and strength.

Own operations run over the whole batch at once, with a strength for each image; kornia's policies draw one operation for a
batch, so they are applied image by image.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core.errors import ConfigError
from rayworks.core.seeds import derive_small
from rayworks.systems.augmentation.upstream.views import Upstream, Views, mixing, views

GEOMETRIC = ("rotate", "half-turn", "translate", "scale", "shear", "flip", "flip-upside-down")
PIXELS = ("brightness", "contrast", "invert", "posterise", "solarise", "noise", "blur", "cutout", "paste")
OPERATIONS = ("identity", *GEOMETRIC, *PIXELS)
USUAL = tuple(
    name for name in OPERATIONS if name not in ("half-turn", "flip", "flip-upside-down", "noise", "blur", "paste")
)
"""What RandAugment draws from; flips and half turns change the class of some images, and ``paste`` is wrong on purpose: a box
of another image, under the label of the first."""


def random_operations(names: Sequence[str] = USUAL, strength: float = 0.5, steps: int = 1) -> Upstream:
    """RandAugment's scheme (Cubuk et al. 2020): operations drawn from names, strengths uniform up to ``strength``.

    The recorded operation is the strongest of the drawn ones.

    Args:
        strength: in [0, 1], of the strongest form of each operation.
        steps: operations a view.

    Raises:
        ConfigError: a name is unknown, or a number out of bounds.
    """
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or not names:
        raise ConfigError(f"operations: {unknown[:1] or 'none'} unknown; choose of {', '.join(OPERATIONS)}")
    if not 0 <= strength <= 1 or steps < 1:
        raise ConfigError(f"strength, steps: are {strength}, {steps}; strength must lie in [0, 1], steps be at least 1")
    places = torch.tensor([OPERATIONS.index(name) for name in names])

    def augment(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
        made, count = inputs, len(inputs)
        worst, most = torch.zeros(count, dtype=torch.long), torch.full((count,), -1.0)
        for _ in range(steps):
            drawn = places[torch.from_numpy(random.integers(0, len(places), count))]
            amount = torch.from_numpy(strength * random.random(count)).to(inputs.dtype)
            made = operate(made, drawn, amount, random)
            amount = amount * (drawn != 0)
            worst = torch.where(amount > most, drawn, worst)
            most = torch.maximum(most, amount.to(most.dtype))
        return views(made, labels, worst, most, OPERATIONS)

    return augment


def operate(images: Tensor, operations: Tensor, strengths: Tensor, random: np.random.Generator) -> Tensor:
    """One operation on each image, ``(B,)`` indices into :data:`OPERATIONS`, with strengths ``(B,)`` in [0, 1]."""
    sign = torch.from_numpy(np.where(random.random(len(images)) < 0.5, -1.0, 1.0)).to(images.dtype)
    found = _warped(images, operations, strengths, sign)
    wide, side = strengths.view(-1, 1, 1, 1), sign.view(-1, 1, 1, 1)
    for name, change in _CHANGES.items():
        rows = (operations == OPERATIONS.index(name)).nonzero().flatten()
        if len(rows):
            found[rows] = change(images[rows], wide[rows], side[rows], random)
    return found


def _warped(images: Tensor, operations: Tensor, strengths: Tensor, sign: Tensor) -> Tensor:
    """The geometric operations, by one affine map for each image; outside is black."""

    def chosen(name: str) -> Tensor:
        return operations == OPERATIONS.index(name)

    amount, count = sign * strengths, len(images)
    angle = torch.where(chosen("rotate"), amount * math.pi / 4, torch.zeros_like(amount))
    angle = torch.where(chosen("half-turn"), torch.full_like(amount, math.pi), angle)
    maps = torch.zeros(count, 2, 3, dtype=images.dtype)
    zoom = torch.where(chosen("scale"), 1 + 0.6 * amount, torch.ones_like(amount))
    maps[:, 0, 0] = angle.cos() * zoom * torch.where(chosen("flip"), -1.0, 1.0)
    maps[:, 1, 1] = angle.cos() * zoom * torch.where(chosen("flip-upside-down"), -1.0, 1.0)
    maps[:, 0, 1] = -angle.sin() + torch.where(chosen("shear"), 0.6 * amount, torch.zeros_like(amount))
    maps[:, 1, 0] = angle.sin()
    shift = torch.where(chosen("translate"), 0.6 * amount, torch.zeros_like(amount))
    maps[:, 0, 2], maps[:, 1, 2] = shift, shift * sign.flip(0)
    found = images.clone()
    moved = torch.stack([chosen(name) for name in GEOMETRIC]).any(0).nonzero().flatten()
    if len(moved):
        grid = F.affine_grid(maps[moved], [len(moved), *images.shape[1:]], align_corners=False)
        found[moved] = F.grid_sample(images[moved], grid, align_corners=False)
    return found


_Change = Callable[[Tensor, Tensor, Tensor, np.random.Generator], Tensor]


def _contrast(images: Tensor, amount: Tensor, sign: Tensor, random: np.random.Generator) -> Tensor:
    middle = images.mean((1, 2, 3), keepdim=True)
    return ((images - middle) * (1 + 0.8 * sign * amount) + middle).clamp(0, 1)


def _posterise(images: Tensor, amount: Tensor, sign: Tensor, random: np.random.Generator) -> Tensor:
    levels = (8 - 7 * amount).round()
    return (images * levels).round() / levels


def _noise(images: Tensor, amount: Tensor, sign: Tensor, random: np.random.Generator) -> Tensor:
    return (images + 0.5 * amount * torch.from_numpy(random.standard_normal(images.shape)).to(images)).clamp(0, 1)


def _cutout(images: Tensor, amount: Tensor, sign: Tensor, random: np.random.Generator) -> Tensor:
    """A black square of up to 0.8 of the side, around any pixel."""
    inside = squares(images, 0.8 * amount.flatten(), random)
    return torch.where(inside[:, None], torch.zeros_like(images), images)


def _paste(images: Tensor, amount: Tensor, sign: Tensor, random: np.random.Generator) -> Tensor:
    """A box of up to the whole side, of the next image that is pasted into."""
    inside = squares(images, 2 * amount.flatten(), random)
    return torch.where(inside[:, None], images.roll(1, 0), images)


_CHANGES: dict[str, _Change] = {
    "brightness": lambda images, amount, sign, _: (images * (1 + 0.8 * sign * amount)).clamp(0, 1),
    "contrast": _contrast,
    "invert": lambda images, amount, sign, _: 1 - images,
    "posterise": _posterise,
    "solarise": lambda images, amount, sign, _: torch.where(images > 1 - 0.9 * amount, 1 - images, images),
    "noise": _noise,
    "blur": lambda images, amount, sign, _: torch.lerp(images, F.avg_pool2d(images, 3, 1, 1), amount),
    "cutout": _cutout,
    "paste": _paste,
}


def squares(images: Tensor, sides: Tensor, random: np.random.Generator) -> Tensor:
    """Masks ``(B, H, W)`` of boxes with sides ``(B,)`` as shares of the image's, around uniform pixels, cut at the edge."""
    count, _, height, width = images.shape
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
    place = torch.from_numpy(random.random((2, count, 1, 1)))
    middle_row, middle_column = (place[0] * height).floor(), (place[1] * width).floor()
    half_rows, half_columns = (sides.view(-1, 1, 1) * size / 2 for size in (height, width))
    return ((rows - middle_row).abs() < half_rows) & ((columns - middle_column).abs() < half_columns)


def cut_and_mixed(inputs: Tensor, labels: Tensor, random: np.random.Generator, alpha: float = 1.0) -> Views:
    """CutMix (Yun et al. 2019): a box of another image, labels by the area it really has, which is the strength."""
    share, other = mixing(random, len(inputs), alpha)
    inside = squares(inputs, (1 - share).sqrt(), random)
    area = inside.flatten(1).to(labels.dtype).mean(1)
    made = torch.where(inside[:, None], inputs[other], inputs)
    return views(made, torch.lerp(labels, labels[other], area[:, None]), 0, area, ("cutmix",))


def kornia_policy(policy: str = "rand-augment", magnitude: int = 9, steps: int = 2) -> Upstream:
    """RandAugment or AutoAugment of kornia; the recorded operation is the last that was applied.

    A draw that kornia fails on, as it does on some grey images, is the image itself, recorded as ``identity``.

    Args:
        magnitude: of RandAugment, 1 to 30; AutoAugment has its own.
        steps: operations a view, of RandAugment.

    Raises:
        ConfigError: kornia is not installed, or the policy unknown.
    """
    try:
        from kornia.augmentation import auto
    except ImportError:
        raise ConfigError("upstream.name: kornia is not installed; pip install rayworks[augmentation]") from None
    if policy not in ("rand-augment", "auto-augment") or not 1 <= magnitude <= 30:
        raise ConfigError(f"policy {policy!r}, magnitude {magnitude}: give rand-augment or auto-augment, and 1 to 30")
    make = auto.RandAugment(steps, magnitude) if policy == "rand-augment" else auto.AutoAugment("cifar10")

    def augment(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
        colour = inputs.shape[1] == 3
        wide = inputs if colour else inputs.expand(-1, 3, -1, -1)
        made, names, amounts = [], [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_small(int(random.integers(2**62)), "kornia"))
            for image in (wide[row : row + 1] for row in range(len(wide))):
                try:
                    made.append(make(image).clamp(0, 1))
                    applied = [part for policy in make._params for part in policy.data if bool(part.data["batch_prob"])]
                    names.append(applied[-1].name.rsplit("_", 1)[0].lower() if applied else "identity")
                    amounts.append(magnitude / 30 if applied else 0.0)
                except (RuntimeError, ValueError, IndexError, TypeError):
                    made.append(image)
                    names.append("identity")
                    amounts.append(0.0)
        kinds = tuple(sorted(set(names)))
        done = torch.cat(made) if made else wide
        places = torch.tensor([kinds.index(name) for name in names], dtype=torch.long)
        grey = done if colour else done.mean(1, keepdim=True)
        return views(grey.to(inputs.dtype), labels, places, torch.tensor(amounts), kinds or ("identity",))

    return augment

"""Images of untrained StyleGAN2 networks: noise with the statistics of natural scenes, from a seed alone.

Four kinds (Baradad et al. 2021, "Learning to see by looking at noise"), written from the description in specification 2.4:
``original`` has plain normal weights; ``random``, ``sparse`` and ``oriented`` use banks of wavelet kernels. In those three a
kernel depends on the input channel only and its amplitude on the output channel only, and demodulation cancels the amplitude
but for its sign. So every output channel of a convolution is plus or minus one map: the layer has rank one, and one map is
computed instead of 512. The dense path is kept as the reference.

Axes: C channels, T kernels in use, R the side of a layer. Features are (C, R, R), made one image at a time, so that an image
does not depend on how many are made with it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rayworks.core import seeds
from rayworks.core.seeds import Key
from rayworks.systems.federation.images.pink_noise import pink_map
from rayworks.systems.federation.images.wavelet_kernels import oriented_bank, quantised_bank

Kind = Literal["original", "random", "sparse", "oriented"]
LATENT = 512
SLOPE = 0.2
"""Slope of the leaky rectifier through which latents pass; there is no mapping network."""
LARGEST_NOISE = 0.3
BIASES = {"random": (0.0, 0.0), "sparse": (0.0, 0.2), "oriented": (-0.2, 0.2)}
FEWEST_KERNELS = 5
SHARED_MAP = 512
"""Side of the one noise map that all layers of an oriented image share."""
NOISE_MAPS = 100
"""Noise maps of each layer of a network of the random and sparse kinds."""
CLUSTER_MEAN, CLUSTER_SPREAD = 0.5, 0.3
"""Standard deviation of the mean latent of a label's cluster, and of latents about it (Tang et al. 2022, VHL)."""
COLOUR_MEANS = ((0.483, 0.145), (0.455, 0.142), (0.401, 0.161))
COLOUR_SPREADS = ((0.219, 0.063), (0.213, 0.062), (0.213, 0.069))
"""Mean and standard deviation of each channel's mean and standard deviation. A negative spread, very rare, is kept."""


@dataclass(frozen=True)
class Layer:
    """The random weights of one 3x3 convolution for one image, unmodulated."""

    bank: Tensor
    """(T, 3, 3)."""
    kernels: Tensor
    """(C,): which kernel each input channel has."""
    amplitudes: Tensor
    """(C',): factor of each output channel."""
    noise: Tensor
    """(R, R), added to all channels."""
    bias: Tensor
    """(C',)."""


@dataclass(frozen=True)
class Network:
    """Weights shared by many images: styles and colours of each resolution, and plain convolutions of ``original``."""

    side: int
    seed: int
    path: tuple[Key, ...]
    constant: Tensor
    """(C, 4, 4)."""
    styles: tuple[Tensor, ...]
    """One (C, LATENT) per convolution."""
    colour_styles: tuple[Tensor, ...]
    colours: tuple[Tensor, ...]
    """One (3, C) per resolution."""
    plain: tuple[Tensor, ...]
    """One (C', C, 3, 3) per convolution, of the original kind only."""


def channels(resolution: int) -> int:
    """Feature channels of the layers of a resolution."""
    return min(32768 // resolution, 512)


def resolutions(side: int) -> list[int]:
    """Sides of the layers: 4, 8, ... up to ``side``, one convolution at 4 and two at each of the others."""
    return [4 << step for step in range(int(math.log2(side)) - 1)]


def network(kind: Kind, side: int, seed: int, *path: Key) -> Network:
    """An untrained network for images of a side that is a power of two, from 8 on; a function of seed and path.

    Costs 3 million normal draws at 32 pixels, 20 million for the original kind.
    """
    generator = seeds.stream(seed, *path, "network")
    sides = resolutions(side)
    inputs = _inputs(side)
    outputs = [channels(of) for of, _ in _convolutions(side)]
    return Network(
        side,
        seed,
        path,
        constant=_normal(generator, channels(4), 4, 4),
        styles=tuple(_normal(generator, count, LATENT) for count in inputs),
        colour_styles=tuple(_normal(generator, channels(of), LATENT) for of in sides),
        colours=tuple(_normal(generator, 3, channels(of)) for of in sides),
        plain=tuple(
            _normal(generator, out, count, 3, 3)
            for out, count in zip(outputs, inputs, strict=True)
            if kind == "original"
        ),
    )


def render(
    kind: Kind,
    of: Network,
    design: np.random.Generator,
    draw: np.random.Generator,
    *,
    clustered: bool = False,
    dense: bool = False,
) -> Tensor:
    """One image (3, side, side), float32 in [0, 1].

    ``design`` draws what a cluster of one label shares (kernels, biases, noise map, colours, and the mean latent if
    ``clustered``), ``draw`` what differs between its images. ``dense`` computes all channels of rank-one layers.
    """
    sides = _convolutions(of.side)
    latents = _latents(len(sides) + 1, design, draw, clustered)
    layers = _layers(kind, of, design, draw)
    features, picture = of.constant, torch.zeros(3, 4, 4)
    for index, (side, enlarges) in enumerate(sides):
        style = of.styles[index] @ latents[index] / math.sqrt(LATENT) + 1
        if kind == "original":
            features = _plain_convolution(features, of.plain[index], style, enlarges)
        else:
            convolve = _dense_convolution if dense else _rank_one_convolution
            features = convolve(features, layers[index], style, enlarges)
        if side == 4 or not enlarges:
            at = int(math.log2(side)) - 2
            tint = of.colour_styles[at] @ latents[index + 1] / math.sqrt(LATENT) + 1
            colours = torch.tensordot(of.colours[at] * (tint / math.sqrt(channels(side))), features, 1)
            picture = colours if side == 4 else enlarged(picture) + colours
    return coloured(picture, design)


def enlarged(maps: Tensor) -> Tensor:
    """(C, R, R) at twice the side by the [1, 3, 3, 1] filter, with zeros beyond the border."""
    padded = functional.pad(maps, (1, 1, 1, 1))[None]
    grown: Tensor = functional.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
    return grown[0, :, 2:-2, 2:-2]


def coloured(picture: Tensor, generator: np.random.Generator) -> Tensor:
    """(3, R, R) with channel means and spreads drawn from those of photographs, clipped to [0, 1]."""
    flat = picture.reshape(3, -1)
    standard = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True).clamp_min(1e-8)
    (means, mean_spreads), (spreads, spread_spreads) = np.array(COLOUR_MEANS).T, np.array(COLOUR_SPREADS).T
    mean = generator.normal(means, mean_spreads).astype(np.float32)
    spread = generator.normal(spreads, spread_spreads).astype(np.float32)
    tinted = standard * torch.from_numpy(spread)[:, None] + torch.from_numpy(mean)[:, None]
    return tinted.clamp(0, 1).reshape(picture.shape)


def _convolutions(side: int) -> list[tuple[int, bool]]:
    """Side of each convolution, and whether it enlarges what comes in."""
    return [(of, index == 0 and of > 4) for of in resolutions(side) for index in range(1 if of == 4 else 2)]


def _inputs(side: int) -> list[int]:
    return [channels(of // 2 if enlarges else of) for of, enlarges in _convolutions(side)]


def _latents(count: int, design: np.random.Generator, draw: np.random.Generator, clustered: bool) -> Tensor:
    latents = _normal(draw, count, LATENT)
    if clustered:
        latents = CLUSTER_MEAN * _normal(design, count, LATENT) + CLUSTER_SPREAD * latents
    return functional.leaky_relu(latents, SLOPE)


@lru_cache(maxsize=4)
def _bank(kind: Kind) -> Tensor:
    return torch.from_numpy(oriented_bank() if kind == "oriented" else quantised_bank())


def _layers(kind: Kind, of: Network, design: np.random.Generator, draw: np.random.Generator) -> list[Layer]:
    if kind == "original":
        return []
    shared = _shared_noise(of.side, design) if kind == "oriented" else {}
    found = []
    for index, (inputs, (side, _)) in enumerate(zip(_inputs(of.side), _convolutions(of.side), strict=True)):
        bank = _bank(kind)
        if kind == "oriented":
            chosen = design.permutation(len(bank))[: design.integers(FEWEST_KERNELS, len(bank) + 1)]
            bank = bank[torch.from_numpy(chosen)]
        outputs = channels(side)
        kernels = torch.from_numpy(design.integers(len(bank), size=inputs))
        amplitudes = _normal(design, outputs)
        strength = design.uniform(0, LARGEST_NOISE)
        least_bias, most_bias = BIASES[kind]
        bias = design.uniform(least_bias, most_bias, outputs)
        noise = shared[side] if shared else _layer_noise(kind, of, index, side, design)
        found.append(Layer(bank, kernels, amplitudes, strength * noise, torch.from_numpy(bias.astype(np.float32))))
    return found


def _shared_noise(side: int, design: np.random.Generator) -> dict[int, Tensor]:
    """One map resized by area to the side of each layer, by halving."""
    noise = pink_map(design, max(SHARED_MAP, side), design.uniform(0.5, 1.5), envelope=True)
    found = {}
    for smaller in reversed(resolutions(side)):
        noise = functional.adaptive_avg_pool2d(noise[None, None], smaller)[0, 0]
        found[smaller] = noise
    return found


def _layer_noise(kind: Kind, of: Network, index: int, side: int, design: np.random.Generator) -> Tensor:
    """One of the network's maps of a layer; the network does not keep them, as each is a function of its number."""
    generator = seeds.stream(of.seed, *of.path, "noise", index, int(design.integers(NOISE_MAPS)))
    return pink_map(generator, side, generator.uniform(0.5, 1.5), envelope=kind == "sparse")


def _rank_one_convolution(features: Tensor, layer: Layer, style: Tensor, enlarges: bool) -> Tensor:
    """The same as the dense convolution: one map ``m``, of which every channel is ``m`` or ``-m``.

    Channels with the same kernel are summed first, at most 40 maps, and these are convolved.
    """
    groups = torch.zeros(len(layer.bank), len(style))
    groups[layer.kernels, torch.arange(len(style))] = style
    sums = torch.tensordot(groups, features, 1)
    grown = enlarged(sums) if enlarges else sums
    norm = torch.sqrt((style.square() * layer.bank.square().sum((1, 2))[layer.kernels]).sum())
    single = functional.conv2d(grown[None], layer.bank[None], padding=1)[0] / norm
    return _activated(torch.sign(layer.amplitudes)[:, None, None] * single, layer)


def _dense_convolution(features: Tensor, layer: Layer, style: Tensor, enlarges: bool) -> Tensor:
    weights = layer.amplitudes[:, None, None, None] * layer.bank[layer.kernels] * style[:, None, None]
    weights = weights / weights.square().sum((1, 2, 3), keepdim=True).sqrt()
    grown = enlarged(features) if enlarges else features
    return _activated(functional.conv2d(grown[None], weights, padding=1)[0], layer)


def _plain_convolution(features: Tensor, weights: Tensor, style: Tensor, enlarges: bool) -> Tensor:
    """Modulated by the style and divided by the norm of each output channel's weights; no noise, no bias."""
    modulated = weights * style[:, None, None]
    modulated = modulated / modulated.square().sum((1, 2, 3), keepdim=True).sqrt()
    grown = enlarged(features) if enlarges else features
    return functional.conv2d(grown[None], modulated, padding=1)[0].clamp_min(0) * math.sqrt(2)


def _activated(maps: Tensor, layer: Layer) -> Tensor:
    return (maps + layer.noise + layer.bias[:, None, None]).clamp_min_(0).mul_(math.sqrt(2))


def _normal(generator: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(generator.standard_normal(shape, np.float32))

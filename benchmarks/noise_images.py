"""How much faster are untrained StyleGAN images when rank-one layers are computed as one map?

The same images by the dense path of the paper's networks and by ours, in alternation, one thread, CPU seconds.
``python -m benchmarks.noise_images [--images N] [--repeats N]``.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.systems.federation.images.untrained_stylegan import Kind, Network, network, render

CASES: tuple[tuple[Kind, int], ...] = (("oriented", 32), ("random", 32), ("sparse", 32), ("oriented", 128))
GOAL = 6


def seconds_per_image(kind: Kind, of: Network, images: int, dense: bool) -> float:
    """CPU seconds of one image; networks are shared by hundreds of images and not counted."""
    started = time.process_time()
    for index in range(images):
        render(kind, of, seeds.stream(0, "design", index), seeds.stream(0, "draw", index), dense=dense)
    return (time.process_time() - started) / images


def largest_difference(kind: Kind, of: Network, images: int) -> float:
    """Largest relative difference of the two paths, over images."""
    found = []
    for index in range(images):
        fast, dense = (
            render(kind, of, seeds.stream(0, "design", index), seeds.stream(0, "draw", index), dense=dense)
            for dense in (False, True)
        )
        found.append(float((fast - dense).norm() / dense.norm()))
    return max(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {}
    values: dict[str, dict[str, list[float]]] = {}
    for kind, side in CASES:
        of = network(kind, side, 0, "benchmark")
        difference = largest_difference(kind, of, 3)
        pairs = [
            [seconds_per_image(kind, of, options.images, dense) for dense in (True, False)]
            for _ in range(options.repeats)
        ]
        dense, fast = map(list, zip(*pairs, strict=True))
        values[f"{kind}-{side}"] = {"dense": dense, "rank_one": fast, "difference": [difference]}
        rows[f"{kind}, {side} pixels: dense over rank-one time (goal {GOAL})"] = ratios(dense, fast)
        rows[f"{kind}, {side} pixels: rank-one CPU ms per image"] = [1000 * seconds for seconds in fast]
        rows[f"{kind}, {side} pixels: largest relative difference"] = [difference]
    store("noise_images", __doc__ or "", rows, values)
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

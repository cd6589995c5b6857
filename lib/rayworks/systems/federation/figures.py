"""Figures of a run: partition, learning curves, clients, pseudo-images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.figures import COLOURS, draw

MOST_CLIENTS = 40
"""Rows of the heat maps."""


def partition(owned: NDArray[np.int64], filled: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Two heat maps of label shares, before and after pseudo-images: counts (C, K), the first forty rows."""
    with draw(columns=2) as drawing:
        shown = {"Real examples": owned, "With pseudo-images": filled}
        for axes, (title, counts) in zip(drawing.axes, shown.items(), strict=True):
            rows = counts[:MOST_CLIENTS]
            shares = rows / np.maximum(rows.sum(1, keepdims=True), 1)
            picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
            axes.grid(False)
            axes.set(title=title, xlabel="label", ylabel="client")
            axes.set_xticks(range(len(classes)), classes, rotation=45 if max(map(len, classes)) > 2 else 0, fontsize=8)
        drawing.figure.colorbar(picture, ax=drawing.axes, label="share of the client's examples")
    return drawing.png


def accuracy(curves: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]], target: float) -> bytes:
    """Held-out accuracy by round: mean over seeds, and their range; by method rounds (R,) and accuracies (seeds, R)."""
    with draw() as drawing:
        for (method, (rounds, scores)), paint in zip(curves.items(), _paints(len(curves)), strict=True):
            drawing.ax.plot(rounds, scores.mean(0), color=paint, label=method, marker="o" if len(rounds) == 1 else None)
            drawing.ax.fill_between(rounds, scores.min(0), scores.max(0), color=paint, alpha=0.15, linewidth=0)
        drawing.ax.axhline(target, color=COLOURS[7], linewidth=1, linestyle=":")
        drawing.ax.set(xlabel="round", ylabel="held-out accuracy", title="At equal local steps")
        drawing.ax.set_ylim(0, 1)
        drawing.ax.legend(loc="lower right", fontsize=8)
    return drawing.png


def clients(by_method: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Accuracy of every client with examples after the last round, one column per method."""
    with draw() as drawing:
        for index, (values, paint) in enumerate(zip(by_method.values(), _paints(len(by_method)), strict=True)):
            spread = 0.16 * np.sin(np.arange(len(values)) * 2.4)
            drawing.ax.plot(index + spread, values, "o", color=paint, alpha=0.5, markersize=4)
            drawing.ax.hlines(values.mean(), index - 0.3, index + 0.3, color=paint)
        drawing.ax.set_xticks(range(len(by_method)), list(by_method))
        drawing.ax.set(ylabel="accuracy on the client's labels", title="How evenly clients are served")
        drawing.ax.set_ylim(0, 1.02)
    return drawing.png


def pseudo(samples: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Rows of examples of each kind, (n, channels, height, width) or (n, features) in [0, 1]."""
    count = len(next(iter(samples.values())))
    with draw(rows=1) as drawing:
        axes = drawing.ax
        axes.axis("off")
        height = 1 / len(samples)
        for row, (kind, values) in enumerate(samples.items()):
            bottom = 1 - (row + 1) * height
            axes.text(0, bottom + height * 0.93, kind, transform=axes.transAxes, va="top", fontsize=9)
            for column in range(count):
                inset = axes.inset_axes((column / count, bottom + 0.02, 0.94 / count, height * 0.78))
                _show(inset, values[column])
    return drawing.png


def _show(axes: Any, example: NDArray[np.float32]) -> None:
    axes.axis("off")
    if example.ndim == 1:
        axes.plot(example, linewidth=0.6)
        axes.set_ylim(0, 1)
    elif example.shape[0] == 1:
        axes.imshow(example[0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(np.clip(example.transpose(1, 2, 0), 0, 1))


def _paints(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]

"""Figures of a run: accuracy against cost, operations by strength, learned labels, worst and best views."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.figures import COLOURS, draw

COLUMNS = 12
"""Views of a row of the grid."""
WORDS = 34
"""Characters of a text that are shown."""


def arms(found: Mapping[str, tuple[float, np.ndarray]]) -> bytes:
    """Test accuracy of each seed, and the mean, against the seconds of a training; by arm seconds and accuracies."""
    with draw() as drawing:
        ax = drawing.ax
        for number, (name, (seconds, values)) in enumerate(found.items()):
            paint = COLOURS[number % len(COLOURS)]
            marker = "os^D"[number // len(COLOURS) % 4]
            ax.plot([seconds] * len(values), values, marker, color=paint, alpha=0.3, markersize=4)
            ax.plot([seconds], [values.mean()], marker, color=paint, label=f"{name}, {values.mean():.3f}")
        ax.set(xlabel="seconds of a training", ylabel="test accuracy", title="What each arm comes to, and costs")
        ax.set_xlim(left=0)
        drawing.figure.legend(loc="outside right upper", fontsize=8)
    return drawing.png


def operations(by_strength: Mapping[str, np.ndarray], middle: float) -> bytes:
    """Mean score of the upstream label less that of all views, operations (rows, the most harmful first) by strength.

    Cells without a view are empty.
    """
    with draw() as drawing:
        ax, names = drawing.ax, list(by_strength)
        values = np.stack([by_strength[name] for name in names]) - middle if names else np.full((1, 1), np.nan)
        bins = values.shape[1]
        seen = 1 + int(np.flatnonzero(np.isfinite(values).any(axis=0)).max(initial=0))
        bound = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
        picture = ax.imshow(values[:, :seen], vmin=-bound, vmax=bound, cmap="RdBu", aspect="auto")
        ax.grid(visible=False)
        ax.set_yticks(range(len(names)), names)
        ax.set_xticks(range(seen), [f"{at / bins:g} to {(at + 1) / bins:g}" for at in range(seen)])
        ax.set(xlabel="strength", title="Better than the mean view (blue), and worse (red)")
        drawing.figure.colorbar(picture, ax=ax, label=f"mean score, less that of all views ({middle:.3f})")
    return drawing.png


def labels(by_class: np.ndarray, classes: Sequence[str]) -> bytes:
    """Learned labels (columns) of the views of each upstream label (rows): shares of the weight."""
    with draw() as drawing:
        ax = drawing.ax
        shares = by_class / np.maximum(by_class.sum(1, keepdims=True), 1e-12)
        picture = ax.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        ax.grid(visible=False)
        if len(classes) <= 30:
            turned = 45 if max(map(len, classes)) > 2 else 0
            ax.set_xticks(range(len(classes)), classes, rotation=turned, fontsize=8)
            ax.set_yticks(range(len(classes)), classes, fontsize=8)
        ax.set(xlabel="learned label", ylabel="upstream label", title="What the engine makes of labels")
        drawing.figure.colorbar(picture, ax=ax, label="share of the weight")
    return drawing.png


def views(shown: Mapping[str, Any], inputs: np.ndarray) -> bytes:
    """The worst views, and the best, each with its operation, its given label and the label that the engine would give it.

    Args:
        shown: ``rows`` of what is known of each view, and its ``texts`` where it is one.
        inputs: ``(n, C, H, W)`` or ``(n, columns)``; empty for texts.
    """
    rows = shown["rows"]
    picture = inputs.ndim == 4
    groups = [("worst", [at for at, row in enumerate(rows) if row["kind"] == "worst"])]
    groups += [("best", [at for at, row in enumerate(rows) if row["kind"] == "best"])]
    high = max(1, -(-max(len(places) for _, places in groups) // COLUMNS))
    with draw(rows=2 * high if picture else 1, columns=COLUMNS if picture else 1, squeeze=False) as drawing:
        drawing.figure.set_size_inches(13, 3.2 * high if picture else 9)
        if picture:
            for ax in drawing.axes.flat:
                ax.axis("off")
            for turn, (kind, places) in enumerate(groups):
                for place, at in enumerate(places):
                    ax = drawing.axes[turn * high + place // COLUMNS, place % COLUMNS]
                    _draw_image(ax, inputs[at], kind, rows[at])
        else:
            lines = [line for kind, places in groups for line in _lines(kind, places, shown)]
            ax = drawing.axes[0, 0]
            ax.axis("off")
            ax.text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=8, transform=ax.transAxes)
    return drawing.png


def _draw_image(ax: Any, image: np.ndarray, kind: str, row: Mapping[str, Any]) -> None:
    channels = image.shape[0]
    shown = image[:3].transpose(1, 2, 0) if channels >= 3 else image[0]
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
    suggested = "" if row["given"] == row["suggested"] else f" > {row['suggested']}"
    ax.set_title(
        f"{kind} {row['score']:.1f}\n{row['operation']}\n{row['given']}{suggested}",
        fontsize=7,
        fontweight="normal",
        loc="center",
        color=COLOURS[1] if kind == "worst" else COLOURS[2],
    )


def _lines(kind: str, places: Sequence[int], shown: Mapping[str, Any]) -> list[str]:
    found = [f"{kind}: score, row, operation, given label > suggested label", ""]
    for at in places:
        row = shown["rows"][at]
        text = f"  {shown['texts'][at][:100]}" if shown["texts"] else ""
        label = f"{row['given'][:WORDS]} > {row['suggested'][:WORDS]}"
        found.append(f"{row['score']:7.2f} {row['row']:6d} {row['operation'][:10]:10s} {label}{text}")
    return [*found, ""]

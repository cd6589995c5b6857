"""Figures of a run: learning, bias, symmetry, generalisation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.figures import COLOURS, draw, logarithmic

Values = Mapping[str, Any]
WINDOW = 5
"""Iterations that a learning curve is averaged over."""
FLOOR = 1e-9
"""An error of exactly 0, on a logarithmic axis."""


def colour(kind: str, kinds: Sequence[str]) -> str:
    """The same in every figure."""
    return COLOURS[list(kinds).index(kind) % len(COLOURS)]


def learning(
    curves: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
    bands: Mapping[str, tuple[np.ndarray[Any, Any], ...]],
    label: str,
    threshold: float | None,
) -> bytes:
    """Score against environment steps and against time.

    By network: ``steps`` (I,) and ``seconds`` (seeds, I); mean over trainings (I,), and the ends of its interval.
    """
    with draw(columns=2, sharey=True) as drawing:
        left, right = drawing.axes
        for kind, curve in curves.items():
            middle, low, high = bands[kind]
            paint = colour(kind, list(curves))
            for axes, at in ((left, curve["steps"]), (right, curve["seconds"].mean(0))):
                axes.plot(at, middle, color=paint, label=kind)
                axes.fill_between(at, low, high, color=paint, alpha=0.15, linewidth=0)
        if threshold is not None:
            left.axhline(threshold, color=COLOURS[7], linewidth=1, linestyle=":")
            left.annotate(
                "threshold", (0.99, threshold), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        left.set(xlabel="environment steps", ylabel=label, title="At equal steps")
        right.set(xlabel="seconds of training, one core", title="At equal time")
        left.legend(loc="lower right", fontsize=8)
    return drawing.png


def bias(found: Values) -> bytes:
    """Slope of untrained outputs on inputs by depth, and what untrained policies get."""
    kinds = list(found["untrained"])
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        for kind, by_layers in found["slopes"].items():
            layers = list(by_layers)
            left.plot(layers, [by_layers[n]["slope"] for n in layers], "o-", color=colour(kind, kinds), label=kind)
        left.set(xlabel="layers", ylabel="slope of the mean output on the position", title="Bias before any training")
        left.set_ylim(-0.15, 1.15)
        if found["slopes"]:
            left.legend(loc="center right", fontsize=8)
        played = found["untrained"]
        right.barh(
            kinds,
            [played[kind]["return"] for kind in kinds],
            xerr=[played[kind]["standard_error"] for kind in kinds],
            color=[colour(kind, kinds) for kind in kinds],
        )
        right.invert_yaxis()
        right.set(xlabel="return of an untrained policy", title="What it costs")
        right.grid(axis="y", visible=False)
    return drawing.png


def symmetry(certificates: Values, trained: tuple[str, Values], tolerance: float) -> bytes:
    """Errors by network and group; what is claimed is filled, the rest is hollow."""
    rows = [(f"{kind} untrained", by_team) for kind, by_team in certificates.items()]
    rows.append((f"{trained[0]} trained", trained[1]))
    groups = list(dict.fromkeys(g for _, by_team in rows for team in by_team.values() for g in team["errors"]))
    markers = "os^Dv"
    with draw() as drawing:
        axes = drawing.ax
        for number, (_, by_team) in enumerate(rows):
            for index, group in enumerate(groups):
                errors = [team["errors"][group] for team in by_team.values() if group in team["errors"]]
                if not errors:
                    continue
                claimed = all(group in team["claims"] for team in by_team.values())
                height = number + (index - (len(groups) - 1) / 2) * 0.14
                paint = COLOURS[index % len(COLOURS)]
                fill = paint if claimed else "none"
                axes.plot(max(max(errors), FLOOR), height, markers[index % 5], color=paint, markerfacecolor=fill)
        for index, group in enumerate(groups):
            axes.plot([], [], markers[index % 5], color=COLOURS[index % len(COLOURS)], label=group)
        axes.axvline(tolerance, color=COLOURS[7], linestyle=":", linewidth=1)
        logarithmic(axes, "x")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set(
            xlabel="largest error (filled: claimed; the line is what a claim allows)", title="Symmetry, through RLlib"
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
        _plain_powers(axes)
    return drawing.png


def generalisation(ratios: Mapping[str, Mapping[str, tuple[float, float, float] | None]], label: str) -> bytes:
    """Scores of each network in each environment, the training's first: middle, low, high; None where it cannot act."""
    environments = list(ratios)
    kinds = list(ratios[environments[0]])
    width = 0.8 / len(kinds)
    with draw() as drawing:
        axes = drawing.ax
        for number, kind in enumerate(kinds):
            for index, name in enumerate(environments):
                value = ratios[name][kind]
                at = index + (number - (len(kinds) - 1) / 2) * width
                if value is None:
                    below = any(score is not None and score[0] < 0 for score in ratios[name].values())
                    side = "top" if below else "bottom"
                    axes.annotate(" cannot act ", (at, 0), rotation=90, ha="center", va=side, fontsize=8)
                    continue
                middle, low, high = value
                error = [[max(middle - low, 0.0)], [max(high - middle, 0.0)]]
                axes.bar(
                    at, middle, width * 0.92, yerr=error, color=colour(kind, kinds), label=kind if not index else None
                )
        axes.set_xticks(range(len(environments)), environments)
        axes.grid(axis="x", visible=False)
        axes.set(ylabel=label, title="Where nobody trained")
        axes.legend(fontsize=8)
    return drawing.png


def _plain_powers(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.xaxis.set_minor_formatter(NullFormatter())

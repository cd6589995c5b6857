"""Figures of a run: accuracy against rounds, who taught best, and how alike experts err."""

from collections.abc import Mapping, Sequence

import numpy as np

from rayworks.core.figures import COLOURS, describe, draw
from rayworks.systems.supervision.findings import Gain


def rounds(
    numbers: Sequence[int],
    teacher: Sequence[Sequence[float]],
    student: Sequence[Sequence[float]],
    levels: Mapping[str, float],
    chosen: Sequence[int],
) -> bytes:
    """Accuracy on the test against the number of experts, seed by seed and their mean, between floor and ceiling.

    Args:
        teacher: ``[seeds][numbers]``, of the ensembles.
        student: ``[seeds][numbers]``, of the students that they teach.
        levels: accuracies that do not depend on the number, by their names.
        chosen: the numbers that validation chose, one per seed.
    """
    with draw() as drawing:
        axes = drawing.ax
        for values, colour, name in ((teacher, COLOURS[0], "ensemble"), (student, COLOURS[1], "student it teaches")):
            for one in values:
                axes.plot(numbers, one, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(numbers, np.mean(values, axis=0), "o-", color=colour, label=name)
        for (name, level), colour in zip(levels.items(), (COLOURS[7], COLOURS[2], COLOURS[3]), strict=False):
            axes.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=name)
        low = axes.get_ylim()[0]
        axes.plot(chosen, [low] * len(chosen), "^", color=COLOURS[4], clip_on=False, label="chosen by validation")
        axes.set_xscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        describe(
            axes, "experts (logarithmic); thin lines are seeds", "accuracy on test examples", "Accuracy against rounds"
        )
        bottom, top = axes.get_ylim()
        if top - bottom < 0.02:
            axes.set_ylim(max(0.0, bottom - 0.05), min(1.0, top + 0.05))
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return drawing.png


def students(found: Mapping[str, Gain], confidence: float) -> bytes:
    """Gain of each student over the single-taught one, best at the top, with its interval and its seeds."""
    ranked = sorted(found.items(), key=lambda pair: pair[1].mean)
    with draw() as drawing:
        drawing.figure.set_size_inches(7.0, 1.6 + 0.36 * len(ranked))
        axes = drawing.ax
        axes.axvline(0.0, color=COLOURS[7], linewidth=1.2, label="single-taught student")
        for place, (_, one) in enumerate(ranked):
            spread = [[one.mean - one.low], [one.high - one.mean]]
            axes.plot(one.by_seed, [place - 0.22] * len(one.by_seed), ".", color=COLOURS[3], markersize=4)
            axes.errorbar(one.mean, place, xerr=spread, fmt="o", color=COLOURS[0], capsize=3)
        axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        describe(
            axes, f"gain in accuracy ({confidence:.0%} intervals; dots are seeds)", "", "Students, by their teachers"
        )
    return drawing.png


def correlation(matrices: Mapping[str, Sequence[Sequence[float | None]]]) -> bytes:
    """Correlation of experts' errors on validation, in the order of rounds, one panel per arm of several experts."""
    with draw(columns=max(1, len(matrices))) as drawing:
        drawing.figure.set_size_inches(1.5 + 3.6 * max(1, len(matrices)), 3.9)
        panels = drawing.axes if len(matrices) > 1 else [drawing.ax]
        if not matrices:
            drawing.ax.set(title="One expert alone: no pair to correlate", xticks=[], yticks=[])
        for axes, (name, matrix) in zip(panels, matrices.items(), strict=False):
            values = np.array([[np.nan if one is None else one for one in row] for row in matrix], float)
            ends = (0.5, len(values) + 0.5)
            shown = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r", extent=(*ends, *ends[::-1]))
            axes.grid(visible=False)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set(xlabel="expert", ylabel="expert", title=name)
        if matrices:
            drawing.figure.colorbar(shown, ax=list(panels), label="correlation of errors", shrink=0.85)
    return drawing.png

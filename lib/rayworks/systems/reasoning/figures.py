"""Figures of a run: the arms beside the start, how likelihoods move, and accuracy against the tokens it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayworks.core.figures import COLOURS, describe, draw
from rayworks.systems.reasoning.findings import Estimate


def arms(before: Estimate, found: Mapping[str, Estimate], confidence: float) -> bytes:
    """Greedy accuracy of every arm after the first round, best at the top, with its interval."""
    ranked = sorted(found.items(), key=lambda pair: pair[1].mean)
    with draw() as drawing:
        drawing.figure.set_size_inches(7.0, 1.6 + 0.36 * len(ranked))
        axes = drawing.ax
        axes.axvspan(before.low, before.high, color=COLOURS[7], alpha=0.15)
        axes.axvline(before.mean, color=COLOURS[7], linewidth=1.2, label="before")
        for place, (_, one) in enumerate(ranked):
            spread = [[one.mean - one.low], [one.high - one.mean]]
            axes.errorbar(one.mean, place, xerr=spread, fmt="o", color=COLOURS[0], capsize=3)
        axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        describe(
            axes,
            f"greedy accuracy on test questions ({confidence:.0%} intervals)",
            "",
            "After one round, by what was learned",
        )
    return drawing.png


def drift(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """By epoch and arm: how the likelihoods of the pairs' two sides move, and the accuracy on validation questions."""
    with draw(columns=3) as drawing:
        drawing.figure.set_size_inches(11.0, 3.9)
        titles = {"chosen": "Chosen steps", "rejected": "Rejected steps", "validation": "Validation questions"}
        for axes, (name, title) in zip(drawing.axes, titles.items(), strict=True):
            for number, (arm, epochs) in enumerate(found.items()):
                style = "-" if number < len(COLOURS) else "--"
                values = [epoch[name] for epoch in epochs]
                places = range(1, len(values) + 1)
                axes.plot(places, values, f"o{style}", color=COLOURS[number % len(COLOURS)], label=arm)
            axes.xaxis.get_major_locator().set_params(integer=True)
            word = "greedy accuracy" if name == "validation" else "change of log-likelihood, nats"
            describe(axes, "epoch", word, title, legend=7)
            if axes is not drawing.axes[0]:
                axes.get_legend().remove()
    return drawing.png


def methods(found: Mapping[str, tuple[float | None, Estimate]], confidence: float) -> bytes:
    """Accuracy of each way to answer, with its interval; what it costs stands beside its name."""
    ranked = sorted(found.items(), key=lambda pair: pair[1][1].mean)
    with draw() as drawing:
        drawing.figure.set_size_inches(7.0, 1.6 + 0.36 * len(ranked))
        axes = drawing.ax
        for place, (name, (_, one)) in enumerate(ranked):
            colour = COLOURS[1] if name.startswith("search") else COLOURS[0]
            axes.errorbar(
                one.mean, place, xerr=[[one.mean - one.low], [one.high - one.mean]], fmt="o", color=colour, capsize=3
            )
        labels = [name if tokens is None else f"{name}\n{tokens:.0f} tokens" for name, (tokens, _) in ranked]
        axes.set_yticks(range(len(ranked)), labels)
        axes.set(xlabel=f"accuracy ({confidence:.0%} intervals)", title="Answers without knowing them, per question")
    return drawing.png

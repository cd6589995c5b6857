"""Figures of a run: calibration, causes, policies, effects by step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.figures import COLOURS, describe, draw
from rayworks.systems.recommendation.causes.attribution import member_half_width

Values = Mapping[str, Any]
NORMAL = 1.96
"""Standard errors on each side of a 95 % interval."""
CAUSE_NAMES = {
    "item": "this item, not another",
    "previous_decision": "last one accepted,\nnot rejected",
    "natural_preference": "own taste,\nnot others'",
    "recommender": "recommendations so far,\nnot none",
}


def calibration(acceptance: Values) -> bytes:
    """Share accepted against the chance that was given, and how often each chance was given."""
    curve = {name: np.array(values) for name, values in acceptance["reliability"].items()}
    spread = np.sqrt(curve["outcome"] * (1 - curve["outcome"]) / curve["count"])
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        left.plot([0, 1], [0, 1], color=COLOURS[7], linewidth=1, label="honest")
        points, name = (curve["prediction"], curve["outcome"], NORMAL * spread), "acceptance model"
        left.errorbar(*points, fmt="o-", color=COLOURS[0], label=name)
        left.set(xlabel="chance given", ylabel="share accepted", title="Calibration, test window")
        left.set(xlim=(0, 1), ylim=(0, 1))
        left.legend(loc="upper left")
        steps = acceptance["steps"]
        at = np.array(steps["step"]) + 1
        right.plot(at, steps["outcome"], "o-", color=COLOURS[1], label="share accepted")
        right.plot(at, steps["prediction"], "s--", color=COLOURS[0], label="mean chance given")
        areas = np.array(acceptance["step_auc"], dtype=float)
        right.plot(at, areas, "^:", color=COLOURS[2], label="AUC")
        right.set(xlabel="step of the test window", ylim=(0, 1), title="By step")
        if len(at) < 12:
            right.set_xticks(at)
        right.legend(loc="lower right")
    return drawing.png


def attribution(found: Values) -> bytes:
    """Do-contrasts of some users' last recommendation, with intervals over members."""
    examples: Sequence[Values] = found["examples"]
    causes = found["causes"]
    columns = min(len(examples), 2)
    with draw(-(-len(examples) // columns), columns, squeeze=False, sharey=True, sharex=True) as drawing:
        for axes in drawing.axes.flat[len(examples) :]:
            axes.set_visible(False)
        for axes, example in zip(drawing.axes.flat, examples, strict=False):
            error = example["half_width"]
            colours = [COLOURS[2] if value >= 0 else COLOURS[1] for value in example["contrast"]]
            positions, bars = np.arange(len(causes)), {"height": 0.6, "ecolor": COLOURS[7], "capsize": 3}
            axes.barh(positions, example["contrast"], xerr=error, color=colours, **bars)
            axes.axvline(0, color=COLOURS[7], linewidth=1)
            axes.set_yticks(positions, [CAUSE_NAMES[cause] for cause in causes])
            outcome = "accepted" if example["accepted"] else "rejected"
            who = f"user {example['user']}, item {example['item']}"
            axes.set_title(f"{who}\nchance {example['probability']:.2f}, {outcome}")
            axes.set_xlabel("change of the chance")
            axes.tick_params(labelbottom=True)
        drawing.axes.flat[0].invert_yaxis()
    return drawing.png


def policies(found: Values) -> bytes:
    """Value of mixtures with the uniform policy, and by step: true, imagined by the model, estimated from the log."""
    mixtures = {name: one for name, one in found.items() if one["exploration"] is not None}
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        if mixtures:
            _by_exploration(left, mixtures)
        else:
            _bars(left, found)
        for (name, one), colour in zip(found.items(), (*COLOURS, *COLOURS), strict=False):
            steps = 1 + np.arange(len(one["imagined"]))
            right.plot(steps, one["imagined"], "--" if one["true"] else "-", color=colour, linewidth=1.4)
            if one["true"]:
                right.plot(steps, one["true"], color=colour, linewidth=1.4)
            # "logged kind, exploration 0.5" is known by its number.
            right.lines[-1].set_label(name.rpartition(" ")[2] if name.startswith("logged kind") else name)
        title = "By step (dashed: imagined)" if mixtures else "By step, imagined"
        right.set(xlabel="recommendation", ylabel="share accepted", title=title)
        side = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        right.legend(fontsize=8, title="exploration, or policy" if mixtures else None, **side)
    return drawing.png


def _by_exploration(axes: Any, mixtures: Mapping[str, Values]) -> None:
    at = np.array([one["exploration"] for one in mixtures.values()])
    axes.plot(at, [np.mean(one["true"]) for one in mixtures.values()], "o-", color=COLOURS[7], label="true")
    axes.errorbar(at, *_imagined(mixtures), fmt="s--", color=COLOURS[0], label="imagined by the model")
    ranges = [(one["exploration"], *one["range"]) for one in mixtures.values() if one["range"] is not None]
    if ranges:
        axes.vlines(
            *np.array(ranges).T, color=COLOURS[0], linewidth=6, alpha=0.3, label="adjusted by held-out decisions"
        )
    for (name, words), colour, shift in zip(
        (("wpdis", "log, per decision"), ("wdr", "log and model")), COLOURS[1:], (0.015, -0.015), strict=False
    ):
        chosen = [(one["exploration"], one["estimates"][name]) for one in mixtures.values() if name in one["estimates"]]
        if chosen:
            value = np.array([estimate["value"] for _, estimate in chosen])
            low, high = (np.array([estimate[end] for _, estimate in chosen]) for end in ("low", "high"))
            position = np.array([exploration for exploration, _ in chosen]) + shift
            axes.errorbar(position, value, [value - low, high - value], fmt="^", color=colour, label=words, capsize=3)
    describe(axes, "weight of the uniform policy", "share accepted", "Value of policies", ylim=(0, 1.05))


def _imagined(found: Values) -> tuple[np.ndarray, np.ndarray]:
    """Mean acceptance by the first model under each policy, and its half-width over the members; 0 where unknown."""
    members = [np.mean(one["members"], 1) for one in found.values()]
    spread = np.nan_to_num([member_half_width(values) for values in members])
    return np.array([np.mean(one["imagined"]) for one in found.values()]), spread


def _bars(axes: Any, found: Values) -> None:
    positions, (imagined, spread) = np.arange(len(found)), _imagined(found)
    axes.barh(positions, imagined, xerr=spread, color=COLOURS[0], alpha=0.35, height=0.6)
    ranges = [
        (at, *one["range"]) for at, one in zip(positions, found.values(), strict=True) if one["range"] is not None
    ]
    if ranges:
        axes.hlines(*np.array(ranges).T, color=COLOURS[0], linewidth=6, label="adjusted by held-out decisions")
    for position, one in zip(positions, found.values(), strict=True):
        if "wpdis" in one["estimates"]:
            estimate = one["estimates"]["wpdis"]
            error = [[estimate["value"] - estimate["low"]], [estimate["high"] - estimate["value"]]]
            label = None if "log, per decision" in axes.get_legend_handles_labels()[1] else "log, per decision"
            look = {"fmt": "^", "color": COLOURS[1], "capsize": 3, "label": label}
            axes.errorbar([estimate["value"]], [position], xerr=error, **look)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    axes.set_yticks(positions, list(found))
    axes.set(xlabel="share accepted, imagined", xlim=(0, 1), title="Value of policies")


def effects(treatment: Values) -> bytes:
    """Effect of earlier recommendations on acceptance, by step."""
    step, effect = np.array(treatment["step"]), np.array(treatment["effect"])
    with draw() as drawing:
        drawing.ax.axhline(0, color=COLOURS[7], linewidth=1)
        drawing.ax.plot(step, effect, "o-", color=COLOURS[0], markersize=4, label="the model's")
        if treatment["half_width"] is not None:
            spread = np.array(treatment["half_width"])
            drawing.ax.fill_between(step, effect - spread, effect + spread, color=COLOURS[0], alpha=0.2, linewidth=0)
        if treatment["true"] is not None:
            drawing.ax.plot(step, treatment["true"], "s--", color=COLOURS[1], markersize=4, label="true")
        drawing.ax.set(xlabel="recommendation", ylabel="change of the chance of acceptance")
        drawing.ax.set_title("What earlier recommendations did to this one's acceptance")
        drawing.ax.legend()
    return drawing.png

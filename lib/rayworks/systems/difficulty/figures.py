"""Figures of a run, each drawn from its plain results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.figures import COLOURS, describe, draw
from rayworks.core.proportions import WILSON
from rayworks.systems.difficulty.calibration import parameters_from_dict

Result = Mapping[str, Any]
CURVES = 7
"""Item curves drawn: a spread over the scale, for more cannot be told apart."""
NEWCOMER = 150
"""Rating deviation from which on a rating says nothing worth drawing."""
BEYOND = 2.5
"""Logits shown beyond the extreme items: a wider interval says no more."""
LISTED = 24
"""Items named in the caterpillar plot: the hardest and the easiest."""


def difficulties(result: Result, bootstrap: Result | None) -> bytes:
    """Items from easy to hard with 95 % intervals; items without a plain estimate are marked."""
    b, error = np.array(result["parameters"]["difficulty"]), np.array(result["errors"]["difficulty"])
    order = np.argsort(b)
    held = np.isin(order, result["unbounded"])
    position = np.arange(len(b))
    with draw() as drawing:
        ax = drawing.ax
        if bootstrap is not None:
            wide = np.where(held, 0.0, WILSON * np.array(bootstrap["difficulty"])[order])
            over = f"bootstrap over {'families' if result['families'] < result['subjects'] else 'subjects'}"
            ax.vlines(position, b[order] - wide, b[order] + wide, color="#d5dbe3", linewidth=3.2, label=over)
        reach = WILSON * error[order]
        ax.errorbar(position, b[order], reach, fmt=".", color=COLOURS[0], linewidth=1, label="95 % interval")
        if held.any():
            told = "no estimate without the prior"
            ax.plot(position[held], b[order][held], "s", color=COLOURS[1], markersize=5, label=told)
        ax.set_ylim(b.min() - BEYOND, b.max() + BEYOND)
        ax.set(xlabel="item, easiest first", ylabel="difficulty (logits)", title=f"{result['name']}: {len(b)} items")
        if len(b) <= LISTED:
            ax.set_xticks(position, [result["items"][index] for index in order], rotation=60, ha="right", fontsize=7)
        ax.legend(fontsize=8, loc="upper left")
    return drawing.png


def item_curves(result: Result) -> bytes:
    """Characteristic curves of a spread of items, and what the whole test tells at each ability."""
    parameters = parameters_from_dict(result["parameters"])
    order = np.argsort(parameters.difficulty)
    chosen = order[np.unique(np.linspace(0, len(order) - 1, CURVES).round().astype(int))]
    grid = np.array(result["information"]["ability"])
    curves = parameters.take(chosen).probability(grid)
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        for item, curve, colour in zip(chosen, curves, COLOURS, strict=False):
            left.plot(grid, curve, color=colour, label=str(result["items"][item])[:28])
        describe(left, "ability", "chance to solve", "Item characteristic curves", legend=7, ylim=(-0.02, 1.02))
        information = np.array(result["information"]["test"])
        right.plot(grid, information, color=COLOURS[0], label="information")
        right.set(xlabel="ability", ylabel="Fisher information", title="What the whole set tells")
        error = right.twinx()
        error.plot(grid, 1 / np.sqrt(np.maximum(information, 1e-9)), "--", color=COLOURS[1])
        error.set_ylim(0, 1.5)
        error.set_ylabel("standard error of ability (dashed)", color=COLOURS[1])
        error.grid(visible=False)
    return drawing.png


def wright_map(result: Result) -> bytes:
    """Abilities of subjects and difficulties of items on one scale."""
    ability = np.array(result["abilities"]["ability"])
    b = np.array(result["parameters"]["difficulty"])
    edges = np.linspace(min(ability.min(), b.min()) - 0.1, max(ability.max(), b.max()) + 0.1, 22)
    with draw(columns=2, sharey=True) as drawing:
        left, right = drawing.axes
        left.hist(ability, edges, orientation="horizontal", color=COLOURS[0])
        left.invert_xaxis()
        left.set(xlabel="subjects", ylabel="logits", title="Abilities")
        right.hist(b, edges, orientation="horizontal", color=COLOURS[3])
        right.set(xlabel="items", title="Difficulties")
    return drawing.png


def accuracy_by_difficulty(profiles: Sequence[Result], evaluated: Sequence[Result]) -> bytes:
    """Accuracy of groups of subjects, and of evaluated models, against difficulty."""
    with draw(columns=2 if evaluated else 1, squeeze=False) as drawing:
        panels = [("Groups of subjects", "difficulty (logits)", [(p["group"], p) for p in profiles])]
        panels += [("Evaluated models", "rating", [(e["model"], e["profile"]) for e in evaluated])] if evaluated else []
        for ax, (title, label, curves) in zip(drawing.axes[0], panels, strict=True):
            for colour, (name, found) in zip(COLOURS, curves, strict=False):
                curve = {key: np.array(values) for key, values in found["curve"].items()}
                reach = np.abs(np.stack([curve["low"], curve["high"]]) - curve["accuracy"])
                dots = {"fmt": "o", "color": colour, "markersize": 4, "linewidth": 0.8}
                ax.errorbar(curve["difficulty"], curve["accuracy"], reach, **dots)
                half = found["half_point"]
                note = f", 50 % at {half:.2f}" if half is not None and abs(half) < 50 else ""
                ax.plot(found["grid"], found["fitted"], color=colour, label=f"{name[:30]}{note}")
                ax.fill_between(found["grid"], *found["band"], color=colour, alpha=0.13, linewidth=0)
            describe(ax, label, "accuracy", title, ylim=(-0.03, 1.03))
    return drawing.png


def adaptive_tests(errors: Mapping[str, Sequence[Result]]) -> bytes:
    """Error of a new subject's score against the number of items asked, per set."""
    shown = {name: values for name, values in errors.items() if values}
    with draw() as drawing:
        ax = drawing.ax
        for colour, (name, values) in zip(COLOURS, shown.items(), strict=False):
            sizes = [value["size"] for value in values]
            for kind, style, what in (("chosen", "o-", "chosen items"), ("plain", "x:", "mean of random items")):
                ax.plot(sizes, [value[kind] for value in values], style, color=colour, label=f"{name}: {what}")
        ax.set(xlabel="items asked", ylabel="mean absolute error of the score")
        ax.set_title("Scores of new subjects from few items")
        ax.set_ylim(bottom=0)
        if shown:
            ax.legend(fontsize=7, ncols=2)
    return drawing.png


def rating_history(rated: Sequence[Result]) -> bytes:
    """Ratings of the players with most games over the periods, with 95 % bands."""
    with draw(rows=max(1, len(rated)), squeeze=False) as drawing:
        for ax, result in zip(drawing.axes[:, 0], rated, strict=False):
            history = result["history"]
            x = np.arange(len(history["period"]))
            for colour, name, rating, deviation in zip(
                COLOURS, history["player"], history["rating"], history["deviation"], strict=False
            ):
                known = np.array(deviation) < NEWCOMER
                middle = np.where(known, rating, np.nan)
                reach = WILSON * np.array(deviation)
                ax.plot(x, middle, color=colour, label=str(name)[:24])
                ax.fill_between(x, middle - reach, middle + reach, color=colour, alpha=0.08, linewidth=0)
            step = max(1, len(x) // 8)
            ax.set_xticks(x[::step], [str(period)[:10] for period in history["period"][::step]], fontsize=8)
            ax.set(xlabel="period", ylabel="rating", title=f"{result['name']}: {result['system']}")
            ax.legend(fontsize=7, ncols=2)
    return drawing.png

"""Figures of a run: the plane of usability and safety, rates, words, and how fluent the finds are."""

from collections.abc import Mapping, Sequence

import numpy as np

from rayworks.core.figures import COLOURS, describe, draw, logarithmic
from rayworks.systems.refusal.evaluation.rates import Rates, Share

MARKS = "osD^v<>"


def plane(places: Mapping[str, Mapping[str, Share]]) -> bytes:
    """Usability against safety of every model, with intervals; the best corner is at the top right."""
    with draw() as drawing:
        axes = drawing.ax
        for number, (name, place) in enumerate(places.items()):
            usability, safety = place["usability"], place["safety"]
            if usability.share is None or safety.share is None:
                continue
            colour, at = COLOURS[number % len(COLOURS)], (usability.share, safety.share)
            across, up = (_reach(share, one) for share, one in zip(at, (usability, safety), strict=True))
            mark = MARKS[number % len(MARKS)]
            axes.errorbar(*at, xerr=across, yerr=up, fmt=mark, mfc="none", color=colour, capsize=3, label=name)
        axes.set_aspect("equal")
        describe(
            axes,
            "usability: harmless prompts that are not refused",
            "safety: harmful prompts that are refused",
            "Usability and safety (95 % intervals)",
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.03),
        )
    return drawing.png


def _reach(share: float, one: Share) -> list[list[float]]:
    """How far an interval goes to both sides; at 0 and 1 rounding may put its end beyond the share."""
    return [[max(0.0, share - one.low)], [max(0.0, one.high - share)]]


def rates(found: Mapping[tuple[str, str], Sequence[Rates]]) -> bytes:
    """Bars of refusals in full and in part by model, set and label, with the interval of their sum."""
    bars = [
        (f"{model}: {name}, {one.label}", one)
        for (model, name), groups in found.items()
        for one in groups
        if one.total.share is not None
    ][::-1]
    with draw() as drawing:
        drawing.figure.set_size_inches(7.5, 1.8 + 0.36 * max(1, len(bars)))
        axes, places = drawing.ax, np.arange(len(bars))
        full = np.array([one.full.share or 0.0 for _, one in bars])
        total = np.array([one.total.share or 0.0 for _, one in bars])
        low, high = (np.array([getattr(one.total, end) for _, one in bars]) for end in ("low", "high"))
        axes.barh(places, full, color=COLOURS[1], label="in full")
        axes.barh(places, total - full, left=full, color=COLOURS[3], label="in part")
        axes.errorbar(
            total, places, xerr=np.maximum([total - low, high - total], 0.0), fmt="none", color=COLOURS[7], capsize=2
        )
        axes.set_yticks(places, [name for name, _ in bars])
        describe(axes, "share refused (95 % intervals)", "", "Refusals", xlim=(0, 1.0))
    return drawing.png


def scan(words: Sequence[tuple[str, float]]) -> bytes:
    """The words that are refused most."""
    with draw() as drawing:
        drawing.figure.set_size_inches(7.0, 1.6 + 0.24 * max(1, len(words)))
        axes, ranked = drawing.ax, list(words)[::-1]
        axes.plot([value for _, value in ranked], range(len(ranked)), "o", color=COLOURS[0])
        axes.set_yticks(range(len(ranked)), [word for word, _ in ranked])
        axes.set(xlabel="log-probability of the refusal, in nats", title="Words that the target cannot hear")
        if not ranked:
            axes.set(title="No scan: words were preselected otherwise", xticks=[])
    return drawing.png


def perplexities(found: Mapping[str, Sequence[float]]) -> bytes:
    """Points and medians of perplexities, by way, on a logarithmic axis."""
    from matplotlib.ticker import LogLocator

    with draw() as drawing:
        axes, shown = drawing.ax, {name: values for name, values in found.items() if len(values)}
        drawing.figure.set_size_inches(7.0, 1.8 + 0.6 * max(1, len(shown)))
        for place, values in enumerate(reversed(shown.values())):
            spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(values, place + spread, ".", color=COLOURS[place % len(COLOURS)], alpha=0.6)
            axes.plot([np.median(values)] * 2, [place - 0.3, place + 0.3], color=COLOURS[7])
        axes.set_yticks(range(len(shown)), [f"{name} ({len(values)})" for name, values in reversed(shown.items())])
        logarithmic(axes, "x")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.set(xlabel="perplexity as a user's turn (logarithmic); bars are medians", title="Fluency of the finds")
    return drawing.png

"""The measured price of safety as a picture: gaps by share, and the curves fitted to them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rayworks.core.figures import COLOURS, describe, draw
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.price_points import (
    EVEN_SHARE,
    PUBLISHED_GAPS,
    PUBLISHED_SHARES,
    PUBLISHED_SPREADS,
    gap_trend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PUBLISHED_COLOUR = COLOURS[7]
SIDE = 0.006
"""Shift of the published means, in share, that keeps two error bars apart."""


def price_of_safety(share: np.ndarray, gap: np.ndarray, curves: Sequence[PriceCurve], published: PriceCurve) -> bytes:
    """Gap against share with all runs, and cost against compliance beside the published curve, as PNG.

    Args:
        share: minority share of each run, shape (N,).
        gap: its equalised-odds gap in percentage points, shape (N,).
        curves: fitted to these runs; each is dotted where it does not rise.
    """
    shares, position = np.unique(share, return_inverse=True)
    count = np.bincount(position)
    mean = np.bincount(position, gap) / count
    spread = np.sqrt(np.bincount(position, (gap - mean[position]) ** 2) / np.maximum(count - 1, 1))
    trend = gap_trend(share, gap) if len(shares) > 1 else None
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        left.plot(share, gap, ".", color=COLOURS[0], alpha=0.25, markersize=5)
        left.errorbar(shares, mean, spread, fmt="o-", color=COLOURS[0], capsize=2, label="measured here: mean, sd")
        shape = {"fmt": "s--", "color": PUBLISHED_COLOUR, "markersize": 4, "linewidth": 1, "capsize": 2}
        beside, name = np.array(PUBLISHED_SHARES) + SIDE, "published (FairFace): mean, sd"
        left.errorbar(beside, PUBLISHED_GAPS, PUBLISHED_SPREADS, **shape, label=name)
        verdict = ""
        if trend is not None:
            says = "falls" if trend.falls else "no clear fall"
            verdict = f": {says}, rank correlation {trend.correlation:.2f} [{trend.low:.2f}, {trend.high:.2f}]"
        across = f"minority share of the training data (cost = share / {EVEN_SHARE:g})"
        describe(left, across, "equalised-odds gap (points)", f"Gap by share{verdict}")
        left.set_ylim(bottom=0)
        for curve, colour in zip(curves, COLOURS[1:], strict=False):
            _draw_curve(right, curve, f"{curve.kind}, R² {curve.r_squared:.2f}", colour)
        if curves:
            right.plot(*np.array(curves[0].points).T, "o", color=COLOURS[0], label="measured here", zorder=4)
        _draw_curve(right, published, f"published, R² {published.r_squared:.2f}", PUBLISHED_COLOUR, "--")
        right.plot(*np.array(published.points).T, "s", color=PUBLISHED_COLOUR, markersize=4)
        right.set(
            xlabel="compliance (relative safety)",
            ylabel="cost",
            title="Price of safety; bands: 95 % over seeds",
            xlim=(min(0.4, *(curve.measured_range[0] - 0.03 for curve in curves)), 1.02) if curves else (0.4, 1.02),
            ylim=(-0.05, 1.25),
        )
        right.legend(fontsize=8, loc="upper left", ncols=2)
    return drawing.png


def _draw_curve(ax: "Axes", curve: PriceCurve, label: str, colour: str, style: str = "-") -> None:
    grid = np.linspace(*curve.measured_range, 201)
    low, high = curve.increasing_range or (np.inf, -np.inf)
    rises = (grid >= low) & (grid <= high)
    ax.plot(grid, np.where(rises, curve.fitted(grid), np.nan), style, color=colour, label=label)
    ax.plot(grid, np.where(rises, np.nan, curve.fitted(grid)), ":", color=colour, linewidth=1.2)
    if curve.band is not None:
        band = curve.band
        ax.fill_between(band.safety, band.low, band.high, color=colour, alpha=0.13, linewidth=0)

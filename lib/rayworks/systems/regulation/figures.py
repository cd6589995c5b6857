"""Figures of a run: bids, both mechanisms against the price, gains from leaving the bid, learners, stress, and prices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from rayworks.core.figures import COLOURS, describe, draw, logarithmic
from rayworks.systems.regulation import price_points
from rayworks.systems.regulation.certificate import gains, utility_by_deviation
from rayworks.systems.regulation.design import Design
from rayworks.systems.regulation.equilibrium import Auction, Mode
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.simulation import reachable
from rayworks.systems.regulation.solving import solve

MODES: tuple[Mode, ...] = get_args(Mode)
PRICES = (0.25, 0.5, 0.75)
"""Prices of the paper's own checks."""
POINTS = 401
Values = Mapping[str, Any]
PUBLISHED_COLOUR = COLOURS[7]
SIDE = 0.006
"""Shift of the published means, in share, that keeps two error bars apart."""


def bids(design: Design, distributions: Mapping[str, Any]) -> bytes:
    """What each type spends: the design in all modes, and the paper's rule for other prices and distributions.

    Args:
        distributions: name to distribution, for the right panel.
    """
    auction = design.auction
    z = np.linspace(0, auction.top, POINTS)
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        for mode, colour, style in zip(MODES, COLOURS, ("-", "--", ":"), strict=False):
            left.plot(z, solve(auction, mode).bid(z), style, color=colour, label=mode.replace("_", " "))
        left.axhline(auction.price, color=COLOURS[7], linewidth=1, label="bare threshold")
        title = f"Bids at price {auction.price:.3g}, {auction.distribution.name}"
        describe(left, "worth of the premium", "bid (spent on compliance)", title)
        for (name, distribution), style in zip(distributions.items(), ("-", "--", ":", "-."), strict=False):
            for price, colour in zip(PRICES, COLOURS, strict=False):
                if not reachable(replace(auction, distribution=distribution), price):
                    continue
                at = solve(replace(auction, distribution=distribution, price=price))
                right.plot(z, at.bid(z), style, color=colour, label=f"{name}, price {price:g}")
        describe(right, "worth of the premium", "bid", "The published bid by price and distribution")
    return drawing.png


def participation(curves: Mapping[str, Values]) -> bytes:
    """Share of builders who enter, and the compliance they buy, against the price: one row per distribution."""
    with draw(rows=len(curves), columns=2, squeeze=False) as drawing:
        for (left, right), (distribution, found) in zip(drawing.axes, curves.items(), strict=True):
            exact, drawn = (
                {name: np.array(column, dtype=float) for name, column in found[kind].items()}
                for kind in ("exact", "simulated")
            )
            for name, colour, label, dots in (
                ("participation", COLOURS[0], "auction", "auction, drawn"),
                ("participation_reserve", COLOURS[1], "bare threshold", None),
            ):
                left.plot(exact["price"], exact[name], color=colour, label=label)
                left.plot(drawn["price"], drawn[name], ".", color=colour, markersize=4, label=dots)
            describe(left, "price of the threshold", "share that takes part", f"Participation: {distribution}")
            known, bought = np.isfinite(exact["compliance_reserve"]), ("compliance", "compliance_reserve")
            for name, colour, label in zip(bought, COLOURS, ("auction, mean", "bare threshold"), strict=False):
                right.plot(exact["price"][known], exact[name][known], color=colour, label=label)
            title = f"Compliance: {distribution} (where the price curve is known)"
            reach = left.get_xlim()
            describe(right, "price of the threshold", "compliance of those who take part", title, xlim=reach)
    return drawing.png


def regret(auction: Auction, types: int, deviations: int) -> bytes:
    """The paper's check, one percentage for all types; and each type's own best deviation against those who enter."""
    factors = np.linspace(0.5, 1.5, 101)
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        for price, colour in zip(PRICES, COLOURS, strict=False):
            if not reachable(auction, price):
                continue
            utility = utility_by_deviation(solve(replace(auction, price=price)), factors)
            left.plot(100 * (factors - 1), utility, color=colour, label=f"price {price:g}")
        left.axvline(0, color=COLOURS[7], linewidth=1)
        title = "The paper's check: all bids off by one percentage"
        describe(left, "deviation from the bid (%)", "mean utility of all with V >= price", title)
        for mode, colour, style in zip(MODES, COLOURS, ("-", "--", ":"), strict=False):
            profile = gains(solve(auction, mode), "entrants", types, deviations)
            label = f"{mode.replace('_', ' ')}: at most {profile.gain.max():.2g}"
            right.plot(profile.z, profile.gain, style, color=colour, label=label)
        title = f"Each type's own regret, price {auction.price:.3g}"
        describe(right, "worth of the premium", "gain from its best other bid", title)
    return drawing.png


def learning(learners: Sequence[Values]) -> bytes:
    """What learners bid in the end, and how the distance to the equilibrium shrinks."""
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        target = learners[0]
        left.plot(target["premium"], target["target"], color=COLOURS[7], linewidth=4, alpha=0.4, label="equilibrium")
        for found, colour in zip(learners, COLOURS, strict=False):
            name = found["learner"].replace("_", " ")
            left.plot(found["premium"], found["bid"], color=colour, label=name, linewidth=1.2)
            last = f"{name}: {found['distance'][-1]:.2g}"
            right.plot(found["rounds"], found["distance"], "o-", color=colour, label=last)
        describe(left, "worth of the premium", "mean bid", "Learned bids")
        logarithmic(right)
        describe(right, "round", "largest distance to the equilibrium bid", "Sup-norm distance")
    return drawing.png


def stress(found: Mapping[str, Values], noise: Sequence[Values]) -> bytes:
    """Rings, other test data, guessed values, and builders who answer noisy readings."""
    with draw(rows=2, columns=2) as drawing:
        (rings, data), (values, noisy) = drawing.axes
        points = found["rings"]["points"]
        share = [point["share"] for point in points]
        rings.plot(share, [point["member_gain"] for point in points], "o-", label="a member of the ring")
        rings.plot(share, [point["outsider_gain"] for point in points], "o-", label="an outsider")
        rings.axhline(0, color=COLOURS[7], linewidth=1)
        describe(rings, "share of entrants in the ring", "mean change of utility", "A ring bids the bare price")
        _lines(data, found["test data"]["points"], "level", ("rejected", "misranked", "at_a_loss"))
        describe(data, "spread of the regulator's reading (compliance)", "share", "Other test data, unforeseen")
        _lines(values, found["values"]["points"], "level", ("participation", "at_a_loss", "utility"))
        mixed = "share, or mean utility of those who enter"
        describe(values, "relative error of a builder's guess", mixed, "Values not known")
        across, title = "standard deviation of a reading (compliance)", "Noise that builders answer"
        if noise:
            _lines(noisy, noise, "noise", ("participation", "cleared", "mean_bid"))
            describe(noisy, across, "share, or bid", title)
        else:
            noisy.set(xlabel=across, ylabel="share, or bid", title=f"{title}: not run")
    return drawing.png


def _lines(ax: Any, points: Sequence[Values], across: str, names: Sequence[str]) -> None:
    at = [point[across] for point in points]
    for name in names:
        ax.plot(at, [point[name] for point in points], "o-", label=name.replace("_", " "))


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
    trend = price_points.gap_trend(share, gap) if len(shares) > 1 else None
    with draw(columns=2) as drawing:
        left, right = drawing.axes
        left.plot(share, gap, ".", color=COLOURS[0], alpha=0.25, markersize=5)
        left.errorbar(shares, mean, spread, fmt="o-", color=COLOURS[0], capsize=2, label="measured here: mean, sd")
        shape = {"fmt": "s--", "color": PUBLISHED_COLOUR, "markersize": 4, "linewidth": 1, "capsize": 2}
        beside, name = np.array(price_points.PUBLISHED_SHARES) + SIDE, "published (FairFace): mean, sd"
        left.errorbar(beside, price_points.PUBLISHED_GAPS, price_points.PUBLISHED_SPREADS, **shape, label=name)
        verdict = ""
        if trend is not None:
            says = "falls" if trend.falls else "no clear fall"
            verdict = f": {says}, rank correlation {trend.correlation:.2f} [{trend.low:.2f}, {trend.high:.2f}]"
        across = f"minority share of the training data (cost = share / {price_points.EVEN_SHARE:g})"
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


def _draw_curve(ax: Any, curve: PriceCurve, label: str, colour: str, style: str = "-") -> None:
    grid = np.linspace(*curve.measured_range, 201)
    low, high = curve.increasing_range or (np.inf, -np.inf)
    rises = (grid >= low) & (grid <= high)
    ax.plot(grid, np.where(rises, curve.fitted(grid), np.nan), style, color=colour, label=label)
    ax.plot(grid, np.where(rises, np.nan, curve.fitted(grid)), ":", color=colour, linewidth=1.2)
    if curve.band is not None:
        band = curve.band
        ax.fill_between(band.safety, band.low, band.high, color=colour, alpha=0.13, linewidth=0)

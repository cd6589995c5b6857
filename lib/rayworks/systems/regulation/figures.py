"""Figures of a run: bids, both mechanisms against the price, gains from leaving the bid, learners, stress."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from rayworks.core.figures import COLOURS, draw, logarithmic
from rayworks.systems.regulation.certificate import gains, utility_by_deviation
from rayworks.systems.regulation.design import Design
from rayworks.systems.regulation.equilibrium import Auction, Mode, solve
from rayworks.systems.regulation.simulation import reachable

MODES: tuple[Mode, ...] = get_args(Mode)
PRICES = (0.25, 0.5, 0.75)
"""Prices of the paper's own checks."""
POINTS = 401
Values = Mapping[str, Any]


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
        left.set(
            xlabel="worth of the premium",
            ylabel="bid (spent on compliance)",
            title=f"Bids at price {auction.price:.3g}, {auction.distribution.name}",
        )
        left.legend(fontsize=8)
        for (name, distribution), style in zip(distributions.items(), ("-", "--", ":", "-."), strict=False):
            for price, colour in zip(PRICES, COLOURS, strict=False):
                if not reachable(replace(auction, distribution=distribution), price):
                    continue
                at = solve(replace(auction, distribution=distribution, price=price))
                right.plot(z, at.bid(z), style, color=colour, label=f"{name}, price {price:g}")
        right.set(xlabel="worth of the premium", ylabel="bid", title="The published bid by price and distribution")
        right.legend(fontsize=8)
    return drawing.png


def participation(curves: Mapping[str, Values]) -> bytes:
    """Share of builders who enter, and the compliance they buy, against the price: one row per distribution."""
    with draw(rows=len(curves), columns=2, squeeze=False) as drawing:
        for (left, right), (distribution, found) in zip(drawing.axes, curves.items(), strict=True):
            exact = {name: np.array(column, dtype=float) for name, column in found["exact"].items()}
            drawn = {name: np.array(column, dtype=float) for name, column in found["simulated"].items()}
            left.plot(exact["price"], exact["participation"], color=COLOURS[0], label="auction")
            left.plot(
                drawn["price"], drawn["participation"], ".", color=COLOURS[0], markersize=4, label="auction, drawn"
            )
            left.plot(exact["price"], exact["participation_reserve"], color=COLOURS[1], label="bare threshold")
            left.plot(drawn["price"], drawn["participation_reserve"], ".", color=COLOURS[1], markersize=4)
            left.set(
                xlabel="price of the threshold", ylabel="share that takes part", title=f"Participation: {distribution}"
            )
            left.legend(fontsize=8)
            known = np.isfinite(exact["compliance_reserve"])
            right.plot(exact["price"][known], exact["compliance"][known], color=COLOURS[0], label="auction, mean")
            right.plot(
                exact["price"][known], exact["compliance_reserve"][known], color=COLOURS[1], label="bare threshold"
            )
            right.set(xlabel="price of the threshold", ylabel="compliance of those who take part", xlim=left.get_xlim())
            right.set_title(f"Compliance: {distribution} (where the price curve is known)")
            right.legend(fontsize=8)
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
        left.set(
            xlabel="deviation from the bid (%)",
            ylabel="mean utility of all with V >= price",
            title="The paper's check: all bids off by one percentage",
        )
        left.legend(fontsize=8)
        for mode, colour, style in zip(MODES, COLOURS, ("-", "--", ":"), strict=False):
            profile = gains(solve(auction, mode), "entrants", types, deviations)
            label = f"{mode.replace('_', ' ')}: at most {profile.gain.max():.2g}"
            right.plot(profile.z, profile.gain, style, color=colour, label=label)
        right.set(
            xlabel="worth of the premium",
            ylabel="gain from its best other bid",
            title=f"Each type's own regret, price {auction.price:.3g}",
        )
        right.legend(fontsize=8)
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
            right.plot(
                found["rounds"], found["distance"], "o-", color=colour, label=f"{name}: {found['distance'][-1]:.2g}"
            )
        left.set(xlabel="worth of the premium", ylabel="mean bid", title="Learned bids")
        left.legend(fontsize=8)
        right.set(xlabel="round", ylabel="largest distance to the equilibrium bid", title="Sup-norm distance")
        logarithmic(right)
        right.legend(fontsize=8)
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
        rings.set(
            xlabel="share of entrants in the ring", ylabel="mean change of utility", title="A ring bids the bare price"
        )
        rings.legend(fontsize=8)
        _lines(data, found["test data"]["points"], "level", ("rejected", "misranked", "at_a_loss"))
        data.set(
            xlabel="spread of the regulator's reading (compliance)", ylabel="share", title="Other test data, unforeseen"
        )
        _lines(values, found["values"]["points"], "level", ("participation", "at_a_loss", "utility"))
        values.set(
            xlabel="relative error of a builder's guess",
            ylabel="share, or mean utility of those who enter",
            title="Values not known",
        )
        if noise:
            _lines(noisy, noise, "noise", ("participation", "cleared", "mean_bid"))
        noisy.set(
            xlabel="standard deviation of a reading (compliance)",
            ylabel="share, or bid",
            title="Noise that builders answer" if noise else "Noise that builders answer: not run",
        )
    return drawing.png


def _lines(ax: Any, points: Sequence[Values], across: str, names: Sequence[str]) -> None:
    for name in names:
        ax.plot(
            [point[across] for point in points], [point[name] for point in points], "o-", label=name.replace("_", " ")
        )
    ax.legend(fontsize=8)

"""Quotes: what the equilibrium of a design recommends to a builder, in whole cents.

The equilibrium is solved in floating point, in units of value; money enters and leaves it through ``Decimal``, and a bid is
rounded up, so that rounding never takes it below the price.
"""

from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Literal

from rayworks.core.errors import DataError
from rayworks.systems.regulation.config import AuctionSection
from rayworks.systems.regulation.design import Design, make_design
from rayworks.systems.regulation.exported import read_export
from rayworks.systems.regulation.price_curve import published_curve
from rayworks.systems.regulation.solving import solve

from .regulation_schemas import QuoteAnswer, QuoteBody

TINY = QuoteBody(value=1, share=Decimal("0.1"))
"""Of a health check."""


class Quotes:
    """Quotes of one design.

    Args:
        folder: a finished run's ``export``; ``None`` for the paper's design on its published price curve.
        unit_cents: what a value of 1 is worth.

    Raises:
        DataError: the folder holds something else, or does not exist.
    """

    def __init__(self, folder: str | None, unit_cents: int) -> None:
        self._unit = unit_cents
        self.design: Literal["published", "export"] = "published" if folder is None else "export"
        """Where quotes come from."""
        self._design = (
            make_design(AuctionSection(), published_curve()) if folder is None else read_export(folder).design
        )

    def check(self) -> None:
        """A real quote."""
        self._quote(self._design, TINY)

    def quote(self, body: QuoteBody) -> QuoteAnswer:
        """What a builder of this type should do.

        Raises:
            DataError: value, share or price is outside of what the design is for.
        """
        design = self._design if body.price is None else _at_price(self._design, body.price)
        return self._quote(design, body)

    def _quote(self, design: Design, body: QuoteBody) -> QuoteAnswer:
        auction, equilibrium = design.auction, design.equilibrium
        if body.value > self._unit:
            raise DataError(f"value: {body.value} is above {self._unit}, which a value of 1 stands for; lower it")
        if body.share > Decimal(repr(auction.largest_share)):
            raise DataError(
                f"share: {body.share} is above {auction.largest_share}, the largest of the design; lower it"
            )
        premium = body.value * body.share
        worth = premium * Decimal(repr(auction.premium_scale))
        kind = float(worth / self._unit)
        win = float(equilibrium.win(kind))
        price = self._cents_up(auction.price)
        bid = max(self._cents_up(float(equilibrium.bid(kind))), price)
        utility = (body.value - premium) + worth * Decimal(repr(win)) - bid
        return QuoteAnswer(
            deployment_value_cents=body.value - _nearest(premium),
            premium_worth_cents=_nearest(worth),
            bid_cents=bid,
            bid=bid / self._unit,
            win_probability=win,
            interim_utility_cents=_nearest(utility),
            participate=utility > 0,
            compliance=float(design.curve.compliance(bid / self._unit, saturate=True)),
            price=auction.price,
            price_cents=price,
            threshold=design.rules.threshold,
            unit_cents=self._unit,
            builders=auction.builders,
            left_over=equilibrium.left_over,
            mode=equilibrium.mode,
            design=self.design,
        )

    def _cents_up(self, value: float) -> int:
        # The shortest decimal of a float is what was meant: 0.1, not 0.1000000000000000055.
        return int((Decimal(repr(value)) * self._unit).to_integral_value(ROUND_CEILING))


def _at_price(design: Design, price: float) -> Design:
    """The same design at another price, solved again.

    Raises:
        DataError: the price is outside the curve's range, above the cap, or above every value.
    """
    try:
        threshold = float(design.curve.compliance(price))
        equilibrium = solve(replace(design.auction, price=price), design.equilibrium.mode)
    except DataError as error:
        raise DataError(f"price: {error}") from None
    return Design(equilibrium, replace(design.rules, threshold=threshold), design.curve)


def _nearest(cents: Decimal) -> int:
    return int(cents.to_integral_value(ROUND_HALF_EVEN))

"""Conservation of cents, whatever the outcome."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.regulation.mechanism import Rules, run_mechanism
from rayworks.systems.regulation.settlement import apportion, exact_parts, share_premiums


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), max_size=30))
def test_apportioned_parts_add_up_and_keep_to_their_quotas(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == (total if sum(weights) else 0)
    for part, weight in zip(parts, weights, strict=True):
        quota = Fraction(total * weight, sum(weights) or 1)
        assert quota - 1 < part < quota + 1
        assert weight or not part


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Rules, list[float], list[float], list[float]]:
    """Rules and scores on a coarse scale, so that many tie; any pairing."""
    size = draw(st.integers(2, 5))
    rules = Rules(
        0.25,
        size,
        draw(st.integers(1, size - 1)),
        draw(st.sampled_from(["coin", "split", "void"])),
        draw(st.sampled_from(["chance", "redraw"])),
    )
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=20))
    uniforms = st.lists(st.floats(0, 1, exclude_max=True), min_size=len(scores), max_size=len(scores))
    return rules, scores, draw(uniforms), draw(uniforms)


cents = st.integers(1, 10**11)


@given(rounds(), cents | st.none(), cents | st.none())
def test_no_cent_is_lost_made_or_spent_beyond_the_budget(
    played: tuple[Rules, list[float], list[float], list[float]], premium: int | None, budget: int | None
) -> None:
    outcome = run_mechanism(played[1], played[0], *map(np.array, played[2:]))
    parts, groups = exact_parts(outcome), outcome.group.tolist()
    assert [float(part) for part in parts] == outcome.premium.tolist()
    if premium is None and budget is None:
        with pytest.raises(DataError, match="give at least one"):
            share_premiums(parts, groups, premium, budget)
        return
    found = share_premiums(parts, groups, premium, budget)
    total = sum(found.paid)
    assert budget is None or total <= budget
    assert all(0 <= paid <= due for paid, due in zip(found.paid, found.due, strict=True))
    assert all(part > 0 for part, due in zip(parts, found.due, strict=True) if due)
    if premium is None:
        assert total == (budget if any(parts) else 0)
        return
    assert total == (sum(found.due) if budget is None else min(budget, sum(found.due)))
    for group in set(groups) - {-1}:
        members = [index for index, other in enumerate(groups) if other == group]
        whole = premium * sum((parts[index] for index in members), Fraction(0))
        assert sum(found.due[index] for index in members) == int(whole)
        assert whole.denominator == 1 or len(members) < played[0].group_size


def test_an_odd_cent_goes_to_the_earlier() -> None:
    third = Fraction(1, 3)
    assert share_premiums([third] * 3, [0, 0, 0], 100, None).paid == (34, 33, 33)
    assert share_premiums([Fraction(1)] * 3, [0, 1, 2], 100, 200).paid == (67, 67, 66)
    assert share_premiums([Fraction(1), Fraction(0)], [0, 0], None, 7).paid == (7, 0)
    for premium, budget in ((0, None), (5, -1)):
        with pytest.raises(DataError, match="above 0 cents"):
            share_premiums([third], [0], premium, budget)
    with pytest.raises(DataError, match="negative"):
        apportion(1, [-1])

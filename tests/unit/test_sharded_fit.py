"""A fit over shards is the fit over the whole, however the subjects are dealt."""

from typing import Any

import numpy as np
import pytest

from rayworks.systems.difficulty.item_response.abilities import posterior_means
from rayworks.systems.difficulty.item_response.curves import Model
from rayworks.systems.difficulty.item_response.expectations import working_of
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.sharded_fit import Shard, ShardedFit
from rayworks.systems.difficulty.item_response.standard_errors import from_information, standard_errors
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses
from tests.simulated_responses import simulated


def sharded(responses: Responses, count: int) -> tuple[ShardedFit, list[Shard]]:
    """Dealt in turn, in this process: what Ray does with actors."""
    table = responses.table()
    items = responses.items.astype(str)
    number = {subject: place % count for place, subject in enumerate(responses.subjects)}
    of_row = table["subject"].map(number)
    shards = [Shard(table[of_row == n], items, f"shard {n}", n, "error") for n in range(count)]

    def everywhere(method: str, *arguments: Any) -> list[Any]:
        return [getattr(shard, method)(*arguments) for shard in shards]

    return ShardedFit(everywhere), shards


@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("model", ["1PL", "2PL", "3PL"])
def test_shards_sum_to_the_whole(model: Model, count: int) -> None:
    """Forty shards hold one to eight subjects each, most with items that nobody of theirs saw."""
    data = simulated(0, subjects=200, items=7, model=model, missing=0.15)
    options = FitOptions(model=model)
    responses = data.responses
    matrix = as_matrix(responses)
    whole = fit(matrix, options)
    machine, _ = sharded(responses, count)
    parts = machine.fit(options)
    assert parts.iterations == whole.iterations
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-8)
    np.testing.assert_allclose(
        working_of(parts.parameters).vector, working_of(whole.parameters).vector, rtol=0, atol=1e-8
    )
    expected = standard_errors(matrix, whole, "cross-product")
    found = from_information(machine.information(parts), parts, "cross-product")
    np.testing.assert_allclose(found.difficulty, expected.difficulty, rtol=1e-6)
    ability = machine.abilities(parts)
    alone = posterior_means(matrix, whole)
    order = np.concatenate([np.arange(200)[n::count] for n in range(count)])
    np.testing.assert_allclose(ability.ability, alone.ability[order], atol=1e-8)
    np.testing.assert_allclose(ability.error, alone.error[order], atol=1e-8)


def test_complete_shards_of_one_parameter_meet_the_fast_path() -> None:
    data = simulated(1, subjects=300, items=9)
    whole = fit(data.matrix, FitOptions(model="1PL"))
    parts = sharded(data.responses, 3)[0].fit(FitOptions(model="1PL"))
    np.testing.assert_allclose(parts.parameters.difficulty, whole.parameters.difficulty, atol=1e-8)


def test_halves_are_disjoint_and_together_everybody() -> None:
    data = simulated(2, subjects=400, items=6, missing=0.1)
    machine, shards = sharded(data.responses, 4)
    for repeat in range(3):
        halves = [[shard.totals((7, repeat, side)) for shard in shards] for side in (0, 1)]
        for shard, one, two in zip(shards, *halves, strict=True):
            together = shard.totals()
            np.testing.assert_allclose(one.scored + two.scored, together.scored)
            np.testing.assert_allclose(one.seen + two.seen, together.seen)
            assert one.subjects + two.subjects == together.subjects
    first, second = (
        machine.fit(FitOptions(model="1PL", estimator="map"), (7, 0, side)).parameters.difficulty for side in (0, 1)
    )
    assert not np.allclose(first, second)
    assert np.corrcoef(first, second)[0, 1] > 0.9


def test_fixed_guessing_has_errors_in_shards_too() -> None:
    data = simulated(3, subjects=500, items=6, model="3PL")
    options = FitOptions(model="3PL", guessing=(0.2,))
    machine, _ = sharded(data.responses, 3)
    parts = machine.fit(options)
    found = from_information(machine.information(parts), parts, "cross-product")
    expected = standard_errors(data.matrix, fit(data.matrix, options), "cross-product")
    np.testing.assert_allclose(found.difficulty, expected.difficulty, rtol=1e-6)

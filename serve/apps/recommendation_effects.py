"""Explain acceptance, and predict it under other recommendations, without HTTP."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.causes.attribution import CAUSES, MEMBERS_FOR_INTERVALS, attribute, member_error
from rayworks.systems.recommendation.causes.do_recursion import intervene
from rayworks.systems.recommendation.models.histories import Histories, histories
from rayworks.systems.recommendation.values.roll_out import Policy, greedy_policy, mixture, roll_out, uniform_policy

from . import recommendation_schemas as schemas
from .recommendation_engine import Recommender, as_floats, interval, last, require_at_most

MOST_CELLS = 4_000_000
"""Rollouts x items of one step: 32 MB a table."""
LARGE_SIMULATION_ERROR = 0.01
IN_WORDS = {
    "item": "being this item and not the average of the catalogue",
    "previous_decision": "that the last recommendation is accepted and not rejected",
    "natural_preference": "what this user took unasked, against what other users took,",
    "recommender": "all that was recommended before, against no recommendation,",
}
NOTE = "Each contrast changes one cause and leaves the others as they are; the four do not add up to the probability."


def explain(recommender: Recommender, body: schemas.AttributeBody) -> schemas.AttributeAnswer:
    """Do-contrasts of some items for one user.

    Raises:
        DataError: naming the event or item at fault.
    """
    require_at_most("items", len(body.items), recommender.limits.attributed)
    whole = recommender.past(body.events)
    past = last(whole.events, recommender.holds)
    codes = torch.tensor([recommender.codes(body.items, "items")])
    found = attribute(recommender.models, histories([past]), codes, recommender.reference)
    errors = as_floats(member_error(found.probability)[0])
    columns = (body.items, found.probability[0, 0].tolist(), errors, found.mean()[0], found.error()[0])
    items = [_attributed(*row, recommender) for row in zip(*columns, strict=True)]
    return schemas.AttributeAnswer(
        items=items,
        compared_users=len(recommender.reference),
        events_used=len(past),
        note=NOTE,
        **recommender.left_out(whole),
    )


def _attributed(
    item: str, probability: float, error: float | None, values: np.ndarray, errors: np.ndarray, recommender: Recommender
) -> schemas.AttributedItem:
    reach = recommender.quantile
    contrasts = {
        cause: schemas.Contrast(value=value, model_spread=spread, spread_interval=interval(value, spread, reach, -1, 1))
        for cause, value, spread in zip(CAUSES, values.tolist(), as_floats(errors), strict=True)
    }
    strongest = CAUSES[int(np.abs(values).argmax())]
    return schemas.AttributedItem(
        item=item,
        probability=probability,
        model_spread=error,
        held_out=recommender.like_it(probability, chosen=False),
        contrasts=schemas.Contrasts(**contrasts),
        strongest=strongest,
        sentence=_sentence(item, strongest, contrasts[strongest]),
    )


def _sentence(item: str, cause: str, contrast: schemas.Contrast) -> str:
    words = IN_WORDS[cause][0].upper() + IN_WORDS[cause][1:]
    direction = "raises" if contrast.value > 0 else "lowers"
    said = f"{words} {direction} the chance that {item} is accepted by {abs(contrast.value):.3f}"
    if contrast.spread_interval is None:
        return f"{said}; how sure that is, is not known."
    low, high = contrast.spread_interval
    doubt = "which may be chance" if low <= 0 <= high else "and models of other users agree on its sign"
    return f"{said} ({low:+.3f} to {high:+.3f} by models of other users), {doubt}."


@dataclass(frozen=True)
class _Imagined:
    acceptance: np.ndarray
    """float64 (M, T): of each model at each step."""
    items: Sequence[str | None]
    """(T,), where they were set."""
    exact: bool
    simulation_errors: Sequence[float | None]
    """(T,) of the first model."""
    chosen: bool
    """Whether the model chose the items by itself."""
    warnings: list[str]


@torch.inference_mode()
def what_if(recommender: Recommender, body: schemas.WhatIfBody, expires: float) -> schemas.WhatIfAnswer:
    """Acceptance to expect under set items, or under a policy.

    Args:
        recommender: whose models play the user.
        expires: when nobody waits for the answer any more, by ``time.monotonic``.

    Raises:
        DataError: naming the event or item at fault; more steps than the models can hold.
        TimeoutError: it has expired.
    """
    asked, whole = body.asked(), recommender.past(body.events)
    require_at_most(asked.field, asked.steps, recommender.limits.steps)
    if asked.steps > recommender.holds:
        raise DataError(
            f"{asked.field}: {asked.steps} steps are more than the {recommender.holds} events that the model can hold; "
            "ask for fewer"
        )
    past = last(whole.events, recommender.holds - asked.steps)
    known = histories([past])
    if isinstance(asked, schemas.SetItems):
        found = _with_items(recommender, known, asked, expires)
    else:
        found = _by_policy(recommender, known, asked, expires)
    mean, [mean_error] = found.acceptance[0].mean(), as_floats(member_error(found.acceptance.mean(1, keepdims=True)))
    return schemas.WhatIfAnswer(
        steps=_steps(found, recommender),
        mean=mean,
        model_spread=mean_error,
        spread_interval=interval(mean, mean_error, recommender.quantile, 0, 1),
        exact=found.exact,
        events_used=len(past),
        warnings=[*_forgotten(recommender, len(whole.events) - len(past), asked.steps), *found.warnings],
        **recommender.left_out(whole),
    )


def _steps(found: _Imagined, recommender: Recommender) -> list[schemas.WhatIfStep]:
    values, errors = found.acceptance[0].tolist(), as_floats(member_error(found.acceptance))
    columns = (values, errors, found.simulation_errors, found.items)
    return [
        schemas.WhatIfStep(
            step=step,
            item=item,
            acceptance=value,
            model_spread=error,
            spread_interval=interval(value, error, recommender.quantile, 0, 1),
            held_out=recommender.like_it(value, chosen=found.chosen),
            simulation_error=simulation_error,
        )
        for step, (value, error, simulation_error, item) in enumerate(zip(*columns, strict=True), 1)
    ]


def _forgotten(recommender: Recommender, events: int, steps: int) -> list[str]:
    found = []
    if events:
        found.append(
            f"events: the first {events} do not count; the model holds {recommender.holds}, the {steps} steps included"
        )
    if len(recommender.models) <= MEMBERS_FOR_INTERVALS:
        found.append("model_spread: is null; the export has fewer than two models of resampled users")
    return found


def _with_items(recommender: Recommender, past: Histories, asked: schemas.SetItems, expires: float) -> _Imagined:
    codes, found = torch.tensor([recommender.codes(asked.items, asked.field)]), []
    for model in recommender.models:
        _require_time(expires)
        memory = model.read(past.item, past.kind)
        found.append(intervene(model, memory, codes, paths=asked.paths, seed=asked.seed))
    exact, branches = found[0].exact, asked.steps - 1
    few = [] if exact else [f"paths: {asked.paths} of the 2^{branches} paths of decisions were drawn; ask for more"]
    acceptance = torch.cat([one.probability for one in found]).double().numpy()
    return _Imagined(acceptance, asked.items, exact, [None] * asked.steps, False, few)


def _by_policy(recommender: Recommender, past: Histories, asked: schemas.ByPolicy, expires: float) -> _Imagined:
    most = min(recommender.limits.rollouts, MOST_CELLS // len(recommender.items))
    require_at_most("rollouts", asked.rollouts, most)
    same = torch.zeros(asked.rollouts, dtype=torch.int64)
    policy, expected = _until(expires, _policy(asked.policy)), []
    for model in recommender.models:
        memory = model.read(past.item, past.kind).take(same)
        expected.append(roll_out(model, memory, policy, asked.steps, asked.seed).expected)
    tables = torch.stack(expected).double().numpy()
    errors = tables[0].std(0, ddof=1) / np.sqrt(asked.rollouts)
    doubts = _doubts(asked, errors.max())
    chosen = asked.policy.name != "uniform" and asked.policy.exploration < 1
    return _Imagined(tables.mean(1), [None] * asked.steps, False, errors.tolist(), chosen, doubts)


def _policy(body: schemas.PolicyBody) -> Policy:
    def softmax(acceptance: torch.Tensor) -> torch.Tensor:
        return torch.softmax(acceptance / (body.temperature or 1.0), 1)

    choices = {"greedy": greedy_policy, "uniform": uniform_policy, "softmax": softmax}
    return mixture(body.exploration, choices[body.name])


def _until(expires: float, policy: Policy) -> Policy:
    """The same policy, asked at each step, but no longer than somebody waits."""

    def chosen(acceptance: torch.Tensor) -> torch.Tensor:
        _require_time(expires)
        return policy(acceptance)

    return chosen


def _require_time(expires: float) -> None:
    if time.monotonic() > expires:
        raise TimeoutError


def _doubts(asked: schemas.ByPolicy, largest_error: float) -> list[str]:
    found = []
    if largest_error > LARGE_SIMULATION_ERROR:
        found.append(f"rollouts: {asked.rollouts} leave a simulation error of up to {largest_error:.3f}; ask for more")
    if asked.policy.name != "uniform" and not asked.policy.exploration:
        found.append(
            "policy: it seeks what the model likes, where the log may hold little; take it for an extrapolation"
        )
    return found

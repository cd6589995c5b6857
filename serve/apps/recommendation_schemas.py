"""Requests and answers of the recommendation application, with bounds and examples."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from ..common.body import Body

MOST_EVENTS, MOST_ITEMS, MOST_ATTRIBUTED = 5_000, 1_000, 50
MOST_STEPS, MOST_ROLLOUTS, MOST_PATHS = 1_000, 2_000, 1_024
MOST_NAMED = 20
"""Unknown items that an answer names."""
BEST, STEPS, ROLLOUTS, PATHS = 10, 10, 64, 64
"""Defaults of rankings and what-ifs."""

Name = Annotated[str, Field(min_length=1, max_length=256, examples=["17"])]
Probability = Annotated[float, Field(description="chance that the item would be accepted if it were recommended now")]
Spread = Annotated[
    float | None,
    Field(
        description="standard deviation over the models of resampled users: what other users would have changed, not what "
        "all models get wrong; null with fewer than two of them"
    ),
]
SpreadInterval = Annotated[
    tuple[float, float] | None,
    Field(
        description="95 % by that deviation alone (Student's t), too narrow for the truth where logs are small; or null"
    ),
]
Cause = Literal["item", "previous_decision", "natural_preference", "recommender"]
PolicyName = Literal["greedy", "uniform", "softmax"]

EXAMPLE_EVENTS = [
    {"item": "3", "kind": "natural"},
    {"item": "17", "kind": "accepted"},
    {"item": "8", "kind": "rejected"},
]


class Limits(Body):
    """Limits of one request."""

    events: int = Field(500, ge=0, le=MOST_EVENTS, description="events of a user")
    items: int = Field(200, ge=BEST, le=MOST_ITEMS, description="items of a slate, or of a ranking")
    attributed: int = Field(20, ge=1, le=MOST_ATTRIBUTED, description="items of an attribution")
    steps: int = Field(100, ge=STEPS, le=MOST_STEPS, description="steps of a what-if; at most what the model can hold")
    rollouts: int = Field(500, ge=ROLLOUTS, le=MOST_ROLLOUTS, description="roll-outs of a what-if")


class Event(Body):
    """Something that a user did, or a recommendation with what the user did about it."""

    item: Name
    kind: Literal["natural", "accepted", "rejected"] = Field(
        description="natural: the user took the item unasked. accepted, rejected: the item was recommended, and this is the "
        "decision; so a decision without a recommendation has no kind"
    )
    time: float | None = Field(
        None,
        allow_inf_nan=False,
        description="for all events or for none; must not go backwards; only its order is used",
    )


class UserBody(Body):
    """A user, known by a past."""

    events: list[Event] = Field(
        [],
        max_length=MOST_EVENTS,
        description="the user's past in order of time; empty for a new user. Events on items that are not in the catalogue "
        "are left out and counted in the answer; of the others a model counts the last that it can hold",
        examples=[EXAMPLE_EVENTS],
    )


class LikeIt(BaseModel):
    """95 % interval of the mean chance of decisions that the model gives about this chance, by what came of held-out ones."""

    said: float = Field(description="mean chance that those decisions were given")
    low: float
    high: float
    decisions: int = Field(description="held-out decisions that it rests on")


HeldOut = Annotated[
    LikeIt | None, Field(description="null where the export has too few held-out decisions; it is of no single user")
]


class UserAnswer(BaseModel):
    """What was made of the past."""

    chances_of: Literal["any item", "logged recommendations"] = Field(
        description="any item: calibrated by the log's propensities, as if items were chosen regardless of the user. logged "
        "recommendations: for items such as the log's recommender shows the user, too high for others"
    )

    events_used: int = Field(
        description="events of the past that counted: of those on known items the last that the model can hold"
    )
    unknown_events: int = Field(
        description="events of the past that did not count, whatever their kind, for their item is not in the catalogue"
    )
    unknown_items: list[str] = Field(
        max_length=MOST_NAMED, description=f"items of those events, each once; the first {MOST_NAMED}"
    )


class AcceptBody(UserBody):
    """``POST /v1/recommendation/accept``."""

    items: list[Name] = Field(
        min_length=1, max_length=MOST_ITEMS, description="the slate", examples=[["5", "17", "42"]]
    )


class ScoredItem(BaseModel):
    """An item and the chance of its acceptance."""

    item: str
    probability: Probability
    model_spread: Spread
    held_out: HeldOut


class AcceptAnswer(UserAnswer):
    """The slate, in the order asked."""

    items: list[ScoredItem]


class RankBody(UserBody):
    """``POST /v1/recommendation/rank``."""

    k: int = Field(BEST, ge=1, le=MOST_ITEMS, description="items to return; fewer where fewer are left")
    exclude: list[Name] = Field([], max_length=MOST_EVENTS, description="items never to return")
    exclude_seen: bool = Field(False, description="never return items of the past")


class RankAnswer(UserAnswer):
    """The items most likely to be accepted, the best first."""

    items: list[ScoredItem]
    candidates: int = Field(description="items of the catalogue that were not excluded")


class AttributeBody(UserBody):
    """``POST /v1/recommendation/attribute``."""

    items: list[Name] = Field(min_length=1, max_length=MOST_ATTRIBUTED, examples=[["5", "17"]])


class Contrast(BaseModel):
    """How much a cause changes the chance of acceptance, all else equal."""

    value: float = Field(description="chance as it is, less the chance with the cause set to what it is held against")
    model_spread: Spread
    spread_interval: SpreadInterval


class Contrasts(BaseModel):
    """One cause at a time. They do not add up to a whole."""

    item: Contrast = Field(description="against the mean over all items, recommended instead")
    previous_decision: Contrast = Field(
        description="the last recommendation accepted against rejected; 0 before any recommendation"
    )
    natural_preference: Contrast = Field(
        description="against the mean over other users' natural events in place of the user's own"
    )
    recommender: Contrast = Field(
        description="against the same user, whom nothing was ever recommended; 0 before any recommendation"
    )


class AttributedItem(ScoredItem):
    """Why an item would be accepted, or not."""

    contrasts: Contrasts
    strongest: Cause = Field(description="the cause with the largest contrast, up or down")
    sentence: str = Field(description="the strongest cause in words")


class AttributeAnswer(UserAnswer):
    """Causes of acceptance, in the order asked."""

    items: list[AttributedItem]
    compared_users: int = Field(description="users whose natural events natural_preference is held against")
    note: str


class PolicyBody(Body):
    """How an imagined recommender chooses among all items."""

    name: PolicyName = Field(
        description="greedy: the item most likely to be accepted. uniform: any. softmax: of the chances of acceptance"
    )
    temperature: float | None = Field(
        None, ge=0.001, le=100, description="of softmax, in units of probability; small is greedy"
    )
    exploration: float = Field(0.0, ge=0, le=1, description="share of steps at which any item is recommended instead")

    @model_validator(mode="after")
    def _only_softmax_has_a_temperature(self) -> Self:
        if (self.temperature is not None) != (self.name == "softmax"):
            raise ValueError("temperature: give one with softmax, and with nothing else")
        return self


@dataclass(frozen=True)
class SetItems:
    """A what-if of given items."""

    items: list[str]
    paths: int
    seed: int
    field: ClassVar = "do"

    @property
    def steps(self) -> int:
        """One per item."""
        return len(self.items)


@dataclass(frozen=True)
class ByPolicy:
    """A what-if of a recommender."""

    policy: PolicyBody
    steps: int
    rollouts: int
    seed: int
    field: ClassVar = "steps"


class WhatIfBody(UserBody):
    """``POST /v1/recommendation/whatif``: ``do`` or ``policy``."""

    do: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=MOST_STEPS,
        description="items to recommend at steps 1, 2, ...",
        examples=[["5", "17"]],
    )
    policy: PolicyBody | None = Field(
        None, description="or a recommender that chooses them", examples=[{"name": "greedy"}]
    )
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description=f"recommendations by the policy; {STEPS} by default"
    )
    rollouts: int | None = Field(
        None, ge=2, le=MOST_ROLLOUTS, description=f"imagined repetitions of them; {ROLLOUTS} by default"
    )
    paths: int | None = Field(
        None,
        ge=1,
        le=MOST_PATHS,
        description=f"do: most paths of decisions to follow, {PATHS} by default; exact where there are no more",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="the same seed gives the same answer")

    def asked(self) -> SetItems | ByPolicy:
        """Which of the two, with what it does not say filled in."""
        if self.do is not None:
            return SetItems(self.do, self.paths or PATHS, self.seed)
        assert self.policy is not None
        return ByPolicy(self.policy, self.steps or STEPS, self.rollouts or ROLLOUTS, self.seed)

    @model_validator(mode="after")
    def _either_items_or_a_policy(self) -> Self:
        if (self.do is None) == (self.policy is None):
            raise ValueError("do, policy: send one of the two")
        if self.do is not None and (self.steps is not None or self.rollouts is not None):
            raise ValueError("steps, rollouts: are of a policy; do has a step per item and follows paths")
        if self.policy is not None and self.paths is not None:
            raise ValueError("paths: is of do; a policy has rollouts")
        return self


class WhatIfStep(BaseModel):
    """What to expect of one recommendation."""

    step: int = Field(description="from 1")
    item: str | None = Field(description="that was set; null where a policy chooses")
    acceptance: float = Field(description="expected: the chance that this recommendation is accepted")
    model_spread: Spread
    spread_interval: SpreadInterval
    held_out: HeldOut
    simulation_error: float | None = Field(
        description="standard error from the finite number of rollouts; null where nothing was rolled out"
    )


class WhatIfAnswer(UserAnswer):
    """Acceptance to expect, step by step, were the recommendations set or chosen otherwise."""

    steps: list[WhatIfStep]
    mean: float = Field(description="mean acceptance over the steps")
    model_spread: Spread
    spread_interval: SpreadInterval
    exact: bool = Field(description="whether all paths of decisions were followed, not a sample of them")
    warnings: list[str]

"""Simulate users with known reactions to recommendations: trust, links between items, natural taste (specification 3.5).

All users advance together; the only loop is over time.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog, event_log


@dataclass(frozen=True)
class SimulatorOptions:
    """The world's constants. Affinity of user u for item i is ``a = z_u . v_i``."""

    users: int = 2000
    items: int = 100
    observed: int = 20
    """Natural items before the first recommendation."""
    steps: int = 30
    """Recommendations to each user."""
    factors: int = 6
    taste_spread: float = 1.6
    """Standard deviation of a coordinate of z."""
    natural_affinity: float = 1.5
    """Natural choices are a softmax of this times a, plus ``natural_link`` times the likeness to the last item."""
    natural_link: float = 2.0
    policy_affinity: float = 2.0
    """The logging policy mixes a softmax of this times a with the uniform one."""
    exploration: float = 0.5
    """Weight of the uniform policy."""
    trust_weight: float = 1.2
    trust_memory: float = 0.7
    """Trust is this times itself plus (1 - this) times +1 or -1 after each decision; it starts at 0."""
    link_weight: float = 0.8
    """Pull of the last recommended item, if it was accepted, on items like it."""
    intercept: float = -0.3


@dataclass
class UserState:
    """What the next decision of B users depends on beside the item."""

    trust: Tensor
    """(B,)"""
    accepted: Tensor
    """Bool (B,): whether the last recommendation was accepted."""
    recommended: Tensor
    """int64 (B,): the last recommended item; of no effect before the first, for nothing was accepted."""


Policy = Callable[[UserState], Tensor]
"""Probabilities (B, I) of recommending each item."""


class Simulator:
    """Users with tastes and items with factors, drawn from a seed; decisions come from streams of their own."""

    def __init__(self, options: SimulatorOptions, seed: int) -> None:
        self.options, self.seed = options, seed
        draw = seeds.stream(seed, "simulator", "population")
        items = draw.normal(0, 1 / math.sqrt(options.factors), (options.items, options.factors))
        tastes = draw.normal(0, options.taste_spread, (options.users, options.factors))
        self.factors = torch.from_numpy(items)
        self.tastes = torch.from_numpy(tastes)
        self.affinity = self.tastes @ self.factors.T
        """(U, I) a."""
        self.likeness = self.factors @ self.factors.T
        """(I, I) v_i . v_j."""

    def only(self, user: int) -> "Simulator":
        """The same world with one of its users."""
        found = copy.copy(self)
        found.options = replace(self.options, users=1)
        found.tastes, found.affinity = self.tastes[user : user + 1], self.affinity[user : user + 1]
        return found

    def start(self) -> UserState:
        """All users before their first recommendation."""
        count = self.options.users
        kinds = (torch.float64, torch.bool, torch.int64)
        return UserState(*(torch.zeros(count, dtype=kind) for kind in kinds))

    def logits(self, state: UserState, item: Tensor) -> Tensor:
        """Logits (U,) that each user would accept ``item`` (int64 (U,)) if it were recommended now."""
        options = self.options
        link = state.accepted.double() * options.link_weight * math.sqrt(options.factors)
        affinity = self.affinity.gather(1, item[:, None])[:, 0]
        likeness = self.likeness[state.recommended, item]
        return affinity + options.trust_weight * state.trust + link * likeness + options.intercept

    def natural_probability(self) -> Tensor:
        """Acceptance (U, I) of an item that no recommender has shown: no trust, no link."""
        return torch.sigmoid(self.affinity + self.options.intercept)

    def react(self, state: UserState, item: Tensor, uniform: Tensor) -> tuple[UserState, Tensor, Tensor]:
        """Recommend ``item`` (U,): the next state, the decisions (bool (U,)), their probabilities (U,).

        Args:
            item: int64 (U,).
            uniform: (U,), the decision is whether it falls below the probability.
        """
        probability = torch.sigmoid(self.logits(state, item))
        accepted = uniform < probability
        memory = self.options.trust_memory
        trust = memory * state.trust + (1 - memory) * (2 * accepted.double() - 1)
        return UserState(trust, accepted, item), accepted, probability

    def natural_choice(self, last: Tensor) -> Tensor:
        """Probabilities (U, I) of what users take by themselves after ``last`` (U,); -1 where there was nothing."""
        link = torch.where(last[:, None] >= 0, self.likeness[last.clamp(min=0)], 0.0)
        return torch.softmax(self.options.natural_affinity * self.affinity + self.options.natural_link * link, 1)

    def mixed_policy(self, exploration: float) -> Policy:
        """``exploration`` x uniform + (1 - ``exploration``) x softmax of ``policy_affinity`` x a."""
        greedy = torch.softmax(self.options.policy_affinity * self.affinity, 1)
        table = exploration / self.options.items + (1 - exploration) * greedy
        return lambda state: table

    def natural_sequences(self) -> Tensor:
        """int64 (U, observed): what users took before the first recommendation."""
        options = self.options
        shape = (options.observed, options.users)
        uniform = torch.from_numpy(seeds.stream(self.seed, "simulator", "natural").random(shape))
        last = torch.full((options.users,), -1, dtype=torch.int64)
        taken = []
        for draw in uniform:
            last = choose(self.natural_choice(last), draw)
            taken.append(last)
        return torch.stack(taken, 1)

    def run(self, policy: Policy, *path: str | int) -> "Rollout":
        """All users through all steps under ``policy``; the stream of chances is named by ``path``."""
        shape = (2, self.options.steps, self.options.users)
        uniform = torch.from_numpy(seeds.stream(self.seed, "simulator", "rollout", *path).random(shape))
        state, columns = self.start(), []
        for choice, decision in zip(*uniform, strict=True):
            chances = policy(state)
            item = choose(chances, choice)
            propensity = chances.gather(1, item[:, None])[:, 0]
            state, accepted, probability = self.react(state, item, decision)
            columns.append((item, accepted, probability, propensity))
        items, accepted, probability, propensity = (torch.stack(column, 1) for column in zip(*columns, strict=True))
        return Rollout(items, accepted, probability, propensity)

    def value(self, policy: Policy, *path: str | int) -> np.ndarray:
        """Mean acceptance (T,) at each step under ``policy``: probabilities are averaged, not decisions."""
        return np.asarray(self.run(policy, *path).probability.mean(0))

    def log(self) -> tuple[EventLog, "Rollout"]:
        """Natural events and the logged recommendations, with propensities; and the same with true probabilities."""
        rollout = self.run(self.mixed_policy(self.options.exploration), "logged")
        return as_log(self.natural_sequences(), rollout, self.options.items), rollout

    def replayed_effect(self, items: Tensor, draws: int = 64) -> Tensor:
        """Effect (U, T) of what was recommended before on accepting the item recommended now.

        It is P(D_t = 1 | do(S_1..t), L) - P(D_t = 1 | S_t, no recommender), the first averaged over the users' own
        decisions, drawn ``draws`` times.

        Args:
            items: int64 (U, T), S.
        """
        natural = self.natural_probability().gather(1, items)
        total = torch.zeros_like(natural)
        for number in range(draws):
            shape = (items.shape[1], self.options.users)
            uniform = torch.from_numpy(seeds.stream(self.seed, "simulator", "effect", number).random(shape))
            state = self.start()
            for step, draw in enumerate(uniform):
                state, _, probability = self.react(state, items[:, step], draw)
                total[:, step] += probability
        return total / draws - natural


@dataclass(frozen=True)
class Rollout:
    """Recommendations to U users over T steps, each (U, T)."""

    items: Tensor
    accepted: Tensor
    probability: Tensor
    """True chance that the item was accepted, given all before it."""
    propensity: Tensor
    """Chance that the policy recommended the item."""


def choose(probability: Tensor, uniform: Tensor) -> Tensor:
    """int64 (B,): the item of each row of ``probability`` (B, I) in which ``uniform`` (B,) falls."""
    cumulative = probability.cumsum(1)
    found = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=probability.shape[1] - 1)


def as_log(natural: Tensor, rollout: Rollout, items: int) -> EventLog:
    """Natural events (U, L), then recommendations (U, T), as a log whose time is the event's number."""
    users, observed = natural.shape
    kinds = torch.where(rollout.accepted, ACCEPTED, REJECTED)
    kind = torch.cat([torch.full_like(natural, NATURAL), kinds], 1)
    length = kind.shape[1]
    propensity = torch.cat([torch.full((users, observed), math.nan, dtype=torch.float64), rollout.propensity], 1)
    return event_log(
        np.repeat(np.arange(users), length),
        torch.cat([natural, rollout.items], 1).numpy().ravel(),
        kind.numpy().ravel(),
        np.tile(np.arange(length), users),
        propensity.numpy().ravel(),
        users=[str(user) for user in range(users)],
        items=[str(item) for item in range(items)],
        source="simulator",
    )

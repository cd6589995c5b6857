"""The interface of vectorised environments; each step gives a scene per team."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.marl.environments.scenes import Flags, Floats, Scene, TeamSpec

Actions = Mapping[str, NDArray[Any]]
"""Actions by team: (B, A) whole numbers, or (B, A, 2) vectors, which the environment shortens to length 1."""


@dataclass(frozen=True)
class Step:
    """What one step of all B copies led to. A copy that ended has begun a new episode."""

    scenes: Mapping[str, Scene]
    """Scenes to act on next, by team."""
    last: Mapping[str, Scene]
    """Scenes reached, by team; where a copy ended, the last of its episode. ``scenes`` itself if none ended."""
    rewards: Mapping[str, Floats]
    """Rewards by team, (B, A)."""
    alive: Mapping[str, Flags]
    """Agents that may act after this step, by team, (B, A). An agent that died gets no more rewards."""
    terminated: Flags
    """(B,): the episode ended by its own rules."""
    truncated: Flags
    """(B,): the episode ended for time; its value goes on."""
    info: Mapping[str, NDArray[Any]]
    """(B,) arrays by name, such as ``won``; read where a copy ended."""

    @property
    def ended(self) -> Flags:
        """(B,): terminated or truncated."""
        return self.terminated | self.truncated


class Environment(Protocol):
    """B copies of a game between teams.

    All randomness comes from the seed given when made; copies differ. State is data: :meth:`state` and :meth:`restore` move a
    game to another process, which goes on with the same numbers.
    """

    num_envs: int
    """B."""
    horizon: int
    """Most steps of an episode."""
    resumable: bool
    """Whether :meth:`restore` goes on within an episode; else it begins the one that would have come next."""

    @property
    def teams(self) -> Mapping[str, TeamSpec]:
        """The teams that learn, in the order in which they act."""

    def reset(self) -> dict[str, Scene]:
        """Begin new episodes in all copies."""

    def step(self, actions: Actions) -> Step:
        """Act in all copies."""

    def state(self) -> bytes:
        """Everything needed to go on, random generator included."""

    def restore(self, state: bytes) -> dict[str, Scene]:
        """Go back to a state; returns the scenes to act on."""

    def close(self) -> None:
        """Let go of what it holds outside this process; it plays no more."""


def check_rewards(rewards: Mapping[str, Floats]) -> None:
    """Whether learning can go on with them.

    Raises:
        DataError: a reward is not finite; names team and copy.
    """
    for team, values in rewards.items():
        if not np.isfinite(values).all():
            copy = int(np.nonzero(~np.isfinite(values).all(1))[0][0])
            raise DataError(f"rewards of team {team}: not finite in copy {copy}; mend the environment's reward")


def norm_clipped(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Vectors (..., 2) shortened to length 1 where longer; directions stay, which clipping by coordinate would change."""
    length = np.sqrt((vectors.astype(np.float64) ** 2).sum(-1, keepdims=True))
    shortened: NDArray[np.float64] = vectors / np.maximum(length, 1.0)
    return shortened

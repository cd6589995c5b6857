"""MPE's scenarios without communication: bodies, start positions, rewards, and mpe2's observations.

Axes: A agents, E entities (agents first), L landmarks, B copies. Rewards and observations are mpe2's (1.1.1).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import ConfigError
from rayworks.systems.marl.environments.particle_world import USUAL_FORCE, Bodies, Reals, World
from rayworks.systems.marl.environments.scenes import ActionLayout, TeamSpec

Rewards = Callable[[World, NDArray[np.int64]], Reals]
"""World and goal landmark (B,) to rewards (A, B)."""
Observations = Callable[[World, NDArray[np.int64], int], Reals]
"""World, goal and agent to mpe2's vector, (B, D)."""
EDGE, WALL = 0.9, 1.0
"""Where prey begins to pay for leaving the map, and where the price turns exponential, over the map's scale."""
CAUGHT = 10.0
GOAL = "goal"
"""Name of the feature that marks the goal."""


@dataclass(frozen=True)
class ParticleOptions:
    """What may be chosen about a scenario; mpe2's as they stand."""

    vectors: bool = False
    """Whether actions are forces, shortened to length 1, instead of choices."""
    horizon: int = 25
    """Steps of an episode."""
    side: Literal["all", "left", "right", "top", "bottom"] = "all"
    """The half of the map where everything begins."""
    map_scale: float = 1.0
    """Size over mpe2's of the region where everything begins, and of what simple_tag's prey may not leave."""
    agents: int | None = None
    """None is the scenario's usual number; of opponents and landmarks too."""
    opponents: int | None = None
    landmarks: int | None = None
    local_ratio: float = 0.5
    """simple_spread: weight of an agent's own collisions; the rest is the team's."""


@dataclass(frozen=True)
class Scenario:
    """One game."""

    bodies: Bodies
    teams: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and agents, in the order in which they stand among the entities."""
    rewards: Rewards
    observations: Observations
    landmark_range: float = 1.0
    """Landmarks begin within this of the centre, agents within 1."""
    goal_known_to: tuple[str, ...] = ()
    """Teams that know which landmark is the goal; empty where there is none."""


def team_view(
    teams: Mapping[str, Sequence[int]], team: str, landmarks: int, layout: ActionLayout, *, knows_goal: bool
) -> tuple[TeamSpec, NDArray[np.int64]]:
    """The shape of a team's scenes and the places (E,) of their entities: its agents, those of others, landmarks."""
    order = [team, *(other for other in teams if other != team)]
    agents = [agent for name in order for agent in teams[name]]
    kinds = (*(name for name in order for _ in teams[name]), *("landmark",) * landmarks)
    features = (*sorted(set(kinds)), *([GOAL] if knows_goal else []))
    places = np.array([*agents, *range(len(agents), len(kinds))])
    return TeamSpec(team, len(teams[team]), kinds, features, layout), places


def make_scenario(name: str, options: ParticleOptions) -> Scenario:
    """A scenario by mpe2's name.

    Raises:
        ConfigError: unknown, or it has no such entities to choose the number of.
    """
    if name not in SCENARIOS:
        raise ConfigError(
            f"environment.name: mpe/{name} is unknown; choose one of {', '.join(f'mpe/{n}' for n in SCENARIOS)}, "
            f"or mpe2/{name} if mpe2 has it"
        )
    maker, free = SCENARIOS[name]
    for what in ("agents", "opponents", "landmarks"):
        if getattr(options, what) is not None and what not in free:
            raise ConfigError(f"environment.{what}: mpe/{name} has a fixed number; leave it null")
    return maker(options)


def _simple(options: ParticleOptions) -> Scenario:
    def rewards(world: World, goal: NDArray[np.int64]) -> Reals:
        apart = world.position[:, :1] - world.position[:, 1:2]
        reward: Reals = -(apart**2).sum(0)
        return reward

    def observations(world: World, goal: NDArray[np.int64], agent: int) -> Reals:
        return _row(world.speed[:, agent], _towards_landmarks(world, agent))

    return Scenario(_bodies(["agent_0"], 1, 0.05, 0.05, (False, False)), (("agent", (0,)),), rewards, observations)


def _spread(options: ParticleOptions) -> Scenario:
    agents = options.agents or 3
    landmarks = options.landmarks or agents
    names = [f"agent_{number}" for number in range(agents)]

    def rewards(world: World, goal: NDArray[np.int64]) -> Reals:
        nearest = _distances(world, agents).min(0).sum(0)
        local = options.local_ratio
        reward: Reals = -(1 - local) * nearest - local * world.collisions()
        return reward

    def observations(world: World, goal: NDArray[np.int64], agent: int) -> Reals:
        own = [world.speed[:, agent], world.position[:, agent]]
        silence = [np.zeros((2, world.num_envs))] * (agents - 1)
        return _row(*own, _towards_landmarks(world, agent), _towards_agents(world, agent), *silence)

    bodies = _bodies(names, landmarks, 0.15, 0.05, (True, False))
    return Scenario(bodies, (("agent", tuple(range(agents))),), rewards, observations)


def _tag(options: ParticleOptions) -> Scenario:
    hunters, prey = options.agents or 3, options.opponents or 1
    agents = hunters + prey
    landmarks = options.landmarks if options.landmarks is not None else 2
    names = [*(f"adversary_{k}" for k in range(hunters)), *(f"agent_{k}" for k in range(prey))]
    by_team = np.repeat([True, False], [hunters, prey])
    bodies = Bodies(
        (*names, *_landmark_names(landmarks)),
        agents,
        np.concatenate([np.where(by_team, 0.075, 0.05), np.full(landmarks, 0.2)]),
        np.ones(agents + landmarks, bool),
        np.where(by_team, 3.0, 4.0),
        np.where(by_team, 1.0, 1.3),
    )

    def rewards(world: World, goal: NDArray[np.int64]) -> Reals:
        first, second, overlap = world.overlapping()
        catches = (first < hunters) & (second >= hunters) & (second < agents)
        of_prey = second[catches, None] == np.arange(hunters, agents)
        caught = of_prey.T.astype(float) @ overlap[catches]
        outside = _outside(np.abs(world.position[:, hunters:agents]) / world.scale).sum(0)
        return np.concatenate(
            [np.broadcast_to(CAUGHT * caught.sum(0), (hunters, world.num_envs)), -CAUGHT * caught - outside]
        )

    def observations(world: World, goal: NDArray[np.int64], agent: int) -> Reals:
        own = [world.speed[:, agent], world.position[:, agent]]
        fleeing = [world.speed[:, other] for other in range(hunters, agents) if other != agent]
        return _row(*own, _towards_landmarks(world, agent), _towards_agents(world, agent), *fleeing)

    teams = (("adversary", tuple(range(hunters))), ("agent", tuple(range(hunters, agents))))
    return Scenario(bodies, teams, rewards, observations, landmark_range=0.9)


def _push(options: ParticleOptions) -> Scenario:
    def rewards(world: World, goal: NDArray[np.int64]) -> Reals:
        far = _goal_distances(world, goal, 2)
        return np.stack([far[1] - far[0], -far[1]])

    def observations(world: World, goal: NDArray[np.int64], agent: int) -> Reals:
        positions = [_towards_landmarks(world, agent), _towards_agents(world, agent)]
        if agent == 0:
            return _row(world.speed[:, 0], *positions)
        colours = np.array([[0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
        own = np.full((world.num_envs, 3), 0.25)
        own[np.arange(world.num_envs), goal + 1] += 0.5
        towards = [world.speed[:, 1], _goal(world, goal) - world.position[:, 1]]
        shown = np.broadcast_to(colours.reshape(-1, 1), (6, world.num_envs))
        return _row(*towards, own.T, positions[0], shown, positions[1])

    names = ["adversary_0", "agent_0"]
    bodies = _bodies(names, 2, 0.05, 0.05, (True, False))
    return Scenario(bodies, (("adversary", (0,)), ("agent", (1,))), rewards, observations, goal_known_to=("agent",))


def _adversary(options: ParticleOptions) -> Scenario:
    good = options.agents or 2
    names = ["adversary_0", *(f"agent_{number}" for number in range(good))]

    def rewards(world: World, goal: NDArray[np.int64]) -> Reals:
        far = _goal_distances(world, goal, good + 1)
        return np.concatenate([-far[:1], np.broadcast_to(far[0] - far[1:].min(0), (good, world.num_envs))])

    def observations(world: World, goal: NDArray[np.int64], agent: int) -> Reals:
        positions = [_towards_landmarks(world, agent), _towards_agents(world, agent)]
        return _row(*([] if agent == 0 else [_goal(world, goal) - world.position[:, agent]]), *positions)

    bodies = _bodies(names, good, 0.15, 0.08, (False, False))
    teams = (("agent", tuple(range(1, good + 1))), ("adversary", (0,)))
    return Scenario(bodies, teams, rewards, observations, goal_known_to=("agent",))


SCENARIOS: dict[str, tuple[Callable[[ParticleOptions], Scenario], tuple[str, ...]]] = {
    "simple": (_simple, ()),
    "simple_spread": (_spread, ("agents", "landmarks")),
    "simple_tag": (_tag, ("agents", "opponents", "landmarks")),
    "simple_push": (_push, ()),
    "simple_adversary": (_adversary, ("agents",)),
}
"""Name to maker, and what may be chosen."""


def _bodies(names: list[str], landmarks: int, size: float, landmark_size: float, collide: tuple[bool, bool]) -> Bodies:
    agents = len(names)
    return Bodies(
        (*names, *_landmark_names(landmarks)),
        agents,
        np.repeat([size, landmark_size], [agents, landmarks]),
        np.repeat(np.array(collide), [agents, landmarks]),
        np.full(agents, USUAL_FORCE),
        np.full(agents, np.inf),
    )


def _landmark_names(count: int) -> list[str]:
    return [f"landmark {number}" for number in range(count)]


def _distances(world: World, agents: int) -> Reals:
    """(A, L, B), of the first A entities from the landmarks."""
    position, own = world.position, world.bodies.agents
    across = position[0, :agents, None] - position[0, None, own:]
    up = position[1, :agents, None] - position[1, None, own:]
    across *= across
    up *= up
    across += up
    return np.sqrt(across)


def _goal(world: World, goal: NDArray[np.int64]) -> Reals:
    """(2, B)."""
    return world.position[:, world.bodies.agents + goal, np.arange(world.num_envs)]


def _goal_distances(world: World, goal: NDArray[np.int64], agents: int) -> Reals:
    """(A, B)."""
    apart = world.position[:, :agents] - _goal(world, goal)[:, None]
    far: Reals = np.sqrt((apart**2).sum(0))
    return far


def _outside(far: Reals) -> Reals:
    """What prey pays for being this far from the centre along an axis."""
    return np.where(far < EDGE, 0, np.where(far < WALL, (far - EDGE) * 10, np.minimum(np.exp(2 * far - 2), 10)))


def _towards_landmarks(world: World, agent: int) -> Reals:
    return world.position[:, world.bodies.agents :] - world.position[:, agent : agent + 1]


def _towards_agents(world: World, agent: int) -> Reals:
    others = [other for other in range(world.bodies.agents) if other != agent]
    return world.position[:, others] - world.position[:, agent : agent + 1]


def _row(*parts: Reals) -> Reals:
    """Vectors (2, B), several of them (2, K, B), or numbers (D, B) side by side: (B, D)."""
    flat = [part.transpose(1, 0, 2).reshape(-1, part.shape[-1]) if part.ndim == 3 else part for part in parts]
    return np.concatenate(flat).T

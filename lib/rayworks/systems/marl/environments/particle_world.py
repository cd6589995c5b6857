"""The physics of the multi-agent particle environments (MPE, as in mpe2 1.1.1), for many copies at once.

Exact: the same order of forces, motion and damping, in float64. Axes: A agents, E entities (agents first), B copies. Arrays
are coordinate first, copies last, (2, E, B), so that every operation runs along copies.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
REACH = 50 * CONTACT_MARGIN
"""Beyond touching by this much, the contact force is below 1e-20."""
USUAL_FORCE = 5.0


@dataclass(frozen=True)
class Bodies:
    """The fixed properties of the bodies in a world."""

    names: tuple[str, ...]
    """Names of entities, (E,)."""
    agents: int
    """A."""
    sizes: Reals
    """(E,) radii."""
    collides: NDArray[np.bool_]
    """(E,)."""
    forces: Reals
    """(A,): of a full action."""
    speeds: Reals
    """(A,): greatest, infinite where unbounded."""

    @property
    def pairs(self) -> NDArray[np.int64]:
        """(2, P): pairs that collide and of which at least one moves."""
        first, second = np.triu_indices(len(self.names), 1)
        use = self.collides[first] & self.collides[second] & (first < self.agents)
        return np.stack([first[use], second[use]])


class World:
    """B copies of bodies in motion.

    ``position`` (2, E, B) and ``speed`` (2, A, B) may be set from outside; call :meth:`look` after changing positions.
    ``scale`` is the size of the map over the usual, for rewards that know a border.
    """

    def __init__(self, bodies: Bodies, num_envs: int, scale: float = 1.0) -> None:
        self.bodies, self.num_envs, self.scale = bodies, num_envs, scale
        self.position: Reals = np.zeros((2, len(bodies.names), num_envs))
        self.speed: Reals = np.zeros((2, bodies.agents, num_envs))
        self._first, self._second = bodies.pairs
        self._touching = (bodies.sizes[self._first] + bodies.sizes[self._second])[:, None]
        self._bounded = np.isfinite(bodies.speeds)
        self.apart: Reals = np.zeros((len(self._first), num_envs))
        """(P, B), distances between the pairs, as :meth:`look` measured them."""
        self._between: Reals = np.zeros((2, len(self._first), num_envs))
        self._of_pair = np.zeros((bodies.agents, len(self._first)))
        for pair, ends in enumerate(bodies.pairs.T):
            self._of_pair[[end for end in ends if end < bodies.agents], pair] = 1

    def look(self) -> None:
        """Measure the pairs; done by every step."""
        np.subtract(self.position[:, self._first], self.position[:, self._second], out=self._between)
        squares = self._between[0] * self._between[0]
        squares += self._between[1] * self._between[1]
        np.sqrt(squares, out=self.apart)

    def collisions(self) -> Reals:
        """(A, B): pairs of each agent that overlap."""
        counted: Reals = self._of_pair @ (self.apart < self._touching)
        return counted

    def overlapping(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """First and second of the pairs, (P,), and where they overlap, (P, B)."""
        return self._first, self._second, self.apart < self._touching

    def step(self, action: Reals) -> None:
        """Move on by one step; ``action`` (2, A, B) is of length at most 1 where it came from a vector."""
        bodies = self.bodies
        force = action * bodies.forces[:, None]
        self._add_contacts(force)
        moving = self.position[:, : bodies.agents]
        moving += self.speed * STEP
        self.speed *= 1 - DAMPING
        force *= STEP
        self.speed += force
        if self._bounded.any():
            length = np.sqrt((self.speed**2).sum(0))
            limit = bodies.speeds[:, None]
            self.speed = np.where(length > limit, self.speed / np.where(length > 0, length, 1) * limit, self.speed)
        self.look()

    def _add_contacts(self, force: Reals) -> None:
        """Only pairs that nearly touch push each other: few, so they are picked out."""
        pair, copy = np.nonzero(self.apart < self._touching + REACH)
        if not len(pair):
            return
        apart = self.apart[pair, copy]
        overlap = np.logaddexp(0, (self._touching[pair, 0] - apart) / CONTACT_MARGIN) * CONTACT_MARGIN
        with np.errstate(divide="ignore", invalid="ignore"):
            push = CONTACT_FORCE * self._between[:, pair, copy] / apart * overlap
        # Bodies in exactly one position have no direction to push in; mpe2 divides by zero there.
        push = np.where(apart > 0, push, 0.0)
        for ends, sign in ((self._first[pair], 1.0), (self._second[pair], -1.0)):
            moves = ends < self.bodies.agents
            for axis in range(2):
                np.add.at(force[axis], (ends[moves], copy[moves]), sign * push[axis, moves])

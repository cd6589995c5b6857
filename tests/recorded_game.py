"""Plays battles that were recorded at the interface between our adapter and SMACv2's game object.

``recorded/starcraft_battles.json`` was made by our adapter around unmodified SMACv2 (commit 577ab5a), PySC2 4.0.0 and a
stand-in for the game's process, with the scripted allies. It holds what the adapter asked and what SMACv2 answered.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numpy.testing import assert_allclose

RECORDED = Path(__file__).parent / "recorded" / "starcraft_battles.json"


def recordings() -> dict[str, dict[str, Any]]:
    """By scenario."""
    return {recording["scenario"]: recording for recording in json.loads(RECORDED.read_text())["recordings"]}


class RecordedGame:
    """Answers as SMACv2 did; being asked anything else is an error."""

    def __init__(self, recording: dict[str, Any]) -> None:
        self._episodes = recording["episodes"]
        self._episode, self._frame = -1, 0
        first = self._episodes[0]["frames"][0]
        self.n_agents, self.n_enemies = len(first["agents"]), len(first["enemies"])
        self.episode_limit = 200
        self.agents: Mapping[int, Any] = {}
        self.enemies: Mapping[int, Any] = {}
        self.closed = False
        for name, number in recording["types"].items():
            setattr(self, f"{name}_id", number)

    def reset(self, episode_config: dict[str, Any]) -> None:
        """The next episode; nothing is returned, as by SMACv2's wrapper when it had to try again."""
        self._episode, self._frame = self._episode + 1, 0
        episode = self._episodes[self._episode]
        assert [episode_config["team_gen"][f"{side}_team"] for side in ("ally", "enemy")] == episode["teams"]
        for side, places in zip(("ally", "enemy"), episode["places"], strict=True):
            assert_allclose(episode_config[f"{side}_start_positions"]["item"], places, atol=1e-3)
        self._show()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        self._frame += 1
        frame = self._episodes[self._episode]["frames"][self._frame]
        assert actions == frame["actions"]
        self._show()
        return frame["reward"], frame["over"], frame["info"]

    def get_avail_actions(self) -> list[list[int]]:
        frame = self._episodes[self._episode]["frames"][self._frame]
        return [[int(flag) for flag in row] for row in frame["available"]]

    def close(self) -> None:
        self.closed = True

    def _show(self) -> None:
        frame = self._episodes[self._episode]["frames"][self._frame]
        self.agents = {index: unit(values) for index, values in enumerate(frame["agents"])}
        self.enemies = {index: unit(values) for index, values in enumerate(frame["enemies"])}


def unit(values: list[float]) -> SimpleNamespace:
    """A unit as s2clientprotocol shows it."""
    number, x, y, health, health_max, shield, shield_max, energy, cooldown = values
    return SimpleNamespace(
        unit_type=number,
        pos=SimpleNamespace(x=x, y=y),
        health=health,
        health_max=health_max,
        shield=shield,
        shield_max=shield_max,
        energy=energy,
        weapon_cooldown=cooldown,
    )

"""The adapter of the real game, against recorded battles; and the real game where it is installed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.systems.marl.environments.battle import BattleEnvironment, BattleOptions
from rayworks.systems.marl.environments.battle_scene import FIRST_TARGET
from rayworks.systems.marl.environments.battle_scripts import scripted_actions
from rayworks.systems.marl.environments.battle_units import parse_scenario
from rayworks.systems.marl.environments.environment import Environment, Step
from rayworks.systems.marl.environments.scenes import ActionLayout, Scene
from rayworks.systems.marl.environments.starcraft import (
    ATTEMPTS,
    StarCraftEnvironment,
    missing_parts,
    starcraft_environment,
)
from rayworks.systems.marl.networks.acting import Game
from tests.recorded_game import RecordedGame, recordings

ALLIES = "allies"
RECORDINGS = recordings()


class CannotReset(Exception):
    """In place of SMACv2's exception of a similar name."""


class RefusingGame(RecordedGame):
    """Refuses some starts, then plays its recording from any."""

    def __init__(self, recording: dict[str, Any], refusals: int) -> None:
        super().__init__(recording)
        self.asked: list[dict[str, Any]] = []
        self._refusals, self._recording = refusals, recording

    def reset(self, episode_config: dict[str, Any]) -> None:
        self.asked.append(episode_config)
        if len(self.asked) <= self._refusals:
            raise CannotReset
        first = self._recording["episodes"][0]
        teams = dict(zip(("ally_team", "enemy_team"), first["teams"], strict=True))
        sides = zip(("ally", "enemy"), first["places"], strict=True)
        super().reset(
            {"team_gen": teams, **{f"{side}_start_positions": {"item": positions} for side, positions in sides}}
        )


class BrokenGame(RecordedGame):
    """Loses its connection in the first step, and answers as SMACv2 does then."""

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        return 0, True, {}


def environment(scenario: str, game: RecordedGame | None = None, **options: Any) -> StarCraftEnvironment:
    recording = RECORDINGS[scenario]
    chosen = BattleOptions(**{"horizon": recording["horizon"], **options})
    played = game or RecordedGame(recording)
    return StarCraftEnvironment(played, parse_scenario(scenario), recording["seed"], chosen, CannotReset)


def play(battle: StarCraftEnvironment, episodes: int) -> tuple[list[Scene], list[Step]]:
    contract: Environment = battle
    scene = contract.reset()[ALLIES]
    scenes, steps = [], []
    while episodes:
        battle.spec.check(scene)
        scenes.append(scene)
        steps.append(contract.step({ALLIES: scripted_actions(scene, battle.spec.actions)}))
        episodes -= int(steps[-1].ended[0])
        scene = steps[-1].scenes[ALLIES]
    return scenes, steps


@pytest.mark.parametrize("scenario", list(RECORDINGS))
def test_recorded_battles_are_played_to_their_ends(scenario: str) -> None:
    recorded = [episode["frames"][1:] for episode in RECORDINGS[scenario]["episodes"] if len(episode["frames"]) > 1]
    _, steps = play(environment(scenario), len(recorded))
    for frames in recorded:
        played, steps = steps[: len(frames)], steps[len(frames) :]
        enemies = frames[0]["enemies"]
        full = sum(values[4] + values[6] for values in enemies) + 10 * len(enemies) + 200
        got = [float(step.rewards[ALLIES].max()) for step in played]
        np.testing.assert_allclose(got, [frame["reward"] / full * 20 for frame in frames], rtol=1e-5)
        last = played[-1]
        assert last.info["won"].tolist() == [frames[-1]["info"]["battle_won"]]
        assert last.info["enemies_left"].tolist() == [len(enemies) - frames[-1]["info"]["dead_enemies"]]
        if last.info["won"][0] and "terran" not in scenario:
            assert sum(got) == pytest.approx(20, rel=1e-4)
        assert last.truncated[0] == (scenario == "protoss_2_vs_2") and last.terminated[0] != last.truncated[0]
        assert last.scenes[ALLIES].present.all() and not any(step.ended[0] for step in played[:-1])


@pytest.mark.parametrize("scenario", list(RECORDINGS))
def test_scenes_have_the_embedded_battles_schema_and_mask(scenario: str) -> None:
    battle = environment(scenario)
    embedded = BattleEnvironment(scenario, 1, 0, BattleOptions())
    assert battle.spec == embedded.spec
    frames = RECORDINGS[scenario]["episodes"][0]["frames"]
    scenes, _ = play(battle, 1)
    offered = 0
    for frame, scene in zip(frames, scenes, strict=False):
        mask = np.array([[int(flag) for flag in row] for row in frame["available"]], bool)
        ours = scene.allowed[0, :, : mask.shape[1]]
        np.testing.assert_array_equal(ours[:, :2], mask[:, :2])
        assert not (ours & ~mask).any()
        offered += ours[:, FIRST_TARGET:].sum()
        agents, enemies = frame["agents"], frame["enemies"]
        alive = np.array([values[3] > 0 for values in agents + enemies])
        np.testing.assert_array_equal(scene.present[0], alive)
        positions = (np.array([values[1:3] for values in agents + enemies]) - 16) / 16
        np.testing.assert_allclose(scene.positions[0][alive], positions[alive], atol=1e-6)
    assert offered > 0


def test_all_enemies_in_sight_are_shown_and_all_living_when_fully_observable() -> None:
    scenes, _ = play(environment("protoss_3_vs_4", fully_observable=True), 1)
    for scene in scenes:
        np.testing.assert_array_equal(scene.visible[0], scene.present[0, :3, None] & scene.present[0])
    near, _ = play(environment("protoss_3_vs_4"), 1)
    shown = sum(scene.visible[0, :, 3:].sum() for scene in near)
    assert 0 < shown < sum(scene.visible[0, :, 3:].sum() for scene in scenes)


def test_unscaled_rewards_are_the_games() -> None:
    _, steps = play(environment("zerg_4_vs_3", reward_scale=False), 1)
    frames = RECORDINGS["zerg_4_vs_3"]["episodes"][0]["frames"][1:]
    assert [float(step.rewards[ALLIES].max()) for step in steps] == [frame["reward"] for frame in frames]


def test_a_refused_start_is_drawn_again_and_too_many_are_an_infrastructure_error() -> None:
    game = RefusingGame(RECORDINGS["zerg_4_vs_3"], 2)
    battle = environment("zerg_4_vs_3", game)
    assert battle.reset()[ALLIES].present.all()
    starts = [config["enemy_start_positions"]["item"] for config in game.asked]
    assert len(starts) == 3 and not np.array_equal(starts[0], starts[1])
    with pytest.raises(InfrastructureError, match="refused 5 starts"):
        environment("zerg_4_vs_3", RefusingGame(RECORDINGS["zerg_4_vs_3"], ATTEMPTS)).reset()


def test_a_lost_connection_ends_the_episode_without_a_decision() -> None:
    battle = environment("terran_5_vs_5", BrokenGame(RECORDINGS["terran_5_vs_5"]))
    scene = battle.reset()[ALLIES]
    step = battle.step({ALLIES: scripted_actions(scene, battle.spec.actions)})
    assert step.truncated.all() and not step.terminated.any() and not step.info["won"].any()


def test_a_restored_game_begins_the_next_episode() -> None:
    _, steps = play(environment("zerg_4_vs_3"), 1)
    battle = environment("zerg_4_vs_3")
    battle.reset()
    recording = RECORDINGS["zerg_4_vs_3"]
    game = RecordedGame({**recording, "episodes": recording["episodes"][1:]})
    later = environment("zerg_4_vs_3", game)
    scene = later.restore(battle.state())[ALLIES]
    np.testing.assert_array_equal(scene.positions, steps[-1].scenes[ALLIES].positions)
    later.close()
    assert game.closed
    for wrong, message in (
        (b"{}", "cannot be read"),
        (battle.state().replace(b"zerg", b"terran"), "of terran_4_vs_3"),
    ):
        with pytest.raises(DataError, match=message):
            later.restore(wrong)


class ScriptedPolicy:
    """Does what the recorded allies did."""

    def __init__(self, layout: ActionLayout) -> None:
        self._layout = layout

    def action_dist_inputs(self, scene: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(A, K): 1 at the script's choice."""
        chosen = scripted_actions(Scene.of({name: array.numpy() for name, array in scene.items()}), self._layout)
        return torch.nn.functional.one_hot(torch.from_numpy(chosen[0]), self._layout.choices).float()


def test_games_are_played_with_policies_and_begin_an_episode_without_a_return_when_put_back() -> None:
    _, steps = play(environment("zerg_4_vs_3"), 1)
    battle = environment("zerg_4_vs_3")
    policies = {ALLIES: ScriptedPolicy(battle.spec.actions)}
    game = Game(battle, 0)
    game.play(policies, 2, greedy=True)
    state = game.state()
    assert state["length"].tolist() == [2]
    episodes = game.play(policies, len(steps) - 2, greedy=True).episodes
    assert episodes["return allies"] == pytest.approx(sum(step.rewards[ALLIES].sum() for step in steps))
    again = Game(environment("zerg_4_vs_3"), 0)
    again.restore(state)
    assert again.state()["length"].tolist() == [0] and again.state()["returns"][ALLIES].tolist() == [0]


def test_what_the_real_game_does_not_know_is_refused() -> None:
    options: tuple[dict[str, Any], ...] = ({"map_size": 64.0}, {"field_of_view": 90.0}, {"shields_recover": False})
    for option in options:
        with pytest.raises(ConfigError, match=next(iter(option))):
            environment("zerg_4_vs_3", **option)
    with pytest.raises(ConfigError, match="3 agents, 4 enemies"):
        environment("zerg_4_vs_3", RecordedGame(RECORDINGS["protoss_3_vs_4"]))
    battle = environment("zerg_4_vs_3")
    with pytest.raises(DataError, match="call reset first"):
        battle.step({ALLIES: np.ones((1, 4), int)})
    battle.reset()
    for wrong in (np.ones((1, 3), int), np.full((1, 4), 10)):
        with pytest.raises(DataError, match="actions:"):
            battle.step({ALLIES: wrong})


def test_missing_parts_are_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    assert any(f"StarCraft II is not at {tmp_path}" in part for part in missing_parts())
    with pytest.raises(ConfigError, match=r"StarCraft II cannot be played: .*set SC2PATH"):
        starcraft_environment("terran_5_vs_5", 0, BattleOptions())
    (tmp_path / "Versions").mkdir()
    assert any("SMAC_Maps.zip" in part for part in missing_parts())


def test_a_battle_in_the_real_game() -> None:
    if missing := missing_parts():
        pytest.skip(f"the real game cannot be played here: {missing[0]}")
    battle = starcraft_environment("terran_5_vs_5", 0, BattleOptions(horizon=20))
    try:
        _, steps = play(battle, 1)
        assert len(steps) <= 20
    finally:
        battle.close()

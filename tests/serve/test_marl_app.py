"""The marl application over real HTTP on the shared cluster, against the library's own answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rayworks.systems.marl.config import Config
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.exported import read_export
from rayworks.systems.marl.networks.symmetry_groups import orthogonal
from tests.serve.applications import SPREAD
from tests.serve.deployment import Deployment

Send = Callable[..., httpx.Response]


@pytest.fixture
def send(deployment: Deployment) -> Send:
    """Posts to ``act`` of one of the applications."""
    return lambda app="spread", **body: deployment.ask(f"marl-{app}", "v1/marl/act", method="POST", **body)


def spread_scene(seed: int, agents: int = 3, landmarks: int = 3, turn: np.ndarray | None = None) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    turn = np.eye(2) if turn is None else turn
    kinds = ["landmark"] * landmarks + ["agent"] * agents
    return {
        "entities": [
            {
                "kind": kind,
                "position": (turn @ random.uniform(-1, 1, 2)).tolist(),
                "velocity": (turn @ random.normal(size=2)).tolist(),
            }
            for kind in kinds
        ]
    }


def found(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    values: dict[str, Any] = answer.json()
    return values


def test_the_best_actions_are_the_librarys_for_any_number_of_agents(send: Send, deployment: Deployment) -> None:
    for agents in (3, 5):
        body = spread_scene(1, agents)
        answer = found(send(scenes=[body]))["scenes"][0]["actions"]
        assert [action["entity"] for action in answer] == list(range(3, 3 + agents))
        exported = read_export(deployment.folder / "marl" / "spread")
        config = Config.model_validate({"environment": {**SPREAD["environment"], "agents": agents, "landmarks": 3}})
        world = make_environment(config.environment, 1, 0)
        scene = world.reset()["agent"].arrays()
        own = body["entities"][3:] + body["entities"][:3]
        scene["positions"] = np.array([[e["position"] for e in own]], np.float32)
        scene["velocities"] = np.array([[e["velocity"] for e in own]], np.float32)
        network: Any = exported.policies(world.teams)["agent"]
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in scene.items()}
        with torch.no_grad():
            means, values = network.action_dist_inputs(tensors)[:, :2], network.expected_returns(tensors)
        means /= means.norm(dim=-1, keepdim=True).clamp(min=1)
        np.testing.assert_allclose([action["vector"] for action in answer], means, atol=1e-5)
        np.testing.assert_allclose([action["value"] for action in answer], values, atol=1e-4)


def test_actions_turn_with_the_world(send: Send) -> None:
    turn = orthogonal(0.7, reflected=True)
    straight, turned = (found(send(scenes=[spread_scene(2, turn=t)]))["scenes"][0]["actions"] for t in (None, turn))
    vectors = np.array([[action["vector"] for action in actions] for actions in (straight, turned)])
    np.testing.assert_allclose(vectors[1], vectors[0] @ turn.T, atol=1e-5)


def test_answers_do_not_depend_on_who_shares_the_batch(send: Send) -> None:
    bodies = [
        {"scenes": [spread_scene(n, 2 + n % 3), spread_scene(n + 50)], "mode": "sample", "seed": n} for n in range(12)
    ]
    alone = [found(send(**body)) for body in bodies]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: found(send(**body)), bodies))
    for first, second in zip(alone, together, strict=True):
        for one, other in zip(first["scenes"], second["scenes"], strict=True):
            for left, right in zip(one["actions"], other["actions"], strict=True):
                assert left["entity"] == right["entity"]
                np.testing.assert_allclose(left["vector"], right["vector"], atol=1e-5)
    assert found(send(**{**bodies[0], "seed": 99})) != alone[0]


def test_a_battle_offers_what_is_allowed_and_leaves_the_dead_alone(send: Send) -> None:
    unit = {"position": [0.1, 0.2], "features": {"type_marine": 1.0, "health": 1.0}}
    entities = [
        {"kind": "ally", **unit},
        {"kind": "enemy", **unit, "position": [0.2, 0.1]},
        {"kind": "ally", **unit, "present": False},
    ]
    moves = ["stop", "left", "right", "up", "down"]
    scene = {"entities": entities, "targets": {"0": [1]}, "forbidden": {"0": moves}}
    [action] = found(send("battle", scenes=[scene]))["scenes"][0]["actions"]
    assert (action["entity"], action["action"], action["target"]) == (0, "target", 1)
    assert action["probability"] == pytest.approx(1)
    drawn = found(send("battle", scenes=[{"entities": entities}] * 40, mode="sample"))["scenes"]
    names = {one["actions"][0]["action"] for one in drawn}
    assert len(names) > 2 and names <= set(moves)


def test_the_card_says_what_holds(deployment: Deployment) -> None:
    card = deployment.ask("marl-spread", "v1/marl/card").json()
    team = card["teams"]["agent"]
    assert team["symmetries"] == ["rotations", "reflections", "permutations"]
    assert all(team["errors"][group] < 1e-5 for group in team["symmetries"])
    assert team["actions"] == ["vector"] and team["features"] == ["agent", "landmark"]
    assert httpx.get(f"{deployment.url('marl-battle')}/healthz").json()["teams"] == ["allies"]
    assert httpx.get(f"{deployment.url('marl-spread')}/v1/marl/card").status_code == 401


@pytest.mark.parametrize(
    ("app", "body", "said"),
    [
        ("spread", {"scenes": []}, "scenes"),
        ("spread", {"scenes": [{"entities": []}]}, "entities"),
        ("spread", {"scenes": [spread_scene(0, 0)]}, "none acts; at least one must be of kind agent"),
        ("spread", {"scenes": [spread_scene(0, 20)]}, "at most 12 are taken"),
        ("spread", {"scenes": [spread_scene(0)] * 21}, "at most 20 are taken"),
        ("spread", {"scenes": [spread_scene(0)], "team": "reds"}, "give one of agent"),
        (
            "spread",
            {"scenes": [{"entities": [{"kind": "ball", "position": [0, 0]}]}]},
            "entities.0.kind: 'ball' is unknown",
        ),
        ("spread", {"scenes": [{"entities": [{"kind": "agent", "position": [0, "x"]}]}]}, "position"),
        ("spread", {"scenes": [{"entities": [{"kind": "agent"}]}]}, "position"),
        ("spread", {"scenes": [{"entities": [{"kind": "agent", "position": [0, 1e20]}]}]}, "position"),
        ("spread", {"scenes": [{**spread_scene(0), "sees": {"3": [0] * 513}}]}, "sees"),
        (
            "battle",
            {
                "scenes": [
                    {
                        "entities": [
                            {"kind": "ally", "position": [0, 0], "features": {"health": 3e38, "shield": -3e38}},
                            {"kind": "enemy", "position": [0.1, 0]},
                        ]
                    }
                ]
            },
            "not finite",
        ),
        ("spread", {"scenes": [{**spread_scene(0), "targets": {"3": [0]}}]}, "no actions with a target"),
        ("spread", {"scenes": [{**spread_scene(0), "sees": {"77": [0]}}]}, "beyond the 6"),
        ("spread", {"scenes": [{**spread_scene(0), "sees": {"0": [3]}}]}, "entity 0 does not act"),
        ("mlp", {"scenes": [spread_scene(0, 4)]}, "4 agent, 3 landmark, but an MLP takes 3 agent, 3 landmark"),
        (
            "battle",
            {"scenes": [{"entities": [{"kind": "ally", "position": [0, 0], "features": {"wings": 2}}]}]},
            "'wings' is unknown",
        ),
        (
            "battle",
            {"scenes": [{"entities": [{"kind": "ally", "position": [0, 0]}], "forbidden": {"0": ["fly"]}}]},
            "'fly' is not an action",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(send: Send, app: str, body: dict[str, Any], said: str) -> None:
    answer = send(app, **body)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"], answer.json()["detail"]

"""Serve's engine without Serve: who stands where, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rayworks.core.errors import DataError
from serve.apps.marl_engine import PolicyServer
from serve.apps.marl_schemas import FARTHEST, MOST_ENTITIES, ActBody, Action, Limits
from tests.serve.applications import BATTLE, export_policy

TAG = {"environment": {"name": "mpe/simple_tag"}}
KINDS = ("adversary", "adversary", "adversary", "agent", "landmark", "landmark")


def policy_server(folder: Path, settings: dict[str, Any], kind: Any) -> PolicyServer:
    return PolicyServer(export_policy(folder / "export", settings, kind), Limits())


def answers(made: PolicyServer, **body: Any) -> list[list[Action] | DataError]:
    return made.answer(made.questions(ActBody.model_validate(body))[1])


def tag_scene(order: list[int]) -> dict[str, Any]:
    positions = np.random.default_rng(0).uniform(-1, 1, (6, 2)).tolist()
    return {"entities": [{"kind": KINDS[at], "position": positions[at]} for at in order]}


def test_an_mlp_is_asked_in_the_order_of_its_training(tmp_path: Path) -> None:
    made = policy_server(tmp_path, TAG, "mlp")
    [expected], [found] = (
        answers(made, team="adversary", scenes=[tag_scene(order)]) for order in ([0, 1, 2, 3, 4, 5], [4, 0, 1, 5, 3, 2])
    )
    assert not isinstance(expected, DataError) and not isinstance(found, DataError)
    assert [action.entity for action in found] == [1, 2, 5]
    assert [action.value for action in found] == pytest.approx([action.value for action in expected], abs=1e-5)
    other = {"entities": [*tag_scene([0, 1, 2, 3, 4])["entities"], {"kind": "agent", "position": [0, 0]}]}
    with pytest.raises(DataError, match="3 adversary, 2 agent, 1 landmark, but an MLP takes 3 adversary, 1 agent"):
        answers(made, team="adversary", scenes=[other])


def test_features_that_name_a_kind_are_those_of_the_training(tmp_path: Path) -> None:
    made = policy_server(tmp_path, BATTLE, "e2gn2")
    ally = {"kind": "ally", "position": [0.1, 0.2]}
    _, [question] = made.questions(
        ActBody.model_validate({"scenes": [{"entities": [{**ally, "features": {"enemy": 1}}]}]})
    )
    enemy = question.team.features.index("enemy")
    assert question.scene.features[0, 0, enemy] == 0, "it is no enemy, whatever it says"


def test_answers_that_are_no_numbers_are_refused_and_leave_the_others_alone(tmp_path: Path) -> None:
    made = policy_server(tmp_path, BATTLE, "e2gn2")
    good = {"entities": [{"kind": "ally", "position": [0, 0]}, {"kind": "enemy", "position": [0.1, 0]}]}
    bad = {"entities": [{**good["entities"][0], "features": {"health": 3e38, "shield": -3e38}}, good["entities"][1]]}
    refused, answered = answers(made, scenes=[bad, good])
    assert isinstance(refused, DataError) and "not finite" in str(refused)
    assert not isinstance(answered, DataError) and np.isfinite(answered[0].value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entities": [{"kind": "ally", "position": [0, 2 * FARTHEST]}]}, "position"),
        ({"entities": [{"kind": "ally", "position": [0, 0], "velocity": [-2 * FARTHEST, 0]}]}, "velocity"),
        ({"sees": {0: [0] * (MOST_ENTITIES + 1)}}, "sees"),
        ({"targets": {0: [0] * (MOST_ENTITIES + 1)}}, "targets"),
        ({"forbidden": {0: ["stop"] * 65}}, "forbidden"),
    ],
)
def test_requests_have_bounds(change: dict[str, Any], said: str) -> None:
    scene = {"entities": [{"kind": "ally", "position": [0, 0]}], **change}
    with pytest.raises(ValidationError, match=said):
        ActBody.model_validate({"scenes": [scene]})

"""Roll-outs and policy values: mixtures, users of any length, estimates from a log that hold the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.histories import histories
from rayworks.systems.recommendation.values.policies import (
    GREEDY,
    UNIFORM,
    deploy,
    imagine,
    logged_policies,
    mixture_name,
    simulated_policies,
)
from rayworks.systems.recommendation.values.roll_out import (
    greedy_policy,
    mixture,
    roll_out,
    table_policy,
    uniform_policy,
)

WORLD = SimulatorOptions(users=300, items=8, observed=3, steps=5)
CONFIG = Config.model_validate({"policies": {"explorations": [0.0, 1.0], "steps": 4, "users": 50}})


def model_of(length: int = 16) -> AcceptanceModel:
    torch.manual_seed(0)
    model = AcceptanceModel(AcceptanceOptions(items=8, length=length, width=8, dropout=0.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def test_policies_are_chances_over_items() -> None:
    chances = torch.rand(4, 8)
    for policy in (uniform_policy, greedy_policy, mixture(0.3, greedy_policy)):
        found = policy(chances)
        torch.testing.assert_close(found.sum(1), torch.ones(4))
    mixed = mixture(0.4, greedy_policy)(chances)
    torch.testing.assert_close(mixed.max(1).values, torch.full((4,), 0.6 + 0.4 / 8))
    assert (mixed.argmax(1) == chances.argmax(1)).all()


def test_a_rollout_goes_on_from_what_it_imagined() -> None:
    model = model_of()
    found = roll_out(model, model.remember(6), uniform_policy, 5, seed=3)
    item = found.items + 1
    kind = torch.where(found.accepted, ACCEPTED, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.sigmoid(model(item, kind, torch.arange(item.shape[1]).expand_as(item))),
            found.probability,
            atol=1e-5,
            rtol=1e-5,
        )
    again = roll_out(model, model.remember(6), uniform_policy, 5, seed=3)
    assert torch.equal(again.items, found.items) and torch.equal(again.accepted, found.accepted)
    assert not torch.equal(roll_out(model, model.remember(6), uniform_policy, 5, seed=4).items, found.items)
    best = roll_out(model, model.remember(2), greedy_policy, 1, seed=0)
    assert (best.items[:, 0] == model.score(model.remember(2).state).argmax(1)).all()
    np.testing.assert_allclose(best.value(), best.probability.mean(0).double().numpy(), atol=1e-6)


def test_users_of_different_length_roll_out_in_their_own_rows() -> None:
    model, pasts = model_of(), [[(1, NATURAL)] * 3, [], [(2, ACCEPTED)] * 3, [(0, NATURAL)]]
    table = torch.eye(8)[[4, 5, 6, 7]]
    found = imagine(model, histories(pasts), table_policy(table), 3, seed=0)
    assert found.items.tolist() == [[4] * 3, [5] * 3, [6] * 3, [7] * 3]
    np.testing.assert_allclose(
        found.probability[:, 0].numpy(),
        [
            torch.sigmoid(model.score(model.read(*read(past)).state))[0, code].item()
            for past, code in zip(pasts, (4, 5, 6, 7), strict=True)
        ],
        atol=1e-6,
    )


def read(past: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    item = torch.tensor([[code + 1 for code, _ in past]], dtype=torch.int64).reshape(1, -1)
    return item, torch.tensor([[kind for _, kind in past]], dtype=torch.int64).reshape(1, -1)


def test_estimates_from_the_log_hold_the_truth_and_say_when_they_can_not() -> None:
    simulator = Simulator(WORLD, 0)
    log, _ = simulator.log()
    found = simulated_policies(CONFIG, [model_of(), model_of()], log, simulator)
    assert set(found) == {*(mixture_name(weight) for weight in (0.0, 0.5, 1.0)), GREEDY}
    logged = found[mixture_name(0.5)]
    assert logged["effective_share"] == pytest.approx(1.0)
    accepted = float((log.kind == ACCEPTED)[log.recommended].mean())
    for name in ("is", "wis", "pdis", "wpdis"):
        assert logged["estimates"][name]["value"] == pytest.approx(accepted)
    for weight in (0.0, 0.5, 1.0):
        one = found[mixture_name(weight)]
        true = float(np.mean(one["true"]))
        for name in ("wpdis", "wdr"):
            estimate = one["estimates"][name]
            # A seed outside its 95 % interval is no error; one far outside is.
            spread = 1.5 * estimate["standard_error"]
            assert estimate["low"] - spread < true < estimate["high"] + spread
    assert len(found[mixture_name(1.0)]["members"]) == 2
    assert found[GREEDY]["true"] is not None and found[GREEDY]["warnings"]
    far = Simulator(replace(WORLD, exploration=0.01), 0)
    away = simulated_policies(CONFIG, [model_of()], far.log()[0], far)
    assert any("overlap is poor" in warning for warning in away[mixture_name(1.0)]["warnings"])


def test_a_deployed_model_earns_what_the_world_gives_for_its_choice() -> None:
    simulator = Simulator(replace(WORLD, trust_weight=0.0, link_weight=0.0), 0)
    values = deploy(simulator, model_of(), histories([[(0, NATURAL)]] * WORLD.users))
    chosen = int(
        model_of()
        .score(model_of().read(torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)).state)
        .argmax()
    )
    assert values[0] == pytest.approx(float(simulator.natural_probability()[:, chosen].mean()))


def test_a_log_without_propensities_warns() -> None:
    simulator = Simulator(WORLD, 0)
    log, _ = simulator.log()
    known = logged_policies(CONFIG, [model_of()], log, None)
    assert set(known) == {UNIFORM, GREEDY}
    assert known[UNIFORM]["estimates"]["wpdis"]["value"] == pytest.approx(
        float(np.mean(simulator.value(simulator.mixed_policy(1.0), "value"))), abs=0.1
    )
    silent = logged_policies(CONFIG, [model_of()], replace(log, propensity=np.full(len(log), np.nan)), None)
    assert all("no propensities" in one["warnings"][0] for one in silent.values())
    assert any("seldom shows" in warning for warning in known[GREEDY]["warnings"])
    assert len(silent[GREEDY]["imagined"]) == 4

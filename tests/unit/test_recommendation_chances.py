"""Chances that can be trusted: calibrated for any item, with rates where the network is weak, and held against what came."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rayworks.systems.recommendation.causes.effects import redrawn_half_width
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog, event_log
from rayworks.systems.recommendation.logs.sequences import sequences
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from rayworks.systems.recommendation.measures.bands import Bands, bands, from_json
from rayworks.systems.recommendation.measures.calibration import calibration, effective
from rayworks.systems.recommendation.models import fitting, histories
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, predict
from rayworks.systems.recommendation.models.held_out import chances_and_ranks, choices_of, held_out, of_policy
from rayworks.systems.recommendation.models.redrawing import redrawn
from rayworks.systems.recommendation.models.training import bootstrap_weights

SMALL = {"users": 250, "items": 100, "steps": 12}


def config_of(**settings: Any) -> Config:
    simulator = {**SMALL, **settings.pop("simulator", {})}
    values = {"run": {"name": "x"}, "scope": {"stages": ["acceptance"]}, "simulator": simulator, **settings}
    return Config.model_validate(values)


def trained(config: Config, log: EventLog, member: int = 0) -> AcceptanceModel:
    unit = fitting.Unit(f"acceptance-{member}", "acceptance", member, "all")
    trainer = fitting.make_trainer(unit, config, log, None, fitting.Group())
    while not trainer.finished:
        trainer.epoch()
    model: AcceptanceModel = trainer.trained()
    fitting.calibrate(model, config, log, member)
    return model


@pytest.fixture(scope="module")
def learned() -> tuple[Config, Simulator, EventLog, Any, AcceptanceModel]:
    config = config_of()
    simulator = Simulator(SimulatorOptions(**dict(config.simulator)), 0)
    log, truth = simulator.log()
    return config, simulator, log, truth, trained(config, log)


def chances_now(model: AcceptanceModel, log: EventLog) -> np.ndarray:
    past = histories.histories_of(log, np.arange(len(log.users)), last=model.options.length - 1)
    with torch.no_grad():
        found: np.ndarray = torch.sigmoid(model.score(histories.states_after(model, past))).double().numpy()
    return found


def true_now(simulator: Simulator, truth: Any) -> np.ndarray:
    """(U, I): true chances after the log's end."""
    options, state = simulator.options, simulator.start()
    for items, accepted in zip(truth.items.T, truth.accepted.T, strict=True):
        moved = (1 - options.trust_memory) * (2 * accepted.double() - 1)
        state = type(state)(options.trust_memory * state.trust + moved, accepted, items)
    users = options.users
    logits = [simulator.logits(state, torch.full((users,), item)) for item in range(options.items)]
    return torch.sigmoid(torch.stack(logits, 1)).numpy()


def test_a_surer_predictor_takes_over_from_a_network_that_knows_nothing() -> None:
    draw = np.random.default_rng(0)
    true, noise = draw.normal(0, 1.5, 20_000), draw.normal(0, 2, 20_000)
    outcome = (draw.random(20_000) < 1 / (1 + np.exp(-true))).astype(float)
    found = calibration(noise, outcome, [true, draw.normal(0, 1, 20_000)])
    assert found.scale == pytest.approx(0.05)
    assert found.scale * found.others[0] == pytest.approx(1, abs=0.05)
    assert found.scale * found.others[1] == pytest.approx(0, abs=0.03)
    kept = calibration(true, outcome, [noise])
    assert (kept.scale, kept.others[0]) == pytest.approx((1, 0), abs=0.05)


def test_weights_undo_the_selection_of_a_recommender_that_shows_what_is_liked() -> None:
    draw = np.random.default_rng(1)
    seen, hidden = draw.normal(0, 1, 60_000), draw.normal(0, 1.5, 60_000)
    chance = 1 / (1 + np.exp(-(seen + hidden)))
    propensity = np.where(hidden > 0, 0.9, 0.1)
    shown = draw.random(60_000) < propensity
    outcome = (draw.random(60_000) < chance).astype(float)[shown]
    raw, weighed = calibration(seen[shown], outcome), calibration(seen[shown], outcome, (), 1 / propensity[shown])
    means = [float((1 / (1 + np.exp(-(one.scale * seen + one.shift)))).mean()) for one in (raw, weighed)]
    assert means[0] > chance.mean() + 0.15
    assert means[1] == pytest.approx(chance.mean(), abs=0.015)


@pytest.mark.parametrize(
    ("weight", "worth"), [([1, 1, 1, 1], 4), ([5, 5], 2), ([1, 0, 0], 1), ([0, 0], 0), ([], 0), ([1e300, 1e300], 2)]
)
def test_weighted_decisions_are_worth_fewer(weight: list[float], worth: float) -> None:
    assert effective(np.array(weight, float)) == pytest.approx(worth)


def test_chances_of_any_item_are_nearer_the_truth_than_those_of_what_was_shown(learned: Any) -> None:
    _, simulator, log, truth, model = learned
    true, logged = true_now(simulator, truth), chances_now(model, log)
    asked = model.of_any_item()
    assert asked is not model
    found = chances_now(asked, log)
    assert logged.mean() - true.mean() > 0.12
    assert abs(found.mean() - true.mean()) < 0.06
    best = np.arange(len(found)), found.argmax(1)
    first = np.arange(len(found)), logged.argmax(1)
    assert found[best].mean() - true[best].mean() < 0.6 * (logged[first].mean() - true[first].mean())


def test_a_log_without_propensities_has_no_chances_of_any_item(learned: Any) -> None:
    config, _, log, _, _ = learned
    blind = log.keep(np.ones(len(log), bool))
    blind.propensity[:] = np.nan
    model = trained(config_of(training={"epochs": 1}), blind)
    assert model.of_any_item() is model
    found = held_out(config, blind, model)
    assert not found.any_item
    assert found.all.bands


def test_a_calibrated_copy_leaves_the_model_as_it_is(learned: Any) -> None:
    *_, log, _, model = learned
    before = model.calibration.clone()
    other = model.calibrated(torch.tensor([2.0, -1.0, 0.0, 0.0]))
    assert torch.equal(model.calibration, before)
    assert not np.allclose(chances_now(other, log), chances_now(model, log))


def test_ranks_are_those_of_a_prediction_at_each_decision(learned: Any) -> None:
    config, _, log, _, model = learned
    rows = np.flatnonzero(log.recommended)[::97]
    chance, better = chances_and_ranks(model, log, rows, config.model.length)
    for row, one, count in zip(rows[:8], chance, better, strict=False):
        before = log.keep((log.user == log.user[row]) & (np.arange(len(log)) < row))
        past = histories.histories_of(before, np.array([log.user[row]]))
        everything = histories.acceptance([model], past)[0, 0]
        assert one == pytest.approx(float(everything[log.item[row]]), abs=1e-5)
        assert count == int((everything > everything[log.item[row]] + 1e-7).sum())


def test_bands_say_what_came_and_go_to_json_and_back() -> None:
    draw = np.random.default_rng(2)
    chance = draw.random(5_000)
    true = 0.5 * chance + 0.1
    outcome = (draw.random(5_000) < true).astype(float)
    found = bands(outcome, chance, np.ones(5_000), np.arange(5_000) // 5)
    assert len(found.bands) == 10
    for asked in (0.05, 0.5, 0.97):
        band = found.of(asked)
        assert band is not None
        low, high = band.interval()
        assert abs(band.said - asked) < 0.06
        assert low <= 0.5 * band.said + 0.1 <= high
        assert high - low < 0.12 and 400 <= band.decisions <= 600
    assert from_json(found.as_json()) == found
    assert Bands(()).of(0.3) is None


def test_degenerate_decisions_give_wide_bands_or_none() -> None:
    nobody = np.zeros(200)
    found = bands(nobody, np.full(200, 0.1), np.ones(200), np.arange(200))
    assert len(found.bands) == 1
    low, high = found.bands[0].interval()
    assert low == 0 and 0.02 < high < 0.1
    assert not bands(np.tile([0.0, 1.0], 9_000), np.full(18_000, 0.5), np.ones(18_000), np.zeros(18_000, int)).bands
    assert not bands(nobody[:5], np.full(5, 0.1), np.ones(5), np.arange(5)).bands
    assert not bands(nobody, np.full(200, 0.1), np.r_[1e9, np.ones(199)], np.arange(200)).bands
    assert not bands(np.empty(0), np.empty(0), np.empty(0), np.empty(0, int)).bands


@pytest.mark.parametrize(("said", "true", "count"), [(0.002, 0.02, 50), (0.005, 0.03, 50), (0.01, 0.03, 100)])
def test_bands_of_rare_acceptances_cover(said: float, true: float, count: int) -> None:
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(500):
        outcome = (draw.random(count) < true).astype(float)
        low, high = bands(outcome, np.full(count, said), np.ones(count), np.arange(count)).bands[0].interval()
        held += low <= true <= high
    assert held / 500 >= 0.92


@pytest.mark.parametrize("heavy", [1, 2, 3, 5])
def test_bands_of_few_heavy_users_cover_or_are_not_there(heavy: int) -> None:
    draw = np.random.default_rng(4)
    user = np.concatenate([np.repeat(np.arange(heavy), 400), heavy + np.arange(60)])
    held = []
    for _ in range(300):
        chance = np.clip(0.5 + draw.normal(0, 0.15, heavy + 60), 0, 1)[user]
        outcome = (draw.random(len(user)) < chance).astype(float)
        for band in bands(outcome, np.full(len(user), 0.5), np.ones(len(user)), user).bands:
            low, high = band.interval()
            held.append(low <= 0.5 <= high)
    assert np.mean(held) >= 0.88 if held else heavy == 1


def test_a_recommender_that_shows_one_item_a_user_tells_nothing_of_the_others() -> None:
    """Propensity 1: what is shown is accepted, the rest would not be."""
    draw = np.random.default_rng(5)
    users, steps = 300, 10
    names = [str(number) for number in range(10)]
    user = np.repeat(np.arange(users), steps)
    kind = np.where(draw.random(users * steps) < 0.9, ACCEPTED, ACCEPTED - 1)
    log = event_log(
        user,
        user % 10,
        kind,
        np.tile(np.arange(steps), users),
        np.ones(users * steps),
        users=[str(one) for one in range(users)],
        items=names,
    )
    config = config_of(training={"epochs": 3})
    model = trained(config, log)
    assert model.of_any_item() is model
    assert not held_out(config, log, model).any_item


def test_rates_of_a_member_are_those_of_its_users(learned: Any) -> None:
    config, _, log, _, model = learned
    member = trained(config_of(training={"epochs": 1}), log, member=1)
    assert not torch.equal(member.rates, model.rates)
    left_out = bootstrap_weights(len(log.users), config.run.seed, 1).numpy()[log.user] == 0
    flipped = log.kind.copy()
    decided = left_out & log.recommended & fitting.windows(config).train_mask(log)
    flipped[decided] = np.where(flipped[decided] == ACCEPTED, ACCEPTED - 1, ACCEPTED)
    again = trained(config_of(training={"epochs": 1}), replace(log, kind=flipped), member=1)
    torch.testing.assert_close(again.rates, member.rates)


def test_weighted_decisions_all_alike_keep_the_order() -> None:
    draw = np.random.default_rng(6)
    for _ in range(20):
        found = calibration(draw.normal(0, 1, 300), np.ones(300), (), 1 / draw.uniform(0.01, 1, 300))
        assert found.scale == 1


def test_redrawn_decisions_come_from_the_models_chances(learned: Any) -> None:
    _, _, log, _, model = learned
    again = redrawn(model, log, 7)
    np.testing.assert_array_equal(again.item, log.item)
    np.testing.assert_array_equal(again.recommended, log.recommended)
    chance = 1 / (
        1 + np.exp(-predict(model, sequences(again, model.options.length), len(log)).numpy()[log.recommended])
    )
    accepted = again.kind[log.recommended] == ACCEPTED
    error = np.sqrt((chance * (1 - chance)).sum())
    assert abs(accepted.sum() - chance.sum()) < 4 * error
    high = chance > np.quantile(chance, 0.8)
    assert abs(accepted[high].sum() - chance[high].sum()) < 4 * np.sqrt((chance * (1 - chance))[high].sum())
    np.testing.assert_array_equal(redrawn(model, log, 7).kind, again.kind)
    assert (redrawn(model, log, 8).kind != again.kind).any()


def test_the_interval_of_redrawn_models_holds_bias_and_spread() -> None:
    found = redrawn_half_width(np.array([1.0, 0.0]), np.array([[2.0, -1.0], [2.0, 1.0], [2.0, 0.0]]))
    np.testing.assert_allclose(found, [4.302652729911275, 4.302652729911275])


def test_a_policy_that_the_log_does_not_know_has_no_band(learned: Any) -> None:
    config, _, log, _, model = learned
    assert not of_policy(config, log, model, np.zeros(len(log))).bands
    assert len(of_policy(config, log, model, np.ones(len(log))).bands) == 1
    assert [choices_of(items) for items in (1, 3, 100, 10_000)] == [1, 1, 5, 500]


@pytest.mark.slow
@pytest.mark.parametrize(("users", "steps", "worlds"), [(250, 12, 40), (600, 20, 12)])
def test_bands_cover_the_true_mean_chances(users: int, steps: int, worlds: int) -> None:
    covered, chosen = [], []
    for seed in range(1000, 1000 + worlds):
        config = config_of(simulator={"users": users, "steps": steps}, run={"name": "x", "seed": seed})
        simulator = Simulator(SimulatorOptions(**dict(config.simulator)), seed)
        log, truth = simulator.log()
        model = trained(config, log)
        found, said, true = (
            held_out(config, log, model),
            chances_now(model.of_any_item(), log),
            true_now(simulator, truth),
        )
        code = np.searchsorted([band.highest for band in found.all.bands[:-1]], said)
        off = [float((true - said)[code == number].mean()) for number in range(len(found.all.bands))]
        covered += [band.low <= one <= band.high for band, one in zip(found.all.bands, off, strict=True)]
        best = (-said).argsort(1)[:, : found.choices]
        own = float((np.take_along_axis(true, best, 1) - np.take_along_axis(said, best, 1)).mean())
        chosen += [band.low <= own <= band.high for band in found.chosen.bands]
    print(
        f"{users} x {steps}: {np.mean(covered):.3f} of {len(covered)} bands, {np.mean(chosen):.3f} of {len(chosen)} chosen"
    )
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(chosen) >= 0.9


def test_the_users_own_rate_counts_where_decisions_are_seen(learned: Any) -> None:
    *_, model = learned
    one = model.calibrated(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    none = model.calibrated(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    past = [[(3, int(ACCEPTED))] * 4]
    memory = one.read(*(histories.histories(past).item, histories.histories(past).kind))
    known = histories.histories(past)
    after = histories.states_after(one, known)
    torch.testing.assert_close(memory.state, after)
    gain = (one.score(after) - none.score(histories.states_after(none, known)))[0]
    mean = torch.sigmoid(one.rate)
    expected = torch.logit((4 + 5 * mean) / 9) - one.rate
    torch.testing.assert_close(gain, expected.expand_as(gain), atol=1e-4, rtol=1e-4)

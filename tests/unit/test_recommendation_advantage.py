"""What learning decisions is worth over ranking rules (specification 3.6, 3.8), on the simulated population."""

import numpy as np
import pytest

from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.evaluation import MODEL, ORACLE, TOP_RULE, evaluate
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from rayworks.systems.recommendation.models.fitting import Group, Unit, calibrate, make_trainer
from rayworks.systems.recommendation.models.histories import histories_of
from rayworks.systems.recommendation.values.policies import imagine
from rayworks.systems.recommendation.values.roll_out import table_policy


def trained(users: int, seed: int) -> tuple[dict[str, float], float]:
    """AUC by predictor, and by how much the value of the logging policy is missed."""
    config = Config.model_validate({"run": {"seed": seed}, "uncertainty": {"resamples": 0}})
    simulator = Simulator(SimulatorOptions(users=users), seed)
    log, truth = simulator.log()
    models = {}
    for unit in (Unit("natural", "natural", backbone="attention"), Unit("acceptance-0", "acceptance")):
        trainer = make_trainer(unit, config, log, None, Group())
        while not trainer.finished:
            trainer.epoch()
        models[unit.kind] = trainer.trained()
    calibrate(models["acceptance"], config, log)
    found = evaluate(config, log, models["acceptance"], {}, models["natural"], truth.probability)
    table = simulator.mixed_policy(simulator.options.exploration)(simulator.start())
    past = histories_of(log, np.arange(users), before_recommendations=True)
    imagined = imagine(models["acceptance"], past, table_policy(table.float()), simulator.options.steps, seed).value()
    true = np.mean([simulator.value(simulator.mixed_policy(0.5), "value", draw).mean() for draw in range(4)])
    return {name: row["auc"] for name, row in found["models"].items()}, float(abs(imagined.mean() - true))


def test_decisions_teach_more_than_rankings() -> None:
    area, error = trained(700, 0)
    assert area[ORACLE] > area[MODEL] > area[TOP_RULE] + 0.08
    assert error < 0.02


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_advantage_over_the_ranking_rule_is_a_tenth_over_five_seeds() -> None:
    found = [trained(2000, seed) for seed in range(5)]
    advantage = [area[MODEL] - area[TOP_RULE] for area, _ in found]
    errors = [error for _, error in found]
    print("advantage", np.round(advantage, 4), "value errors", np.round(errors, 4))
    assert min(advantage) >= 0.10
    assert np.mean(errors) <= 0.01

"""Variational and MCMC posteriors stand near marginal likelihood, on data small enough to sample."""

import numpy as np
import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.bayesian import Inference, posterior
from rayworks.systems.difficulty.item_response.curves import Model
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from tests.simulated_responses import simulated


@pytest.mark.parametrize(("model", "inference"), [("3PL", "variational"), ("1PL", "nuts")])
def test_posteriors_stand_near_the_maximum(model: Model, inference: Inference) -> None:
    subjects = 120 if inference == "nuts" else 300
    data = simulated(0, subjects=subjects, items=8, model=model, missing=0.1)
    found = posterior(data.responses, model, inference, seed=1, steps=800, samples=150, chains=2)
    maximum = fit(data.matrix, FitOptions(model=model, estimator="map"))
    b, error = maximum.parameters.difficulty, standard_errors(data.matrix, maximum).difficulty
    assert (np.abs(found.parameters.difficulty - b) < 1.2 * error).all()
    assert np.corrcoef(found.parameters.difficulty, b)[0, 1] > 0.98
    assert (found.difficulty_sd > 0.2 * error).all() and (found.difficulty_sd < 1.6 * error).all()
    assert np.corrcoef(found.ability, data.ability)[0, 1] > 0.5
    assert found.ability.shape == found.ability_sd.shape == (subjects,)
    if inference == "nuts":
        assert found.r_hat is not None and found.effective_samples is not None
        assert 0.99 < found.r_hat < 1.1
        assert found.effective_samples > 30
        assert found.converged == (found.r_hat < 1.01 and found.effective_samples > 400)
        assert found.difficulty_sd == pytest.approx(error, rel=0.35), "mean-field errors may be short, these not"
    else:
        assert found.r_hat is None and found.converged is None


def test_the_seed_decides() -> None:
    responses = simulated(1, subjects=40, items=4).responses
    one, same = (posterior(responses, "1PL", "variational", seed=1, steps=50).parameters.difficulty for _ in range(2))
    assert (one == same).all()


def test_four_parameters_are_not_offered() -> None:
    with pytest.raises(ConfigError, match="4PL: has no posterior here; use estimator map"):
        posterior(simulated(0, subjects=5, items=3).responses, "4PL", "nuts", seed=0)

"""Variational and MCMC posteriors of item parameters, through NumPyro (extra ``rayworks[bayesian]``).

For checks of the maximum-likelihood labels and for small samples; marginal likelihood is hundreds of times faster and, with
ordinary samples, as exact. Both fix the scale by theta ~ N(0, 1), so two runs need no standardising.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model
from rayworks.systems.difficulty.responses.response_store import Responses

Inference = Literal["variational", "nuts"]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior means and standard deviations; ``r_hat`` and ``effective_samples`` are the worst of any parameter (NUTS)."""

    parameters: ItemParameters
    difficulty_sd: np.ndarray
    discrimination_sd: np.ndarray
    ability: np.ndarray
    ability_sd: np.ndarray
    r_hat: float | None
    effective_samples: float | None
    inference: str

    @property
    def converged(self) -> bool | None:
        """R-hat below 1.01 and more than 400 effective samples; None where the inference has no such test."""
        if self.r_hat is None or self.effective_samples is None:
            return None
        return self.r_hat < 1.01 and self.effective_samples > 400


def posterior(
    responses: Responses,
    model: Model,
    inference: Inference,
    *,
    seed: int,
    steps: int = 2000,
    samples: int = 1000,
    chains: int = 4,
) -> Posterior:
    """Posterior of a 1PL, 2PL or 3PL: ``b ~ N(0, s**2)`` with ``s`` half-normal, ``ln a ~ N(0, .5)``, ``c ~ Beta(5, 17)``.

    Args:
        responses: the store; cost per gradient is linear in its cells.
        model: 1PL to 3PL; the 4PL is not identified well enough to be offered.
        inference: mean-field normal by ``steps`` of Adam, or NUTS with ``samples`` per chain after as many of warm-up.
        chains: run one after the other in this process.

    Raises:
        ConfigError: the extra is missing, or the model is 4PL.
    """
    if model == "4PL":
        raise ConfigError("model.name 4PL: has no posterior here; use estimator map")
    numpyro, jax = _import()
    key = jax.random.PRNGKey(seed % 2**32)
    subjects, items = responses.shape
    arguments = (responses.subject, responses.item, responses.score, responses.weight, subjects, items, model)
    density = _density(numpyro, jax)
    if inference == "variational":
        guide = numpyro.infer.autoguide.AutoNormal(density)
        schedule = numpyro.optim.Adam(step_size=lambda step: 0.1 * 0.998**step)
        machine = numpyro.infer.SVI(density, guide, schedule, numpyro.infer.Trace_ELBO())
        found = machine.run(key, steps, *arguments, progress_bar=False)
        draws = guide.sample_posterior(key, found.params, *arguments, sample_shape=(1000,))
        return _summary(draws, model, inference, None, None)
    sizes = {"num_warmup": samples, "num_samples": samples, "num_chains": chains}
    kernel = numpyro.infer.NUTS(density)
    machine = numpyro.infer.MCMC(kernel, **sizes, chain_method="sequential", progress_bar=False)
    machine.run(key, *arguments)
    grouped = machine.get_samples(group_by_chain=True)
    diagnostics = numpyro.diagnostics.summary(
        {name: grouped[name] for name in grouped if not name.startswith("ability")}
    )
    r_hat = max(float(np.max(entry["r_hat"])) for entry in diagnostics.values())
    effective = min(float(np.min(entry["n_eff"])) for entry in diagnostics.values())
    return _summary(machine.get_samples(), model, inference, r_hat, effective)


def _density(numpyro: ModuleType, jax: ModuleType) -> Any:
    distribution, numbers = numpyro.distributions, jax.numpy

    def density(subject: Any, item: Any, score: Any, weight: Any, subjects: int, items: int, model: Model) -> None:
        spread = numpyro.sample("spread", distribution.HalfNormal(2.0))
        ability = numpyro.sample("ability", distribution.Normal(0, 1).expand([subjects]))
        raw = numpyro.sample("raw_difficulty", distribution.Normal(0, 1).expand([items]))
        difficulty = numpyro.deterministic("difficulty", spread * raw)
        if model == "1PL":
            slope = numpyro.sample("population_sd", distribution.HalfNormal(2.0))
        else:
            slope = numpyro.sample("discrimination", distribution.LogNormal(0, 0.5).expand([items]))[item]
        z = slope * (ability[subject] - difficulty[item])
        p = jax.nn.sigmoid(z)
        if model == "3PL":
            c = numpyro.sample("guessing", distribution.Beta(5, 17).expand([items]))[item]
            p = c + (1 - c) * p
        p = numbers.clip(p, 1e-6, 1 - 1e-6)
        numpyro.factor("responses", (weight * (score * numbers.log(p) + (1 - score) * numbers.log1p(-p))).sum())

    return density


def _summary(draws: Any, model: Model, inference: str, r_hat: float | None, effective: float | None) -> Posterior:
    found = {name: np.asarray(values, dtype=float) for name, values in draws.items()}
    sd = found.get("population_sd", np.ones(1))
    # In the 1PL the slope is the population's spread: difficulties are reported in logits, where discrimination is 1.
    unit = sd[:, None] if model == "1PL" else 1.0
    difficulty, ability = found["difficulty"] * unit, found["ability"] * unit
    discrimination = found.get("discrimination", np.ones_like(difficulty))
    guessing = found["guessing"].mean(0) if "guessing" in found else 0.0
    means = (difficulty.mean(0), discrimination.mean(0), guessing)
    parameters = ItemParameters.from_difficulty(model, *means, population_sd=float(sd.mean()))
    moments = (difficulty.std(0), discrimination.std(0), ability.mean(0), ability.std(0))
    return Posterior(parameters, *moments, r_hat, effective, inference)


def _import() -> tuple[ModuleType, ModuleType]:
    try:
        import jax
        import numpyro
        import numpyro.diagnostics
        import numpyro.infer.autoguide
    except ImportError:
        raise ConfigError("estimator variational or nuts: needs NumPyro; pip install rayworks[bayesian]") from None
    return numpyro, jax

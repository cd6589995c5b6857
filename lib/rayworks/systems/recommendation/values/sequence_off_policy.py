"""Off-policy evaluation over trajectories: IS, per-decision IS and DR, with diagnostics by step.

A trajectory is a user's recommendations in order; its return is the discounted sum of its rewards. Weights are products of
probability ratios, kept as logarithms. References: Precup, Sutton and Singh 2000 (per-decision), Jiang and Li 2016
(doubly robust), Thomas and Brunskill 2016 (weighted doubly robust).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.events import refuse
from rayworks.systems.recommendation.measures.estimates import Bootstrap, Estimate, SumOfRatios, estimate_all
from rayworks.systems.recommendation.values.off_policy import LEAST_EFFECTIVE_SHARE, ROUNDING, Diagnostics, diagnose

LARGEST_LOG_WEIGHT = 300.0
"""Cuts weights so that their squares are finite; no estimate with such weights means anything, and the diagnostics say so."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """U users' logged actions under a logging and a target policy, over at most T steps.

    Raises:
        DataError: shapes that differ, a user without a step or with a gap, a reward that is not finite, a propensity that
            is not above 0 and at most 1, a target probability outside [0, 1]; names the field, row and step. What lies
            outside ``present`` is never read.
    """

    reward: np.ndarray
    """float64 (U, T)."""
    propensity: np.ndarray
    """float64 (U, T): of the logged action, in (0, 1]."""
    target_probability: np.ndarray
    """float64 (U, T): target probability of the logged action, given the logged past."""
    present: np.ndarray
    """bool (U, T): a user's steps come first, at least one."""

    def __post_init__(self) -> None:
        if self.present.ndim != 2 or not self.present.size:
            raise DataError(f"present has shape {self.present.shape}; give users x steps with at least one of each")
        for name in ("reward", "propensity", "target_probability"):
            self.check(name, getattr(self, name))
        empty = ~self.present[:, 0]
        refuse("present", self.present[:, 0], empty, "has no step; leave out users without recommendations")
        gaps = np.pad(self.present[:, 1:] & ~self.present[:, :-1], ((0, 0), (1, 0)))
        refuse("present", self.present, gaps, "comes after a gap; put a user's steps first")
        outside = self.present & ~((self.propensity > 0) & (self.propensity <= 1))
        refuse("propensity", self.propensity, outside, "is not above 0 and at most 1; what was logged had a chance")
        target = self.target_probability
        outside = self.present & ~((target >= 0) & (target <= 1 + ROUNDING))
        refuse("target_probability", target, outside, "is not between 0 and 1")

    def check(self, name: str, values: np.ndarray) -> None:
        """Refuse an array that is not (U, T) or not finite where steps are present.

        Raises:
            DataError: names the field, row and step.
        """
        if values.shape != self.present.shape:
            raise DataError(f"{name} has shape {values.shape} where {self.present.shape} is due; give users x steps")
        refuse(name, values, self.present & ~np.isfinite(values), "is not finite")

    @cached_property
    def ratio(self) -> np.ndarray:
        """Float64 (U, T): target probability over propensity; 1 after a user's end."""
        ended = np.ones(self.present.shape)
        return np.asarray(np.divide(self.target_probability, self.propensity, out=ended, where=self.present))

    @cached_property
    def log_weight(self) -> np.ndarray:
        """float64 (U, T): logarithm of the product of the ratios so far; stays after a user's end."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.cumsum(np.log(self.ratio), axis=1))

    @property
    def log_weight_before(self) -> np.ndarray:
        """Float64 (U, T): that of the steps before, 0 at the first."""
        return np.pad(self.log_weight[:, :-1], ((0, 0), (1, 0)))

    def discounted(self, values: np.ndarray, discount: float) -> np.ndarray:
        """``values`` (U, T) times ``discount ** step``; 0 after a user's end."""
        powers = discount ** np.arange(self.present.shape[1])
        return np.asarray(np.where(self.present, values, 0.0) * powers)


@dataclass(frozen=True, eq=False)
class StepDiagnostics:
    """Overlap by step, over the users present; each (T,)."""

    users: np.ndarray
    effective_sample_size: np.ndarray
    largest_weight: np.ndarray
    mean_weight: np.ndarray
    """Over all users, those at their end with their last weight, so that 1 is due at each step."""


@dataclass(frozen=True)
class SequenceEvaluation:
    """Estimates of the mean discounted return per user by name, with diagnostics of the whole weights and by step."""

    estimates: dict[str, Estimate]
    diagnostics: Diagnostics
    by_step: StepDiagnostics


def evaluate_sequences(
    log: Trajectories,
    *,
    discount: float = 1.0,
    action_value: np.ndarray | None = None,
    state_value: np.ndarray | None = None,
    bootstrap: Bootstrap | None = None,
) -> SequenceEvaluation:
    """All estimators of the target policy's mean return, with intervals over users.

    Args:
        log: U x T.
        discount: of a step's reward against the step before, in [0, 1].
        action_value: Q(h_t, a_t) (U, T), a model's discounted return from step t on under the target policy, seen from t.
        state_value: V(h_t) (U, T), its mean over the target policy's actions. Both or neither; with them there are ``dm``,
            ``dr`` and ``wdr`` beside ``is``, ``wis``, ``pdis`` and ``wpdis``.
        bootstrap: percentile intervals instead of normal ones.

    Raises:
        DataError: a model's array of another shape or not finite, one without the other, a discount outside [0, 1], no
            trajectory that the target policy could have taken.
    """
    if not 0 <= discount <= 1:
        raise DataError(f"discount is {discount:g}; give a number between 0 and 1")
    if (action_value is None) != (state_value is None):
        raise DataError("action_value and state_value of a model come together; give both or neither")
    if not np.isfinite(log.log_weight[:, -1]).any():
        raise DataError("target_probability is 0 somewhere in every trajectory; the log says nothing about this policy")
    rewards = log.discounted(log.reward, discount)
    whole, by_decision = _relative_weights(log.log_weight[:, -1]), _relative_weights(log.log_weight)
    forms = {
        "is": importance_sampling(log, discount),
        # Self-normalised: the weighted mean of whole returns, and that of each step's rewards, summed over steps (K = T).
        "wis": SumOfRatios((whole * rewards.sum(axis=1))[None], whole[None]),
        "pdis": per_decision(log, discount),
        "wpdis": SumOfRatios((by_decision * rewards).T, by_decision.T),
    }
    if action_value is not None and state_value is not None:
        log.check("action_value", action_value)
        log.check("state_value", state_value)
        forms["dm"] = SumOfRatios(state_value[:, 0][None])
        forms["dr"] = sequence_doubly_robust(log, discount, action_value, state_value)
        forms["wdr"] = weighted_doubly_robust(log, discount, action_value, state_value)
    by_step = diagnose_steps(log)
    diagnostics = diagnose(_weights(log.log_weight[:, -1]), unit="trajectories")
    return SequenceEvaluation(estimate_all(forms, bootstrap), _with_steps(diagnostics, by_step), by_step)


def importance_sampling(log: Trajectories, discount: float) -> SumOfRatios:
    """IS: mean of whole returns, each times its trajectory's weight."""
    returns = log.discounted(log.reward, discount).sum(axis=1)
    return SumOfRatios((_weights(log.log_weight[:, -1]) * returns)[None])


def per_decision(log: Trajectories, discount: float) -> SumOfRatios:
    """PDIS: each reward times the weight up to its own step, since later actions cannot have changed it."""
    return SumOfRatios((_weights(log.log_weight) * log.discounted(log.reward, discount)).sum(axis=1)[None])


def sequence_doubly_robust(
    log: Trajectories, discount: float, action_value: np.ndarray, state_value: np.ndarray
) -> SumOfRatios:
    """DR (Jiang and Li 2016, eq. 10): ``D_t = V_t + ratio_t (r_t + discount D_{t+1} - Q_t)``, of which this is the mean D_0.

    The recursion is unrolled: ``D_0`` is the sum of ``discount**t (weight_{t-1} V_t + weight_t (r_t - Q_t))``.
    """
    errors, values = _corrections(log, discount, action_value, state_value)
    before, weight = _weights(log.log_weight_before), _weights(log.log_weight)
    return SumOfRatios((weight * errors + before * values).sum(axis=1)[None])


def weighted_doubly_robust(
    log: Trajectories, discount: float, action_value: np.ndarray, state_value: np.ndarray
) -> SumOfRatios:
    """WDR (Thomas and Brunskill 2016): DR with the weights of each step made to sum to 1; K = 2 T."""
    errors, values = _corrections(log, discount, action_value, state_value)
    before, weight = _relative_weights(log.log_weight_before), _relative_weights(log.log_weight)
    numerator = np.concatenate([(weight * errors).T, (before * values).T])
    return SumOfRatios(numerator, np.concatenate([weight.T, before.T]))


def _corrections(
    log: Trajectories, discount: float, action_value: np.ndarray, state_value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Discounted ``r_t - Q_t`` and ``V_t``, each (U, T)."""
    errors = log.discounted(log.reward, discount) - log.discounted(action_value, discount)
    return errors, log.discounted(state_value, discount)


def diagnose_steps(log: Trajectories) -> StepDiagnostics:
    """Effective sample size, largest and mean weight by step."""
    weight = _weights(log.log_weight)
    present = np.where(log.present, weight, 0.0)
    share = _relative_weights(np.where(log.present, log.log_weight, -np.inf))
    squares = (share**2).sum(axis=0)
    effective = np.divide(share.sum(axis=0) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)
    return StepDiagnostics(log.present.sum(axis=0), effective, present.max(axis=0), weight.mean(axis=0))


def _with_steps(diagnostics: Diagnostics, by_step: StepDiagnostics) -> Diagnostics:
    """The same, with a warning that names the first step where overlap is poor."""
    poor = by_step.effective_sample_size < LEAST_EFFECTIVE_SHARE * by_step.users
    if not poor.any():
        return diagnostics
    step = int(np.flatnonzero(poor)[0])
    size, users = by_step.effective_sample_size[step], by_step.users[step]
    warning = f"overlap is poor from step {step} on: {users:,} users are worth {size:,.0f}"
    return Diagnostics(**{**vars(diagnostics), "warnings": (*diagnostics.warnings, warning)})


def _weights(log_weight: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(np.minimum(log_weight, LARGEST_LOG_WEIGHT)))


def _relative_weights(log_weight: np.ndarray) -> np.ndarray:
    """Weights over the largest of each step (first axis), for forms in which a common factor falls out."""
    largest = log_weight.max(axis=0)
    return np.asarray(np.exp(log_weight - np.where(np.isfinite(largest), largest, 0.0)))

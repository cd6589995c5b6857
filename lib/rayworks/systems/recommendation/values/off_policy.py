"""Off-policy evaluation of a policy from logged actions: DM, IPS, SNIPS, DR, SNDR, switch-DR, with diagnostics.

One row is one impression. Weights are ``target probability / propensity`` of the logged action. References: Dudik et al.
2014 (DR), Swaminathan and Joachims 2015 (SNIPS), Wang, Agarwal and Dudik 2017 (switch).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.events import refuse
from rayworks.systems.recommendation.measures.estimates import Bootstrap, Estimate, SumOfRatios, estimate_all
from rayworks.systems.recommendation.values.shrinkage import shrunk_doubly_robust

LEAST_EFFECTIVE_SHARE = 0.1
MOST_UNSUPPORTED = 0.01
MOST_CLIPPED = 0.01
MOST_OF_ONE_UNIT = 0.05
"""Limits beyond which :class:`Diagnostics` warns."""
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class LoggedActions:
    """N impressions.

    Raises:
        DataError: lengths that differ, no rows, a reward that is not finite, a propensity that is not above 0 and at most
            1, a negative code; the message names the field and its first bad row.
    """

    reward: np.ndarray
    """float64 (N,)."""
    propensity: np.ndarray
    """float64 (N,): probability with which the logging policy chose the logged action, in (0, 1]."""
    action: np.ndarray
    """int (N,): code of the logged action, from 0."""
    position: np.ndarray | None = None
    """int (N,): code of the place where it was shown, from 0; None where there is one."""
    user: np.ndarray | None = None
    """int (N,): codes of users, whose rows depend on each other; intervals are over them. None: rows are independent."""

    def __post_init__(self) -> None:
        if not len(self.reward):
            raise DataError("reward has no rows; off-policy evaluation needs a log")
        for name in ("propensity", "action", "position", "user"):
            refuse_lengths(name, getattr(self, name), len(self.reward))
        refuse("reward", self.reward, ~np.isfinite(self.reward), "is not finite")
        outside = ~((self.propensity > 0) & (self.propensity <= 1))
        refuse("propensity", self.propensity, outside, "is not above 0 and at most 1; what was logged had a chance")
        for name in ("action", "position"):
            codes = getattr(self, name)
            if codes is not None:
                refuse(name, codes, codes < 0, "is negative; codes start at 0")

    def __len__(self) -> int:
        return len(self.reward)

    def gather(self, table: np.ndarray) -> np.ndarray:
        """Entries of an (A, P) or (A,) table at each row's action and position, (N,).

        Raises:
            DataError: an action or a position is outside the table.
        """
        table = table.reshape(len(table), -1)
        refuse("action", self.action, self.action >= len(table), f"is outside the table's {len(table)} actions")
        if self.position is None:
            return np.asarray(table[:, 0][self.action])
        positions = table.shape[1]
        refuse("position", self.position, self.position >= positions, f"is outside the table's {positions} positions")
        return np.asarray(table.ravel()[self.action * positions + self.position])

    def gather_by_position(self, values: np.ndarray) -> np.ndarray:
        """Entries of a (P,) vector at each row's position, (N,)."""
        return np.asarray(np.broadcast_to(values[0], len(self)) if self.position is None else values[self.position])


@dataclass(frozen=True, eq=False)
class Target:
    """What the target policy, and a reward model under it, say at N logged rows.

    Raises:
        DataError: lengths that differ, a probability outside [0, 1], a model value that is not finite, one model field
            without the other.
    """

    probability: np.ndarray
    """float64 (N,): target probability of the logged action."""
    predicted: np.ndarray | None = None
    """float64 (N,): the reward model at the logged action."""
    expected: np.ndarray | None = None
    """float64 (N,): the reward model's mean over the target policy's actions."""
    unsupported: float | None = None
    """Share of the target's probability on actions that the logging policy never takes; None where that is not known."""

    def __post_init__(self) -> None:
        outside = ~((self.probability >= 0) & (self.probability <= 1 + ROUNDING))
        refuse("target probability", self.probability, outside, "is not between 0 and 1")
        if (self.predicted is None) != (self.expected is None):
            raise DataError("predicted and expected of a reward model come together; give both or neither")
        for name in ("predicted", "expected"):
            values = getattr(self, name)
            refuse_lengths(name, values, len(self.probability))
            if values is not None:
                refuse(name, values, ~np.isfinite(values), "is not finite")

    @classmethod
    def from_tables(
        cls,
        log: LoggedActions,
        policy: np.ndarray,
        model: np.ndarray | None = None,
        support: np.ndarray | None = None,
    ) -> "Target":
        """Target from a policy and a reward model that know action and position only; a row costs two look-ups.

        Args:
            log: N rows.
            policy: (A, P) target probabilities, each column sums to 1.
            model: (A, P) expected rewards.
            support: bool (A, P), where the logging policy ever goes; None where that is not known.

        Raises:
            DataError: tables of other shapes, columns that do not sum to 1, codes outside the tables.
        """
        check_policy(policy)
        share = None if support is None else unsupported_share(log, policy, support)
        if model is None:
            return cls(log.gather(policy), unsupported=share)
        if model.shape != policy.shape:
            raise DataError(
                f"the reward model's table has shape {model.shape}, the policy's {policy.shape}; make them alike"
            )
        expected = log.gather_by_position((policy * model).sum(axis=0))
        return cls(log.gather(policy), log.gather(model), expected, share)


@dataclass(frozen=True)
class Diagnostics:
    """Whether weights can carry an estimate."""

    units: int
    """Rows, or trajectories."""
    effective_sample_size: float
    """Kish: squared sum of the weights over the sum of their squares."""
    largest_weight: float
    mean_weight: Estimate
    """Holds 1 where propensities are right and the logging policy goes wherever the target does."""
    clipped_share: float
    """Share of the units whose weight is clipped."""
    unsupported: float | None
    """See :attr:`Target.unsupported`."""
    warnings: tuple[str, ...]

    @property
    def effective_share(self) -> float:
        """Effective sample size over the number of units."""
        return self.effective_sample_size / self.units


@dataclass(frozen=True)
class Evaluation:
    """Estimates of one target policy's value by name, and whether to trust them."""

    estimates: dict[str, Estimate]
    diagnostics: Diagnostics


def evaluate(
    log: LoggedActions,
    target: Target,
    *,
    clip: float = np.inf,
    switch: float | None = None,
    shrink: bool = False,
    bootstrap: Bootstrap | None = None,
) -> Evaluation:
    """All estimators of the target policy's mean reward per row.

    Args:
        log: N rows.
        target: the same rows; with a reward model there are ``dm``, ``dr``, ``sndr`` and ``switch_dr`` beside ``ips`` and
            ``snips``.
        clip: weights above it are cut to it, for less variance and some bias.
        switch: rows whose weight is above it count by the reward model alone in ``switch_dr``; None leaves that out.
        shrink: add ``dr_os``, see :func:`~.shrinkage.shrunk_doubly_robust`.
        bootstrap: percentile intervals instead of normal ones, but for ``dr_os``.

    Raises:
        DataError: log and target of different lengths; the target takes none of the logged actions.
    """
    refuse_lengths("target probability", target.probability, len(log))
    raw = target.probability / log.propensity
    if not raw.any():
        raise DataError("target probability is 0 at every logged action; the log says nothing about this policy")
    weight = np.minimum(raw, clip) if np.isfinite(clip) else raw
    group = None if log.user is None else np.unique(log.user, return_inverse=True)[1]
    forms = estimators(log.reward, weight, target.predicted, target.expected)
    if switch is not None and target.predicted is not None and target.expected is not None:
        kept = np.where(raw <= switch, raw, 0.0)
        forms["switch_dr"] = doubly_robust(log.reward, kept, target.predicted, target.expected)
    if group is not None:
        forms = {name: form.by(group) for name, form in forms.items()}
    estimates = estimate_all(forms, bootstrap)
    if shrink and target.predicted is not None and target.expected is not None:
        estimates["dr_os"], _ = shrunk_doubly_robust(log.reward, raw, target.predicted, target.expected, group)
    return Evaluation(estimates, diagnose(raw, clip=clip, unsupported=target.unsupported, group=group))


def estimators(
    reward: np.ndarray, weight: np.ndarray, predicted: np.ndarray | None = None, expected: np.ndarray | None = None
) -> dict[str, SumOfRatios]:
    """Every estimator that the given columns (N,) allow, by name.

    - ``ips`` (Horvitz-Thompson): mean of weighted rewards; unbiased where the log goes wherever the target does.
    - ``snips`` (Hajek): weighted mean of rewards; inside their range, with a bias that falls as 1 / N.
    - ``dm``: mean of the reward model under the target policy. Its interval does not know the model's error.
    - ``dr``: see :func:`doubly_robust`; ``sndr``: the same with the mean of the errors weighted to sum to 1.
    """
    weighted = (reward * weight)[None]
    forms = {"ips": SumOfRatios(weighted), "snips": SumOfRatios(weighted, weight[None])}
    if predicted is not None and expected is not None:
        forms["dm"] = SumOfRatios(expected[None])
        forms["dr"] = doubly_robust(reward, weight, predicted, expected)
        terms = np.stack([expected, weight * (reward - predicted)])
        forms["sndr"] = SumOfRatios(terms, np.stack([np.ones_like(weight), weight]))
    return forms


def doubly_robust(reward: np.ndarray, weight: np.ndarray, predicted: np.ndarray, expected: np.ndarray) -> SumOfRatios:
    """DR: the reward model corrected by its weighted errors (N,); unbiased where weights or model are right."""
    return SumOfRatios((expected + weight * (reward - predicted))[None])


def diagnose(
    weight: np.ndarray,
    *,
    clip: float = np.inf,
    unsupported: float | None = None,
    group: np.ndarray | None = None,
    unit: str = "rows",
) -> Diagnostics:
    """Diagnostics of raw weights (N,); ``group`` holds codes of dependent rows, ``unit`` is what messages call the owners."""
    mean = SumOfRatios(weight[None])
    mean_weight = (mean if group is None else mean.by(group)).estimate()
    clipped = float(np.mean(weight > clip)) if np.isfinite(clip) else 0.0
    used = np.minimum(weight, clip) if clipped else weight
    total, largest = float(used.sum()), float(used.max())
    share = used / largest if largest else used
    effective = float(share.sum() ** 2 / (share @ share)) if largest else 0.0
    warnings = []
    if effective < LEAST_EFFECTIVE_SHARE * len(weight):
        warnings.append(
            f"overlap is poor: {len(weight):,} {unit} are worth {effective:,.0f} ({effective / len(weight):.1%}) under the "
            "target policy"
        )
    if mean_weight.low - ROUNDING > 1 or mean_weight.high + ROUNDING < 1:
        warnings.append(
            f"the mean weight is {mean_weight.value:.3g} ({mean_weight.low:.3g} to {mean_weight.high:.3g}) where 1 is due: "
            "propensities are wrong, or the target goes where the logging policy never does"
        )
    if unsupported is not None and unsupported > MOST_UNSUPPORTED:
        warnings.append(
            f"{unsupported:.1%} of the target policy's choices are never taken in the log: only a model can say"
        )
    if largest > MOST_OF_ONE_UNIT * total and len(weight) > 1 / MOST_OF_ONE_UNIT:
        warnings.append(f"one of {len(weight):,} {unit} carries {largest / total:.1%} of the weight")
    if clipped > MOST_CLIPPED:
        warnings.append(
            f"{clipped:.1%} of the {unit} are clipped at {clip:g}: estimates are biased towards the model, or 0"
        )
    return Diagnostics(len(weight), effective, largest, mean_weight, clipped, unsupported, tuple(warnings))


def unsupported_share(log: LoggedActions, policy: np.ndarray, support: np.ndarray) -> float:
    """Share of the target's probability where ``support`` (bool, (A, P)) does not hold, over the log's positions."""
    missing = np.where(support, 0.0, policy).sum(axis=0)
    return float(log.gather_by_position(missing).mean())


def check_policy(policy: np.ndarray, name: str = "policy") -> None:
    """Refuse an (A, P) table whose columns are not distributions.

    Raises:
        DataError: names the first bad column.
    """
    if policy.ndim != 2:
        raise DataError(f"{name} has {policy.ndim} dimensions; give a table of actions x positions")
    bad = (np.abs(policy.sum(axis=0) - 1) > 1e-6) | (policy < 0).any(axis=0) | ~np.isfinite(policy).all(axis=0)
    if bad.any():
        column = int(np.flatnonzero(bad)[0])
        raise DataError(f"{name}: column {column} is not a distribution; probabilities are at least 0 and sum to 1")


def refuse_lengths(field: str, values: np.ndarray | Sequence[float] | None, rows: int) -> None:
    """Raise a DataError where a given column does not have ``rows`` entries."""
    if values is not None and len(values) != rows:
        raise DataError(f"{field} has {len(values):,} rows where {rows:,} are due; give one per row of the log")

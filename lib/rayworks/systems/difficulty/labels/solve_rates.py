"""Difficulty from solve rates alone, for published statistics without a response matrix (E2H-AMC).

Item i on the test of population g is solved by ``p_ig = integral sigmoid(theta - b_i) N(theta; mean_g, sd_g**2)``. Items that
stand on several tests tie the populations together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logit

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.curves import Quadrature, equispaced

EDGE = 8.5
"""Deviations on either side that a population's integral covers: all but 1e-16 of it."""
STEPS = 60
TOLERANCE = 1e-9
COLUMNS = ("item", "population", "solve_rate", "solvers")


@dataclass(frozen=True, eq=False)
class SolveRateFit:
    """Difficulties in units of the reference population, whose abilities are N(0, 1)."""

    items: np.ndarray
    difficulty: np.ndarray
    error: np.ndarray
    """Standard errors from the binomial counts and, where they are estimated, the populations, shape (I,)."""
    populations: dict[str, tuple[float, float]]
    """Mean and standard deviation of ability in each population."""
    log_likelihood: float
    evidence: np.ndarray
    """Answers counted per item, shape (I,)."""


def fit_solve_rates(
    rates: pd.DataFrame, known: Mapping[str, tuple[float, float]] | None = None, prior_sd: float = 4.0
) -> SolveRateFit:
    """Maximise the binomial likelihood of all rates by Fisher scoring; O(rows x nodes + items x populations**2) per step.

    Args:
        rates: columns ``item``, ``population``, ``solve_rate`` in [0, 1], ``solvers`` (how many tried).
        known: mean and sd of populations that are not to be estimated; without any, the first one named is N(0, 1).
        prior_sd: of a weak normal prior on difficulty, which keeps items finite that all or nobody solved.

    Raises:
        DataError: columns, rates or counts at fault, or a population that no shared item ties to a known one.
    """
    rates = _checked(rates)
    item, items = pd.factorize(rates["item"].astype(str))
    group, groups = pd.factorize(rates["population"].astype(str))
    known = dict(known or {str(groups[0]): (0.0, 1.0)})
    _check_known(known, list(groups))
    free = np.array([name not in known for name in groups])
    links = _require_linked(item, group, free, list(groups), len(items))
    mean = np.array([known.get(name, (0.0, 1.0))[0] for name in groups])
    log_sd = np.log([known.get(name, (0.0, 1.0))[1] for name in groups])
    rate, count = rates["solve_rate"].to_numpy(float), rates["solvers"].to_numpy(float)
    # One shared item fixes a population's mean only; its spread is then taken as that of the reference.
    # Shared items of one difficulty say nothing of a population's spread; a weak prior then keeps that of the reference.
    columns = [("mean", g) for g in np.flatnonzero(free)] + [("log_sd", g) for g in np.flatnonzero(free & (links > 1))]
    spread = np.array([float(kind == "log_sd") for kind, _ in columns])
    pooled = np.bincount(item, rate * count) / np.bincount(item, count)
    b = -1.16 * logit(np.clip(pooled, 1e-4, 1 - 1e-4))
    for _ in range(STEPS):
        p, by_b, by_log_sd = _moments(b[item], mean[group], np.exp(log_sd[group]))
        residual = count * (rate - p) / (p * (1 - p))
        precision = count / (p * (1 - p))
        gradient = np.bincount(item, residual * by_b) - b / prior_sd**2
        diagonal = np.bincount(item, precision * by_b**2) + 1 / prior_sd**2
        slopes = np.zeros((len(item), len(columns)))
        for position, (kind, g) in enumerate(columns):
            slopes[:, position] = np.where(group == g, -by_b if kind == "mean" else by_log_sd, 0.0)
        border = np.zeros((len(items), len(columns)))
        np.add.at(border, item, slopes * (precision * by_b)[:, None])
        corner = (slopes * precision[:, None]).T @ slopes + np.diag(spread)
        pull = -spread * np.array([log_sd[g] if kind == "log_sd" else 0.0 for kind, g in columns])
        schur = corner - border.T @ (border / diagonal[:, None])
        step_populations = np.linalg.solve(schur, slopes.T @ residual + pull - border.T @ (gradient / diagonal))
        step_b = (gradient - border @ step_populations) / diagonal
        longest = max(np.abs(step_b).max(), np.abs(step_populations).max(initial=0.0))
        shorten = min(1.0, 1.0 / max(longest, 1e-300))
        b = b + shorten * step_b
        for (kind, g), step in zip(columns, shorten * step_populations, strict=True):
            (mean if kind == "mean" else log_sd)[g] += step
        if longest < TOLERANCE:
            break
    inverse_schur = np.linalg.inv(schur)
    solved = border / diagonal[:, None]
    variance = 1 / diagonal + np.einsum("ik,kl,il->i", solved, inverse_schur, solved)
    p, _, _ = _moments(b[item], mean[group], np.exp(log_sd[group]))
    log_likelihood = float(count @ (rate * np.log(p) + (1 - rate) * np.log1p(-p)))
    populations = {str(name): (float(m), float(np.exp(s))) for name, m, s in zip(groups, mean, log_sd, strict=True)}
    names, answers = np.asarray(items, dtype=object), np.bincount(item, count)
    return SolveRateFit(names, b, np.sqrt(variance), populations, log_likelihood, answers)


def expected_rate(difficulty: np.ndarray, mean: float = 0.0, sd: float = 1.0) -> np.ndarray:
    """Share of a N(mean, sd**2) population that solves items of these difficulties, shape (I,)."""
    return _moments(np.asarray(difficulty, float), np.array(mean), np.array(sd))[0]


def _moments(b: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected rate, and its derivatives by difficulty and by log sd, per row."""
    grid = integration_grid(float(np.max(sd)))
    shift = np.multiply.outer(sd, grid.nodes) if np.ndim(sd) else sd * grid.nodes
    s = expit(np.expand_dims(mean, -1) + shift - b[:, None])
    density = s * (1 - s)
    p = np.clip(s @ grid.weights, 1e-12, 1 - 1e-12)
    return p, -density @ grid.weights, (density * shift) @ grid.weights


def integration_grid(sd: float) -> Quadrature:
    """Equispaced nodes for a logistic curve over N(0, sd**2), to about 1e-9.

    The sum over nodes at distance ``h`` is off by ``exp(-2 pi**2 / (h sd))`` for the curve, whose poles lie ``pi / sd`` off
    the line, and by ``exp(-2 (pi / h)**2)`` for the density (Trefethen and Weideman 2014).
    """
    return equispaced(2 * int(np.ceil(EDGE * max(1.0, sd) / 0.9)) + 1, EDGE)


def _checked(rates: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in COLUMNS if column not in rates.columns]
    if missing:
        raise DataError(f"solve rates: have no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}")
    if not len(rates):
        raise DataError("solve rates: hold no row")
    rates = rates.reset_index(drop=True)
    for column in ("item", "population"):
        empty = rates[column].isna().to_numpy()
        if empty.any():
            raise DataError(f"solve rates: row {int(empty.argmax()) + 1} has no {column}; give every rate one")
    for column, low, high in (("solve_rate", 0, 1), ("solvers", 1, np.inf)):
        values = pd.to_numeric(rates[column], errors="coerce").to_numpy(float)
        wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"solve rates: row {row + 1} has {column} {rates[column].tolist()[row]!r}; must be in [{low}, {high}]"
            )
    repeated = rates.duplicated(["item", "population"])
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise DataError(f"solve rates: row {row + 1} repeats item {rates['item'].iloc[row]} in one population")
    return rates


def _check_known(known: Mapping[str, tuple[float, float]], groups: list[str]) -> None:
    for name, (mean, sd) in known.items():
        if name not in groups:
            raise DataError(f"solve rates: known population {name} has no rate; there are {', '.join(groups)}")
        if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
            raise DataError(
                f"solve rates: known population {name} has standard deviation {sd} and mean {mean}; give finite numbers, "
                "the deviation above 0"
            )


def _require_linked(item: np.ndarray, group: np.ndarray, free: np.ndarray, groups: list[str], items: int) -> np.ndarray:
    """How many shared items each population has with the others it is tied to; refuses one tied to no known one."""
    count = len(groups)
    graph = coo_matrix((np.ones(len(item)), (group, item + count)), shape=(count + items,) * 2)
    _, label = connected_components(graph, directed=False)
    anchored = set(label[:count][~free])
    loose = [groups[g] for g in np.flatnonzero(free) if label[g] not in anchored]
    if loose:
        raise DataError(
            f"solve rates: population {', '.join(loose)} shares no item with a known one; add shared items or give its "
            "mean and standard deviation"
        )
    shared = np.bincount(item, minlength=items)[item] > 1
    return np.bincount(group, weights=shared, minlength=count)

"""Marginal maximum likelihood by EM (Bock and Aitkin 1981), accelerated by SQUAREM, with MAP priors where they are needed.

The grid is checked at the end against a wider and finer one, and grows until that moves no parameter.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import logit

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.item_response.curves import (
    GRID_EDGE,
    ItemParameters,
    Model,
    Quadrature,
    equispaced,
    fitting_grid,
)
from rayworks.systems.difficulty.item_response.expectations import (
    Expect,
    expectation,
    item_totals,
    rasch_expectation,
    working_of,
)
from rayworks.systems.difficulty.item_response.extreme_items import PARKED, Extremes, with_values
from rayworks.systems.difficulty.item_response.maximisation import FitOptions, maximise
from rayworks.systems.difficulty.item_response.priors import Priors
from rayworks.systems.difficulty.item_response.working import Counts, Expectation, Working
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix

STEEPEST = 8.0
"""A discrimination that grows beyond it has no finite maximum: solvers and failures are separated by ability."""
SUSPECT_SLOPE = 0.05
"""A discrimination below it in the unconstrained fit marks an item as a suspected label error."""
FEWEST_OF_TWO = 3
"""Items below which answers do not tell two parameters of each."""
WIDE_EDGE = 2 * GRID_EDGE
"""Of the first grid where groups have means of their own."""
GRID_TOLERANCE = 3e-4
"""Largest change of a parameter by an EM step on a wider and finer grid, up to which a grid is good enough: at the maximum
parameters then move by about 1e-3, a hundredth of usual errors."""
REFINEMENTS = 12
"""Of the grid, each a seventh wider at three quarters of the spacing."""
HALVINGS, SLACK = 8, 1e-9
"""Of an EM step that loses more than this share of the objective."""
LOG_SPREAD_SD = 1.0
"""Of the prior on the logarithm of the spread of abilities, where nested answers leave it no finite estimate."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fit: the parameters and how they were reached."""

    parameters: ItemParameters
    quadrature: Quadrature
    log_likelihood: float
    """Marginal, without the priors."""
    iterations: int
    converged: bool
    trace: list[float]
    """The objective (log-likelihood plus log-prior) of every accepted step."""
    with_prior: np.ndarray
    """Items that a prior holds, shape (I,)."""
    unbounded: np.ndarray
    """Items that have no finite estimate of their own, shape (I,)."""
    suspects: np.ndarray
    """Items whose unconstrained discrimination is not positive: suspected label errors, shape (I,)."""
    extremes: Extremes
    """Items that all or none solved, which were no part of the fit."""
    options: FitOptions
    """As used: the mean of the prior where one was given to few items, the spread where it could be estimated."""
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of the groups beyond the first, whose mean is 0, in deviations of the first, shape (G - 1,)."""
    log_spread: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Logarithms of their standard deviations, in that unit, shape (G - 1,)."""
    grid_error: float = 0.0
    """Largest change of a parameter by an EM step on a wider and finer grid."""

    @property
    def free_per_item(self) -> int:
        """Parameters estimated for each item."""
        return {"1PL": 1, "2PL": 2, "3PL": 3, "4PL": 4}[self.parameters.model] - bool(self.options.guessing)

    @property
    def free_parameters(self) -> int:
        """Parameters estimated in all, the population's spread included; items that all or none solved have none."""
        spread = self.parameters.model == "1PL" and self.options.estimate_population
        return self.free_per_item * int((~self.extremes.mask).sum()) + spread + 2 * len(self.mean)

    @property
    def nested(self) -> bool:
        """Whether the answers of a 1PL are so nearly nested that a prior had to keep its scale finite."""
        return self.parameters.model == "1PL" and self.options.priors.log_spread_sd is not None

    @property
    def working(self) -> Working:
        """The parameters as the E-step takes them; guessing that was given is fixed, extreme items are certain."""
        fixed, found = bool(self.options.guessing), working_of(self.parameters)
        return self.extremes.parked(replace(found, fixed_lower=fixed, mean=self.mean, log_spread=self.log_spread))

    @property
    def abilities(self) -> np.ndarray:
        """Ability at the nodes, shape (Q,)."""
        return self.quadrature.nodes * self.parameters.population_sd

    @property
    def populations(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of ability in each group, the first one's mean being 0."""
        unit = self.parameters.population_sd
        others = zip(unit * self.mean, unit * np.exp(self.log_spread), strict=True)
        return [(0.0, unit), *((float(mean), float(sd)) for mean, sd in others)]


def fit(matrix: ResponseMatrix, options: FitOptions, frequency: np.ndarray | None = None) -> Calibration:
    """Fit one to four parameters per item to a matrix that this process holds.

    Where its subjects are of several groups, each of them has a normal population of its own (Bock and Zimowski 1997).

    Raises:
        DataError: an item without a response, or a fit that left the finite numbers.
        ConfigError: groups of a 3PL or 4PL.
    """
    if options.estimator == "conditional":
        from rayworks.systems.difficulty.item_response.conditional import fit_conditional

        return fit_conditional(matrix, options, frequency)
    fast = options.model == "1PL" and matrix.is_complete and matrix.group is None
    expect = rasch_expectation(matrix, frequency) if fast else expectation(matrix, frequency)
    return fit_by(expect, item_totals(matrix, frequency), options)


def fit_by(expect: Expect, totals: Counts, options: FitOptions, start: Working | None = None) -> Calibration:
    """The same, given the E-step and the totals, wherever the subjects are; ``start`` where a fit is known to be near."""
    unseen = np.flatnonzero(totals.seen <= 0)
    if len(unseen):
        raise DataError(f"items: nobody saw item number {int(unseen[0])} ({len(unseen)} in all); leave them out")
    logistic = options.model in ("1PL", "2PL")
    if totals.groups > 1 and not logistic:
        raise ConfigError(
            f"model.groups: populations of groups are for 1PL and 2PL, not for {options.model}; leave them out"
        )
    edge = GRID_EDGE if totals.groups == 1 else WIDE_EDGE
    quadrature = fitting_grid(len(totals.seen), edge=edge) if options.nodes == 0 else equispaced(options.nodes, edge)
    extremes = Extremes.of(totals) if logistic else Extremes.none(len(totals.seen))
    inner = ~extremes.mask
    few = inner.sum() < (FEWEST_OF_TWO if options.model == "2PL" else 0)
    everywhere = options.estimator == "map" or not logistic or few
    start = start or _start(totals, options)
    options = _identified(options, start, inner, totals)
    first = _Search(extremes.parked(start), options, inner & everywhere)
    unbounded = (totals.scored <= 0) | (totals.scored >= totals.seen)
    found = _search(expect, first, quadrature, totals, replace(first, unbounded=unbounded))
    for refinement in range(REFINEMENTS + 1):
        # The last E-step, which the likelihood and the extreme items need anyhow, is taken on a wider and finer grid.
        wide = quadrature.finer(_edge(found.working))
        expected = expect(found.working, wide)
        grid_error = _moved(found, expected, wide, totals)
        done = grid_error < GRID_TOLERANCE if found.converged else _edge(found.working) <= quadrature.edge
        if done or refinement == REFINEMENTS or options.nodes:
            break
        quadrature = wide
        found = _search(expect, first, quadrature, totals, found)
    if options.nodes:
        wide, expected = quadrature, expect(found.working, quadrature)
    if not np.isfinite(expected.log_likelihood):
        raise DataError(
            f"fit: the {options.model} left the finite numbers after {found.iterations} iterations; use estimator map"
        )
    working, options, held = found.working, found.options, found.held
    centred = replace(options, priors=replace(options.priors, difficulty_mean=options.priors.mean_of(working, held)))
    valued, extremes = with_values(extremes, working, expected.seen, wide, totals, centred)
    parameters, marked = _as_parameters(valued, options.model), (held, found.unbounded, found.suspects, extremes)
    return Calibration(
        parameters,
        quadrature,
        expected.log_likelihood,
        found.iterations,
        found.converged,
        found.trace,
        *marked,
        options,
        working.mean,
        working.log_spread,
        grid_error,
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """Where a search for the maximum stands; priors are put on items on the way."""

    working: Working
    options: FitOptions
    held: np.ndarray
    unbounded: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    suspects: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    trace: list[float] = field(default_factory=list)
    iterations: int = 0
    converged: bool = False


def _search(expect: Expect, first: _Search, quadrature: Quadrature, totals: Counts, at: _Search) -> _Search:
    """Iterate to the maximum on one grid, from ``at``; items that run off get a prior and start again near ``first``."""
    options, held, start = at.options, at.held, first.working
    inner = start.intercept != np.where(start.intercept > 0, PARKED, -PARKED)
    unbounded, suspects = at.unbounded, at.suspects if len(at.suspects) else np.zeros(len(inner), dtype=bool)
    working, trace, more, converged = _iterate(expect, at.working, quadrature, totals, options, held)
    iterations = at.iterations + more
    while True:
        # The scale may be turned round only while no prior says which way it points.
        if working.slope[inner].sum() < 0 and not held.any():
            turned = np.where(inner, -working.slope, working.slope)
            working = replace(working, slope=turned, mean=-working.mean)
        free = inner & ~held
        reversed_now = (working.slope < SUSPECT_SLOPE) & free & converged & (options.model != "1PL")
        nested_now = _spread_runs_off(working, options)
        steep_now = ~(np.abs(working.slope) <= STEEPEST) & (free | (inner & nested_now))
        if not (reversed_now | steep_now).any():
            break
        suspects = suspects | reversed_now
        unbounded = unbounded | reversed_now | steep_now
        held = held | ((reversed_now | steep_now) & inner)
        options = replace(options, priors=_tightened(options, working, inner & ~held, held))
        gentle = np.where(held, np.clip(np.nan_to_num(working.slope, nan=1.0), 0.3, 1.5), working.slope)
        again = replace(
            working,
            slope=start.slope if options.model == "1PL" else gentle,
            intercept=np.where(held, start.intercept, working.intercept),
        )
        working, trace, more, converged = _iterate(expect, again, quadrature, totals, options, held)
        iterations += more
    return _Search(working, options, held, unbounded, suspects, trace, iterations, converged)


def _moved(at: _Search, expected: Expectation, grid: Quadrature, totals: Counts) -> float:
    """Largest change of a parameter by the M-step after an E-step on another grid."""
    moved = maximise(at.working, expected, grid, totals, at.options, at.held, steps=1)
    off = np.abs(moved.vector - at.working.vector)
    return float(off.max()) if np.isfinite(off).all() else 0.0


def _edge(working: Working) -> float:
    """Where a grid must reach so that it holds the populations of all groups."""
    return float(np.max(np.abs(working.mean) + GRID_EDGE * np.exp(working.log_spread), initial=0.0))


def _identified(options: FitOptions, start: Working, inner: np.ndarray, totals: Counts) -> FitOptions:
    """The options without what the items cannot tell: of one the spread of abilities; the mean that extreme ones spoil."""
    if options.model in ("1PL", "2PL") and inner.sum() > 1:
        return options
    usual = inner & (totals.scored > 0) & (totals.scored < totals.seen)
    known = float(np.mean(-start.intercept[usual] / start.slope[usual])) if len(inner) > 1 and usual.any() else 0.0
    spread = options.estimate_population and options.model not in ("1PL", "2PL")
    return replace(options, priors=replace(options.priors, difficulty_mean=known), estimate_population=spread)


def _tightened(options: FitOptions, working: Working, free: np.ndarray, held: np.ndarray) -> Priors:
    """The prior around the difficulties of the items that need none, and on the spread of a 1PL that has none."""
    if options.model == "1PL":
        return replace(options.priors, log_spread_sd=LOG_SPREAD_SD)
    if free.any():
        return replace(options.priors, difficulty_mean=float(np.median(-working.intercept[free] / working.slope[free])))
    return replace(options.priors, difficulty_mean=None if held.sum() > 1 else 0.0)


def _iterate(
    expect: Expect, working: Working, quadrature: Quadrature, totals: Counts, options: FitOptions, held: np.ndarray
) -> tuple[Working, list[float], int, bool]:
    """SQUAREM (Varadhan and Roland 2008, scheme S3) around the EM map; an extrapolation that loses likelihood is undone."""
    evaluations = 0

    def em(at: Working) -> tuple[Working, float]:
        nonlocal evaluations
        evaluations += 1
        found = expect(at, quadrature)
        objective = found.log_likelihood + options.priors.log_density(at, held)
        return maximise(at, found, quadrature, totals, options, held), objective

    def shortened(at: Working, before: float) -> tuple[Working, Working, float]:
        """A part of one Newton step, which goes up where the M-step's several went too far; and what follows it."""
        toward = maximise(at, expect(at, quadrature), quadrature, totals, options, held, steps=1)
        for halving in range(HALVINGS):
            nearer = at.at(at.vector + (toward.vector - at.vector) / 2**halving) or at
            beyond, reached = em(nearer)
            if reached >= before - SLACK * abs(before):
                break
        return nearer, beyond, reached

    trace: list[float] = []
    following, objective = em(working)
    while evaluations < options.max_iterations and not _runs_off(following, held, options):
        trace.append(objective)
        step = following.vector - working.vector
        if np.abs(step).max() < options.tolerance:
            return following, trace, evaluations, True
        second, second_objective = em(following)
        if second_objective < objective - SLACK * abs(objective):
            following, second, second_objective = shortened(working, objective)
            step = following.vector - working.vector
        if not options.accelerate:
            working, following, objective = following, second, second_objective
            continue
        curvature = second.vector - following.vector - step
        length = -np.linalg.norm(step) / max(float(np.linalg.norm(curvature)), 1e-300)
        if length > -1:
            working, following, objective = following, second, second_objective
            continue
        jumped = following.at(working.vector - 2 * length * step + length**2 * curvature)
        # From steeper slopes than any item has Newton's steps run away.
        if jumped is not None and np.abs(jumped.slope).max() <= STEEPEST:
            beyond, jumped_objective = em(jumped)
            if np.isfinite(jumped_objective) and jumped_objective >= second_objective:
                working, following, objective = jumped, beyond, jumped_objective
                continue
        working, following, objective = following, second, second_objective
    trace.append(objective)
    return following, trace, evaluations, False


def _runs_off(at: Working, held: np.ndarray, options: FitOptions) -> bool:
    """Whether some item, or the population of a 1PL, has no finite estimate, so that further iterations are useless."""
    if at.model == "1PL":
        return _spread_runs_off(at, options)
    return bool((~(np.abs(at.slope) <= STEEPEST) & ~held & (np.abs(at.intercept) < PARKED)).any())


def _spread_runs_off(at: Working, options: FitOptions) -> bool:
    return at.model == "1PL" and options.priors.log_spread_sd is None and not at.slope[0] <= STEEPEST


def _start(totals: Counts, options: FitOptions) -> Working:
    rate = (totals.scored + 0.5) / (totals.seen + 1)
    items = len(rate)
    lower = np.zeros(items)
    if options.model in ("3PL", "4PL"):
        lower = np.broadcast_to(options.guessing, items).copy() if options.guessing else np.full(items, 0.15)
        lower = np.where(lower > 0.8 * rate, 0.5 * rate, lower) if not options.guessing else lower
    share = np.full(items, 0.95) if options.model == "4PL" else np.ones(items)
    inner = np.clip((rate - lower) / (share * (1 - lower)), 0.02, 0.98)
    fixed, others = bool(options.guessing), np.zeros(totals.groups - 1)
    return Working(options.model, np.ones(items), 1.2 * logit(inner), lower, share, fixed, others, others)


def _as_parameters(working: Working, model: Model) -> ItemParameters:
    ones = np.ones(len(working.slope))
    if model == "1PL":
        return ItemParameters(model, ones, working.intercept, 0 * ones, ones, float(abs(working.slope[0])))
    upper = working.lower + (1 - working.lower) * working.share
    return ItemParameters(model, working.slope, working.intercept, working.lower, upper)

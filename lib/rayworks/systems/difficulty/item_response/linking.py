"""Link two calibrations on one scale through shared items or shared solvers."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.abilities import Abilities
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Quadrature, equispaced

Method = Literal["mean-sigma", "stocking-lord"]
GRID_TOLERANCE = 1e-4
"""Change of scale and shift on a finer grid up to which a grid is good enough."""
REFINEMENTS = 12


@dataclass(frozen=True, eq=False)
class Link:
    """``theta_target = scale * theta_source + shift``; the same for difficulties."""

    scale: float
    shift: float
    drift: np.ndarray
    """Per anchor, in target units: linked source difficulty minus target difficulty, shape (A,)."""
    method: str

    def difficulty(self, source: np.ndarray) -> np.ndarray:
        """Source difficulties in target units."""
        return self.scale * np.asarray(source) + self.shift

    def parameters(self, source: ItemParameters) -> ItemParameters:
        """Source items in target units; a 1PL keeps its curve but, rescaled, no longer a discrimination of 1."""
        a = source.discrimination / self.scale
        model = source.model if source.model != "1PL" or self.scale == 1 else "2PL"
        return replace(source, model=model, discrimination=a, intercept=source.intercept - a * self.shift)


def link_by_items(
    source: ItemParameters, target: ItemParameters, method: Method = "stocking-lord", grid: Quadrature | None = None
) -> Link:
    """Link by anchor items: position k of both arguments is the same item.

    ``mean-sigma`` matches the first two moments of the difficulties; ``stocking-lord`` (1983) minimises the squared
    difference of the test characteristic curves over the target's population.

    Raises:
        DataError: fewer than two anchors, or anchors of one difficulty.
    """
    if len(source) != len(target) or len(source) < 2:
        raise DataError(
            f"linking: needs the same two or more anchor items on both sides, not {len(source)} and {len(target)}"
        )
    b_source, b_target = source.difficulty, target.difficulty
    if b_source.std() < 1e-9 or b_target.std() < 1e-9:
        raise DataError("linking: all anchors have one difficulty, which leaves the scale open; add another anchor")
    # Rasch scales have one unit, the logit, so that only the origin is open.
    both_rasch = source.model == target.model == "1PL"
    scale = 1.0 if both_rasch else float(b_target.std(ddof=1) / b_source.std(ddof=1))
    shift = float(b_target.mean() - scale * b_source.mean())
    if method == "stocking-lord":
        scale, shift = _stocking_lord(source, target, grid or equispaced(41), scale, shift, fixed_scale=both_rasch)
    return Link(scale, shift, scale * b_source + shift - b_target, method)


def _stocking_lord(
    source: ItemParameters, target: ItemParameters, grid: Quadrature, scale: float, shift: float, *, fixed_scale: bool
) -> tuple[float, float]:
    found = _matched_curves(source, target, grid, scale, shift, fixed_scale=fixed_scale)
    for _ in range(REFINEMENTS):
        grid, before = grid.finer(), found
        found = _matched_curves(source, target, grid, *before, fixed_scale=fixed_scale)
        if np.abs(np.subtract(found, before)).max() < GRID_TOLERANCE:
            return found
    raise DataError("linking: the curves of the anchors are too steep to be compared on a grid; link by mean-sigma")


def _matched_curves(
    source: ItemParameters, target: ItemParameters, grid: Quadrature, scale: float, shift: float, *, fixed_scale: bool
) -> tuple[float, float]:
    nodes = grid.nodes * target.population_sd
    wanted = target.expected_score(nodes)

    def loss(point: np.ndarray) -> float:
        at = 1.0 if fixed_scale else float(np.exp(point[1]))
        linked = Link(at, float(point[0]), np.zeros(0), "")
        return float(grid.weights @ (linked.parameters(source).expected_score(nodes) - wanted) ** 2)

    start = [shift] if fixed_scale else [shift, np.log(scale)]
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000})
    return 1.0 if fixed_scale else float(np.exp(found.x[1])), float(found.x[0])


def link_by_solvers(source: Abilities, target: Abilities) -> Link:
    """Link two item sets through subjects who solved both: position k of both arguments is the same subject.

    Mean and sigma of the abilities, with the estimation error taken out of the variances. It licenses comparing difficulties
    across sets only as far as one ability serves both; ``drift`` holds the subjects' disagreement, in target units.

    Raises:
        DataError: fewer than three shared subjects, or abilities that do not differ beyond their errors.
    """
    if len(source.ability) != len(target.ability) or len(source.ability) < 3:
        raise DataError(
            f"linking: needs three or more shared solvers, not {len(source.ability)} and {len(target.ability)}"
        )
    spread = [_true_variance(side) for side in (source, target)]
    if min(spread) <= 0:
        raise DataError(
            "linking: the shared solvers' abilities differ by no more than their errors; add solvers or items"
        )
    scale = float(np.sqrt(spread[1] / spread[0]))
    shift = float(target.ability.mean() - scale * source.ability.mean())
    return Link(scale, shift, scale * source.ability + shift - target.ability, "shared-solvers")


def _true_variance(side: Abilities) -> float:
    variance, noise = float(side.ability.var(ddof=1)), float(np.mean(side.error**2))
    # Posterior means have shrunk by just their error; other estimates have spread by it.
    return variance + noise if side.estimator == "EAP" else variance - noise

"""Boards on which groups of models saw items near their level, and all of them a few common ones."""

from dataclasses import dataclass, replace

import numpy as np

from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.responses.response_store import Groups, Responses, from_matrix


@dataclass(frozen=True, eq=False)
class Selective:
    """Scores (J, I), NaN where nothing was asked; difficulties on the scale of the first group, the one in the middle."""

    scores: np.ndarray
    difficulty: np.ndarray
    member: np.ndarray
    means: np.ndarray

    @property
    def responses(self) -> Responses:
        return from_matrix(self.scores)

    @property
    def grouped(self) -> Responses:
        names = tuple(map(str, range(len(self.means))))
        return replace(self.responses, groups=Groups(names, self.member))


def selective(
    draw: np.random.Generator,
    model: Model = "1PL",
    *,
    groups: int = 4,
    size: int = 60,
    own: int = 20,
    links: int = 10,
    sd: float = 0.7,
    reach: float = 2.0,
) -> Selective:
    """Groups of N(mean, sd**2), means from -reach to reach; items of their own within .7 of the mean; links N(0, 1)."""
    means = np.linspace(-reach, reach, groups)
    means = means[np.argsort(np.abs(means), kind="stable")]
    member, of_item = np.repeat(np.arange(groups), size), np.repeat(np.arange(groups), own)
    level = means[member]
    b = np.concatenate([draw.normal(0, 1, links), draw.normal(means[of_item], 0.7)])
    slope = 1.0 if model == "1PL" else np.exp(draw.normal(0, 0.3, len(b)))
    ability = draw.normal(level, sd)
    truth = ItemParameters.from_difficulty(model, b, slope)
    scores = simulate(truth, ability, draw.random((len(level), len(b)))).astype(float)
    asked = np.concatenate([np.ones((len(level), links), dtype=bool), member[:, None] == of_item], axis=1)
    scores[~asked] = np.nan
    unit = sd if model == "2PL" else 1.0
    return Selective(scores, (b - means[0]) / unit, member, means)

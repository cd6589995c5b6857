"""Difficulty of benchmark items, with honest uncertainty (Easy2Hard-Bench, arXiv 2409.18433, NeurIPS 2024).

Item response models of one to four parameters calibrate items from who solved what; Glicko-2 rates players, and problems as
players, from games. Both end in one form of label: raw value, standard deviation, rating in [0, 1], quantile, chance of
each tier, and the evidence it rests on.
"""

from typing import TYPE_CHECKING

from rayworks.core.registry import SystemSpec, on_demand
from rayworks.systems.difficulty.config import Config

if TYPE_CHECKING:
    from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
    from rayworks.systems.difficulty.item_response.maximisation import FitOptions
    from rayworks.systems.difficulty.responses.response_matrix import as_matrix
    from rayworks.systems.difficulty.responses.response_store import from_matrix, from_table

SPEC = SystemSpec(
    name="difficulty",
    title="Difficulty of benchmark items: item response models and Glicko-2",
    paper="arXiv 2409.18433",
    config=Config,
    system="rayworks.systems.difficulty.system:DifficultySystem",
    smoke={"run.name": "smoke", "uncertainty.bootstrap": 100, "uncertainty.split_halves": 10},
    headline=(
        "items",
        "subjects",
        "log_likelihood",
        "split_half_correlation",
        "difficulty_se_median",
        "reliability",
        "fit_seconds",
    ),
    optional_headline=("accuracy_base", "accuracy_tuned", "gain", "gain_on_trained_bins"),
    timed=frozenset({"fit_seconds", "seconds"}),
    figures=(
        "difficulties.png",
        "item_curves.png",
        "wright_map.png",
        "accuracy_by_difficulty.png",
        "subsets.png",
        "rating_history.png",
    ),
    needs=("champ", "ability", "math-exam", "verbal-aggression", "lsat6", "lsat7", "bundesliga"),
)

__getattr__ = on_demand(
    __name__,
    {
        "FitOptions": "item_response.maximisation",
        "fit": "item_response.marginal_likelihood",
        "as_matrix": "responses.response_matrix",
        "from_matrix": "responses.response_store",
        "from_table": "responses.response_store",
    },
)

__all__ = ["SPEC", "Config", "FitOptions", "as_matrix", "fit", "from_matrix", "from_table"]

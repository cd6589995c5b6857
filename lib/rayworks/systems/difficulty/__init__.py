"""Difficulty of benchmark items, with honest uncertainty (Easy2Hard-Bench, arXiv 2409.18433, NeurIPS 2024).

Item response models of one to four parameters calibrate items from who solved what; Glicko-2 rates players, and problems as
players, from games. Both end in one form of label: raw value, standard deviation, rating in [0, 1], quantile, chance of
each tier, and the evidence it rests on.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.difficulty.config import Config

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

__all__ = ["SPEC", "Config"]

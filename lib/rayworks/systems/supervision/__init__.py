"""EnsemW2S: boosted ensembles of weak models that teach a stronger one (arXiv 2410.04571).

Weak experts learn, round after round, where those before them erred; what they say together labels the hard cases that nobody
could, and a stronger model learns from these labels. Beside every claim stand a single weak teacher, bagging, the easy truth
itself, and the true labels.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.supervision.config import Config

SPEC = SystemSpec(
    name="supervision",
    title="EnsemW2S: ensembles of weak models teach a stronger one",
    paper="arXiv 2410.04571",
    config=Config,
    system="rayworks.systems.supervision.system:SupervisionSystem",
    smoke={
        "run.name": "smoke",
        "experiment.seeds": 3,
    },
    headline=(
        "weak_accuracy",
        "ensemble_accuracy",
        "student_single",
        "student_ensemble",
        "student_on_easy_truth",
        "ceiling",
        "recovered_share",
        "gain_over_single",
        "gain_over_single_low",
        "gain_over_bagging",
        "gain_over_bagging_low",
        "reference_accuracy_hard",
        "error_correlation",
    ),
    timed=frozenset({"seconds"}),
    figures=("rounds.png", "students.png", "correlation.png"),
)

__all__ = ["SPEC", "Config"]

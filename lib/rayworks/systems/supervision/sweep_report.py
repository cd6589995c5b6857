"""Students over designs: what a sweep says that no run can."""

from collections.abc import Mapping, Sequence

from rayworks.core.bootstrap import t_interval
from rayworks.core.report import Cell, Table
from rayworks.core.sweep import TrialResult


def sweep_summary(trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
    """Gain of every student over the single-taught one, by design: over the runs' seeds, all of its trials together."""
    found: dict[tuple[int, str], list[float]] = {}
    for trial in trials:
        for student, gains in (trial.report or {}).get("details", {}).get("gains", {}).items():
            found.setdefault((trial.design, student), []).extend(gains)
    if not found:
        return (), {}
    rows: list[list[Cell]] = []
    for (design, student), gains in sorted(found.items(), key=lambda pair: (pair[0][0], -sum(pair[1]) / len(pair[1]))):
        rows.append([design, student, len(gains), *t_interval(gains)])
    columns = ("design", "student", "seeds", "mean gain", "95 % low", "95 % high")
    note = "Accuracy less that of the single-taught student; the interval is Student's t over seeds."
    return [Table("Gain of every student over designs", columns, rows, note=note)], {}

"""Gains over designs: what a sweep says that no run can."""

from collections.abc import Mapping, Sequence

from rayworks.core.bootstrap import t_interval
from rayworks.core.report import Cell, Table
from rayworks.core.sweep import TrialResult


def sweep_summary(trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
    """Gain of the engine over the upstream by design, over all seeds of its trials."""
    found: dict[int, list[float]] = {}
    for trial in trials:
        gains = (trial.report or {}).get("details", {}).get("gains", [])
        if gains:
            found.setdefault(trial.design, []).extend(gains)
    if not found:
        return (), {}
    ranked = sorted(found.items(), key=lambda pair: -sum(pair[1]) / len(pair[1]))
    rows: list[list[Cell]] = [[design, len(gains), *t_interval(gains)] for design, gains in ranked]
    columns = ("design", "seeds", "mean gain", "95 % low", "95 % high")
    note = (
        "Test accuracy above upstream and trusted rows; Student's t over seeds. The best of many designs is optimistic: run "
        "it again on seeds of its own."
    )
    return [Table("Gain of SAFLEX over designs", columns, rows, note=note)], {}

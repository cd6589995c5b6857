"""Yield over knobs: what a sweep says that no run can."""

from collections.abc import Mapping, Sequence

from rayworks.core.report import Cell, Table
from rayworks.core.sweep import TrialResult

MOST_PERPLEXITY_RATIO, LEAST_TOPIC = 1.5, 0.6


def sweep_summary(trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
    """Designs by finds per minute of writing, those first that keep prompts as fluent and on topic as is asked."""
    rows: list[list[Cell]] = []
    for trial in trials:
        report = trial.report or {}
        ways = next((table for table in report.get("tables", []) if "over the seeds'" in table["columns"]), None)
        written = next((row for row in (ways or {"rows": []})["rows"] if row[0] == "written"), None)
        if written is None:
            continue
        head, columns = report["headline"], ways["columns"] if ways else []
        ratio, topic = (written[columns.index(name)] for name in ("over the seeds'", "topic"))
        fits = ratio is not None and ratio <= MOST_PERPLEXITY_RATIO and topic is not None and topic >= LEAST_TOPIC
        pace = head["yield"] * head["prompts_per_minute"] if head["prompts_per_minute"] else None
        rows.append([trial.design, head["yield"], pace, ratio, topic, "yes" if fits else "no"])
    rows.sort(key=lambda row: (row[5] != "yes", -float(row[2] or 0)))
    columns = ("design", "yield", "finds a minute", "perplexity over the seeds'", "topic", "within bounds")
    note = (
        f"Within bounds: median perplexity of the finds at most {MOST_PERPLEXITY_RATIO} times the seeds', median cosine with "
        f"the seed at least {LEAST_TOPIC}. Finds a minute are those of this machine."
    )
    return ([Table("Finds over knobs", columns, rows, note=note)] if rows else []), {}

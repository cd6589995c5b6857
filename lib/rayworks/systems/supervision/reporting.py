"""From findings to the report: tables, figures, and what to know when reading them."""

from typing import Any

import numpy as np

from rayworks.core.report import Cell, Report, Table
from rayworks.systems.supervision import figures
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.findings import (
    Gain,
    Results,
    gain,
    headline,
    mean,
    recovered_share,
    students,
    teachers,
)
from rayworks.systems.supervision.pupils import CHOSEN, EASY_TRUTH, TRUTH, arms, pupils, shown_rounds

STUDENTS_TABLE = "Students, by their teachers"
NOTES = (
    "Gain: accuracy on the hard test examples less that of the student whom one weak expert taught with the same kind of "
    "labels, example by example. Its interval is the wider of Student's t over seeds and of a bootstrap over test examples; "
    "seeds share the pool of examples, so their tests overlap.",
    "The number of experts and their vote are chosen on easy validation examples. The test's labels are read once, at the "
    "end; the figure against rounds shows them for every number, which chose nothing.",
    "single: one expert's probabilities; ensemble: boosting; bagging: experts of resampled rows; uniform: other seeds alone; "
    "evidential: Dirichlet mean of bagging's votes; logconf, product: other losses on the single expert's labels; "
    "easy-truth: the student on the labelled easy examples themselves; ceiling: on the true labels of the hard ones.",
)


def build_report(config: Config, results: Results, title: str) -> Report:
    """The report of a finished run."""
    found = _gains(config, results)
    return Report(
        system="supervision",
        run=config.run.name,
        title=title,
        headline=headline(config, results),
        tables=[
            _students_table(config, results, found),
            _teachers_table(config, results),
            _rounds_table(config, results),
            _cost_table(config, results),
        ],
        figures=_figures(config, results, found),
        notes=[*NOTES, *_warnings(config, results, found)],
        details={
            "facts": results["facts"],
            "chosen": {arm: [one["rounds"] for one in taught] for arm, taught in results["taught"].items()},
            "verdicts": [one["reason"] for one in results["taught"]["boosting"]],
        },
    )


def _gains(config: Config, results: Results) -> dict[str, Gain]:
    single = students(results, "single")
    names = [pupil.name for pupil in pupils(config) if pupil.name != "single"]
    return {name: gain(config, students(results, name), single, name) for name in names}


def _students_table(config: Config, results: Results, found: dict[str, Gain]) -> Table:
    weak, ceiling = teachers(results, "boosting@1"), students(results, TRUTH)
    rows: list[list[Cell]] = []
    for pupil in pupils(config):
        marks = students(results, pupil.name)
        one = found.get(pupil.name)
        rows.append(
            [
                *(pupil.name, pupil.teacher, pupil.loss, mean(marks), str(one) if one else None),
                ", ".join(f"{value:+.3f}" for value in one.by_seed) if one else None,
                *(recovered_share(marks, weak, ceiling)[0], mean(marks) / mean(ceiling) if mean(ceiling) else None),
            ]
        )
    return Table(
        STUDENTS_TABLE,
        (
            "student",
            "labels of",
            "loss",
            "accuracy",
            "gain over single",
            "by seed",
            "recovered share",
            "share of ceiling",
        ),
        rows,
        note=f"{config.experiment.confidence:.0%} intervals. Labels of ARM@N: the first N experts, or as many as validation "
        "chose. Recovered share: of the gap between the single weak expert and the ceiling; none where that is within two "
        f"standard errors. {config.student.labels.capitalize()} labels.",
    )


def _teachers_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for arm in arms(config):
        names = [f"{arm}@{number}" for number in shown_rounds(config)] if arm == "boosting" else []
        for name in (*names, f"{arm}@{CHOSEN}"):
            marks = teachers(results, name)
            counts = [facts["counts"]["unlabelled"] for facts in results["facts"]]
            labels = [test["taught"][name] / count for test, count in zip(results["tests"], counts, strict=True)]
            taught = results["taught"][arm]
            chosen = ", ".join(f"{one['rounds']} ({one['vote']})" for one in taught) if name.endswith(CHOSEN) else None
            rows.append(
                [name, mean(marks), float(np.mean(labels)), chosen, _mean([one["correlation"] for one in taught])]
            )
    return Table(
        "Teachers",
        ("experts", "accuracy on hard test", "right labels", "chosen, by seed", "error correlation"),
        rows,
        note="Right labels: of the unlabelled examples that students learn from. Error correlation: mean over pairs of "
        "experts, on validation.",
    )


def _rounds_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    chain = results["chains"]["boosting"][0]
    curves = results["taught"]["boosting"][0]["validation"]
    kept = 0
    for one in chain["rounds"]:
        kept += one["kept"]
        values = [curve[kept - 1] if one["kept"] else None for curve in curves.values()]
        rows.append([one["number"] + 1, one["error"], one["alpha"], one["effective_share"], one["kept"], *values])
    return Table(
        "Boosting of the first seed, round by round",
        ("round", "error", "alpha", "effective share", "kept", *(f"validation, {vote}" for vote in curves)),
        rows,
        note="Error and effective share under the weights that the expert learned from. Validation: accuracy of the experts "
        f"so far, by vote. {chain['ended'].capitalize() + '.' if chain['ended'] else ''}".strip(),
    )


def _cost_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for arm in arms(config):
        chains, taught = results["chains"][arm], results["taught"][arm]
        seconds = sum(one["seconds"] for one in (*chains, *taught)) / len(chains)
        experts = float(np.mean([one["kept"] for one in chains]))
        train, label = (_mean([one["cost"][name] for one in taught]) for name in ("train", "label"))
        rows.append([f"experts: {arm}", experts, train, label, seconds])
    for pupil in pupils(config):
        learned = results["learned"][pupil.name]
        flops = _mean([one.get("flops") for one in learned])
        rows.append([f"student: {pupil.name}", None, flops, None, float(np.mean([one["seconds"] for one in learned]))])
    return Table(
        "Cost of a seed",
        ("part", "experts", "operations to train", "operations to label", "seconds"),
        rows,
        note="Floating-point operations of language models: 6 per parameter and token learned, 2 per token read; not counted "
        "for trees and linear models. Features are computed once for all seeds and are not in it.",
    )


def _figures(config: Config, results: Results, found: dict[str, Gain]) -> dict[str, tuple[bytes, str]]:
    numbers = shown_rounds(config)
    teacher = np.array([[one.mean() for one in teachers(results, f"boosting@{number}")] for number in numbers]).T
    taught_by = {number: "single" if number == 1 else f"ensemble@{number}" for number in numbers}
    student = np.array([[one.mean() for one in students(results, name)] for name in taught_by.values()]).T
    levels = {
        "single weak expert": mean(teachers(results, "boosting@1")),
        "ceiling (true labels)": mean(students(results, TRUTH)),
        "student on easy truth": mean(students(results, EASY_TRUTH)),
    }
    taught = results["taught"]
    chosen = [one["rounds"] for one in taught["boosting"]]
    shown = {name: one for name, one in found.items() if not name.startswith(("ensemble@", "ladder-"))}
    matrices: dict[str, Any] = {arm: taught[arm][0]["correlations"] for arm in arms(config)}
    return {
        "rounds.png": (
            figures.rounds(numbers, teacher.tolist(), student.tolist(), levels, chosen),
            "Accuracy of the boosted ensemble and of the student that it teaches, by number of experts",
        ),
        "students.png": (
            figures.students(shown, config.experiment.confidence),
            "By how much each student beats the one that a single weak expert taught",
        ),
        "correlation.png": (
            figures.correlation(matrices),
            "Correlation of the experts' errors on validation, first seed",
        ),
    }


def _warnings(config: Config, results: Results, found: dict[str, Gain]) -> list[str]:
    warnings = []
    told = results["taught"]["boosting"]
    helped = sum(one["helps"] for one in told)
    warnings.append(f"Will boosting help? In {helped} of {len(told)} seeds yes; the first: {told[0]['reason']}.")
    if "ensemble" in found and found[EASY_TRUTH].mean > found["ensemble"].mean:
        warnings.append(
            "The student on the easy truth itself is better than any that the ensemble taught: where such labels are there, "
            "learn from them."
            if found[EASY_TRUTH].mean >= max(one.mean for name, one in found.items() if name not in (TRUTH, EASY_TRUTH))
            else "The student on the easy truth itself is better than the one that the ensemble taught."
        )
    skipped = [sum(not one["kept"] for one in chain["rounds"]) for chain in results["chains"]["boosting"]]
    if any(skipped):
        warnings.append(f"Experts no better than chance, which do not vote: {sum(skipped)} in {len(skipped)} seeds.")
    share, why = recovered_share(students(results, "single"), teachers(results, "boosting@1"), students(results, TRUTH))
    if share is None:
        warnings.append(f"No recovered share: {why}.")
    if config.boosting.most_alpha and any(
        one["alpha"] >= config.boosting.most_alpha for chain in results["chains"]["boosting"] for one in chain["rounds"]
    ):
        warnings.append(f"Some weights reached boosting.most_alpha, {config.boosting.most_alpha:g}.")
    return warnings


def _mean(values: list[Any]) -> float | None:
    """Of those that are there."""
    there = [float(value) for value in values if value is not None]
    return sum(there) / len(there) if there else None

"""From findings to the report: tables, figures, and what to know when reading them."""

from typing import Any

import numpy as np

from rayworks.core.report import Cell, Report, Table
from rayworks.systems.supervision import figures
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.findings import (
    Gain,
    Results,
    easy,
    gains,
    headline,
    mean,
    recovered_share,
    students,
    teachers,
)
from rayworks.systems.supervision.pupils import CHOSEN, EASY_TRUTH, TRUTH, arms, pupils, shown_rounds
from rayworks.systems.supervision.remarks import mean_size, remarks

STUDENTS_TABLE = "Students, by their teachers"
MOST_PLACES = 16
NOTES = (
    "Gain: accuracy on the test examples less that of the student single, whom one weak expert taught, example by example. "
    "Its interval spans both that of Student's t over seeds and that of a bootstrap over the examples, each with its tests "
    "in all seeds: they share a pool, which the interval does not generalise beyond. 'same marks': all answers are marked "
    "as single's are.",
    "How many experts and which vote, validation has chosen. What is hard was measured with all labels, the test's too, "
    "where a reference model measures it; beyond that the test's labels were read once, at the end. The figure against "
    "rounds shows every number of rounds, which chose nothing.",
    "single: one expert's probabilities; ensemble: boosting, by the vote chosen, which may be shares of votes; single-hard "
    "and ensemble-hard: both with classes as labels, for like and like; bagging: experts of resampled rows; uniform: other "
    "seeds alone; evidential: Dirichlet mean of bagging's votes; logconf, product: other losses on the single expert's "
    "labels; easy-truth: the student on the labelled examples themselves, without those of validation; ceiling: on the true "
    "labels of what the others are taught.",
)


def build_report(config: Config, results: Results, title: str) -> Report:
    """The report of a finished run."""
    found = gains(config, results)
    return Report(
        system="supervision",
        run=config.run.name,
        title=title,
        headline=headline(config, results, found),
        tables=[
            _students_table(config, results, found),
            _teachers_table(config, results),
            _rounds_table(config, results),
            *places_table(results),
            _cost_table(config, results),
        ],
        figures=_figures(config, results, found),
        notes=[*NOTES, *remarks(config, results, found)],
        details={
            "facts": results["facts"],
            "chosen": {arm: [one["rounds"] for one in taught] for arm, taught in results["taught"].items()},
            "verdicts": [one["reason"] for one in results["taught"]["boosting"]],
            "gains": {name: list(one.by_seed) for name, one in found.items()},
        },
    )


def _students_table(config: Config, results: Results, found: dict[str, Gain]) -> Table:
    weak, ceiling = teachers(results, "boosting@1"), students(results, TRUTH)
    ensemble = teachers(results, f"boosting@{CHOSEN}")
    rows: list[list[Cell]] = []
    for pupil in pupils(config, results["students"]):
        marks = students(results, pupil.name)
        one = found.get(pupil.name)
        rows.append(
            [
                *(pupil.name, pupil.teacher, pupil.loss, mean(marks), easy(results, pupil.name)),
                str(one) if one else None,
                ", ".join(f"{value:+.3f}" for value in one.by_seed) if one else None,
                *(recovered_share(marks, teacher, ceiling)[0] for teacher in (weak, ensemble)),
                mean(marks) / mean(ceiling) if mean(ceiling) else None,
            ]
        )
    return Table(
        STUDENTS_TABLE,
        (
            "student",
            "labels of",
            "loss",
            "accuracy",
            "on easy",
            "gain over single",
            "by seed",
            "recovered share",
            "of ensemble",
            "share of ceiling",
        ),
        rows,
        note=f"{config.experiment.confidence:.0%} intervals. Labels of boosting@N and the like: by the first N experts, or "
        "as many as validation chose. On easy: accuracy on easy examples that nobody learned from. Recovered share: of the "
        "gap between the single weak expert and the ceiling; of ensemble: between the ensemble that teaches and the ceiling; "
        "none where that is within two standard errors. "
        f"{config.student.labels.capitalize()} labels.",
    )


def _teachers_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    counts = [facts["counts"]["unlabelled"] for facts in results["facts"]]
    for arm in arms(results["students"]):
        names = [f"{arm}@{number}" for number in shown_rounds(config)] if arm == "boosting" else []
        for name in (*names, f"{arm}@{CHOSEN}"):
            labels = [test["taught"][name] / count for test, count in zip(results["tests"], counts, strict=True)]
            row: list[Cell] = [name, mean(teachers(results, name)), easy(results, name), float(np.mean(labels))]
            if name.endswith(CHOSEN):
                taught = results["taught"][arm]
                row += [
                    ", ".join(f"{one['rounds']} ({one['vote']})" for one in taught),
                    _mean([one["correlation"] for one in taught]),
                    _mean([mean_size(one["correlations"]) for one in taught]),
                ]
            rows.append(row + [None] * (7 - len(row)))
    return Table(
        "Teachers",
        (
            *("experts", "accuracy on test", "on easy", "right labels", "experts and vote, by seed"),
            *("error correlation", "its size"),
        ),
        rows,
        note="boosting@N: the first N experts; chosen: as many as validation chose. Right labels: of the unlabelled examples "
        "that students learn from. Error correlation: mean over pairs of an arm's experts, on validation, and mean of its "
        "size: experts that err in turns have a mean near 0 and a large size.",
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


def places_table(results: Results) -> list[Table]:
    """How the weight is spread over the places of an answer; none where each unit is an answer."""
    rows: list[list[Cell]] = [
        [place + 1, share, weight]
        for place, (share, weight) in enumerate(results["taught"]["boosting"][0].get("by_place", ()))
    ]
    note = "Of the labelled answers' tokens, the end among them, when the chain of the first seed ended."
    columns = ("place in the answer", "share of tokens", "share of weight")
    return [Table("Weight by place", columns, rows[:MOST_PLACES], note=note)] if rows else []


def _cost_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for arm in arms(results["students"]):
        chains, taught = results["chains"][arm], results["taught"][arm]
        seconds = sum(one["seconds"] for one in (*chains, *taught)) / len(chains)
        experts = float(np.mean([one["kept"] for one in chains]))
        train, label = (_tera(_mean([one["cost"][name] for one in taught])) for name in ("train", "label"))
        rows.append([f"experts: {arm}", experts, train, label, seconds])
    for pupil in pupils(config, results["students"]):
        learned = results["learned"][pupil.name]
        flops = _tera(_mean([one.get("flops") for one in learned]))
        rows.append([f"student: {pupil.name}", None, flops, None, float(np.mean([one["seconds"] for one in learned]))])
    return Table(
        "Cost of a seed",
        ("part", "experts", "teraflop to train", "teraflop to label", "seconds"),
        rows,
        note="10^12 floating-point operations of language models: 6 per parameter and token learned, 2 per token read; not "
        "counted for trees and linear models. Features are computed once for all seeds and are not in it.",
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
    found_matrices = {arm: taught[arm][0]["correlations"] for arm in arms(results["students"])}
    matrices: dict[str, Any] = {arm: one for arm, one in found_matrices.items() if len(one) > 1}
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


def _mean(values: list[Any]) -> float | None:
    """Of those that are there."""
    there = [float(value) for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _tera(value: float | None) -> float | None:
    return None if value is None else value / 1e12

"""What a reader of a report should know of this run: verdicts, and what makes its numbers say less than they seem to."""

from collections.abc import Mapping, Sequence

import numpy as np

from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.findings import (
    Gain,
    Results,
    gain,
    mean,
    over_bagging,
    recovered_share,
    students,
    teachers,
)
from rayworks.systems.supervision.pupils import EASY_TRUTH, TRUTH


def remarks(config: Config, results: Results, found: Mapping[str, Gain]) -> list[str]:
    """Sentences for the notes of a report; ``found`` are the gains of all students."""
    said = [_verdict(results), *_comparisons(config, results, found), *_baselines(results), *_hardness(config, results)]
    skipped = [sum(not one["kept"] for one in chain["rounds"]) for chain in results["chains"]["boosting"]]
    if any(skipped):
        said.append(f"Experts no better than chance, which do not vote: {sum(skipped)} in {len(skipped)} seeds.")
    share, why = recovered_share(students(results, "single"), teachers(results, "boosting@1"), students(results, TRUTH))
    if share is None:
        said.append(f"No recovered share: {why}.")
    rounds = [one for chain in results["chains"]["boosting"] for one in chain["rounds"]]
    if any(one["alpha"] >= config.boosting.most_alpha for one in rounds):
        said.append(f"Some weights reached boosting.most_alpha, {config.boosting.most_alpha:g}.")
    return said


def mean_size(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """Mean size of the correlations of different experts."""
    values = np.array([[np.nan if one is None else one for one in row] for row in matrix], float)
    sizes = np.abs(values[np.triu_indices(len(values), 1)])
    sizes = sizes[np.isfinite(sizes)]
    return float(sizes.mean()) if len(sizes) else None


def _verdict(results: Results) -> str:
    told = results["taught"]["boosting"]
    helped = sum(one["helps"] for one in told)
    return f"Will boosting help? In {helped} of {len(told)} seeds yes; the first: {told[0]['reason']}."


def _comparisons(config: Config, results: Results, found: Mapping[str, Gain]) -> list[str]:
    said = []
    if (bagged := over_bagging(config, results)) is not None:
        said.append(f"The student of boosting over that of bagging: {bagged}.")
    if "ensemble-hard" in found:
        hard, single = students(results, "ensemble-hard"), students(results, "single-hard")
        like = gain(config, results, hard, single, "hard")
        said.append(
            f"With classes as labels on both sides, the student of boosting over the single-taught one: {like}."
        )
    if "ensemble" in found:
        easy, ensemble = students(results, EASY_TRUTH), students(results, "ensemble")
        over = gain(config, results, easy, ensemble, "easy truth")
        if over.low > 0:
            said.append(
                f"The student on the easy truth itself is better than the one that boosting taught: {over}. Where such "
                "labels are there, learn from them."
            )
    return said


def _baselines(results: Results) -> list[str]:
    if not any(one.any() for one in (*students(results, TRUTH), *teachers(results, "boosting@1"))):
        return ["No answer was right: accuracy compares nothing here, and what validation chose is arbitrary."]
    shares = [facts["commonest_share"] for facts in results["tests"] if facts.get("commonest_share") is not None]
    if not shares:
        return []
    commonest, ceiling = float(np.mean(shares)), mean(students(results, TRUTH))
    said = [f"Always answering the commonest class of the test examples would be right for {commonest:.3f} of them."]
    if ceiling <= commonest:
        said.append(
            "Even on true labels the student is no better than that: its features tell classes apart too little."
        )
    return said


def _hardness(config: Config, results: Results) -> list[str]:
    if config.task.split == "random":
        return ["Examples were parted at random: 'easy' and 'hard' in names of students mean labelled and unlabelled."]
    said = []
    if config.task.hardness in (config.weak.features, config.student.features):
        said.append(
            f"Hardness was measured on {config.task.hardness}, which experts or students see: the split is made against them."
        )
    reference = [facts["reference_accuracy_hard"] for facts in results["facts"]]
    shares = [test.get("commonest_share") for test in results["tests"]]
    if None not in reference and None not in shares and np.mean(reference) < np.mean(shares):
        said.append(
            f"The reference model answers {np.mean(reference):.3f} of the hard test examples rightly, fewer than the "
            "commonest class would: being hard selects labels that look wrong, and all accuracies here are lower for it."
        )
    return said

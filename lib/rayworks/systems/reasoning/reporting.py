"""From findings to the report: tables, figures, and what to know when reading them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rayworks.core.report import Cell, Report, Table
from rayworks.systems.reasoning import figures
from rayworks.systems.reasoning.config import VERIFIER, Config
from rayworks.systems.reasoning.findings import UNASKED, Results, accuracy, gain, headline, joined, methods

TREES_PAGE = "trees/index.html"
ARMS_TABLE = "What was learned from the trees"
NOTES = (
    "Gain: greedy accuracy after the last round less that before the first, on the same test questions, with a paired "
    "bootstrap interval over questions. It is one seed's; a sweep over seeds shows how much seeds differ.",
    "Arms learn for equal optimiser steps. Those that learn from texts read, to about a text a step, as many tokens as "
    "the anchored ones. Prompts count, and so do both sides of every pair, also in the arm anchor, which learns from the "
    "chosen one alone. The arm plain has no anchors to read and so reads less.",
    "Each policy is that of the epoch that was best on validation. All arms are measured on the same test questions, which "
    "chose neither epoch nor arm; which of several arms happens to be best there is partly chance.",
    "Drift: by how much the log-likelihood of the pairs' two sides has moved since the start. Where both sink, pair accuracy "
    "may rise while answers get worse.",
    "Search in training knows the answers, through the critic of answers. At test time none does: the verifier stands there "
    "only where it looks at the question alone (as at every line of a sum), else the head that learned from the first trees.",
)


def build_report(config: Config, results: Results, title: str) -> Report:
    """The report of a finished run."""
    before = results["greedy"]["0"]["test"]
    ways = methods(config, results)
    return Report(
        system="reasoning",
        run=config.run.name,
        title=title,
        headline=headline(config, results),
        tables=[
            _arms_table(config, results),
            _search_table(config, results),
            _methods_table(config, results, ways),
            _pairs_table(results),
        ],
        figures=_figures(config, results, ways) if before else {},
        notes=[*NOTES, *_of_the_verifier(config), *_warnings(config, results)],
        links={TREES_PAGE: "Trees of the first round, step by step"},
        details={name: results[name] for name in ("pairs", "head", "kept")} | {"hashes": _hashes(results)},
    )


def _figures(config: Config, results: Results, ways: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[bytes, str]]:
    confidence, before = config.evaluation.confidence, results["greedy"]["0"]["test"]
    first = _first_arms(results)
    learned = {arm: accuracy(config, one["test"], arm) for arm, one in first.items()}
    answered = {name: (way["tokens"], accuracy(config, way["rights"], name)) for name, way in ways.items()}
    drawn = {
        "arms.png": (
            figures.arms(accuracy(config, before, "before"), learned, confidence),
            "Greedy accuracy after one round, by what was learned; the band is the start's interval",
        ),
    }
    if first:
        drift = figures.drift({arm: one["epochs"] for arm, one in first.items()})
        drawn["drift.png"] = (drift, "How likelihoods and validation accuracy move, epoch by epoch")
    said = "Ways to answer, without knowing the answers, at about as many tokens; the critic that chooses in brackets"
    return drawn | {"methods.png": (figures.methods(answered, confidence), said)}


def _first_arms(results: Results) -> dict[str, Any]:
    """What the arms of the first round came to."""
    return {arm: one for arm, one in (results["arms"].get("0") or {}).items() if one is not None}


def _arms_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for number, found in results["arms"].items():
        before = results["greedy"][number]["test"]
        rows.append([int(number) + 1, "before", *[None] * 4, str(accuracy(config, before, "before")), *[None] * 6])
        for arm, one in found.items():
            if one is None:
                rows.append([int(number) + 1, f"{arm}: nothing to learn from", *[None] * 11])
                continue
            best = one["epochs"][one["best_epoch"] - 1]
            taus = ", ".join(f"{tau:.2f}" for tau in one["taus"]) or None
            rows.append(
                [
                    *(
                        int(number) + 1,
                        arm,
                        one["steps"],
                        one["tokens"],
                        one["best_epoch"],
                        best["validation"],
                    ),
                    str(accuracy(config, one["test"], arm)),
                    str(gain(config, one["test"], before, arm)),
                    *(best["chosen"], best["rejected"], one["preferred_before"], best["preferred"], taus),
                ]
            )
    return Table(
        ARMS_TABLE,
        (
            *("round", "arm", "steps", "tokens", "best epoch", "validation", "test", "gain"),
            *("chosen drift", "rejected drift", "preferred before", "preferred after", "tau of orders"),
        ),
        rows,
        note=f"Test and gain with {config.evaluation.confidence:.0%} intervals over {config.task.count_test} questions. "
        "traces: more of the supervision; paths: best paths; anchor: paths and chosen steps without a pair loss; shuffled, "
        "both, reward, prediction: anchored DPO in that order; plain: DPO without anchor. Tokens: read over all steps.",
    )


def _search_table(config: Config, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for number, pieces in results["search"].items():
        count = sum(piece["trees"] for piece in pieces)
        stopped = sum((Counter(piece["stopped"]) for piece in pieces), Counter())
        rows.append(
            [
                *(int(number) + 1, count, sum(joined(pieces, "solved")) / count),
                *(sum(piece["by_rule"][rule] for piece in pieces) / count for rule in pieces[0]["by_rule"]),
                *(sum(joined(pieces, "tokens")) / count, sum(piece["completions"] for piece in pieces) / count),
                ", ".join(f"{reason} {times}" for reason, times in sorted(stopped.items())),
                sum(piece["seconds"] for piece in pieces),
            ]
        )
    rules = list(next(iter(results["search"].values()))[0]["by_rule"])
    return Table(
        "Searches for training",
        ("round", "trees", "solved", *rules, "tokens a tree", "completions a tree", "ended by", "seconds"),
        rows,
        note="Solved: a right answer was among those seen. By rule: the answer that the rule gives is right; with the "
        f"verifier as critic that is no test. At most {config.search.simulations} simulations a tree.",
    )


def _methods_table(config: Config, results: Results, ways: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    base = ways["greedy"]["rights"] if ways else []
    for name, way in ways.items():
        over = None if name == "greedy" else str(gain(config, way["rights"], base, name))
        rows.append([name, str(accuracy(config, way["rights"], name)), over, way["tokens"], way["completions"]])
    head = results["head"] or {}
    steps = results.get("step_head")
    of_steps = (
        f" The head of steps, learned from {steps['texts']} beginnings of {config.head.step_labels}, tells right steps from "
        f"wrong ones with {_number(steps['auc_beginnings'])}."
        if steps
        else ""
    )
    return Table(
        "Ways to answer, without knowing the answers",
        ("method", "accuracy", "over greedy", "tokens a question", "completions a question"),
        rows,
        note=f"The first {config.evaluation.questions} test questions, with the policy that the run began with. "
        f"The head tells right answers from wrong ones with an area under the curve of {_number(head.get('auc_answers'))}, "
        f"beginnings with {_number(head.get('auc_beginnings'))}, on questions that it was not trained on."
        f"{of_steps}",
    )


def _pairs_table(results: Results) -> Table:
    names = ("pairs", "step_pairs", "questions", "paths", "mean_gap", "tied_gaps", "false_winners")
    rows = [[int(number) + 1, *(found[name] for name in names)] for number, found in results["pairs"].items()]
    return Table(
        "The pairs",
        ("round", "pairs", "of steps", "questions", "best paths", "mean gap", "tied gaps", "false winners"),
        rows,
        note="Tied gaps: the share with the commonest reward gap; ties are broken at random, the same way in every epoch. "
        "False winners: chosen steps that are not on the written-out solution, where there is one.",
    )


def _of_the_verifier(config: Config) -> list[str]:
    """What the headline's accuracy of search rests on where the verifier may stand in tests."""
    if not (config.task.checks_lines and VERIFIER in config.test_critics):
        return []
    return [
        "search_accuracy is that of a policy with a calculator: at test time the verifier works out every written line of a "
        "sum. Compare it with the search that the head guides, which has no such aid."
    ]


def _warnings(config: Config, results: Results) -> list[str]:
    found = []
    failed = [reason for pieces in results["search"].values() for piece in pieces for reason in piece["failed"]]
    if failed:
        found.append(f"{len(failed)} searches failed, the others went on. The first: {failed[0]}.")
    unasked = results["greedy"]["0"]["test"].count(UNASKED)
    if unasked:
        found.append(
            f"{unasked} test questions leave the policy no room for search.response_tokens and count as not answered."
        )
    skipped = [name for name, answers in results["answers"].items() if answers is None]
    if skipped:
        found.append(f"Left out, since the trees held nothing that a head could learn from: {', '.join(skipped)}.")
    if config.search.leaves > 1:
        found.append("With several completions of a tree on their way at a time, trees depend on the order of arrival.")
    for number, one in enumerate(results["kept"]):
        arms = [arm for arm in (results["arms"].get(str(number)) or {}).values() if arm is not None]
        why = "no arm was better on validation" if arms else "there was nothing to learn from"
        kept = f"the policy of arm {one} went on." if one else f"the policy before went on: {why}."
        found.append(f"After round {number + 1} {kept}")
    return found


def _hashes(results: Results) -> dict[str, list[str]]:
    """Names of all trees, by round: equal in a repeated run."""
    return {number: joined(pieces, "hash") for number, pieces in results["search"].items()}


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"

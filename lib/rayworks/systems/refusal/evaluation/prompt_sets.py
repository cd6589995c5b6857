"""Sets of prompts, each prompt with a label: harmless, controversial or harmful. Labels are never pooled.

Messages name a set, a row and a label, never the text of a prompt.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user
from rayworks.core.tables import HUB, SUFFIXES, read_table, suffix_of
from rayworks.systems.refusal.evaluation.packed_prompts import read_packed

Label = Literal["harmless", "controversial", "harmful"]
LABELS: tuple[Label, ...] = get_args(Label)
_TYPES = """homonyms figures targets contexts definitions real-discrimination nonsense-discrimination history privacy-public
privacy-fictional"""
_UNSAFE_TYPES = "homonyms figures targets contexts definitions discrimination history privacy"
_BLOCK = 25
"""Prompts of a type of XSTest, which stand together."""
_SHOWN = 24
"""Characters of a wrong label that a message shows."""
_COLUMNS = {
    "request": ("request", "Request"),
    "label": ("label", "Harmfulness"),
    "type": ("type",),
    "id": ("id", "ID"),
} | {"group": ("group", "seed")}
"""Of a table: ours, and PHTest's."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of a set; ``uid`` names it in files and reports, where its text never stands."""

    uid: str
    text: str = field(repr=False)
    label: Label
    type: str = ""
    group: str = field(default="", repr=False)
    """What it was made from, if others were made from the same: intervals and tests take these together."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts in their order, each text once."""

    name: str
    prompts: tuple[Prompt, ...]
    duplicates: dict[str, int] = field(default_factory=dict)
    """How many exact repetitions of each label were dropped."""

    def counts(self) -> dict[str, int]:
        """Prompts of each label."""
        return {label: sum(prompt.label == label for prompt in self.prompts) for label in LABELS}


def open_prompts(name: str) -> PromptSet:
    """The set of a name.

    Args:
        name: one of :data:`BUILT_IN`; ``phtest`` or ``hub:OWNER/NAME``; a table (.csv, .tsv, .jsonl, .parquet) with a column
            ``request`` and perhaps ``label`` (else all are harmless), ``type``, ``id``, and ``group`` or ``seed``, equal for
            prompts that are alike; or ``module:function``, which gives rows with these names.

    Raises:
        ConfigError: there is no such set.
        DataError: it cannot be read, is empty, or a row of it is not right.
    """
    if name in BUILT_IN:
        return _unique(name, BUILT_IN[name]())
    if name == "phtest":
        return open_prompts(f"{HUB}{datasets.find(name).hub}")
    if name.startswith(HUB) or suffix_of(name):
        # A parser's message may quote what it read, so none is quoted.
        table = read_table(name, "prompts", quoted=False, dtype=str, na_values=[])
        path = Path(name)
        titles = (name.removeprefix(HUB), name) if name.startswith(HUB) else (path.stem, path.name)
        return _unique(titles[0], _rows(titles[1], table))
    otherwise = (
        f"is no set of prompts; choose {', '.join(BUILT_IN)}, phtest, hub:OWNER/NAME, a {', '.join(SUFFIXES)} file"
    )
    make = of_the_user("prompts", name, f"{otherwise}, or module:function")
    try:
        table = pd.DataFrame(list(make()))
    except Exception as error:
        raise ConfigError(f"prompts: {name} failed with {type(error).__name__}; it is called with nothing") from error
    return _unique(name, _rows(name, table))


def _xstest(part: str, types: str, label: Label) -> list[Prompt]:
    texts = read_packed(datasets.fetch("xstest"))[f"xstest-{part}"]
    kinds = types.split()
    return [
        Prompt(f"xstest-{part}/{number}", text, label, kinds[number // _BLOCK]) for number, text in enumerate(texts)
    ]


def _over_refusal(file: str) -> list[Prompt]:
    return [
        Prompt(str(row["id"]), row["text"], "harmless", str(row["category"]))
        for row in json.loads((datasets.fetch("over-refusal") / "overrefusal" / f"{file}.json").read_text())
    ]


def _pairs(name: str, file: str) -> list[Prompt]:
    rows = json.loads((datasets.fetch("over-refusal") / "refusal" / f"{file}.json").read_text())
    sides: tuple[tuple[Label, str], ...] = (("harmless", "text"), ("harmful", "harmful_version"))
    return [
        Prompt(f"{name}/{number}/{label}", row[column], label, str(row["domain"]))
        for number, row in enumerate(rows)
        for label, column in sides
    ]


BUILT_IN: dict[str, Callable[[], list[Prompt]]] = {
    "xstest-safe": lambda: _xstest("safe", _TYPES, "harmless"),
    "xstest-unsafe": lambda: _xstest("unsafe", _UNSAFE_TYPES, "harmful"),
    "over-refusal-80": lambda: _over_refusal("benign_edgy_80"),
    "over-refusal-70": lambda: _over_refusal("expanded_70"),
    "pairs-50": lambda: _pairs("pairs-50", "harmful_benign_50"),
    "pairs-100": lambda: _pairs("pairs-100", "expanded_100"),
}
"""Sets that packages carry. Both of the pairs hold a harmless and a harmful prompt for each number."""


def _rows(source: str, table: pd.DataFrame) -> list[Prompt]:
    columns = {
        ours: next((column for column in names if column in table.columns), None) for ours, names in _COLUMNS.items()
    }
    if columns["request"] is None:
        raise DataError(f"prompts {source}: has no column request; add one")

    if columns["group"] == "seed" and pd.to_numeric(table["seed"], errors="coerce").notna().all():
        # Numbers are the seeds of somebody's random draws, not what prompts were made from.
        columns["group"] = None

    def column(name: str, default: str) -> Sequence[Any]:
        found = columns[name]
        return [default] * len(table) if found is None else table[found].tolist()

    prompts = []
    defaults = {"request": "", "label": "harmless", "type": "", "id": "", "group": ""}
    fields = zip(*(column(ours, default) for ours, default in defaults.items()), strict=True)
    for number, (text, label, kind, uid, group) in enumerate(fields, 1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"prompts {source} row {number}, column {columns['request']}: must be a text; drop the row")
        named = str(label).strip().lower()
        if named not in LABELS:
            shown = repr(str(label)[:_SHOWN])
            raise DataError(
                f"prompts {source} row {number}, column {columns['label']}: is {shown}; must be one of {', '.join(LABELS)}"
            )
        name = str(uid) if str(uid).strip() and str(uid) != "nan" else str(number)
        alike = "" if pd.isna(group) else str(group).strip()
        prompts.append(Prompt(f"{Path(source).stem}/{name}", text, cast(Label, named), str(kind), alike))
    return prompts


def _unique(name: str, prompts: Iterable[Prompt]) -> PromptSet:
    kept: dict[str, Prompt] = {}
    uids: set[str] = set()
    dropped: dict[str, int] = {}
    for prompt in prompts:
        if prompt.text in kept:
            if kept[prompt.text].label != prompt.label:
                ids = f"{kept[prompt.text].uid[:_SHOWN]!r} and {prompt.uid[:_SHOWN]!r}"
                raise DataError(f"prompts {name}: {ids} are one text with two labels; keep one of them")
            dropped[prompt.label] = dropped.get(prompt.label, 0) + 1
        elif prompt.uid in uids:
            raise DataError(f"prompts {name}: two rows have the id {prompt.uid[:_SHOWN]!r}; give each its own")
        else:
            kept[prompt.text] = prompt
            uids.add(prompt.uid)
    if not kept:
        raise DataError(f"prompts {name}: is empty; give at least one row")
    return PromptSet(name, tuple(kept.values()), dropped)

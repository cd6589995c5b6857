"""Seeds of the user's own traffic: ordinary requests, whose topics and style the prompts keep."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user
from rayworks.core.tables import SUFFIXES, read_table, suffix_of
from rayworks.systems.refusal.targets.benign_pairs import built_in_requests

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Seed:
    """A request to start from."""

    uid: str
    text: str


def read_seeds(source: str = BUILT_IN, column: str | None = None, limit: int | None = None) -> list[Seed]:
    """Different seeds in the order of their source, each on one line; empty ones are left out.

    Args:
        source: ``built-in``, a ``.txt`` of lines, what :func:`~rayworks.core.tables.read_table` takes, or
            ``module:function``, which returns the texts.
        column: of a table; ``None`` takes its only one, or ``text``.
        limit: the first so many; ``None`` takes all.

    Raises:
        ConfigError: the source is no such thing.
        DataError: the file cannot be read or has no such column, a seed is no text, or there are none.
    """
    if source == BUILT_IN:
        texts: Iterable[Any] = built_in_requests()
    elif source.endswith(".txt") or suffix_of(source):
        texts = _column(source, column)
    else:
        texts = of_the_user(
            "seeds", source, f"is neither {BUILT_IN}, a file (.txt, {', '.join(SUFFIXES)}) nor module:function"
        )()
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise ConfigError(f"seeds: {source!r} returned a {type(texts).__name__}; return a list of texts")
    found: dict[str, str] = {}
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"seeds {source}: entry {number} is {text!r}, no text; correct it or name another column")
        if (line := " ".join(text.split())) and line not in found:
            found[line] = f"{number:06d}"
    if not found:
        raise DataError(f"seeds {source}: holds no request; give at least one")
    return [Seed(uid, text) for text, uid in found.items()][:limit]


def _column(source: str, column: str | None) -> list[Any]:
    if source.endswith(".txt"):
        try:
            return list(Path(source).expanduser().read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"seeds {source}: cannot be read ({str(error).strip().splitlines()[0]})") from None
    table = read_table(source, "seeds", na_values=[])
    chosen = column or ("text" if "text" in table.columns or len(table.columns) != 1 else str(table.columns[0]))
    if chosen not in table.columns:
        named = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"seeds {source}: has no column {chosen!r}, only {named}; set the column")
    return list(table[chosen])

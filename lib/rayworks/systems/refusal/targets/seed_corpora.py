"""Seeds of the user's own traffic: ordinary requests, whose topics and style the prompts keep."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user
from rayworks.systems.refusal.targets.benign_pairs import built_in_requests

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Seed:
    """A request to start from."""

    uid: str
    text: str


def _read_lines(path: Path) -> pd.DataFrame:
    return pd.DataFrame({"text": path.read_text(encoding="utf-8").splitlines()})


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def _read_json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, dtype=False, convert_dates=False)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": pd.read_parquet,
}


def read_seeds(source: str = BUILT_IN, column: str | None = None, limit: int | None = None) -> list[Seed]:
    """Different seeds in the order of their source, each on one line; empty ones are left out.

    Args:
        source: ``built-in``, a file (``.txt`` of lines, ``.csv``, ``.jsonl`` or ``.parquet``), or ``module:function``,
            which returns the texts.
        column: of a table; ``None`` takes its only one, or ``text``.
        limit: the first so many; ``None`` takes all.

    Raises:
        ConfigError: the source is no such thing.
        DataError: the file cannot be read or has no such column, a seed is no text, or there are none.
    """
    if source == BUILT_IN:
        texts: Iterable[Any] = built_in_requests()
    elif (path := Path(source).expanduser()).suffix in _READERS:
        texts = _column(path, column)
    else:
        texts = of_the_user(
            "seeds", source, f"is neither {BUILT_IN}, a file ({', '.join(_READERS)}) nor module:function"
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


def _column(path: Path, column: str | None) -> list[Any]:
    try:
        table = _READERS[path.suffix](path)
    except (OSError, ValueError) as error:  # what pandas and pyarrow raise of files that are none derives from these
        raise DataError(f"seeds {path}: cannot be read ({str(error).strip().splitlines()[0]})") from None
    chosen = column or ("text" if "text" in table.columns or len(table.columns) != 1 else str(table.columns[0]))
    if chosen not in table.columns:
        named = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"seeds {path}: has no column {chosen!r}, only {named}; set the column")
    return list(table[chosen])

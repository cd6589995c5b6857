"""Tables of events with columns user, item, time, shown, accepted, propensity, slate: checked, encoded in parts, joined.

A part is a whole table, or a block of one that another process has read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.fs

from rayworks.core.errors import DataError
from rayworks.core.tables import separator_of, suffix_of
from rayworks.systems.recommendation.logs import event_cells
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog, event_log
from rayworks.systems.recommendation.logs.slates import together

NATURAL_COLUMNS = ("user", "item", "time")
COLUMNS = (*NATURAL_COLUMNS, "shown", "accepted")
OPTIONAL = ("shown", "accepted", "propensity", "slate")
FOLDER_SUFFIX = "*.parquet"
SEPARATED = (".csv", ".csv.gz", ".tsv")
KINDS_OF_FILES = f"{', '.join(SEPARATED)} or .parquet"
HEAD = 2**16
"""Bytes of a file whose rows tell what separates their cells."""


@dataclass(frozen=True, eq=False)
class EncodedEvents:
    """N rows of a table in their order, names replaced by their index among the sorted distinct ones."""

    user: np.ndarray
    """int32 (N,)."""
    item: np.ndarray
    """int32 (N,)."""
    kind: np.ndarray
    """int8 (N,), as in :class:`~.events.EventLog`."""
    time: np.ndarray
    """float64 (N,); in a part as each cell is read by itself."""
    propensity: np.ndarray
    """float64 (N,), NaN where there is none."""
    users: np.ndarray
    """Names, sorted."""
    items: np.ndarray
    """Names, sorted."""
    cells: event_cells.Times | None = None
    """What the cells of ``time`` may mean, in a part."""
    slate: np.ndarray | None = None
    """int32 (N,), -1 where an event is of none, in a part whose table has slates."""
    slates: np.ndarray | None = None
    """Names of slates, sorted."""

    def take(self, rows: np.ndarray) -> "EncodedEvents":
        """Some rows, by number or by mask; names stay."""
        numbers = {name: getattr(self, name)[rows] for name in ("user", "item", "kind", "time", "propensity")}
        return replace(self, **numbers, cells=None, slate=None, slates=None)


def files_of(source: str) -> list[str]:
    """The CSV or Parquet files of a path, in the order in which their rows follow each other; an address is one file.

    Raises:
        DataError: it does not exist, is of another kind, or is a folder without Parquet files.
    """
    if "://" in source:
        return [source]
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob(FOLDER_SUFFIX))
        if not files:
            raise DataError(f"{source}: holds no {FOLDER_SUFFIX} file; name a file, or a folder of Parquet files")
        return files
    if not path.exists():
        raise DataError(f"{source}: does not exist; name a {KINDS_OF_FILES} file, or a folder of .parquet files")
    if suffix_of(path) not in (*SEPARATED, ".parquet"):
        raise DataError(f"{source}: is no {KINDS_OF_FILES} file; write it as one of them")
    return [str(path)]


def csv_as_text(names: Sequence[str]) -> Any:
    """Arrow's options that read the columns ``names`` as text: an id is what is written, only an empty cell is missing."""
    types = dict.fromkeys(names, pa.string())
    return pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])


def csv_separated(file: str) -> Any:
    """Arrow's options for what separates the cells of a file: a tab in a .tsv, else what its first rows show.

    Raises:
        DataError: it cannot be read.
    """
    if suffix_of(file) == ".tsv":
        return pyarrow.csv.ParseOptions(delimiter="\t")
    with reading(file):
        system, path = pyarrow.fs.FileSystem.from_uri(file if "://" in file else str(Path(file).absolute()))
        with system.open_input_stream(path) as opened:
            head = opened.read(HEAD)
    text = head.decode(errors="replace")
    return pyarrow.csv.ParseOptions(delimiter=separator_of(text.rpartition("\n")[0] if len(head) == HEAD else text))


def column_names(files: Sequence[str]) -> list[str]:
    """The columns of a table, from its metadata or its first lines.

    Raises:
        DataError: it cannot be read.
    """
    with reading(files[0]):
        return list(_dataset(files, None).schema.names)


def read_columns(files: Sequence[str], names: Sequence[str], *, as_text: bool = True) -> pd.DataFrame:
    """Some columns of a table, nothing else being read; those of CSV as text, or as the types that they look like.

    Raises:
        DataError: it cannot be read.
    """
    options = csv_as_text(names) if as_text else None
    with reading(files[0]):
        table: pd.DataFrame = _dataset(files, options).to_table(columns=list(names)).to_pandas()
    return table


def _dataset(files: Sequence[str], options: Any) -> Any:
    if not is_csv(files):
        return pyarrow.dataset.dataset(list(files), format="parquet")
    given = {} if options is None else {"convert_options": options}
    form = pyarrow.dataset.CsvFileFormat(parse_options=csv_separated(files[0]), **given)
    return pyarrow.dataset.dataset(list(files), format=form)


def is_csv(files: Sequence[str]) -> bool:
    """Whether a table is of CSV, not of Parquet, files."""
    return suffix_of(files[0]) in SEPARATED


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Where an unreadable file of ``source`` is bad data, but a lost connection is not.

    Raises:
        DataError: Arrow or the system cannot read it.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except (OSError, UnicodeError, pa.ArrowException) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise DataError(f"{source}: cannot be read ({reason}); mend or rewrite the file") from None


def projection(
    found: Sequence[str], columns: Mapping[str, str], source: str, required: Sequence[str] = COLUMNS
) -> dict[str, str]:
    """The file's name of each of our columns that it has.

    Args:
        found: the file's columns.
        columns: our name to the file's, for those that are called otherwise there; an optional column that is called ""
            is not read.
        source: what messages call the data.
        required: columns that it must have; with ``shown`` it must have ``accepted`` too.

    Raises:
        DataError: a column is missing, or ``columns`` names one that we do not have or gives two the same name.
    """
    known = (*NATURAL_COLUMNS, *OPTIONAL)
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise DataError(
            f"{source}: columns: {', '.join(unknown)} is not a column of events; choose from {', '.join(known)}"
        )
    left_out = {name for name in OPTIONAL if columns.get(name) == ""}
    names = {name: columns.get(name, name) for name in known if name not in left_out}
    needed = {*required, *columns} - left_out
    if names.get("shown") in found:
        needed.add("accepted")
    missing = [names.get(name) or name for name in known if name in needed and names.get(name) not in found]
    if missing:
        raise DataError(
            f"{source}: has no column {', '.join(missing)}; found {', '.join(found)}; map names by columns={{ours: theirs}}"
        )
    present = {name: theirs for name, theirs in names.items() if theirs in found}
    if len(set(present.values())) < len(present):
        raise DataError(f"{source}: columns: two of ours are one of the file's in {present}; map each to its own")
    return present


def encode(
    table: pd.DataFrame, source: str, first_row: int = 1, columns: Mapping[str, str] | None = None
) -> EncodedEvents:
    """Check the rows of a table with our column names and replace names by numbers.

    ``shown`` is 0 at a natural event, where ``accepted`` is 1 or empty, and 1 at a recommendation, where ``accepted`` is
    the decision; both may be written as yes and no, or true and false. Without a column ``shown`` all events are natural.
    Events of one user with one ``slate`` were shown together; where it is empty an event stands alone.
    ``time`` is a number or a date, which becomes seconds since 1970; a form in which the whole column is written is chosen
    by :func:`join`.

    Args:
        table: rows, the index counts them from 0 in the order of the file; columns beyond ours are ignored.
        source: what messages call the data.
        first_row: the number that messages give to row 0; the first after a header is 1.
        columns: our name to the file's, for messages.

    Raises:
        DataError: a value is missing or out of range; the message names the column, the first bad row and the fix.
    """
    theirs = columns or {}

    def refuse(bad: np.ndarray, column: str, why: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            value = table[column].iloc[row]
            shown_value = "is empty" if np.ndim(value) == 0 and pd.isna(value) else f"is {value}"
            name = theirs.get(column, column)
            raise DataError(f"{source}: row {first_row + int(table.index[row])}: {name} {shown_value}; {why}")

    for column in (name for name in (*NATURAL_COLUMNS, *OPTIONAL) if name in table):
        refuse(event_cells.nested(table[column]), column, "a cell must be one number or text; give one event per row")
    for column in ("user", "item"):
        refuse(event_cells.fractional(table[column]), column, "a name must be a text or a whole number below 2^53")
        refuse(table[column].isna().to_numpy(), column, "every event needs one; drop the row")
    cells = event_cells.times(table["time"], first_row)
    refuse(
        ~np.isfinite(cells.seconds),
        "time",
        "must be a number or a date of ISO 8601, such as 2019-11-30T09:05:58",
    )
    kind, propensity = np.full(len(table), NATURAL, np.int8), np.full(len(table), np.nan)
    if "shown" in table:
        shown, accepted = event_cells.flags(table["shown"]), event_cells.flags(table["accepted"])
        refuse(~np.isin(shown, (0, 1)), "shown", "must be 0 at a natural event, 1 at a recommendation")
        natural, empty = shown == 0, table["accepted"].isna().to_numpy()
        refuse(
            natural & (accepted == 0),
            "accepted",
            "a decision without a recommendation: where shown is 0 the user took the item; leave accepted empty there, or "
            "set shown to 1 if the item was recommended",
        )
        refuse(~natural & empty, "accepted", "a recommendation without a decision; drop the row or give 0 or 1")
        refuse(~empty & ~np.isin(accepted, (0, 1)), "accepted", "must be 0 or 1")
        kind = np.where(natural, NATURAL, np.where(accepted == 1, ACCEPTED, REJECTED)).astype(np.int8)
        if "propensity" in table:
            given = event_cells.numbers(table["propensity"])
            outside = ~table["propensity"].isna().to_numpy() & ~((given > 0) & (given <= 1))
            refuse(~natural & outside, "propensity", "must be above 0 and at most 1: an item shown had a chance")
            propensity = np.where(natural, np.nan, given)
    (user, users), (item, items) = (event_cells.name_codes(table[name]) for name in ("user", "item"))
    slate, slates = None, None
    if "slate" in table:
        refuse(event_cells.fractional(table["slate"]), "slate", "a name must be a text or a whole number below 2^53")
        given = (table["slate"].notna() & (table["slate"].astype(str).str.strip() != "")).to_numpy()
        codes, slates = event_cells.name_codes(table["slate"][given])
        slate = np.full(len(table), -1, np.int32)
        slate[given] = codes
    return EncodedEvents(user, item, kind, cells.seconds, propensity, users, items, cells, slate, slates)


def join(parts: Sequence[EncodedEvents], source: str, *, ordered: bool) -> EncodedEvents:
    """Parts that follow each other as one, by user and then by time; equal times keep their order.

    Args:
        parts: in the order of the file.
        source: what messages call the data.
        ordered: whether the file claims that the time of a user never goes backwards, which then is checked; users may
            alternate.

    Raises:
        DataError: there are no rows, times are in two forms or units, some recommendations only have a propensity, or time
            goes backwards in an ordered table.
    """
    if not sum(len(part.user) for part in parts):
        raise DataError(f"{source}: has no events")
    users = np.unique(np.concatenate([part.users for part in parts]))
    items = np.unique(np.concatenate([part.items for part in parts]))
    user = np.concatenate([np.searchsorted(users, part.users)[part.user] for part in parts]).astype(np.int32)
    item = np.concatenate([np.searchsorted(items, part.items)[part.item] for part in parts]).astype(np.int32)
    kind, propensity = (np.concatenate([getattr(part, name) for part in parts]) for name in ("kind", "propensity"))
    time = event_cells.seconds_of([part.cells for part in parts if part.cells is not None], source)
    unlogged = (kind >= REJECTED) & np.isnan(propensity)
    if unlogged.any() and np.isfinite(propensity).any():
        row, other = int(unlogged.argmax()), int(np.isfinite(propensity).argmax())
        raise DataError(
            f"{source}: row {row + 1}: propensity is empty while other rows have one, such as row {other + 1}; fill in an "
            'estimate, drop the row, or read the log without propensities by columns={propensity: ""}'
        )
    order = np.argsort(user, kind="stable") if ordered else np.lexsort((time, user))
    backwards = (np.diff(user[order]) == 0) & (np.diff(time[order]) < 0)
    if backwards.any():
        row = int(order[1:][backwards].min())
        raise DataError(
            f"{source}: row {row + 1}: time {time[row]:.15g} goes backwards for user {users[user[row]]}; sort the table, "
            "or read it as not ordered"
        )
    slate = _joined_slates(parts)
    if slate is not None:
        clock, time = time, together(user, time, slate)
        order = np.lexsort((clock, time, user))
    return EncodedEvents(user, item, kind, time, propensity, users, items).take(order)


def _joined_slates(parts: Sequence[EncodedEvents]) -> np.ndarray | None:
    """int32 (N,) codes of all parts, -1 for none; None where no part has slates."""
    names = [part.slates for part in parts if part.slates is not None]
    if not names:
        return None
    slates = np.unique(np.concatenate(names))
    found: list[np.ndarray] = []
    for part in parts:
        if part.slate is None or part.slates is None:
            found.append(np.full(len(part.user), -1))
        else:
            found.append(np.append(np.searchsorted(slates, part.slates), -1)[part.slate])
    return np.asarray(np.concatenate(found))


def as_log(events: EncodedEvents, source: str) -> EventLog:
    """Joined events as a log.

    Raises:
        DataError: see :func:`~.events.event_log`.
    """
    columns = (events.user, events.item, events.kind, events.time, events.propensity)
    return event_log(*columns, users=events.users.tolist(), items=events.items.tolist(), source=source)

"""Read event logs, natural sequences and bandit logs, by path or by the name of a published data set.

``kuairand:FOLDER``, ``kuairec:FOLDER``, ``mind:FOLDER`` and ``retailrocket:FOLDER`` are the folders as their authors release
them, ``movielens-100k`` and ``open-bandit`` come from the catalogue; anything else is the path of a generic table
(:mod:`~.event_tables`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import DataError
from rayworks.systems.recommendation.config import ReadOptions
from rayworks.systems.recommendation.logs import event_tables, released_tables
from rayworks.systems.recommendation.logs.events import NATURAL, EventLog
from rayworks.systems.recommendation.values.bandit import BanditLog

KUAIRAND, KUAIREC, MIND, RETAILROCKET = "kuairand:", "kuairec:", "mind:", "retailrocket:"
MOVIELENS, OPEN_BANDIT = "movielens-100k", "open-bandit"
KUAIRAND_CANDIDATES = 7583
"""Videos that the random policy of KuaiRand draws from, in all three releases (its README, "Three Versions")."""
POSITIONS = 3
"""Places of a recommendation on the page of the Open Bandit data."""

DEFAULTS = ReadOptions()

NOTES: dict[str, tuple[str, ...]] = {
    KUAIRAND: (
        "All events are recommendations; there are no natural ones.",
        "Only the random log has a known propensity, so it is set where that log is read alone.",
    ),
    KUAIREC: (
        "All events are recommendations; there are no natural ones.",
        "Almost every user saw every video, so acceptance is known for all pairs and no logging policy selects.",
        "Rows without a timestamp have no place in a sequence and are left out.",
    ),
    MIND: (
        "The history of a user has an order but no times; it is taken to come before the first impression.",
        "News of one impression are a slate; how they were chosen is not published, so there are no propensities.",
    ),
    RETAILROCKET: (
        "These are visits, not recommendations: an item seen in a session is taken as if it had been recommended, accepted "
        "if it was put into the cart or bought in that session. No effect of a recommender can be learned.",
        "A session, which ends after half an hour without an event, is a slate.",
    ),
    MOVIELENS: (
        "These are ratings, not recommendations: the first part of each user's history is taken as natural, and a film "
        "rated later as if it had been recommended, accepted if it was liked. No effect of a recommender can be learned.",
    ),
}


@dataclass(frozen=True)
class Facts:
    """What a report says of a log before anything is learned from it."""

    rows: int
    users: int
    items: int
    natural: int
    recommended: int
    accepted_share: float
    """Share of the recommendations that are accepted."""
    users_with_one_step: int
    """They are kept, but have no decision before the one to predict."""
    notes: tuple[str, ...]


class NaturalSequences(EventLog):
    """A log of natural events only."""

    def targets(self, back: int = 0) -> np.ndarray:
        """int32 (U,): the item ``back`` positions before each user's last, -1 where there is none before it to predict from.

        Leave-one-out: the test target is at 0, the validation target at 1, and training sees what is before both.
        """
        position = self.offsets[1:] - 1 - back
        return np.where(position > self.offsets[:-1], self.item[position], -1).astype(np.int32)


def read_events(source: str, options: ReadOptions = DEFAULTS) -> EventLog:
    """The event log of a source, checked and sorted by user, then by time; equal times keep the order of the file.

    ``kuairand:FOLDER`` has no natural events. Videos of the random log were drawn uniformly from the candidates, so that
    log alone has the propensity 1/7583 and is free of selection.

    ``kuairec:FOLDER`` is the small matrix, in which 1,411 users saw 99.6 % of 3,327 videos: what a user would have done
    with any video is known, so estimates from a selected part of it can be compared with the truth. Its authors suggest
    ``watch_ratio > 2`` for interest.

    ``movielens-100k`` has no recommendations at all. See the note in :data:`NOTES` for what stands in for them.

    Raises:
        DataError: it cannot be read, a column is missing, or a value is; the message names the file, the column, the
            first bad row (from 1 after the header) and the fix.
    """
    return event_tables.as_log(_events(source, options), source)


def facts_of(log: EventLog, source: str) -> Facts:
    """Counts of a log, and what must be known of its source to read them."""
    recommended = int(log.recommended.sum())
    notes = next((notes for prefix, notes in NOTES.items() if source.startswith(prefix)), ())
    return Facts(
        rows=len(log),
        users=len(log.users),
        items=len(log.items),
        natural=len(log) - recommended,
        recommended=recommended,
        accepted_share=float((log.kind > NATURAL + 1).sum() / recommended),
        users_with_one_step=int((log.steps == 1).sum()),
        notes=notes,
    )


def read_sequences(source: str, options: ReadOptions = DEFAULTS) -> NaturalSequences:
    """What users took by themselves: all ratings of ``movielens-100k``, the natural events of a generic table.

    A generic table needs the columns user, item, time here; where it has ``shown``, recommendations are left out.

    Equal times keep the order of the file, which is RecBole's order too (a stable sort by time, then by user), but for
    one thing: RecBole holds times as float32 scaled to [0, 1], so some that differ by a second become equal to it. On
    ``movielens-100k`` that changes the last item of 4 of 943 users.

    Raises:
        DataError: as :func:`read_events`, or the source has recommendations only.
    """
    if source == MOVIELENS:
        events = _movielens(options.model_copy(update={"observed": 1.0}))
    elif source.startswith((MIND, RETAILROCKET)):
        events = _events(source, options.model_copy(update={"observed": 1.0}))
    elif source.startswith((KUAIRAND, KUAIREC)):
        raise DataError(f"{source}: has recommendations only; name a source of natural sequences, such as {MOVIELENS}")
    else:
        events = _generic(source, options, event_tables.NATURAL_COLUMNS)
    events = events.take(events.kind == NATURAL)
    if not len(events.user):
        raise DataError(f"{source}: has no natural events (shown 0); name a source of natural sequences")
    columns = (events.user, events.item, events.kind, events.time, events.propensity)
    return NaturalSequences(*columns, users=tuple(events.users), items=tuple(events.items))


def read_bandit(name: str) -> BanditLog:
    """A log of the Open Bandit data: ``open-bandit/POLICY/CAMPAIGN`` of the sample, or that folder of the full release.

    Policies are ``random`` and ``bts``, campaigns ``all``, ``men`` and ``women``; a folder holds ``CAMPAIGN.csv`` and
    ``item_context.csv``. Rows are sorted by time, equal times keep the order of the file.

    Raises:
        DataError: it does not exist, or an item is outside the catalogue, a click not 0 or 1, a propensity not in (0, 1];
            the message names the file, the column and the first bad row.
    """
    inside = name.removeprefix(f"{OPEN_BANDIT}/")
    folder = datasets.fetch(OPEN_BANDIT) / inside if inside != name else Path(name).expanduser()
    logged, catalogue = folder / f"{folder.name}.csv", folder / "item_context.csv"
    for path in (logged, catalogue):
        if not path.is_file():
            raise DataError(
                f"{name}: has no {path.name}; name {OPEN_BANDIT}/{{random,bts}}/{{all,men,women}} or such a folder"
            )
    features = [f"user_feature_{number}" for number in range(4)]
    columns = ["timestamp", "item_id", "position", "click", "propensity_score", *features]
    table = _columns(logged, columns)
    items = len(_columns(catalogue, ["item_id"]))
    numbers = {column: pd.to_numeric(table[column], errors="coerce").to_numpy(float) for column in columns[1:5]}
    dates = pd.to_datetime(table["timestamp"], utc=True, errors="coerce", format="ISO8601")
    accepted = {
        "timestamp": (dates.notna().to_numpy(), "must be a date"),
        "item_id": (np.isin(numbers["item_id"], np.arange(items)), f"is outside the catalogue of {items} items"),
        "position": (np.isin(numbers["position"], np.arange(POSITIONS) + 1), "must be 1, 2 or 3"),
        "click": (np.isin(numbers["click"], (0, 1)), "must be 0 or 1"),
        "propensity_score": (
            (numbers["propensity_score"] > 0) & (numbers["propensity_score"] <= 1),
            "must be above 0 and at most 1: an item shown had a chance",
        ),
        **{feature: (table[feature].notna().to_numpy(), "must be given") for feature in features},
    }
    for column, (good, why) in accepted.items():
        if not good.all():
            row = int(good.argmin())
            raise DataError(f"{logged}: row {row + 1}: {column} {table[column].iloc[row]} {why}; drop the row")
    time = ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(float)
    order = np.argsort(time, kind="stable")
    coded = np.stack([pd.factorize(table[feature], sort=True)[0] for feature in features], 1)
    return BanditLog(
        item=numbers["item_id"][order].astype(np.int32),
        position=(numbers["position"][order] - 1).astype(np.int8),
        click=numbers["click"][order].astype(np.int8),
        propensity=numbers["propensity_score"][order],
        context=coded[order].astype(np.int32),
        time=time[order],
        items=items,
        positions=POSITIONS,
    )


def _events(source: str, options: ReadOptions) -> event_tables.EncodedEvents:
    named: dict[str, Callable[[Path, ReadOptions], event_tables.EncodedEvents]] = {
        KUAIRAND: _kuairand,
        KUAIREC: _kuairec,
        MIND: _mind,
        RETAILROCKET: _retailrocket,
    }
    for prefix, read in named.items():
        if source.startswith(prefix):
            folder = Path(source.removeprefix(prefix)).expanduser()
            return read(folder / "data" if (folder / "data").is_dir() else folder, options)
    return _movielens(options) if source == MOVIELENS else _generic(source, options)


def _generic(source: str, options: ReadOptions, required: tuple[str, ...] | None = None) -> event_tables.EncodedEvents:
    files = event_tables.files_of(source)
    found = event_tables.column_names(files)
    names = event_tables.projection(found, options.columns, source, *([required] if required else []))
    table = event_tables.read_columns(files, list(names.values())).rename(
        columns={theirs: ours for ours, theirs in names.items()}
    )
    return event_tables.join([event_tables.encode(table, source, columns=names)], source, ordered=options.ordered)


def _kuairand(folder: Path, options: ReadOptions) -> event_tables.EncodedEvents:
    pattern = "log_*.csv" if options.logs == "all" else f"log_{options.logs}_*.csv"
    files = sorted(folder.glob(pattern))
    if not files:
        raise DataError(f"{KUAIRAND}{folder}: holds no {pattern}; name the folder of KuaiRand-Pure, -1K or -27K")
    columns = {"user": "user_id", "item": "video_id", "time": "time_ms"}
    columns |= {"accepted": options.signal, "is_rand": "is_rand"}
    parts = []
    for file in files:
        table = _columns(file, columns)
        drawn = table["is_rand"].to_numpy() == 1
        if options.logs == "random" and not drawn.all():
            raise DataError(f"{file}: row {int(drawn.argmin()) + 1}: is_rand is not 1 in the random log; drop the row")
        propensity = 1 / KUAIRAND_CANDIDATES if options.logs == "random" else np.nan
        parts.append(event_tables.encode(table.assign(shown=1, propensity=propensity), str(file), columns=columns))
    return event_tables.join(parts, f"{KUAIRAND}{folder}", ordered=False)


def _kuairec(folder: Path, options: ReadOptions) -> event_tables.EncodedEvents:
    file = folder / "small_matrix.csv"
    columns = {"user": "user_id", "item": "video_id", "time": "timestamp", "accepted": "watch_ratio"}
    table = _columns(file, columns)
    ratio = pd.to_numeric(table["accepted"], errors="coerce").to_numpy(float)
    if not (ratio >= 0).all():
        row = int((ratio >= 0).argmin())
        raise DataError(
            f"{file}: row {row + 1}: watch_ratio {table['accepted'].iloc[row]} is not 0 or more; drop the row"
        )
    table = table.assign(shown=1, accepted=(ratio > options.watch_ratio).astype(int))
    return event_tables.join(
        [event_tables.encode(table[table["time"].notna()], str(file), columns=columns)],
        f"{KUAIREC}{folder}",
        ordered=False,
    )


def _mind(folder: Path, options: ReadOptions) -> event_tables.EncodedEvents:
    return _joined(released_tables.mind(folder), f"{MIND}{folder}")


def _retailrocket(folder: Path, options: ReadOptions) -> event_tables.EncodedEvents:
    return _joined(released_tables.retailrocket(folder, options.observed), f"{RETAILROCKET}{folder}")


def _joined(table: pd.DataFrame, source: str) -> event_tables.EncodedEvents:
    return event_tables.join([event_tables.encode(table, source)], source, ordered=False)


def _movielens(options: ReadOptions) -> event_tables.EncodedEvents:
    table = pd.read_csv(datasets.fetch(MOVIELENS) / "ml-100k.inter", sep="\t")
    table.columns = pd.Index(["user", "item", "rating", "time"])
    table = table.sort_values(["user", "time"], kind="stable")
    history = table.groupby("user")["item"]
    late = history.cumcount() >= np.floor(options.observed * history.transform("size"))
    liked = (table["rating"] >= options.min_rating) | ~late
    return event_tables.join(
        [event_tables.encode(table.assign(shown=late, accepted=liked), MOVIELENS)], MOVIELENS, ordered=False
    )


def _columns(file: Path, columns: dict[str, str] | list[str]) -> pd.DataFrame:
    """Some columns of a released CSV file, called as the keys."""
    names = columns if isinstance(columns, dict) else dict(zip(columns, columns, strict=True))
    found = event_tables.column_names(event_tables.files_of(str(file)))
    missing = [name for name in names.values() if name not in found]
    if missing:
        raise DataError(f"{file}: has no column {', '.join(missing)}; give the file as its authors released it")
    table = event_tables.read_columns([str(file)], list(names.values()), as_text=False)
    return table.rename(columns={theirs: ours for ours, theirs in names.items()})

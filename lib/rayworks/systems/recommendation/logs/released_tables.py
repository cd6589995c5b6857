"""Published logs whose files are no tables of events yet: impressions of MIND, browsing of RetailRocket.

Each reader returns a table with our columns, the index counting rows of the file from 0, as :func:`~.event_tables.encode`
takes it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError

BEHAVIORS = "behaviors.tsv"
IMPRESSION = ("impression", "user", "time", "history", "shown")
BROWSING = "events.csv"
BROWSED = ("timestamp", "visitorid", "event", "itemid")
KINDS_OF_BROWSING = ("view", "addtocart", "transaction")
AS_WRITTEN: dict[str, Any] = {
    "dtype": str,
    "quoting": 3,
    "index_col": False,
    "keep_default_na": False,
    "na_values": [""],
    "skip_blank_lines": False,
}
FIRST_MILLISECOND = 6.3e11
"""1990: smaller times are in another unit."""
PAUSE_MILLISECONDS = 30 * 60 * 1000
"""A visitor who does nothing for so long begins a new session."""


def mind(folder: Path) -> pd.DataFrame:
    """Impressions of MIND (Wu et al. 2020), ``behaviors.tsv``: the news shown together, each clicked or not.

    The clicked news of the history are natural events before a user's first impression, in their order, a second apart: when
    they were clicked is not told.

    Raises:
        DataError: there is no such file, a row has no five cells, a news shown has no label (the published test set has
            none), or a time is no date.
    """
    file = folder / BEHAVIORS
    table = _read(file, "MIND", sep="\t", header=None, names=[*IMPRESSION, "more"], **AS_WRITTEN)
    _refuse(file, table["more"].notna(), "has more than five cells")
    _refuse(file, table["user"].isna() | table["shown"].isna(), "has no user or no impressions; drop the row")
    times = pd.to_datetime(table["time"], format="%m/%d/%Y %I:%M:%S %p", errors="coerce")
    _refuse(file, times.isna(), "has a time that is not written as 11/15/2019 9:05:58 AM")
    table["time"] = (times - pd.Timestamp(0)) / pd.Timedelta(seconds=1)
    shown = table.assign(news=table["shown"].str.split()).explode("news")
    label = shown["news"].str.rsplit("-", n=1)
    unlabelled = ~shown["news"].str.fullmatch(r".+-[01]").fillna(False).astype(bool)
    _refuse(file, unlabelled, "shows a news without a label, such as N123-1; take a set that has them", shown.index)
    first = table.sort_values("time", kind="stable").groupby("user", sort=False).head(1)
    natural = first.assign(news=first["history"].fillna("").str.split()).explode("news").dropna(subset="news")
    after = natural.groupby(level=0).cumcount(ascending=False) + 1
    decided = {"user": shown["user"], "item": label.str[0], "time": shown["time"], "shown": 1, "accepted": label.str[1]}
    taken = {
        "user": natural["user"],
        "item": natural["news"],
        "time": natural["time"] - after,
        "shown": 0,
        "accepted": "1",
    }
    return pd.concat([pd.DataFrame(taken), pd.DataFrame(decided)])


def retailrocket(folder: Path, observed: float) -> pd.DataFrame:
    """Browsing of RetailRocket, ``events.csv``: an item seen in a session, and whether it went into the cart or was bought.

    A session is a slate: what came of its items is known when it is over. The first part of a visitor's sessions is natural:
    what was put into the cart or bought, or else seen.

    Args:
        observed: share of a visitor's sessions that counts as natural, rounded down.

    Raises:
        DataError: there is no such file, it lacks a column, or an event is of another kind.
    """
    file = folder / BROWSING
    table = _read(file, "RetailRocket", usecols=list(BROWSED), dtype={"visitorid": str, "itemid": str, "event": str})
    _refuse(
        file, ~table["event"].isin(KINDS_OF_BROWSING), f"has an event that is none of {', '.join(KINDS_OF_BROWSING)}"
    )
    table["timestamp"] = pd.to_numeric(table["timestamp"], errors="coerce")
    empty = table[["timestamp", "visitorid", "itemid"]].isna().any(axis=1)
    _refuse(file, empty, "has no timestamp, visitor or item; drop the row")
    _refuse(
        file, table["timestamp"] < FIRST_MILLISECOND, "has a timestamp before 1990 in milliseconds; give it in those"
    )
    table = table.sort_values(["visitorid", "timestamp"], kind="stable")
    pause = table.groupby("visitorid")["timestamp"].diff() > PAUSE_MILLISECONDS
    table["session"] = pause.groupby(table["visitorid"]).cumsum().astype(int)
    table["carted"] = (table["event"] != "view").astype(int)
    rows = table.reset_index().groupby(["visitorid", "session", "itemid"], sort=False, as_index=False)
    seen = rows.agg(index=("index", "first"), time=("timestamp", "first"), carted=("carted", "max"))
    sessions = seen.groupby("visitorid")["session"].transform("max") + 1
    late = seen["session"] >= np.floor(observed * sessions)
    last = table.groupby(["visitorid", "session"])["timestamp"].max().rename("end")
    end = seen.join(last, on=["visitorid", "session"])["end"]
    found = {
        "user": seen["visitorid"],
        "item": seen["itemid"],
        "time": np.where(late, end, seen["time"]),
        "shown": late.astype(int),
        "accepted": np.where(late, seen["carted"], 1),
    }
    return pd.DataFrame(found).set_index(seen["index"].to_numpy())


def _read(file: Path, name: str, **options: Any) -> pd.DataFrame:
    if not file.is_file():
        raise DataError(f"{file}: does not exist; name the folder of {name} that holds {file.name}")
    try:
        table: pd.DataFrame = pd.read_csv(file, **options)
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: cannot be read as {name} is published ({str(error).splitlines()[0]})") from None
    return table


def _refuse(file: Path, bad: "pd.Series[bool]", why: str, rows: "pd.Index | None" = None) -> None:
    if bad.any():
        at = int(bad.to_numpy().argmax())
        row = int((bad.index if rows is None else rows)[at])
        raise DataError(f"{file}: row {row + 1} {why}")

"""Give the events of a slate one time, so that none of them is an input to the prediction of another."""

import numpy as np


def together(user: np.ndarray, time: np.ndarray, slate: np.ndarray) -> np.ndarray:
    """Float64 (N,): the time of each event, or the last time of the slates that it falls into.

    A slate lasts from its first event to its last. Whatever the same user does in between, and slates that overlap, share
    its last time: what came of a slate is known only when it is over.

    Args:
        user: codes (N,).
        time: float64 (N,).
        slate: codes (N,), -1 where an event is of none; one code of two users is two slates.
    """
    order = np.lexsort((time, user))
    owner = user[order].astype(np.int64)
    _, rank = np.unique(time, return_inverse=True)
    start = rank[order].astype(np.int64)
    size = np.int64(start.max(initial=0) + 1)
    end = start.copy()
    inside = slate[order] >= 0
    if inside.any():
        _, name = np.unique(owner[inside] * (np.int64(slate.max()) + 1) + slate[order][inside], return_inverse=True)
        last = np.zeros(name.max() + 1, np.int64)
        np.maximum.at(last, name, start[inside])
        end[inside] = last[name]
    # Users follow each other, so that a later user's times are above all of an earlier one's.
    start, end = owner * size + start, owner * size + end
    before = np.concatenate([[-1], np.maximum.accumulate(end)[:-1]])
    group = np.cumsum(start > before) - 1
    latest = np.full(len(time), -np.inf)
    np.maximum.at(latest, group, time[order])
    found = np.empty(len(time))
    found[order] = latest[group]
    return found

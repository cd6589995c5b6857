"""A hundred replies to harmless requests, written here: answers, refusals, both in one, and some that look like another.

``label`` is the author's, ``label_2`` somebody else's who did not see the first. The labels of the replies that ship with
refusals are binary; only these tell a part that is declined from a whole.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.errors import DataError
from rayworks.core.proportions import cross_table, kappa
from rayworks.systems.refusal.judging.verdicts import KINDS, Case, Judge

FILE = Path(__file__).parent / "partial_replies.jsonl"
LABELS = KINDS[:4]


@dataclass(frozen=True)
class PartialReply:
    """A reply with one label or two."""

    case: Case
    label: str
    label_2: str | None = None


def read_replies(path: Path = FILE) -> list[PartialReply]:
    """The replies of a file with ``request``, ``reply``, ``label`` and perhaps ``label_2`` in each line.

    Raises:
        DataError: a line is not of that kind; the message says which, never its text.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            labels = [row["label"], row.get("label_2")]
            case = Case(row["request"], row["reply"])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{path.name} line {number}: must hold request, reply and label") from None
        if labels[0] not in LABELS or labels[1] not in (*LABELS, None):
            raise DataError(f"{path.name} line {number}: label must be one of {', '.join(LABELS)}")
        found.append(PartialReply(case, *labels))
    return found


def agreement_of_people(replies: Sequence[PartialReply]) -> dict[str, Any] | None:
    """How far the two labels agree; None where no reply has both."""
    both = [(reply.label, reply.label_2) for reply in replies if reply.label_2]
    return _agreement([one for one, _ in both], [str(other) for _, other in both]) if both else None


def agreement_of_judge(judge: Judge, replies: Sequence[PartialReply]) -> dict[str, Any]:
    """How far a judge agrees with the first label; also on the replies on topic alone, where only a refusal is in question.
    Every other verdict, an abstention too, is no agreement.
    """
    kinds = [verdict.kind for verdict in judge.judge([reply.case for reply in replies])]
    labels = [reply.label for reply in replies]
    three = [(label, kind) for label, kind in zip(labels, kinds, strict=True) if label in KINDS[:3]]
    return {
        **_agreement(labels, kinds),
        "abstained": kinds.count("abstained"),
        "three_kinds": _agreement([label for label, _ in three], [kind for _, kind in three]),
    }


def _agreement(first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    table = cross_table(first, second, KINDS)
    return {
        "replies": len(first),
        "agreement": float(np.trace(table) / max(1, len(first))),
        "kappa": float(kappa(table)),
        "table": {
            row: dict(zip(KINDS, counts, strict=True))
            for row, counts in zip(KINDS, table.astype(int).tolist(), strict=True)
        },
    }

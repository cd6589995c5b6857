"""Finished trees on disk: one JSON object per line, versioned and open, readable without this library.

The first line says format and version; each further line is one tree, its nodes parents first. Seconds stand under
``timing`` alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rayworks.core.errors import DataError
from rayworks.systems.reasoning.search.answers import RULES, choose
from rayworks.systems.reasoning.search.scheduler import Search

FORMAT, VERSION = "rayworks-trees", 1
DIGITS = 6
"""Decimals kept of values and log-probabilities: those beyond differ by the rounding of batched products."""

ROUNDED = frozenset({"logprob", "value", "score", "parts", "outcome"})
"""Numbers of models, which differ in their last digits between batches of other sizes."""

Record = Mapping[str, Any]


def as_record(search: Search, tokenizer: PreTrainedTokenizerBase, policy: str) -> dict[str, Any]:
    """A finished search as JSON values.

    Args:
        policy: name of the policy that drew it.
    """
    nodes = list(search.tree.root.below())
    numbers = {id(node): number for number, node in enumerate(nodes)}
    return {
        "uid": search.question.uid,
        "question": search.question.prompt,
        "expected": search.question.answer,
        "policy": policy,
        "prompt": list(search.prompt),
        "nodes": [
            {
                "id": numbers[id(node)],
                "parent": None if node.parent is None else numbers[id(node.parent)],
                "depth": node.depth,
                "tokens": list(node.step),
                "text": tokenizer.decode(node.step, skip_special_tokens=True) if node.step else "",
                "logprob": round(node.logprob, DIGITS),
                "visits": node.visits,
                "value": round(node.mean, DIGITS),
                "score": None if node.score is None else round(node.score, DIGITS),
                "parts": {name: round(part, DIGITS) for name, part in node.parts.items()},
                "terminal": node.terminal,
                "cut": node.cut,
                "merges": node.merges,
            }
            for node in nodes
        ],
        "answers": [
            {
                "tokens": list(answer.tokens),
                "text": answer.text,
                "said": answer.said,
                "correct": answer.correct,
                "ended": answer.ended,
                "repeated": answer.repeated,
                "outcome": round(answer.outcome, DIGITS),
                "leaf": None if answer.leaf is None else list(answer.leaf),
            }
            for answer in search.answers
        ],
        "chosen": {
            rule: None if answer is None else {"said": answer.said, "text": answer.text, "correct": answer.correct}
            for rule in RULES
            for answer in [choose(search, rule)]
        },
        "simulations": search.simulations,
        "completions": search.completions,
        "drawn_tokens": search.tokens,
        "stopped": search.stopped,
        "failed": search.failed,
        "timing": {"seconds": search.seconds},
    }


def tree_hash(record: Record) -> str:
    """A name for a tree: all that was drawn, decided and counted, without seconds and what rounding may touch."""
    kept = {name: value for name, value in record.items() if name != "timing"}
    for part in ("nodes", "answers"):
        kept[part] = [{name: one[name] for name in one if name not in ROUNDED} for one in record[part]]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def written(records: Iterable[Record]) -> str:
    """A file of trees."""
    lines = [{"format": FORMAT, "version": VERSION}, *records]
    return "".join(json.dumps(line) + "\n" for line in lines)


def read(text: str, name: str) -> list[dict[str, Any]]:
    """The trees of a file.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: it is no file of trees, of another version, or cut off.
    """
    lines = text.splitlines()
    try:
        first, *trees = [json.loads(line) for line in lines]
    except ValueError:
        whole = sum(_is_json(line) for line in lines)
        raise DataError(
            f"{name}: line {whole + 1} of {max(1, len(lines))} is cut off; remove it or write the file anew"
        ) from None
    if not isinstance(first, dict) or first.get("format") != FORMAT:
        raise DataError(f"{name}: holds no trees; its first line must say the format {FORMAT}")
    if first.get("version") != VERSION:
        raise DataError(f"{name}: is of version {first.get('version')}, this library reads {VERSION}; search again")
    for number, tree in enumerate(trees, 2):
        missing = [key for key in ("uid", "prompt", "nodes", "answers") if key not in tree]
        if missing:
            raise DataError(f"{name}: line {number} lacks {missing[0]}; it is no tree")
    return trees


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def solved(records: Sequence[Record]) -> float:
    """Share of the searches that have seen a correct answer."""
    return sum(any(answer["correct"] for answer in record["answers"]) for record in records) / max(1, len(records))

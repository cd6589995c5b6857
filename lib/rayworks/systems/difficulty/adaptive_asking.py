"""Adaptive tests of whoever answers: a function of the user's own, or a language model on a benchmark's items."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user
from rayworks.systems.difficulty.anchored_board import read_known
from rayworks.systems.difficulty.config import EvaluationSection
from rayworks.systems.difficulty.evaluation import benchmark_rows
from rayworks.systems.difficulty.item_response.adaptive_loop import (
    AdaptiveResult,
    AdaptiveSession,
    Ask,
    Rules,
    run_test,
)
from rayworks.systems.difficulty.item_response.curves import ItemParameters
from rayworks.systems.difficulty.printing import printed
from rayworks.systems.difficulty.responses.response_store import shown

PURPOSE = """Ask whoever answers the items that tell most of its ability, until it is known well enough. Items are those that
`rayworks difficulty` calibrated. A sentence goes to standard error; a CSV of what was asked, with the ability after each
answer, to standard output or --output."""
ByName = Callable[[Sequence[str]], Sequence[float]]
"""From names of items to their scores in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Calibrated items by name."""

    names: tuple[str, ...]
    parameters: ItemParameters

    def only(self, names: Sequence[str]) -> "Bank":
        """Those that are among some names, in the bank's order.

        Raises:
            DataError: none is.
        """
        mask: np.ndarray = np.isin(np.array(self.names, dtype=object), list(names))
        if not mask.any():
            raise DataError(f"items: none of the bank's is known to whoever answers; the bank has {shown(self.names)}")
        return Bank(tuple(np.array(self.names, dtype=object)[mask]), self.parameters.take(mask))


def read_bank(source: str | Path | pd.DataFrame, population_sd: float = 1.0) -> Bank:
    """A bank from what ``rayworks difficulty`` wrote; items without an estimate of their own are left out.

    Raises:
        DataError: see :func:`~.anchored_board.read_known`; or no item is left.
        ConfigError: the deviation of the abilities is not above 0.
    """
    if not (np.isfinite(population_sd) and population_sd > 0):
        raise ConfigError(f"population_sd: is {population_sd}; give a number above 0")
    table = read_known(source).table
    if not len(table):
        raise DataError("items: none has an estimate of its own")
    slopes = table["discrimination"].to_numpy()
    model = ItemParameters.from_difficulty("2PL", table["difficulty"].to_numpy(), slopes, population_sd=population_sd)
    return Bank(tuple(map(str, table.index)), model)


def by_name(bank: Bank, scored: ByName) -> Ask:
    """What the loop asks, of someone who knows items by name.

    Raises:
        DataError: when asked, where the answer is no list of a number for each item.
    """

    def ask(items: Sequence[int]) -> list[float]:
        names = [bank.names[item] for item in items]
        found = scored(names)
        try:
            scores = [float(score) for score in found]
        except (TypeError, ValueError):
            raise DataError(
                f"scores of {shown(names)}: are {found!r}; return a number in [0, 1] for each item"
            ) from None
        return scores

    return ask


def rows_of_benchmark(bank: Bank, section: EvaluationSection) -> dict[str, dict[str, Any]]:
    """Items of a benchmark by name, rated by the bank where the benchmark has no rating of its own."""
    difficulty = pd.Series(bank.parameters.difficulty)
    labels: dict[str, Sequence[Any]] = {
        "item": list(bank.names),
        "rating": difficulty.tolist(),
        "rating_quantile": difficulty.rank(pct=True).tolist(),
    }
    return {str(row["item"]): row for row in benchmark_rows(section, {section.benchmark: labels})}


def table_of(bank: Bank, result: AdaptiveResult) -> pd.DataFrame:
    """What was asked, in order: ``item``, ``difficulty``, ``score``, ``ability``, ``standard_error`` after it."""
    asked = [one.item for one in result.asked]
    return pd.DataFrame(
        {
            "item": [bank.names[item] for item in asked],
            "difficulty": bank.parameters.difficulty[asked],
            "score": [one.score for one in result.asked],
            "ability": [one.ability for one in result.asked],
            "standard_error": [one.error for one in result.asked],
        }
    )


def main(arguments: Sequence[str] | None = None, program: str = "rayworks difficulty ask") -> int:
    """Make one test; the exit code."""
    options = parser(program).parse_args(arguments)

    def asked() -> tuple[pd.DataFrame, Sequence[str]]:
        bank, result = _tested(options)
        low, high = result.interval
        why = {"error": "the error asked for", "most": "the most items", "items": "all items"}[result.stopped]
        told = (
            f"ability {result.ability:.2f} ± {result.error:.2f} [{low:.2f}, {high:.2f}] after {len(result.asked)} of "
            f"{len(bank.names)} items ({why}); expected score on all of them {result.expected_score:.3f}"
        )
        return table_of(bank, result), [told]

    return printed(asked, options.output)


def _tested(options: argparse.Namespace) -> tuple[Bank, AdaptiveResult]:
    rules = Rules(**{one.name: getattr(options, one.name) for one in fields(Rules)})
    bank = read_bank(options.items, options.population_sd)
    if options.function is not None:
        scored = of_the_user("--function", options.function, "is no module:function of the names of items")
    else:
        section = EvaluationSection(benchmark=options.benchmark, engine=options.engine, source=options.source)
        rows = rows_of_benchmark(bank, section)
        bank = bank.only(list(rows))
        from rayworks.systems.difficulty.answering_actors import scores_of_model

        scored = scores_of_model(options.model, section, rows)
    return bank, run_test(AdaptiveSession(bank.parameters, rules, options.seed), by_name(bank, scored))


def parser(program: str) -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog=program, description=PURPOSE, allow_abbrev=False)
    found.add_argument("items", type=Path, help="CSV of calibrated items")
    who = found.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--function", metavar="MODULE:NAME", help="your function: from a list of item names to their scores"
    )
    who.add_argument("--model", help="language model: catalogue name, hub id or folder")
    found.add_argument("--benchmark", default="champ", help="model: whose prompts and scorer; items go by its names")
    found.add_argument("--source", help="model: local file or folder of an Easy2Hard-Bench set")
    found.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="model: what decodes")
    found.add_argument("--population-sd", type=float, default=1.0, metavar="S", help="abilities are N(0, S)")
    rules = Rules()
    found.add_argument("--error", type=float, default=rules.error, help="standard error at which it stops")
    found.add_argument("--most", type=int, default=rules.most, help="items asked at most")
    found.add_argument("--least", type=int, default=rules.least, help="items asked at least")
    found.add_argument("--among", type=int, default=rules.among, help="draw each item among so many best ones")
    found.add_argument("--batch", type=int, default=rules.batch, help="items asked at once")
    found.add_argument("--seed", type=int, default=0, help="of these draws")
    found.add_argument("--output", type=Path, metavar="FILE", help="CSV to write instead of standard output")
    return found

"""Tasks of reasoning-gym, read from its wheel in the cache.

Installing it would bring ten more packages, one of them to compile, which only a few of its tasks use. So its packages
are opened without the code that imports every task, and a task is imported alone.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from rayworks.core import datasets, seeds
from rayworks.core.errors import ConfigError
from rayworks.systems.reasoning.config import COUNTDOWN, GSM_SYMBOLIC, GYM, TaskSection
from rayworks.systems.reasoning.tasks.questions import DrawnTask, Question, Split, Verdict, Verify, uid_of
from rayworks.systems.reasoning.tasks.verifiers import answer_text

TEMPLATE = "{question}\n"
"""Prompt of a question, unless the config has another."""
_ROOT = "reasoning_gym"
_WHOLE = ("coaching", "data")
"""Packages whose own code the tasks need."""
_RUNS_ANSWERS = re.compile(r"(?:eval|parse_expr)\(answer")
"""How graders of this version run a response as code; sympy's parser evaluates too."""
_HUGE = re.compile(r"[eE][+-]?\d{4,}")
"""What a rule that reads exact fractions would take hours to write out."""
_PER_DRAW = 500


def gym_task(section: TaskSection, seed: int, verify: Verify | None) -> DrawnTask:
    """A task by its name in reasoning-gym.

    Args:
        verify: None: the gym's own rule, right where it scores 1.

    Raises:
        ConfigError: there is no such task, it needs another package, refuses an option, or its rule would run responses.
        DataError: the wheel is not to be had.
    """
    name = section.name.removeprefix(GYM).replace("-", "_")
    module = _module(name)
    if verify is None and _RUNS_ANSWERS.search(inspect.getsource(module)):
        raise ConfigError(
            f"task.verifier: the rule of {section.name} would run what a model wrote as code; set number or symbolic"
        )
    first = _data_set(section, name, 0)

    def draw(split: Split) -> Iterator[Question]:
        at = 0
        while True:
            # The gym draws item i with seed + i, some of it through numpy, whose seeds have 32 bits.
            items = _data_set(section, name, seeds.derive_small(seed, "task", name, split, at) >> 32)
            yield from (_question(items[index], section.template or TEMPLATE) for index in range(_PER_DRAW))
            at += 1

    def by_the_gym(question: Question, response: str) -> Verdict:
        given = answer_text(response, section.answer_pattern, question.answer.count("\n") + 1)
        if given is None or _HUGE.search(given):
            return Verdict(None, False, "has no answer")
        try:
            score = first.score_answer(given, question.data["entry"])
        except Exception as error:
            # Some rules raise whatever int() and the like do on what they did not expect.
            return Verdict(given, False, f"cannot be scored ({type(error).__name__})")
        return Verdict(given, score == 1.0, "" if score == 1.0 else f"scores {score:g} of 1")

    return DrawnTask(section.name, draw, verify or by_the_gym)


def _question(entry: dict[str, Any], template: str) -> Question:
    prompt = template.replace("{question}", entry["question"])
    data = {"entry": entry, "solution": entry["metadata"].get("answer_cot")}
    return Question(uid_of(prompt), prompt, str(entry["answer"]), data)


def _data_set(section: TaskSection, name: str, seed: int) -> Any:
    factory = importlib.import_module(f"{_ROOT}.factory")
    try:
        return factory.create_dataset(name, **{**section.options, "seed": seed, "size": _PER_DRAW})
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"task.options: {section.name} refuses them ({error}); correct or leave them out") from None


def _module(name: str) -> ModuleType:
    """The module that registers a task, imported."""
    folder = datasets.fetch("reasoning-gym")
    _open_packages(folder)
    registers = re.compile(rf'(?:DATASET_NAME = |register_dataset\(\s*)"{re.escape(name)}"')
    found = [path for path in sorted(folder.glob("*/**/*.py")) if registers.search(path.read_text())]
    if not found:
        names = f"{GSM_SYMBOLIC}, {COUNTDOWN}, {GYM}leg_counting"
        raise ConfigError(f"task.name: reasoning-gym has no task {name!r}; its tasks are such as {names}")
    parts = found[0].relative_to(folder).with_suffix("").parts
    try:
        return importlib.import_module(".".join([_ROOT, *parts]))
    except ModuleNotFoundError as error:
        raise ConfigError(f"task.name: {name} of reasoning-gym needs {error.name}; pip install {error.name}") from None


def _open_packages(folder: Path) -> None:
    """Make its packages importable without running what is in their ``__init__.py``."""
    inner = [path.parent for path in sorted(folder.glob("*/__init__.py")) if path.parent.name not in _WHOLE]
    for path in [folder, *inner]:
        name = ".".join([_ROOT, *path.relative_to(folder).parts])
        if name not in sys.modules:
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = [str(path)]
    # Its own order: factory, which every task imports, finds coaching half loaded otherwise.
    importlib.import_module(f"{_ROOT}.coaching")

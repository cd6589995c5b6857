"""The task that a config names."""

from functools import partial

from rayworks.core.errors import ConfigError
from rayworks.core.registry import of_the_user
from rayworks.systems.reasoning.config import CHAIN_SUM, COUNTDOWN, GSM_SYMBOLIC, GYM, TaskSection
from rayworks.systems.reasoning.tasks import verifiers
from rayworks.systems.reasoning.tasks.gym import gym_task
from rayworks.systems.reasoning.tasks.procedural import chain_sum
from rayworks.systems.reasoning.tasks.questions import Task, Verify
from rayworks.systems.reasoning.tasks.word_problems import ASDIV, GSM8K, word_problems

_USUAL = {CHAIN_SUM: "lines", GSM_SYMBOLIC: "number", COUNTDOWN: "task"}


def open_task(section: TaskSection, seed: int) -> Task:
    """Where the questions come from, with the rule that judges answers.

    Args:
        section: what is asked.
        seed: of the run; questions have a stream of their own below it.

    Raises:
        ConfigError: no such task, or its own function is not there, fails, or gives no task.
        DataError: its data is not to be had or broken.
    """
    name = section.name
    if name == CHAIN_SUM:
        return chain_sum(section, seed, _verify(section) or verifiers.lines)
    if name in (GSM_SYMBOLIC, COUNTDOWN) or name.startswith(GYM):
        return gym_task(section, seed, _verify(section))
    if name in (ASDIV, GSM8K) or name.endswith(".jsonl"):
        return word_problems(section, seed, _verify(section) or verifiers.number)
    return _of_the_user(section, seed)


def rule_of(section: TaskSection) -> str:
    """The verifier that the section names, or that is usual."""
    return section.verifier or ("task" if section.name.startswith(GYM) else _USUAL.get(section.name, "number"))


def _verify(section: TaskSection) -> Verify | None:
    """The rule as a function; None: the task's own."""
    rules: dict[str, Verify | None] = {
        "lines": verifiers.lines,
        "number": partial(verifiers.number, pattern=section.answer_pattern),
        "symbolic": partial(verifiers.symbolic, pattern=section.answer_pattern),
        "unit-tests": verifiers.unit_tests,
        "task": partial(verifiers.countdown, pattern=section.answer_pattern) if section.name == COUNTDOWN else None,
    }
    return rules[rule_of(section)]


def _of_the_user(section: TaskSection, seed: int) -> Task:
    otherwise = (
        "is no task; choose chain-sum, gsm-symbolic, countdown, gym:NAME, asdiv, gsm8k, a .jsonl file or "
        "module:function"
    )
    make = of_the_user("task.name", section.name, otherwise)
    try:
        task = make(section, seed)
    except Exception as error:
        raise ConfigError(
            f"task.name: {section.name} failed with {type(error).__name__}: {error}; it is called with (section, seed)"
        ) from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"task.name: {section.name} gave a {type(task).__name__}; it must give an object with questions, verify, solution"
        )
    return task

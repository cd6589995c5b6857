"""Chain sums, made here by the law of reasoning-gym's chain_sum, with solutions that write out every step."""

import random
from collections.abc import Iterator

from rayworks.core import seeds
from rayworks.systems.reasoning.config import CHAIN_SUM, TaskSection
from rayworks.systems.reasoning.tasks.questions import DrawnTask, Question, Split, Verify, uid_of

TEMPLATE = "?{question}\n"
"""Prompt of a question, unless the config has another."""


def chain_sum(section: TaskSection, seed: int, verify: Verify) -> DrawnTask:
    """Sums such as ``3+4-7``, each step of whose solution is a line.

    As in reasoning-gym 0.1.25, a sum draws how many terms it has, how many digits all of them have, the terms, and the
    signs between. There, item i of a data set is drawn with seed + i, so that sets of near seeds share most items; here
    every split has a stream of its own.
    """

    def draw(split: Split) -> Iterator[Question]:
        source = random.Random(seeds.derive(seed, "task", CHAIN_SUM, split))
        while True:
            yield as_question(draw_terms(source, section.terms, section.digits), section.template or TEMPLATE)

    return DrawnTask(CHAIN_SUM, draw, verify)


def draw_terms(source: random.Random, terms: tuple[int, int], digits: tuple[int, int]) -> list[int]:
    """The terms of one sum with their signs; the first has none."""
    count, size = source.randint(*terms), source.randint(*digits)
    low, high = 0 if size == 1 else 10 ** (size - 1), 10**size - 1
    numbers = [source.randint(low, high) for _ in range(count)]
    return [numbers[0], *(number if source.choice("+-") == "+" else -number for number in numbers[1:])]


def as_question(terms: list[int], template: str) -> Question:
    """The question of a sum. The sign of a term 0 is lost: ``3-0`` is asked as ``3+0``."""
    expression = str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:])
    prompt = template.replace("{question}", expression)
    data = {"terms": tuple(terms), "solution": written_out(terms)}
    return Question(uid_of(prompt), prompt, str(sum(terms)), data)


def written_out(terms: list[int]) -> str:
    """``3+4=7``, ``7-7=0``, each on its line, then ``#0``."""
    lines, total = [], terms[0]
    for term in terms[1:]:
        lines.append(f"{total}{term:+d}={total + term}")
        total += term
    return "\n".join([*lines, f"#{total}"])

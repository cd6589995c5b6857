"""Every setting of the reasoning system, with its default and bounds."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rayworks.core.config import Section

CHAIN_SUM, GSM_SYMBOLIC, COUNTDOWN, GYM = "chain-sum", "gsm-symbolic", "countdown", "gym:"
Verifier = Literal["lines", "number", "symbolic", "unit-tests", "task"]


class TaskSection(Section):
    """What is asked, and what counts as a right answer."""

    name: str = Field(
        CHAIN_SUM,
        min_length=1,
        description="source of the questions: chain-sum, gsm-symbolic, countdown, gym:NAME (a task of reasoning-gym), asdiv, "
        "gsm8k, a .jsonl file with the columns prompt and answer, or your own task as module:function",
    )
    options: dict[str, Any] = Field({}, description="settings that reasoning-gym has for the task, by its names")
    terms: tuple[int, int] = Field((4, 6), description="chain-sum: fewest and most terms of a sum")
    digits: tuple[int, int] = Field(
        (1, 1), description="chain-sum: fewest and most digits; all terms of a sum have as many"
    )
    verifier: Verifier | None = Field(
        None,
        description="rule for right answers: lines (every written line of a chain-sum), number, symbolic, unit-tests (the "
        "columns inputs and outputs of a .jsonl file), task (reasoning-gym's own); null: the usual one of the task",
    )
    answer_pattern: str | None = Field(
        None, description="regular expression whose one group is the answer, at its last match; null: the usual place"
    )
    template: str | None = Field(
        None, description="prompt of a question, which stands where {question} is; null: the usual one of the task"
    )
    count_search: int = Field(600, ge=1, description="questions to search")
    count_validation: int = Field(200, ge=1, description="questions that decide when training stops")
    count_test: int = Field(1000, ge=1, description="questions to measure on")

    @field_validator("terms", "digits")
    @classmethod
    def _a_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 12:
            raise ValueError(f"is {list(value)}; give two numbers from 1 to 12, the smaller first")
        return value

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        try:
            groups = 1 if value is None else re.compile(value).groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        if groups != 1:
            raise ValueError(
                f"has {groups} groups; put one around the answer, (?:...) around what else belongs together"
            )
        return value

    @field_validator("template")
    @classmethod
    def _holds_the_question(cls, value: str | None) -> str | None:
        if value is not None and "{question}" not in value:
            raise ValueError("has no {question}; write it where the question is to stand")
        return value

    @model_validator(mode="after")
    def _verifier_fits(self) -> Self:
        of_gym = self.name in (GSM_SYMBOLIC, COUNTDOWN) or self.name.startswith(GYM)
        if self.verifier == "lines" and self.name != CHAIN_SUM:
            raise ValueError(f"task.verifier: lines checks chain-sum alone, not {self.name}; choose number or symbolic")
        if self.verifier == "task" and not of_gym:
            raise ValueError(f"task.verifier: task is for tasks of reasoning-gym, not {self.name}; choose number")
        if self.verifier == "unit-tests" and not self.name.endswith(".jsonl"):
            raise ValueError(
                "task.verifier: unit-tests needs a .jsonl file with inputs and outputs; set task.name to one"
            )
        rule = self.verifier or ("lines" if self.name == CHAIN_SUM else None)
        if self.answer_pattern and rule in ("lines", "unit-tests"):
            raise ValueError(
                f"task.answer_pattern: {rule} reads the whole response; leave it out, or set another verifier"
            )
        if self.options and not of_gym:
            raise ValueError(f"task.options: {self.name} has none, only tasks of reasoning-gym do; leave them out")
        return self


class RecipeSection(Section):
    """The policy that is made here: a small Llama, supervised on written-out solutions until it is middling."""

    layers: int = Field(3, ge=1, le=64, description="layers of the policy")
    width: int = Field(64, ge=8, le=4096, description="width of its hidden states")
    heads: int = Field(4, ge=1, le=64, description="attention heads, which share the width")
    positions: int = Field(160, ge=16, le=8192, description="most tokens of a question and its answer")
    traces: int = Field(6000, ge=1, description="written-out solutions to learn from")
    steps: int = Field(600, ge=1, description="optimiser steps, if the accuracy does not end it before")
    accuracy: float = Field(
        0.45,
        gt=0,
        le=1,
        description="share of validation questions solved greedily, line by line, at which training ends",
    )
    validation: int = Field(200, ge=1, description="validation questions to measure that on")
    steps_per_check: int = Field(15, ge=1, description="optimiser steps between measurements")
    batch_size: int = Field(32, ge=1, description="solutions per optimiser step")
    learning_rate: float = Field(4e-3, gt=0, lt=1, description="peak of the cosine schedule")
    warmup_steps: int = Field(30, ge=0, description="optimiser steps of linear warm-up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"policy.width: {self.width} is no multiple of twice the {self.heads} heads; change one of them"
            )
        return self

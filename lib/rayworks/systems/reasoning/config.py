"""Every setting of the reasoning system, with its default and bounds."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rayworks.core.config import RESUME_SAFE, ComputeSection, EngineSection, Section, SystemConfig

RECIPE = "recipe"
"""As the name of a policy: made in the run."""
VERIFIER = "verifier"
"""As the critic of whole answers: the task's."""
CHAIN_SUM, GSM_SYMBOLIC, COUNTDOWN, GYM = "chain-sum", "gsm-symbolic", "countdown", "gym:"
Arm = Literal["traces", "paths", "paths-and-winners", "anchor", "shuffled", "both", "reward", "prediction", "plain"]
Method = Literal["self-consistency", "best-of-n", "beam"]
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
    count_validation: int = Field(200, ge=0, description="questions that decide when training stops; 0 where none does")
    count_test: int = Field(1000, ge=0, description="questions to measure on; 0: nothing is measured")

    @property
    def checks_lines(self) -> bool:
        """Whether an answer is right only if every written line is."""
        return self.verifier == "lines" or (self.verifier is None and self.name == CHAIN_SUM)

    @property
    def needs_answers(self) -> bool:
        """Whether the verifier looks at the answer; those of lines, of countdown and of programs look at the question."""
        return not (self.checks_lines or self.verifier == "unit-tests" or self.name == COUNTDOWN)

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
                f"recipe.width: {self.width} is no multiple of twice the {self.heads} heads; change one of them"
            )
        return self


class TreeSection(Section):
    """Shape and statistics of a tree."""

    rule: Literal["uct", "puct"] = Field(
        "uct",
        description="bound on a child: q + c sqrt(ln N / n), or with the policy's prior q + c p sqrt(N) / (1 + n)",
    )
    exploration: float = Field(1.0, ge=0, description="c of the bound; 0 takes the best mean")
    virtual_loss: float = Field(1.0, ge=0, description="value that a visit on its way is counted to lose")
    width: int = Field(4, ge=1, description="children that a node gets before its children are gone into")
    root_width: int = Field(4, ge=1, description="the same of the root")
    importance: float = Field(
        0.0, ge=0, description="alpha of the width by importance, floor(alpha max |v_child - v|) + 1; 0 keeps the width"
    )
    most_width: int = Field(10, ge=1, description="width by importance, at most")
    most_root_width: int = Field(60, ge=1, description="the same of the root")
    depth: int = Field(10, ge=1, description="steps of an answer; the last is drawn to the end")
    merge_distance: int = Field(
        1, ge=1, description="edit distance in tokens below which a step repeats a sibling; 1 merges equal steps alone"
    )
    merges: int = Field(4, ge=1, description="repeated steps after which a node is asked no more")
    terminals: Literal["close", "revisit"] = Field(
        "close", description="close: a finished answer is not gone to again; revisit: its score is counted again"
    )


class SearchSection(TreeSection):
    """The search of a question."""

    mode: Literal["asynchronous", "barrier", "serial"] = Field(
        "asynchronous", description="barrier and serial, one after the other, are there to compare with"
    )
    simulations: int = Field(16, ge=1, description="completions per question")
    most_tokens: int | None = Field(None, ge=1, description="tokens drawn per question, at most; null: no bound")
    min_terminals: int = Field(0, ge=0, description="finished answers to go on for, up to 10 times the simulations")
    leaves: int = Field(
        1, ge=1, description="completions of one tree on their way at a time; 1: the same tree every time"
    )
    open_trees: int = Field(64, ge=1, description="trees that a worker searches side by side")
    rollouts: int = Field(
        1,
        ge=0,
        description="completions that evaluate a step; the first is the one that it begins. 0: steps are drawn alone",
    )
    temperature: float = Field(
        1.0, ge=0, description="temperature of a node's completions after the first, which is greedy"
    )
    step_end: str = Field("\n", min_length=1, description="text that ends a step")
    step_pattern: str | None = Field(None, description="regular expression that a step must contain to end; null: any")
    step_tokens: int = Field(256, ge=1, description="tokens of a step, at most")
    response_tokens: int = Field(64, ge=1, description="tokens of an answer, at most")
    agreement: float | None = Field(
        None, gt=0.5, le=1, description="share of finished answers that must agree for an early stop; null: none"
    )
    agreement_answers: int = Field(6, ge=1, description="finished answers before an early stop")

    @field_validator("step_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return value


class ModelSection(EngineSection):
    """The policy, and what decodes with it."""

    policy: str = Field(
        RECIPE, min_length=1, description="recipe: made here; else a packaged name, local folder or hub:OWNER/NAME"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights of the policy in a search")
    slots: int = Field(64, ge=1, le=4096, description="completions decoded together in one worker")
    replicas: int = Field(
        0,
        ge=0,
        le=1024,
        description="engines beside the workers that search; 0: each worker has its own",
        json_schema_extra=RESUME_SAFE,
    )


class CriticsSection(Section):
    """What scores partial and whole answers in a search."""

    outcome: str = Field(
        "verifier",
        description="critic of whole answers: verifier (the task's, where answers are known), head (trained here), "
        "head:FOLDER (of another run's export), judge:MODEL (asked for True or False), or your own module:function",
    )
    value: str | None = Field(
        None, description="critic of beginnings: head:FOLDER (of another run's export), or module:function; null: none"
    )
    process: str | None = Field(
        None,
        description="critic of last steps: head (trained here on head.step_labels), head:FOLDER (of another run's export), "
        "judge:MODEL, reward:FOLDER (a reward model that alignment exported), or your own "
        "module:function; null: none",
    )
    outcome_weight: float = Field(1.0, gt=0, description="weight of the outcome in a node's score")
    value_weight: float = Field(1.0, gt=0, description="weight of the value in a node's score")
    process_weight: float = Field(1.0, gt=0, description="weight of the last step in a node's score")
    replicas: int = Field(
        0,
        ge=0,
        le=1024,
        description="actors that hold the critics of a search for training, beside the workers; 0: each worker has its own",
        json_schema_extra=RESUME_SAFE,
    )


class HeadSection(Section):
    """The head that learns outcomes from the first round's trees, on a copy of the policy."""

    steps: int = Field(400, ge=0, description="optimiser steps; 0 trains none")
    batch_size: int = Field(64, ge=1, description="texts per optimiser step")
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="peak of the cosine schedule")
    tuning: Literal["full", "lora", "none"] = Field(
        "full", description="weights of the copy that learn beside the head"
    )
    texts: int = Field(20_000, ge=10, description="most texts to learn from")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of questions kept to measure it on")
    step_labels: str = Field(
        "champ",
        min_length=1,
        description="solutions whose first wrong step is known, for a process head: champ, error-recovery, or a .jsonl file "
        "with prompt, steps and wrong_step (null: all are right)",
    )


class PairsSection(Section):
    """The pairs that are taken out of the trees."""

    score: Literal["mean", "evaluation", "visits"] = Field(
        "mean", description="number compared between siblings: mean value, own evaluation, or visits"
    )
    selection: Literal["best-worst", "best-each", "all"] = Field("best-worst", description="siblings that are paired")
    threshold: float = Field(0.5, ge=0, description="difference of the scores, at least (tau)")
    min_visits: int = Field(1, ge=1, description="visits of a step, at least")
    losers: Literal["any", "never-correct"] = Field(
        "any", description="never-correct: no correct answer goes through them"
    )
    per_parent: int = Field(1, ge=1, description="pairs of one node's children, at most")
    per_question: int = Field(8, ge=1, description="step pairs of one question, at most")
    paths_per_question: int = Field(0, ge=0, description="pairs of whole answers of one question, at most")


class CurriculumSection(Section):
    """The order of the pairs in an epoch."""

    order: Literal["both", "reward", "prediction", "shuffled"] = Field(
        "both", description="rank: by reward gap, by the policy's prediction gap (measured again every epoch), or both"
    )
    combination: Literal["sum", "mean"] = Field(
        "sum", description="sum: reward + b prediction; mean: (1-b) reward + b prediction"
    )
    balance: float = Field(0.5, ge=0, le=1, description="b, the weight of the prediction gap")
    normalise: Literal["minmax", "zscore", "rank"] = Field("minmax", description="common scale of the two gaps")
    direction: Literal["descending", "ascending"] = Field("descending", description="largest rank first, or last")
    sign: Literal["+", "-"] = Field("+", description="sign of the prediction gap in the rank")
    prediction: Literal["sum", "mean", "over-reference"] = Field(
        "sum", description="prediction gap: of log-probabilities, of their means per token, or over the reference's"
    )
    per_batch: int | None = Field(None, ge=1, description="pairs of one question in a batch, at most; null: any number")


class LearningSection(CurriculumSection):
    """Learning from trees."""

    rounds: int = Field(2, ge=1, description="times to search with the policy that the round before improved")
    arms: tuple[Arm, ...] = Field(
        ("traces", "paths", "paths-and-winners", "anchor", "shuffled", "both", "reward", "prediction", "plain"),
        description="ways to learn that are compared in the first round, at equal optimiser steps; all but plain from about "
        "as many tokens",
    )
    keep: Arm | Literal["best"] = Field(
        "best", description="arm whose policy goes on; best: on the validation questions, traces aside"
    )
    epochs: int = Field(2, ge=1, description="times over the pairs")
    beta: float = Field(0.03, gt=0, description="scale of the preference reward in DPO, anchored")
    plain_beta: float = Field(0.1, gt=0, description="the same of plain DPO")
    learning_rate: float = Field(1e-4, gt=0, lt=1, description="peak of the cosine schedule")
    plain_learning_rate: float = Field(2e-5, gt=0, lt=1, description="the same of plain DPO")
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linear warm-up")
    pairs_per_step: int = Field(32, ge=1, description="pairs per optimiser step")
    pairs_per_pass: int = Field(32, ge=1, description="pairs per forward pass; the rest of a step is accumulated")
    anchors_per_step: int = Field(32, ge=1, description="best paths learned beside the pairs in every step")
    anchor_weight: float = Field(1.0, ge=0, description="weight of the best paths' likelihood; 0: no anchor")
    winner_weight: float = Field(1.0, ge=0, description="weight of the chosen steps' likelihood")
    tuning: Literal["full", "lora"] = Field("full", description="train all weights, or low-rank adapters")
    lora_rank: int = Field(16, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(32.0, gt=0, description="scale of the adapters")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that learn one arm after the other in step through Ray Train, beside compute.workers; with 1, "
        "arms are learned side by side. Results are equal within rounding",
    )

    @model_validator(mode="after")
    def _each_worker_has_pairs(self) -> Self:
        if self.workers > self.pairs_per_step:
            raise ValueError(
                f"learning.workers: {self.workers} cannot share the {self.pairs_per_step} pairs of a step; lower it, or "
                "raise learning.pairs_per_step"
            )
        return self


class EvaluationSection(Section):
    """What is measured on questions that nothing was learned from."""

    rule: Literal["greedy", "best-leaf", "rerank", "vote"] = Field("vote", description="answer of a finished search")
    questions: int = Field(
        200, ge=2, description="test questions that search and its baselines answer, at equal tokens"
    )
    methods: tuple[Method, ...] = Field(
        ("self-consistency", "best-of-n", "beam"), description="baselines of search at test time, beside greedy"
    )
    temperature: float = Field(
        0.7, gt=0, description="temperature of completions at test time, in search and baselines"
    )
    beams: int = Field(4, ge=1, description="beginnings that beam search keeps")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of the intervals")
    resamples: int = Field(2000, ge=100, description="bootstrap resamples of the questions")


class Config(SystemConfig):
    """Settings of a reasoning run."""

    task: TaskSection = TaskSection()
    model: ModelSection = ModelSection()
    recipe: RecipeSection = RecipeSection()
    search: SearchSection = SearchSection()
    critics: CriticsSection = CriticsSection()
    head: HeadSection = HeadSection()
    pairs: PairsSection = PairsSection()
    learning: LearningSection = LearningSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def training_compute(self) -> ComputeSection:
        """What those processes ask for that learn in step."""
        return self.compute.model_copy(update={"workers": self.learning.workers})

    @model_validator(mode="after")
    def _makes_sense_together(self) -> Self:
        critics, search, arms, task = self.critics, self.search, self.learning.arms, self.task
        if arms and not (task.count_validation and task.count_test):
            raise ValueError("learning.arms: need task.count_validation and task.count_test above 0 to be compared")
        if "traces" in arms and self.model.policy != RECIPE:
            others = ", ".join(arm for arm in arms if arm != "traces")
            raise ValueError(
                f"learning.arms: model.policy {self.model.policy} comes without the traces that recipe is made from; leave "
                f"traces out, as in --learning.arms [{others}]"
            )
        if task.count_test and self.evaluation.questions > task.count_test:
            asked = self.evaluation.questions
            raise ValueError(f"evaluation.questions: is {asked}, task.count_test only {task.count_test}; lower it")
        if critics.process == "head" and (self.model.policy == RECIPE or not self.head.steps):
            raise ValueError("critics.process: head needs head.steps and a policy that reads words, unlike recipe")
        if search.rollouts == 0 and critics.value is None and critics.process is None:
            raise ValueError("search.rollouts: is 0, so that steps need a critic; set critics.value or critics.process")
        if self.learning.keep == "traces":
            raise ValueError("learning.keep: traces learn nothing from a search; name another arm, or best")
        if self.learning.keep != "best" and self.learning.keep not in arms:
            raise ValueError(f"learning.keep: {self.learning.keep} is not among learning.arms; add it")
        if len(set(arms)) < len(arms):
            raise ValueError("learning.arms: names an arm twice; name each once")
        if "head" in (critics.outcome, critics.value):
            raise ValueError(
                "critics: that head is trained on the first round's trees; name another run's, head:FOLDER"
            )
        return self

    @property
    def test_critics(self) -> tuple[str, ...]:
        """Critics of answers that do without knowing them; the first makes the headline."""
        if self.critics.outcome != VERIFIER:
            return (self.critics.outcome,)
        return (*(() if self.task.needs_answers else (VERIFIER,)), *(("head",) if self.head.steps else ()))

"""Where questions come from: splits, sources, and what is said of bad ones."""

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.reasoning.config import RecipeSection, TaskSection
from rayworks.systems.reasoning.tasks.opening import open_task
from rayworks.systems.reasoning.tasks.questions import Question, Split, Verdict, split_of
from rayworks.systems.reasoning.tasks.word_problems import step_labels

SPLITS: tuple[Split, ...] = ("supervision", "search", "validation", "test")


def write(folder: Path, *rows: object) -> str:
    file = folder / "problems.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(file)


def test_splits_of_chain_sums_share_no_question_with_any_seed() -> None:
    seen: dict[str, Split] = {}
    for seed in (0, 1):
        task = open_task(TaskSection(), seed)
        for split in SPLITS:
            prompts = [question.prompt for question in task.questions(split, 800)]
            assert len(set(prompts)) == 800
            assert all(seen.setdefault(prompt, split) == split for prompt in prompts)
    assert len({question.prompt for question in open_task(TaskSection(), 0).questions("test", 5)}) == 5


def test_fewer_questions_are_the_first_of_more_and_seeds_differ() -> None:
    task, other = open_task(TaskSection(), 3), open_task(TaskSection(), 4)
    assert task.questions("search", 50) == task.questions("search", 200)[:50]
    assert task.questions("search", 50) != other.questions("search", 50)


def test_chain_sums_follow_the_law_they_name() -> None:
    task = open_task(TaskSection(terms=(2, 3), digits=(1, 2)), 0)
    terms = [question.data["terms"] for question in task.questions("search", 3000)]
    counts = Counter((len(parts), max(len(str(abs(term))) for term in parts)) for parts in terms)
    assert set(counts) == {(2, 1), (2, 2), (3, 1), (3, 2)}
    assert all(parts[0] >= 0 for parts in terms)
    assert all(abs(term) >= 10 for parts in terms if len(str(abs(parts[0]))) == 2 for term in parts)
    assert 0.45 < sum(term < 0 for parts in terms for term in parts[1:]) / sum(len(parts) - 1 for parts in terms) < 0.55


@pytest.mark.parametrize("name", ["chain-sum", "gsm-symbolic", "countdown", "asdiv", "gsm8k", "gym:leg_counting"])
def test_right_answers_are_right_and_others_are_not(name: str) -> None:
    task = open_task(TaskSection(name=name), 0)
    for question in task.questions("supervision", 12):
        right = task.solution(question) or question.answer
        verdict = task.verify(question, right)
        assert verdict.correct and verdict.answer is not None, (question, verdict)
        wrong = task.verify(question, f"{right} 77777777")
        assert not wrong.correct and wrong.reason


def test_solutions_of_gsm_symbolic_and_gsm8k_end_with_the_answer() -> None:
    for name in ("gsm-symbolic", "gsm8k"):
        task = open_task(TaskSection(name=name), 0)
        for question in task.questions("validation", 20):
            solution = task.solution(question)
            assert solution is not None and solution.endswith(f"#### {question.answer}")


def test_a_source_with_too_few_questions_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"task.count_test: is 1000, but gsm8k has 53 questions for test; lower it"):
        open_task(TaskSection(name="gsm8k"), 0).questions("test", 1000)
    with pytest.raises(DataError, match=r"recipe.traces: is 300, but chain-sum has \d+ questions for supervision"):
        open_task(TaskSection(terms=(2, 2)), 0).questions("supervision", 300)


def test_every_question_of_a_finite_source_is_in_one_split() -> None:
    task = open_task(TaskSection(name="gsm8k"), 0)
    found = [
        question
        for split, count in zip(SPLITS, (98, 83, 22, 53), strict=True)
        for question in task.questions(split, count)
    ]
    assert len({question.uid for question in found}) == 256
    assert all(split_of(question.prompt) in SPLITS for question in found)


def test_step_labels_are_read_whole() -> None:
    champ, recovery = step_labels("champ"), step_labels("error-recovery")
    assert (len(champ), sum(label.wrong_step is None for label in champ)) == (540, 96)
    assert (
        champ[0].steps[4].startswith("If the last digit is 1, then the second-to-last digit")
        and champ[0].wrong_step == 4
    )
    assert len(recovery) == 1436
    assert all(label.wrong_step == len(label.steps) - 1 for label in recovery)
    with pytest.raises(DataError, match="step labels 'prm800k': unknown; choose one of champ, error-recovery"):
        step_labels("prm800k")


@pytest.mark.parametrize(
    ("name", "verifier", "message"),
    [
        ("gym:no_such", None, "task.name: reasoning-gym has no task 'no_such'"),
        ("gym:rubiks_cube", None, "task.name: rubiks_cube of reasoning-gym needs magiccube; pip install magiccube"),
        (
            "gym:puzzle24",
            None,
            "task.verifier: the rule of gym:puzzle24 would run what a model wrote as code; set number",
        ),
        ("chainsum", None, "task.name: 'chainsum' is no task; choose chain-sum"),
        ("no_such_module:make", None, "task.name: 'no_such_module:make' cannot be imported"),
        ("json:no_such", None, "task.name: 'json:no_such' cannot be imported"),
        ("json:loads", None, "task.name: json:loads failed with TypeError"),
        ("builtins:print", None, "task.name: builtins:print gave a NoneType; it must give an object with questions"),
    ],
)
def test_tasks_that_are_none_are_refused(name: str, verifier: None, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        open_task(TaskSection(name=name, verifier=verifier), 0)


def test_a_rule_of_the_gym_that_fails_on_a_response_counts_it_as_wrong() -> None:
    task = open_task(TaskSection(name="gym:leg_counting", answer_pattern="<(.*)>"), 0)
    question = task.questions("test", 1)[0]
    assert task.verify(question, f"<{question.answer}>") == Verdict(question.answer, True)
    assert task.verify(question, question.answer) == Verdict(None, False, "has no answer")
    for name in ("gym:sudoku", "gym:coin_flip", "gym:pool_matrix"):
        task = open_task(TaskSection(name=name), 0)
        question = task.questions("test", 1)[0]
        assert task.verify(question, f"Let us see.\n\n{question.answer}\n").correct
        for written in ("x" * 5_000, "__import__('os')", "1 " * 200, "1e99999999"):
            assert not task.verify(question, written).correct


def test_the_gym_takes_its_options_and_says_which_it_does_not_know() -> None:
    asked = open_task(TaskSection(name="countdown", options={"min_numbers": 3, "max_numbers": 3}), 0).questions(
        "test", 10
    )
    assert {len(question.data["entry"]["metadata"]["numbers"]) for question in asked} == {3}
    with pytest.raises(
        ConfigError, match=r"task.options: countdown refuses them \(.*'size_of'.*\); correct or leave them out"
    ):
        open_task(TaskSection(name="countdown", options={"size_of": 3}), 0)
    with pytest.raises(ConfigError, match=r"task\.options: countdown refuses them"):
        open_task(TaskSection(name="countdown", options={"min_numbers": 9, "max_numbers": 3}), 0)


class OneSum:
    def questions(self, split: Split, count: int) -> list[Question]:
        return [Question(split, "1+1", "2")] * count

    def verify(self, question: Question, response: str) -> Verdict:
        return Verdict(response, response == question.answer)

    def solution(self, question: Question) -> str | None:
        return None


def test_a_task_of_ones_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_tasks")
    monkeypatch.setattr(module, "one_sum", lambda section, seed: OneSum(), raising=False)
    monkeypatch.setitem(sys.modules, "my_tasks", module)
    assert open_task(TaskSection(name="my_tasks:one_sum"), 0).questions("test", 1)[0].answer == "2"


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} plus 1?", "answer": n + 1, "solution": f"{n} + 1 = {n + 1}"} for n in range(60)]
    section = TaskSection(name=write(tmp_path, *rows, "", rows[0]), template="Q: {question}\nA:")
    task = open_task(section, 0)
    question = task.questions("test", 5)[0]
    assert question.prompt.startswith("Q: ") and question.prompt.endswith(" plus 1?\nA:")
    assert task.verify(question, task.solution(question) or "").correct


def test_a_row_may_say_its_split_and_be_searched_without_an_answer(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1?", "answer": n, "split": SPLITS[n % 4]} for n in range(20)]
    unknown = {"prompt": "0+0?", "answer": None, "split": "search"}
    task = open_task(TaskSection(name=write(tmp_path, *rows, unknown), template="{question}"), 0)
    for number, split in enumerate(SPLITS):
        expected = {f"{n}+1?" for n in range(number, 20, 4)} | ({"0+0?"} if split == "search" else set())
        assert {question.prompt for question in task.questions(split, len(expected))} == expected
    [question] = [question for question in task.questions("search", 6) if question.prompt == "0+0?"]
    assert task.verify(question, "0") == Verdict("0", False, "says 0, not ")
    twice = [{**rows[0], "split": split} for split in ("test", "search")]
    with pytest.raises(DataError, match="row 2, field split: puts in search what another row puts in test"):
        open_task(TaskSection(name=write(tmp_path, *twice)), 0)


def test_programs_come_with_their_tests(tmp_path: Path) -> None:
    rows = [{"prompt": f"print {n} times the input", "inputs": ["2"], "outputs": [str(2 * n)]} for n in range(40)]
    task = open_task(TaskSection(name=write(tmp_path, *rows), verifier="unit-tests"), 0)
    question = task.questions("test", 1)[0]
    times = question.prompt.split()[2]
    assert task.verify(question, f"print({times} * int(input()))").correct


@pytest.mark.parametrize(
    ("row", "verifier", "message"),
    [
        ("{", None, "problems.jsonl row 2: is not JSON"),
        ("[1]", None, "problems.jsonl row 2: is no object with the fields prompt and answer"),
        ({"answer": 1}, None, "problems.jsonl row 2, field prompt: must be a text that is not empty"),
        ({"prompt": "a", "answer": None}, None, "problems.jsonl row 2, field answer: must be a text"),
        ({"prompt": "a", "answer": True}, None, "problems.jsonl row 2, field answer: must be a text"),
        (
            {"prompt": "a", "answer": 1, "split": "dev"},
            None,
            "problems.jsonl row 2, field split: is 'dev', must be one of",
        ),
        ({"prompt": "a", "answer": "nine"}, None, "problems.jsonl row 2, field answer: 'nine' has no number"),
        ({"prompt": "a", "answer": 1, "solution": " "}, None, "problems.jsonl row 2, field solution: must be a text"),
        ({"prompt": "a", "answer": "$"}, "symbolic", "problems.jsonl row 2, field answer: '\\$' is no expression"),
        ({"prompt": "a", "inputs": "2", "outputs": []}, "unit-tests", "row 2, field inputs: must be a list of texts"),
        (
            {"prompt": "a", "inputs": ["2"], "outputs": []},
            "unit-tests",
            "row 2, field outputs: must be a list of texts",
        ),
        (
            {"prompt": "a", "inputs": ["2"], "outputs": ["a", "b"]},
            "unit-tests",
            "row 2, field outputs: must have one text",
        ),
    ],
)
def test_bad_rows_name_file_row_and_field(row: object, verifier: str | None, message: str, tmp_path: Path) -> None:
    good = {"prompt": "b", "answer": "1", "inputs": ["1"], "outputs": ["1"]}
    with pytest.raises(DataError, match=message):
        open_task(TaskSection.model_validate({"name": write(tmp_path, good, row), "verifier": verifier}), 0)
    with pytest.raises(DataError, match=r"nowhere\.jsonl': cannot be read"):
        open_task(TaskSection(name=str(tmp_path / "nowhere.jsonl")), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": (6, 4)}, "give two numbers from 1 to 12, the smaller first"),
        ({"answer_pattern": "("}, "is no regular expression"),
        ({"answer_pattern": "(a)(b)"}, "has 2 groups; put one around the answer"),
        ({"template": "What?"}, "has no {question}"),
        ({"name": "asdiv", "verifier": "lines"}, "task.verifier: lines checks chain-sum alone"),
        ({"name": "asdiv", "verifier": "task"}, "task.verifier: task is for tasks of reasoning-gym"),
        ({"name": "asdiv", "verifier": "unit-tests"}, "task.verifier: unit-tests needs a .jsonl file"),
        ({"answer_pattern": "(a)"}, "task.answer_pattern: lines reads the whole response"),
        ({"options": {"size": 3}}, "task.options: chain-sum has none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TaskSection.model_validate(settings)
    assert message in str(refused.value)


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ValidationError, match="is no multiple of twice the 5 heads"):
        RecipeSection(heads=5)


def test_one_prompt_with_two_answers_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "1 + 1?", "answer": 2}, {"prompt": "2 + 2?", "answer": 4}, {"prompt": "1 + 1?", "answer": 3}]
    with pytest.raises(DataError, match=r"field answer: another row answers this prompt with '2'; drop one of them"):
        open_task(TaskSection(name=write(tmp_path, *rows)), 0)

"""The policy that is made here: its tokenizer, its recipe, and that engines play it as it was taught."""

import hashlib
from pathlib import Path

import pytest
import torch

from rayworks.core.errors import DataError
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import GenerationRequest, ScoringRequest
from rayworks.lm.scoring import encode
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.reasoning.config import RecipeSection, TaskSection
from rayworks.systems.reasoning.policy.characters import CHARACTERS, END, character_tokenizer
from rayworks.systems.reasoning.policy.recipe import make_policy, share_solved
from rayworks.systems.reasoning.tasks.opening import open_task
from rayworks.systems.reasoning.tasks.questions import Task

EASY = TaskSection(terms=(2, 2))
SMALL = RecipeSection(layers=1, width=32, heads=2, traces=60, validation=10, steps=150, steps_per_check=10, accuracy=1)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("RAYWORKS_CACHE", str(tmp_path))
    return open_task(EASY, 0)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_characters_are_ids_and_come_back_exactly(tmp_path: Path) -> None:
    character_tokenizer(160).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = load_tokenizer(str(tmp_path))
    text = "?3+4-17\n3+4=7\n\n7-17=-10\n#-10"
    ids = tokenizer(text)["input_ids"]
    assert ids == [CHARACTERS.index(character) for character in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert (tokenizer.eos_token, tokenizer.bos_token, len(tokenizer)) == (END, None, len(CHARACTERS) + 2)
    assert encode(tokenizer, "?1+1\n", "1+1=2\n#2").response[-1] == tokenizer.eos_token_id


def test_a_policy_is_made_once_and_the_same_seed_gives_the_same_bytes(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.get_rng_state()
    folder = make_policy(SMALL, task, 0)
    assert torch.equal(torch.get_rng_state(), state)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert make_policy(SMALL, task, 0) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    others = [make_policy(SMALL, task, 1), make_policy(SMALL, open_task(EASY, 1), 0)]
    assert len({folder, *others}) == len({weights(made) for made in (folder, *others)}) == 3
    monkeypatch.setenv("RAYWORKS_CACHE", str(tmp_path / "elsewhere"))
    torch.set_num_threads(2)
    again = make_policy(SMALL, task, 0)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert again != folder and weights(again) == weights(folder)


def test_training_ends_at_the_accuracy(task: Task) -> None:
    copying = open_task(TaskSection(terms=(1, 1), digits=(1, 2)), 0)
    section = SMALL.model_copy(update={"traces": 30, "validation": 8, "learning_rate": 0.01})
    whole = make_policy(section, copying, 0)
    early = make_policy(section.model_copy(update={"accuracy": 0.1}), copying, 0)
    tokenizer = load_tokenizer(str(early))
    rows = [encode(tokenizer, q.prompt, copying.solution(q) or "") for q in copying.questions("validation", 8)]
    assert share_solved(load_model(str(early)), rows) >= 0.1
    assert weights(early) != weights(whole)


def test_the_engine_writes_what_was_measured(task: Task) -> None:
    folder = str(make_policy(SMALL, task, 0))
    engine, tokenizer, model = TransformersEngine(folder), load_tokenizer(folder), load_model(folder)
    questions = task.questions("supervision", 60)
    requests = [GenerationRequest(prompt=question.prompt, temperature=0, max_new_tokens=40) for question in questions]
    written = engine.generate(requests)
    right = [task.verify(question, made.text).correct for question, made in zip(questions, written, strict=True)]
    rows = [encode(tokenizer, question.prompt, task.solution(question) or "") for question in questions]
    assert right == [share_solved(model, [row]) == 1 for row in rows]
    assert 0 < sum(right) < len(right)
    scores = engine.score([ScoringRequest(q.prompt, made.text) for q, made in zip(questions, written, strict=True)])
    for made, score in zip(written, scores, strict=True):
        if made.finish_reason == "stop":
            assert made.token_ids == score.token_ids[:-1]
            assert sum(made.logprobs) == pytest.approx(score.total, abs=1e-4)


def test_what_the_recipe_cannot_learn_is_said(task: Task) -> None:
    with pytest.raises(DataError, match=r"is longer with its solution than recipe.positions 16; raise it"):
        make_policy(RecipeSection(positions=16, traces=3, validation=1), open_task(TaskSection(), 0), 0)
    with pytest.raises(DataError, match=r"recipe: its policy reads '0123456789.*' alone, not ' Wahist'; set task.name"):
        make_policy(SMALL, open_task(TaskSection(terms=(2, 2), template="What is {question}?\n"), 0), 0)


def test_a_task_without_solutions_makes_no_policy() -> None:
    with pytest.raises(DataError, match="has no written-out solution to learn; name a policy of your own"):
        make_policy(SMALL, open_task(TaskSection(name="gym:leg_counting"), 0), 0)

"""Stages and workers of a run, without a cluster: what is left to learn from, where engines stand, and what is refused."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rayworks.core.bootstrap import t_interval
from rayworks.core.config import resolve
from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.training import Trainer
from rayworks.systems.reasoning import actors, replica_actors
from rayworks.systems.reasoning.actors import ReasoningActor
from rayworks.systems.reasoning.config import Config, PairsSection, SearchSection
from rayworks.systems.reasoning.files import Files
from rayworks.systems.reasoning.findings import Way
from rayworks.systems.reasoning.learning.pairs import extract
from rayworks.systems.reasoning.reporting import build_report
from rayworks.systems.reasoning.search import records
from rayworks.systems.reasoning.search.requests import Draw, Scored, ToScore
from rayworks.systems.reasoning.system import ReasoningSystem
from rayworks.systems.reasoning.tasks import word_problems
from rayworks.systems.reasoning.tasks.questions import Question
from tests.reasoning_policies import TOKENIZER, DigitPolicy, Digits, Reward, ids, search_all
from tests.tiny_models import make_tokenizer, save_tiny_model

TASK = Digits()
QUESTION = Question("q", "?1\n", "1")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("policy"), 3, TOKENIZER)


@pytest.fixture(scope="module")
def trees() -> list[dict[str, Any]]:
    section, verifier = SearchSection(response_tokens=16, simulations=20), Reward(lambda text: _right(text))
    found = search_all(section, DigitPolicy(TASK), [verifier], TASK.questions("search", 6), TASK)
    return [records.as_record(search, TOKENIZER, "round-0") for search in found]


def _right(text: Any) -> float:
    return float(TASK.verify(text.question, text.text).correct)


def settings(policy: str, **changes: Any) -> Config:
    return resolve(
        Config,
        overrides={
            "model.policy": policy,
            "task.count_search": 6,
            "task.count_validation": 4,
            "task.count_test": 6,
            "evaluation.questions": 4,
            "evaluation.resamples": 100,
            "learning.arms": ["paths", "both"],
            "learning.pairs_per_step": 8,
            "head.steps": 2,
            **{name.replace("__", "."): value for name, value in changes.items()},
        },
    )


@pytest.fixture
def worker(policy: str, tmp_path: Path) -> Callable[..., ReasoningActor]:
    def made(trees: list[dict[str, Any]], **changes: Any) -> ReasoningActor:
        config = settings(policy, **changes)
        actor = ReasoningActor(config, RunDirectory(str(tmp_path), "reasoning", "r"))
        actor._files.write_trees("round-0/00000", trees)
        actor._files.write_pairs(0, extract(trees, PairsSection()))
        return actor

    return made


def test_an_arm_is_measured_as_its_policy_will_be_used(
    worker: Callable[..., ReasoningActor], trees: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = worker(trees, model__dtype="bfloat16")
    opened: list[tuple[str, str]] = []
    snapshots: list[int] = []
    open_engine, tuned = actors.open_engine, Trainer.tuned

    def watched(section: Any, name: str, dtype: str, *more: Any, **options: Any) -> Any:
        opened.append((name, dtype))
        return open_engine(section, name, dtype, *more, **options)

    def counted(trainer: Trainer, **options: Any) -> Any:
        assert not actor._engines and not actor._known_critics, "nothing stands beside what trains"
        snapshots.append(trainer.step)
        return tuned(trainer, **options)

    monkeypatch.setattr(actors, "open_engine", watched)
    monkeypatch.setattr(Trainer, "tuned", counted)
    before = actor.greedy((0, "test", 0, 6))
    found = actor.learn((0, "both"))
    assert found is not None and len(before) == len(found["test"]) == 6
    assert len(snapshots) == len(found["epochs"]) == 2 and found["tokens"] > 0
    assert len(opened) == 1 + 2 + 1 and {dtype for _, dtype in opened} == {"bfloat16"}
    assert opened[-1][0] == actor._files.arm_policy(0, "both")


def test_an_arm_without_anything_to_learn_from_ends_no_run(
    worker: Callable[..., ReasoningActor], trees: list[dict[str, Any]]
) -> None:
    unsolved = [{**tree, "answers": [{**answer, "correct": False} for answer in tree["answers"]]} for tree in trees]
    actor = worker(unsolved)
    assert actor.learn((0, "paths")) is None
    assert actor.learn((0, "shuffled")) is not None


def test_a_head_without_anything_to_learn_from_is_not_trained(
    worker: Callable[..., ReasoningActor], trees: list[dict[str, Any]]
) -> None:
    alone = worker(trees[:1])
    assert alone.train_head(0) is None and alone._files.head() is None
    assert worker([{**tree, "answers": []} for tree in trees]).train_head(0) is None
    found = worker(trees).train_head(0)
    assert found is not None and found["texts"] > 0


def test_with_replicas_a_worker_opens_no_engine(
    worker: Callable[..., ReasoningActor], trees: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = worker(trees, search__simulations=2)
    policy = DigitPolicy(TASK)
    monkeypatch.setattr(actors, "RemotePolicy", lambda names, slots: policy)
    monkeypatch.setattr(actors, "open_engine", lambda *given, **more: pytest.fail("opened an engine"))
    actor.pairs(0)
    assert actor.search((0, 0, {"policy": ["one"]}))["trees"] == 6 and policy.draws >= 6


def test_a_policy_without_an_end_token_is_refused_before_anything_is_searched(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    folder = save_tiny_model(tmp_path / "endless", 0, tokenizer)
    actor = ReasoningActor(settings(folder), RunDirectory(str(tmp_path), "reasoning", "r"))
    for call in (lambda: actor.greedy((0, "test", 0, 6)), lambda: actor.search((0, 0, {}))):
        with pytest.raises(ConfigError, match=r"model\.policy: the tokenizer of .* has no end token"):
            call()


def test_a_round_that_kept_nothing_is_followed_by_one_with_the_same_policy(policy: str, tmp_path: Path) -> None:
    files = Files(settings("recipe", learning__arms=[]), RunDirectory(str(tmp_path), "reasoning", "r"))
    files.write_policy(1, "both", Path(policy))
    for number in (0, 2):
        files._directory.put_folder(Path(policy), files.policy_folder(number))
    assert files.policy(1) == files.policy(0) != files.policy(2) == files.policy(3)
    files.take_over(1, "both")
    assert files.policy(2).endswith(files.policy_folder(2))
    named = Files(settings(policy), RunDirectory(str(tmp_path), "reasoning", "other"))
    assert named.policy(0) == named.policy(1) == policy


class Few(Digits):
    """Never more than three questions."""

    def questions(self, split: str, count: int) -> list[Question]:
        return super().questions(split, min(count, 3))


class Twice(Digits):
    """All of one name."""

    def questions(self, split: str, count: int) -> list[Question]:
        return [Question("same", f"?{number}", "1") for number in range(count)]


def few(section: Any, seed: int) -> Few:
    return Few()


def twice(section: Any, seed: int) -> Twice:
    return Twice()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("few", r"task\.count_search: is 6, but .*few gave 3 questions; lower it to that"),
        ("twice", r"task\.count_search: .*twice gave 6 questions of the uid 'same'"),
    ],
)
def test_a_users_task_gives_what_it_is_asked_for(policy: str, task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ReasoningSystem.check_inputs(settings(policy, task__name=f"tests.unit.test_reasoning_stages:{task}"))


class Workers:
    """Answers calls by a function."""

    def __init__(self, function: Callable[[str, Any], Any]) -> None:
        self.function, self.calls = function, list[tuple[str, Any]]()

    def map(self, method: str, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.calls.append((method, item))
            yield self.function(method, item)


def system_of(config: Config, function: Callable[[str, Any], Any]) -> Any:
    system: Any = ReasoningSystem.__new__(ReasoningSystem)
    system.settings, system._pool = config, Workers(function)
    system.results, system._done = {}, 0
    system.plan()
    return system


def test_later_rounds_never_fall_back_to_a_control() -> None:
    system = system_of(settings("recipe", learning__arms=["traces", "paths", "both"]), lambda *call: None)
    assert system._arms(1) == ["paths"]
    system.results["arms"]["0"] = {"traces": {"epochs": [{"validation": 1.0}]}, "paths": None, "both": None}
    assert system._arms(1) == ["paths"]
    system.results["arms"]["0"]["both"] = {"epochs": [{"validation": 0.1}]}
    assert system._arms(1) == ["both"]
    assert system_of(settings("recipe", learning__arms=["traces"]), lambda *call: None)._arms(1) == []


def test_a_round_goes_on_where_an_arm_learns_nothing(policy: str) -> None:
    system = system_of(settings(policy), lambda method, call: None if call[1] == "paths" else {"test": "11"})
    system.results["pairs"]["0"] = {"pairs": 3}
    metrics: dict[str, float] = {}
    while system._share_of_arms(0, 2) < 1:
        metrics |= system._learn(0)
    assert metrics == {"both_accuracy": 1.0} and system.results["arms"]["0"]["paths"] is None


def test_ways_that_need_a_head_are_left_out_where_there_is_none(policy: str) -> None:
    system = system_of(settings(policy), lambda method, call: None)
    system._train_head()
    for way in (Way("search", "head"), Way("best-of-n", "head")):
        assert system._answer(way) == {} and system._answered(way) == 1.0
    assert [method for method, _ in system._pool.calls] == ["train_head"]


def test_a_baseline_costs_no_more_where_no_search_has_answered(policy: str) -> None:
    row = [False, None, 10, 1]
    system = system_of(settings(policy), lambda method, call: [row] * 4)
    piece = {"tokens": [640] * 4, "answers": 0, "answer_tokens": 0}
    system.results["answers"][Way("search", "verifier").name] = [piece]
    system._answer(Way("best-of-n", "verifier"))
    [(_, (_, _, completions, _, _))] = system._pool.calls
    assert completions == 640 // system.settings.search.response_tokens


def test_the_report_says_what_could_not_be_learned_or_asked(policy: str) -> None:
    config = settings(policy)
    piece = {
        **{"trees": 6, "solved": [False] * 6, "by_rule": {"vote": 0}, "tokens": [9] * 6, "completions": 6},
        **{"stopped": {"budget": 6}, "seconds": 1.0, "failed": [], "hash": ["a"] * 6},
    }
    audit = dict.fromkeys(("step_pairs", "questions", "paths", "mean_gap", "tied_gaps", "false_winners"), 0)
    results = {
        **{"greedy": {"0": {"test": "1-0-10", "validation": "0000"}}, "search": {"0": [piece]}, "kept": []},
        **{"pairs": {"0": {**audit, "pairs": 0}}, "arms": {"0": {"paths": None, "both": None}}, "head": None},
        "answers": {"search (head)": None, "best-of-n (head)": None},
    }
    report = build_report(config, results, "title")
    assert report.headline["greedy_before"] == 2 / 6 and report.headline["search_accuracy"] is None
    arms, _, ways, _ = report.tables
    assert [row[1] for row in arms.rows] == ["before", "paths: nothing to learn from", "both: nothing to learn from"]
    assert [row[0] for row in ways.rows] == ["greedy"]
    notes = "\n".join(report.notes)
    assert "2 test questions leave the policy no room" in notes and "a policy with a calculator" in notes
    assert "Left out, since the trees held nothing that a head could learn from: search (head), best-of-n" in notes


def test_one_seed_has_no_interval() -> None:
    assert t_interval([0.25]) == (0.25, None, None)
    mean, low, high = t_interval([0.1, 0.2, 0.3])
    assert low is not None and high is not None and low < mean < high


def test_a_replica_fetches_its_policy_from_where_the_run_lies(policy: str) -> None:
    directory = RunDirectory("memory://reasoning-replica", "reasoning", "r")
    config = settings("recipe", learning__arms=[])
    directory.put_folder(Path(policy), Files(config, directory).policy_folder(0))
    actor: Any = replica_actors.PolicyReplica
    replica = actor.__ray_actor_class__(config, directory, 0)
    draw = Draw("", GenerationRequest(prompt=ids("?1\n"), max_new_tokens=4, temperature=0.0))
    assert 0 < len(asyncio.run(replica.complete(draw)).tokens) <= 4
    long = Draw("", GenerationRequest(prompt=ids("1" * 400), max_new_tokens=4))
    assert isinstance(asyncio.run(replica.complete(long)), DataError)


def test_a_replica_that_is_gone_is_infrastructure_and_a_failed_task_is_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(name: str) -> Any:
        raise ValueError(f"Failed to look up actor with name '{name}'")

    monkeypatch.setattr(ray, "get_actor", gone)
    with pytest.raises(InfrastructureError, match="a replica of the policy is lost: a-0 is gone"):
        replica_actors.RemotePolicy(["a-0"], 4)

    handle = SimpleNamespace(complete=SimpleNamespace(remote=lambda request: object()))

    def fails_with(error: Exception) -> None:
        monkeypatch.setattr(ray, "get_actor", lambda name: handle)
        monkeypatch.setattr(ray, "wait", lambda waiting, **more: (waiting, []))

        def get(reference: object) -> None:
            raise error

        monkeypatch.setattr(ray, "get", get)
        remote = replica_actors.RemotePolicy(["a-0"], 4)
        remote.submit(0, "q", Draw("", GenerationRequest(prompt=(1,), max_new_tokens=4)))
        remote.collect(1.0)

    with pytest.raises(DataError, match="its weights are broken"):
        fails_with(ray.exceptions.RayTaskError("complete", "", DataError("its weights are broken")))
    with pytest.raises(Exception, match="IndexError: a bug") as bug:
        fails_with(ray.exceptions.RayTaskError("complete", "", IndexError("a bug")))
    assert not isinstance(bug.value, InfrastructureError)
    with pytest.raises(InfrastructureError, match="a replica of the policy is lost"):
        fails_with(ray.exceptions.RayActorError())


def test_critics_in_an_actor_give_the_numbers_that_they_give_in_the_worker(policy: str, tmp_path: Path) -> None:
    config = settings(policy, critics__outcome=f"{__name__}:lengths")
    actor: Any = replica_actors.CriticReplica
    replica = actor.__ray_actor_class__(config, RunDirectory(str(tmp_path), "reasoning", "r"), 0)
    texts = [Scored(QUESTION, ids("?1\n"), ids("1" * count), "1" * count) for count in range(1, 6)]
    broken = Scored(QUESTION, ids("?1\n"), ids("9"), "9")

    async def together() -> list[Any]:
        asked = [ToScore((), (text,)) for text in (*texts, broken)]
        return list(await asyncio.gather(*map(replica.score, asked)))

    *numbers, failed = asyncio.run(together())
    assert numbers == [[[float(count)]] for count in range(1, 6)]
    assert isinstance(failed, DataError) and "your function failed" in str(failed), "the others are scored nevertheless"


def lengths(prompts: Any, texts: Any) -> list[float]:
    """Of texts; it knows no nines."""
    if "9" in texts:
        raise ValueError("a nine")
    return [float(len(text)) for text in texts]


STEPS = [{"prompt": f"?{number}", "steps": ["1", "2", "7", "2"], "wrong_step": 2} for number in range(12)]


def test_a_head_learns_which_step_is_wrong_and_judges_the_steps_of_a_search(policy: str, tmp_path: Path) -> None:
    labels = tmp_path / "steps.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in STEPS))
    changes = {"head.step_labels": str(labels), "head.steps": 60, "head.batch_size": 16, "head.learning_rate": 1e-2}
    config = settings(policy, critics__process="head", task__template="{question}\n", **changes)
    directory = RunDirectory(str(tmp_path), "reasoning", "r")
    actor = ReasoningActor(config, directory)
    found = actor.train_step_head(0)
    assert found is not None and found["auc_beginnings"] == 1.0, "a seven is wrong, whatever the question"
    assert found["texts"] + found["held_out"] == 12 * 3, "what follows the first wrong step teaches nothing"
    [process] = [one for one in actor._critics(config.critics, 0, None) if one.kind == "process"]
    right, wrong = (Scored(QUESTION, ids("?3\n"), ids(text), text) for text in (" 1\n 2\n", " 1\n 2\n 7\n"))
    high, low = process.score([right, wrong])
    assert high > 0.8 > 0.2 > low


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "?", "steps": []}, "row 1, field steps: must be a list of texts"),
        ({"prompt": "?", "steps": ["1", " "]}, "row 1, field steps: must be a list of texts"),
        ({"prompt": "?", "steps": ["1"], "wrong_step": 1}, "field wrong_step: is 1, must be null or from 0 to 0"),
        ({"prompt": "?", "steps": ["1"], "wrong_step": True}, "field wrong_step: is True"),
        ({"steps": ["1"], "wrong_step": 0}, "row 1, field prompt"),
    ],
)
def test_labelled_steps_that_say_nothing_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=message):
        word_problems.step_labels(str(tmp_path / "steps.jsonl"))


def test_a_head_of_steps_needs_words_and_something_to_learn(policy: str) -> None:
    with pytest.raises(ConfigError, match=r"critics\.process: head needs head\.steps"):
        settings("recipe", critics__process="head")
    with pytest.raises(ConfigError, match=r"critics\.process: head needs head\.steps"):
        settings(policy, critics__process="head", head__steps=0)

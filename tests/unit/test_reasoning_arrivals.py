"""Questions that come while others are searched: each has its own budget and seed, and none changes another's tree."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from rayworks.core.errors import InfrastructureError
from rayworks.systems.reasoning.config import SearchSection, TaskSection
from rayworks.systems.reasoning.search import records
from rayworks.systems.reasoning.search.background import BackgroundSearch
from rayworks.systems.reasoning.search.requests import Completion
from rayworks.systems.reasoning.search.scheduler import Budget, Scheduler, Search
from rayworks.systems.reasoning.search.services import LocalScorer
from rayworks.systems.reasoning.tasks.asking import AskedTask
from tests.reasoning_policies import TOKENIZER, DigitPolicy, Digits, Reward

TASK = Digits()
GRADED = Reward(lambda text: TASK.reward(text.text))
QUESTIONS = TASK.questions("test", 12)
ENDLESS = 10**6


def new_scheduler(policy: Any = None) -> Scheduler:
    # A root that always has room: a search ends with its budget alone.
    section = SearchSection(response_tokens=16, simulations=30, root_width=10**7, merges=10**7)
    return Scheduler(
        section, TASK, policy or DigitPolicy(TASK), LocalScorer([GRADED]), [GRADED], TOKENIZER, 160, seed=0
    )


def budget(number: int) -> Budget:
    return Budget(simulations=5 + number, most_tokens=None, seed=number)


def alone(number: int) -> str:
    scheduler = new_scheduler()
    scheduler.start(QUESTIONS[number], budget(number))
    ended: list[Search] = []
    while not ended:
        ended = scheduler.step()
    return tree_of(ended[0])


def tree_of(search: Search) -> str:
    return records.tree_hash(records.as_record(search, TOKENIZER, "p"))


@contextmanager
def background(policy: Any = None) -> Iterator[BackgroundSearch]:
    search = BackgroundSearch(new_scheduler(policy))
    yield search
    search.stop()


def test_a_tree_is_the_same_whatever_came_before_and_after() -> None:
    scheduler, found = new_scheduler(), dict[str, str]()
    for number, question in enumerate(QUESTIONS):
        scheduler.start(question, budget(number))
        found |= {search.question.uid: tree_of(search) for search in scheduler.step()}
    while scheduler.open:
        found |= {search.question.uid: tree_of(search) for search in scheduler.step()}
    assert found == {question.uid: alone(number) for number, question in enumerate(QUESTIONS)}


def test_one_question_asked_twice_is_two_searches_that_their_seeds_tell_apart() -> None:
    scheduler, ended = new_scheduler(), list[Search]()
    for seed in (1, 2, 1):
        scheduler.start(QUESTIONS[0], Budget(8, None, seed))
    while scheduler.open:
        ended += scheduler.step()
    first, other, again = (tree_of(search) for search in sorted(ended, key=lambda search: search.began))
    assert first == again != other


def test_tokens_are_bounded_for_one_question_alone() -> None:
    scheduler, ended = new_scheduler(), list[Search]()
    short = scheduler.start(QUESTIONS[0], Budget(50, 20, 0))
    long = scheduler.start(QUESTIONS[1], Budget(50, None, 0))
    while scheduler.open:
        ended += scheduler.step()
    assert (short.stopped, long.simulations) == ("budget", 50)
    assert 20 <= short.tokens < 20 + 8, "the completion that passed the bound is the last"


def test_nodes_are_told_as_they_are_counted() -> None:
    scheduler, told = new_scheduler(), list[tuple[int, tuple[int, ...]]]()
    search = scheduler.start(
        QUESTIONS[0], budget(3), on_node=lambda search, node: told.append((search.simulations, node.path))
    )
    while scheduler.open:
        scheduler.step()
    assert [number for number, _ in told] == list(range(1, search.simulations + 1))
    assert {path for _, path in told} == {node.path for node in search.tree.root.below()} - {()}


def test_a_search_that_is_given_up_ends_and_the_others_go_on() -> None:
    with background() as searching:
        endless = searching.submit(QUESTIONS[0], Budget(ENDLESS, None, 0))
        other = searching.submit(QUESTIONS[1], budget(1))
        assert tree_of(other.result(60)) == alone(1)
        assert (endless.done(), searching.load) == (False, 1)
        searching.cancel(endless)
        found = endless.result(60)
        assert (found.stopped, found.flying, searching.load) == ("cancelled", 0, 0)
        assert tree_of(searching.submit(QUESTIONS[2], budget(2)).result(60)) == alone(2)
        searching.cancel(endless)
        assert searching.submit(QUESTIONS[3], budget(3)).result(60).stopped == "budget"


def test_many_threads_may_ask() -> None:
    expected = [alone(number) for number in range(len(QUESTIONS))]
    with background() as searching, ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(searching.submit, QUESTIONS, map(budget, range(len(QUESTIONS)))))
        assert [tree_of(future.result(60)) for future in futures] == expected


class Broken(DigitPolicy):
    """A policy whose machine fails once something is asked of it."""

    def collect(self, seconds: float) -> list[tuple[int, Completion]]:
        raise RuntimeError("out of memory")


def test_all_that_wait_learn_that_the_thread_has_ended() -> None:
    with background(Broken(TASK)) as searching:
        future = searching.submit(QUESTIONS[0], budget(0))
        with pytest.raises(RuntimeError, match="out of memory"):
            future.result(60)
        with pytest.raises(InfrastructureError, match="the searching thread has ended: out of memory"):
            searching.submit(QUESTIONS[1], budget(1))


def test_searches_under_way_fail_where_the_thread_is_stopped() -> None:
    searching = BackgroundSearch(new_scheduler())
    future = searching.submit(QUESTIONS[0], Budget(ENDLESS, None, 0))
    searching.stop()
    with pytest.raises(InfrastructureError, match="it was stopped"):
        future.result(60)


@pytest.mark.parametrize(
    ("section", "prompt", "response", "said"),
    [
        (TaskSection(), "?1+2\n", "1+2=3\n#3", "3"),
        (TaskSection(name="gsm8k"), "Question: 1+2\nAnswer:", "It is 1,003.", "1003"),
        (TaskSection(name="gsm-symbolic", answer_pattern=r"\[(\d+)\]"), "1+2\n", "[4] or [5], 6", "5"),
        (TaskSection(name="countdown"), "1+2\n", "so\n3*(4+5)\n", "3*(4+5)"),
        (TaskSection(name="a.jsonl", verifier="symbolic"), "Question: 1+2\nAnswer:", "y = x+1", "x+1"),
        (
            TaskSection(name="a.jsonl", verifier="unit-tests"),
            "Question: 1+2\nAnswer:",
            "```\nprint(3)\n```",
            "print(3)\n",
        ),
        (TaskSection(name="my.tasks:sums", template="<{question}>"), "<1+2>", "well\nthree\n", "three"),
        (TaskSection(), "?1+2\n", "nothing", None),
    ],
)
def test_a_question_that_somebody_asks_is_put_as_the_tasks_own_and_its_answer_read(
    section: TaskSection, prompt: str, response: str, said: str | None
) -> None:
    task = AskedTask(section)
    question = task.ask("1+2")
    assert question.prompt == prompt
    verdict = task.verify(question, response)
    assert (verdict.answer, verdict.correct) == (said, False)

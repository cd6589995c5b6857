"""The search of many trees at once, to its answers and its files: the MCTS properties of the specification."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.latency_engine import Cost, LatencyEngine
from rayworks.core.errors import DataError
from rayworks.systems.reasoning.config import SearchSection
from rayworks.systems.reasoning.search import records
from rayworks.systems.reasoning.search.answers import choose, support
from rayworks.systems.reasoning.search.critics import Given
from rayworks.systems.reasoning.search.requests import Completion, Draw
from rayworks.systems.reasoning.search.scheduler import Answer, Scheduler, Search
from rayworks.systems.reasoning.search.services import LocalScorer
from rayworks.systems.reasoning.search.steps import StepEnds
from rayworks.systems.reasoning.search.tree import Node
from tests.reasoning_policies import TOKENIZER, DigitPolicy, Digits, Reward, ids, search_all

TASK = Digits()
STEP_END = ids("\n")[0]
VERIFIER = Reward(lambda text: float(TASK.verify(text.question, text.text).correct))
GRADED = Reward(lambda text: TASK.reward(text.text))


def section(**changes: Any) -> SearchSection:
    return SearchSection(**{"response_tokens": 16, "simulations": 30, **changes})


def hashes(searches: list[Any]) -> list[str]:
    return [records.tree_hash(records.as_record(search, TOKENIZER, "p")) for search in searches]


def check_statistics(search: Search) -> None:
    """Visits add up, nothing is on its way, and means lie between the outcomes of the answers that go through a node."""
    for node in search.tree.root.below():
        assert node.visits == node.looks + sum(child.visits for child in node.children)
        assert node.pending == node.reserved == 0
        through = [one.outcome for one in search.answers if one.tokens[: len(node.tokens())] == node.tokens()]
        if node.visits and through:
            assert min(through) - 1e-9 <= node.mean <= max(through) + 1e-9


@pytest.mark.parametrize("rollouts", [1, 3])
@pytest.mark.parametrize("leaves", [1, 4])
def test_visits_add_up_and_means_lie_between_outcomes(rollouts: int, leaves: int) -> None:
    chosen = section(rollouts=rollouts, leaves=leaves, importance=2.0)
    for search in search_all(chosen, DigitPolicy(TASK), [GRADED], TASK.questions("test", 6), TASK):
        assert search.failed is None
        assert search.tree.root.visits == search.simulations
        check_statistics(search)


def test_steps_alone_are_drawn_where_a_critic_values_beginnings() -> None:
    lengths: list[int] = []
    value = Reward(lambda text: TASK.reward(text.text), "value")
    policy = DigitPolicy(TASK, asked=lambda draw: lengths.append(len(draw.request.stop)))
    chosen = section(rollouts=0, depth=3, simulations=200, exploration=0.3, terminals="revisit", merges=20)
    [search] = search_all(chosen, policy, [value, GRADED], TASK.questions("test", 1), TASK)
    assert set(lengths) == {0, 1}, "the last step of a full depth goes to the end"
    assert all(answer.leaf is not None for answer in search.answers)
    best = max((node for node in search.tree.root.children), key=lambda node: node.visits)
    assert TOKENIZER.decode(best.step).strip() == "2"


def test_value_is_conserved() -> None:
    [search] = search_all(section(), DigitPolicy(TASK), [GRADED], TASK.questions("test", 1), TASK)
    assert search.tree.root.total == pytest.approx(sum(answer.outcome for answer in search.answers))
    for node in search.tree.root.below():
        own = node.total - sum(child.total for child in node.children)
        assert own >= -1e-9 if node.looks else own == pytest.approx(0.0, abs=1e-9)


def test_visits_gather_at_the_best_leaf_and_regret_falls() -> None:
    chosen = section(
        simulations=1500, terminals="revisit", exploration=0.1, width=3, root_width=3, depth=3, merges=100, rollouts=1
    )
    [search] = search_all(chosen, DigitPolicy(TASK), [GRADED], TASK.questions("test", 1), TASK)
    leaves = [node for node in search.tree.root.below() if node.terminal]
    best = max(leaves, key=lambda node: node.visits)
    assert TOKENIZER.decode(best.tokens()).split() == ["2", "2", "2"]
    assert best.visits / search.simulations > 0.5
    outcomes = [answer.outcome for answer in search.answers]
    assert np.mean(outcomes[-5:]) > np.mean(outcomes[:5])


def test_finished_subtrees_are_closed_and_the_budget_goes_elsewhere() -> None:
    small = Digits(steps=2, width=2)
    verifier = Reward(lambda text: float(small.verify(text.question, text.text).correct))
    chosen = section(simulations=500, width=2, root_width=2, merges=100)
    [search] = search_all(chosen, DigitPolicy(small), [verifier], small.questions("test", 1), small)
    assert search.stopped == "solved" and search.simulations < 500
    leaves = [node for node in search.tree.root.below() if node.terminal]
    assert len(leaves) == 4 and all(node.closed for node in search.tree.root.below())


@pytest.mark.parametrize("changes", [{"open_trees": 1}, {"open_trees": 7}, {"mode": "barrier"}, {"mode": "serial"}])
def test_a_tree_with_one_completion_on_its_way_is_always_the_same(changes: dict[str, Any]) -> None:
    questions = TASK.questions("test", 12)
    expected = hashes(search_all(section(), DigitPolicy(TASK), [VERIFIER], questions, TASK))
    shuffled = random.Random(1).sample(questions, len(questions))
    found = dict(
        zip(
            [question.uid for question in shuffled],
            hashes(search_all(section(**changes), DigitPolicy(TASK, reorder=True), [VERIFIER], shuffled, TASK)),
            strict=True,
        )
    )
    assert [found[question.uid] for question in questions] == expected
    assert len(set(expected)) == len(expected)
    other = hashes(search_all(section(), DigitPolicy(TASK), [VERIFIER], questions, TASK, seed=1))
    assert other != expected


@pytest.mark.parametrize("rollouts", [1, 3])
@pytest.mark.parametrize("after", [0, 1, 17, 100])
def test_a_search_that_was_killed_draws_nothing_twice(after: int, rollouts: int) -> None:
    questions, chosen = TASK.questions("test", 5), section(rollouts=rollouts)
    expected = search_all(chosen, DigitPolicy(TASK), [VERIFIER], questions, TASK)

    class Killed(Exception):
        pass

    drawn: list[Draw] = []

    def kill(draw: Draw) -> None:
        drawn.append(draw)
        if len(drawn) > after:
            raise Killed

    first = DigitPolicy(TASK, asked=kill)
    journals: dict[str, dict[str, Completion]] = {}
    scheduler_searches: list[Any] = []
    scheduler = Scheduler(chosen, TASK, first, LocalScorer([VERIFIER]), [VERIFIER], TOKENIZER, 160, 0)
    try:
        for search in scheduler.run(questions):
            scheduler_searches.append(search)
    except Killed:
        pass
    for search in [*scheduler_searches, *scheduler.open]:
        journals[search.question.uid] = search.journal
    second = DigitPolicy(TASK)
    again = search_all(chosen, second, [VERIFIER], questions, TASK, journals=journals)
    assert hashes(again) == hashes(expected)
    total = sum(search.completions for search in expected)
    assert second.draws == total - sum(map(len, journals.values()))


@pytest.mark.parametrize("after", [20, 60])
def test_with_several_on_their_way_a_known_completion_stands_where_it_was_drawn(after: int) -> None:
    drawn: dict[str, tuple[int, ...]] = {}

    class Stop(Exception):
        pass

    def note(draw: Draw) -> None:
        assert not isinstance(draw.request.prompt, str)
        drawn[draw.key] = draw.request.prompt
        if len(drawn) > after:
            raise Stop

    questions, chosen = TASK.questions("test", 1), section(leaves=4)
    policy = DigitPolicy(TASK, reorder=True, asked=note)
    scheduler = Scheduler(chosen, TASK, policy, LocalScorer([VERIFIER]), [VERIFIER], TOKENIZER, 160, 0)
    try:
        for _ in scheduler.run(questions):
            pass
    except Stop:
        pass
    journals = {search.question.uid: search.journal for search in scheduler.open}
    [search] = search_all(chosen, DigitPolicy(TASK), [VERIFIER], questions, TASK, journals=journals)
    known = {drawn[key] + one.tokens for key, one in search.journal.items() if key in drawn}
    prompt = len(search.prompt)
    assert {whole[prompt:] for whole in known} >= {
        answer.tokens for answer in search.answers if search.prompt + answer.tokens in known
    }
    assert all(len(answer.tokens) <= chosen.response_tokens for answer in search.answers)
    assert search.simulations == chosen.simulations or search.stopped == "solved"
    check_statistics(search)


def test_parallel_statistics_are_sums_of_what_came_back() -> None:
    questions = TASK.questions("test", 60)
    chosen = {"simulations": 24, "merges": 100}
    serial = search_all(section(**chosen), DigitPolicy(TASK), [VERIFIER], questions, TASK)
    parallel = search_all(section(**chosen, leaves=4), DigitPolicy(TASK, reorder=True), [VERIFIER], questions, TASK)
    for search in parallel:
        check_statistics(search)
        assert search.tree.root.total == pytest.approx(sum(answer.outcome for answer in search.answers))
    solved = [np.mean([any(a.correct for a in search.answers) for search in found]) for found in (serial, parallel)]
    assert abs(solved[0] - solved[1]) < 0.1


def test_a_failing_question_does_not_disturb_the_others() -> None:
    class Failing(DigitPolicy):
        def collect(self, seconds: float) -> list[tuple[int, Any]]:
            return [
                (ticket, DataError("too hot") if self.draws % 7 == 0 else found)
                for ticket, found in super().collect(seconds)
            ]

    nan = Reward(lambda text: math.nan if text.question.uid == "q3" else 1.0)
    questions = TASK.questions("test", 6)
    searches = search_all(section(), DigitPolicy(TASK), [nan], questions, TASK)
    assert [search.failed is None for search in searches] == [True, True, True, False, True, True]
    assert searches[3].failed is not None and "outcome" in searches[3].failed and "nan" in searches[3].failed
    for rollouts in (1, 3):
        failing = search_all(section(rollouts=rollouts, leaves=2), Failing(TASK), [VERIFIER], questions, TASK)
        assert all(search.stopped for search in failing) and any(search.failed == "too hot" for search in failing)
        assert all(search.flying == 0 and search.tree.root.pending == 0 for search in failing)


def test_a_question_longer_than_the_model_is_refused_and_the_others_go_on() -> None:
    questions = TASK.questions("test", 3)
    long = questions[1].__class__("long", "?" + "1" * 200 + "\n", "1")
    found = search_all(section(), DigitPolicy(TASK), [VERIFIER], [questions[0], long, questions[2]], TASK)
    assert [search.failed is None for search in found] == [True, False, True]
    assert "160" in (found[1].failed or "") and "response_tokens" in (found[1].failed or "")


def test_budgets_bound_completions_and_tokens() -> None:
    questions = TASK.questions("test", 1)
    [few] = search_all(section(simulations=3), DigitPolicy(TASK), [VERIFIER], questions, TASK)
    assert (few.simulations, few.stopped) == (3, "budget")
    [short] = search_all(section(most_tokens=40), DigitPolicy(TASK), [VERIFIER], questions, TASK)
    assert 40 <= short.tokens <= 40 + 16 and short.stopped == "budget"


def test_a_search_stops_early_once_answers_agree() -> None:
    class Same(DigitPolicy):
        def submit(self, ticket: int, uid: str, request: Draw) -> None:
            done = TOKENIZER.decode(request.request.prompt).partition("\n")[2].count("\n")
            tokens = ids("1\n" * (3 - done))
            self._waiting.append((ticket, Completion(tokens, (-1.0,) * len(tokens), ended=True)))

    [search] = search_all(
        section(agreement=0.9, agreement_answers=4, merges=99), Same(TASK), [VERIFIER], TASK.questions("test", 1), TASK
    )
    votes = [answer for answer in search.answers if not answer.repeated]
    assert search.stopped == "agreement" and len(votes) == 4
    assert {answer.said for answer in votes} == {"3"}


def test_goes_on_for_finished_answers() -> None:
    questions = TASK.questions("test", 1)
    changes = [{"simulations": 5, "width": 3, "min_terminals": wanted} for wanted in (0, 4)]
    base, more = (search_all(section(**one), DigitPolicy(TASK), [GRADED], questions, TASK)[0] for one in changes)
    assert base.simulations == 5
    assert 5 < more.simulations <= 50 and sum(answer.leaf is not None for answer in more.answers) >= 4


def test_a_step_that_never_ends_ends_an_answer_without_one() -> None:
    class Endless(DigitPolicy):
        def submit(self, ticket: int, uid: str, request: Draw) -> None:
            count = request.request.max_new_tokens
            self._waiting.append((ticket, Completion(ids("1" * count), (-1.0,) * count, ended=False)))

    [search] = search_all(section(step_tokens=4), Endless(TASK), [VERIFIER], TASK.questions("test", 1), TASK)
    leaves = [node for node in search.tree.root.below() if node.terminal]
    assert search.failed is None and leaves and all(node.cut for node in leaves)
    assert all(len(node.step) <= 4 for node in search.tree.root.below())
    assert choose(search, "vote") is None and choose(search, "rerank") is not None


def test_rules_of_the_answer() -> None:
    [search] = search_all(section(simulations=60), DigitPolicy(TASK), [GRADED], TASK.questions("test", 1), TASK)
    best = choose(search, "rerank")
    assert best is not None and best.outcome == max(answer.outcome for answer in search.answers)
    leaf = choose(search, "best-leaf")
    assert leaf is not None and leaf.leaf is not None
    walked = choose(search, "greedy")
    node: Node = search.tree.root
    while node.children:
        node = max(node.children, key=lambda child: child.mean)
    assert walked is not None and walked.tokens[: len(node.tokens())] == node.tokens()
    mass: dict[str | None, float] = {}
    for answer in search.answers:
        if not answer.repeated:
            mass[answer.said] = mass.get(answer.said, 0.0) + answer.outcome
    voted = choose(search, "vote")
    assert voted is not None and voted.said == max(mass, key=lambda said: mass[said])
    assert support(search, voted) == np.mean([answer.said == voted.said for answer in search.answers])


def test_steps_end_where_their_text_does() -> None:
    ends = StepEnds(TOKENIZER, "\n", None, 100)
    assert ends.first(ids("12+3\n45\n")) == 5
    assert ends.first(ids("\n\n1\n2\n")) == 4, "blank lines are no step of their own"
    assert ends.find(ids("123")) is None and ends.first(ids("123")) == 3
    assert StepEnds(TOKENIZER, "\n", None, 2).first(ids("123\n")) == 2
    assert StepEnds(TOKENIZER, "\n", "=", 100).first(ids("1\n2=2\n3\n")) == 6


def test_trees_on_disk_are_read_back_and_damage_is_named() -> None:
    [search] = search_all(section(), DigitPolicy(TASK), [VERIFIER], TASK.questions("test", 1), TASK)
    record = records.as_record(search, TOKENIZER, "p")
    text = records.written([record, record])
    assert records.read(text, "f") == [record, record]
    later = {**record, "timing": {"seconds": 9.0}}
    assert records.tree_hash(later) == records.tree_hash(record) != records.tree_hash({**record, "uid": "x"})
    for damaged, words in (
        (text[:-20], "line 3 of 3 is cut off"),
        ("", "cut off"),
        (text.replace('"version": 1', '"version": 9'), "is of version 9"),
        ('{"a": 1}\n', "holds no trees"),
        (text.splitlines()[0] + '\n{"uid": 1}\n', "line 2 lacks prompt"),
    ):
        with pytest.raises(DataError, match=words):
            records.read(damaged, "f")


def test_the_scheduler_keeps_an_engine_as_busy_as_it_can_be() -> None:
    graded = Reward(lambda text: 0.5)
    busy = {}
    for mode in ("asynchronous", "barrier", "serial"):
        engine = LatencyEngine(Cost(), STEP_END)
        chosen = section(mode=mode, response_tokens=64, simulations=16, root_width=16)
        searches = search_all(chosen, engine, [graded], TASK.questions("test", 256), TASK)
        assert sum(search.simulations for search in searches) == 256 * 16
        busy[mode] = engine.ideal_seconds() / engine.seconds
    assert busy["asynchronous"] >= 0.9
    assert busy["asynchronous"] > 1.2 * busy["barrier"] > 1.2 * busy["serial"]


def test_a_tree_takes_as_long_whichever_quarter_it_is_searched_in() -> None:
    graded = Reward(lambda text: 0.5)
    seconds = []
    questions = TASK.questions("test", 500)
    for start in range(0, 500, 125):
        engine = LatencyEngine(Cost(), STEP_END)
        search_all(section(response_tokens=64, simulations=8), engine, [graded], questions[start : start + 125], TASK)
        seconds.append(engine.seconds)
    assert max(seconds) / min(seconds) < 1.1


def test_a_step_that_begins_with_its_end_is_no_answer() -> None:
    class Blank(DigitPolicy):
        def submit(self, ticket: int, uid: str, request: Draw) -> None:
            before = TOKENIZER.decode(request.request.prompt).partition("\n")[2]
            if before or not request.request.stop:
                super().submit(ticket, uid, request)
            else:
                self._waiting.append((ticket, Completion((STEP_END,), (-1.0,), ended=False)))

    value = Reward(lambda text: 0.5, "value")
    [search] = search_all(section(rollouts=0), Blank(TASK), [value, VERIFIER], TASK.questions("test", 1), TASK)
    [blank] = [child for child in search.tree.root.children if child.step == (STEP_END,)]
    assert not blank.terminal


@pytest.mark.parametrize(
    ("scores", "message"), [([1.0], "gave 1 numbers for"), ([], "gave 0 numbers"), (None, "your function failed")]
)
def test_a_critic_that_gives_other_than_a_number_each_fails_its_questions_clearly(scores: Any, message: str) -> None:
    def function(questions: Sequence[str], texts: Sequence[str]) -> Any:
        return [1.0] * len(texts) if "?0\n" not in questions else scores

    critics = [Given(function, "outcome")]
    questions = TASK.questions("test", 3)
    found = search_all(section(rollouts=2), DigitPolicy(TASK), critics, questions, TASK)
    assert message in (found[0].failed or "") and found[1].failed is found[2].failed is None


def test_a_task_whose_judgement_fails_ends_that_question_alone() -> None:
    class Broken(Digits):
        def verify(self, question: Any, response: str) -> Any:
            if question.uid == "q1":
                raise KeyError("no such answer")
            return super().verify(question, response)

    task = Broken()
    found = search_all(section(), DigitPolicy(task), [GRADED], task.questions("test", 3), task)
    assert [search.failed is None for search in found] == [True, False, True]
    assert "task: judging an answer to q1 failed (KeyError" in (found[1].failed or "")


def test_votes_count_answers_that_score_below_zero_and_repeats_do_not_vote() -> None:
    [search] = search_all(section(), DigitPolicy(TASK), [VERIFIER], TASK.questions("test", 1), TASK)
    said = (("7", -0.4), ("7", -0.4), ("7", -0.4), ("9", -1.0))
    search.answers = [Answer((n,), "", what, False, True, outcome, None) for n, (what, outcome) in enumerate(said)]
    voted = choose(search, "vote")
    assert voted is not None and voted.said == "7"
    search.answers = [Answer((n,), "", "9", False, True, 0.4, None, n > 0) for n in range(4)]
    search.answers += [Answer((9, n), "", "7", False, True, 0.3, None) for n in range(2)]
    voted = choose(search, "vote")
    assert voted is not None and voted.said == "7"


def test_a_critic_that_gives_all_the_same_changes_no_preference() -> None:
    questions = TASK.questions("test", 4)
    plain = search_all(section(rollouts=1), DigitPolicy(TASK), [VERIFIER], questions, TASK)
    same = [VERIFIER, Reward(lambda text: 0.5, "value"), Reward(lambda text: 0.5, "process")]
    for one, other in zip(
        plain, search_all(section(rollouts=1), DigitPolicy(TASK), same, questions, TASK), strict=True
    ):
        pairs = zip(one.tree.root.below(), other.tree.root.below(), strict=True)
        assert all(
            node.step == twin.step and twin.mean == pytest.approx(node.mean + 1.0)
            for node, twin in pairs
            if node.parent
        )

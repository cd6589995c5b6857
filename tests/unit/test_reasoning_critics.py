"""Critics by the words of a config, with models and with the user's own functions; settings that make no sense."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rayworks.core import seeds
from rayworks.core.config import EngineSection, parse_overrides, resolve
from rayworks.core.errors import ConfigError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.engine import Generation, GenerationRequest, ScoringRequest
from rayworks.lm.heads import ScalarHead
from rayworks.lm.positions import exact_length
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.reasoning import files
from rayworks.systems.reasoning.config import Config, CriticsSection, SearchSection
from rayworks.systems.reasoning.evaluation import Answered, beams, greedy, sampled
from rayworks.systems.reasoning.files import Journal
from rayworks.systems.reasoning.search.critics import OUTCOME_PROMPT
from rayworks.systems.reasoning.search.opening import check_critics, open_critics
from rayworks.systems.reasoning.search.requests import Completion, Draw, Scored
from rayworks.systems.reasoning.search.viewer import trees_page
from rayworks.systems.reasoning.tasks.questions import Question
from tests.reasoning_policies import TOKENIZER, DigitPolicy, Digits, Reward, ids, search_all
from tests.tiny_models import make_tokenizer, save_tiny_model

TASK = Digits()
QUESTION = Question("q", "what is 1+1?", "2")


def lengths(questions: Sequence[str], texts: Sequence[str]) -> list[int]:
    """A user's own critic."""
    return [len(question) + len(text) for question, text in zip(questions, texts, strict=True)]


def text_of(engine: TransformersEngine, before: str, step: str) -> Scored:
    prompt, first, last = (tuple(engine.tokenizer(one)["input_ids"]) for one in (QUESTION.prompt, before, step))
    return Scored(QUESTION, prompt, first + last, before + step, len(first))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("critic")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([" True", " False"])
    save_tiny_model(made, 0, tokenizer, positions=512)
    head = ScalarHead(48, "sigmoid")
    with torch.no_grad():
        head.linear.weight.fill_(0.1)
    head.save(made / "head")
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(str(folder), slots=4)


def opened(engine: TransformersEngine, folder: Path, **words: Any) -> list[Any]:
    section = CriticsSection(**{"outcome": "tests.unit.test_reasoning_critics:lengths", **words})
    return open_critics(section, TASK, lambda: engine, engine.tokenizer, EngineSection(), None, "cpu")


def test_a_judge_says_how_likely_true_is(engine: TransformersEngine, folder: Path) -> None:
    [outcome] = opened(engine, folder, outcome="judge:policy")
    text = text_of(engine, "1+1=", "2")
    [found] = outcome.score([text])
    prompt = OUTCOME_PROMPT.format(question=QUESTION.prompt, answer="1+1=2")
    [score] = engine.score([ScoringRequest(prompt, "", ends=False, answers=(" True", " False"))])
    true, false = (math.exp(one) for one in score.answers)
    assert found == pytest.approx(true / (true + false))
    process, _ = opened(engine, folder, process=f"judge:{folder}")
    assert process.kind == "process" and process.score([text])[0] != pytest.approx(found)


def test_a_reward_model_scores_the_last_step(engine: TransformersEngine, folder: Path) -> None:
    process, _ = opened(engine, folder, process=f"reward:{folder}", process_weight=0.5)
    text = text_of(engine, "1+1=", " two apples")
    [score] = engine.score(
        [ScoringRequest(text.prompt + text.tokens[: text.step], text.tokens[text.step :], ends=False)]
    )
    assert process.score([text]) == [pytest.approx(score.total / len(score.logprobs))] and process.weight == 0.5


def test_a_head_reads_beginnings_and_answers(engine: TransformersEngine, folder: Path) -> None:
    value, outcome = opened(engine, folder, value=f"head:{folder}", outcome=f"head:{folder}")
    text = text_of(engine, "1+1=", "2")
    beginning, whole = value.score([text])[0], outcome.score([text])[0]
    assert 0 < beginning < 1 and 0 < whole < 1 and beginning != whole, "an answer has its end token"
    empty = Scored(QUESTION, text.prompt, (), "", 0, ended=False)
    assert 0 < value.score([empty])[0] < 1


def test_a_users_function_is_a_critic(engine: TransformersEngine, folder: Path) -> None:
    [outcome] = opened(engine, folder)
    assert outcome.score([text_of(engine, "ab", "c")]) == [len(QUESTION.prompt) + 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"outcome": "magic"}, r"critics\.outcome: is 'magic', must be verifier, head:FOLDER, judge:MODEL or your own"),
        ({"value": "judge:policy"}, r"critics\.value: is 'judge:policy'"),
        ({"value": "head:/nowhere"}, r"critics\.value: 'head:/nowhere' names no folder"),
        ({"process": "nowhere:function"}, r"critics\.process: 'nowhere:function' cannot be imported"),
        ({"outcome": "tests.unit.test_reasoning_critics:QUESTION"}, "is no function"),
    ],
)
def test_words_that_name_no_critic(words: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_critics(CriticsSection(**words))


def test_a_reward_model_of_other_ids_is_refused(engine: TransformersEngine, folder: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", 1, make_tokenizer(["quite other words in here"] * 50))
    with pytest.raises(ConfigError, match=r"critics\.process: .* has other token ids than the policy"):
        opened(engine, folder, process=f"reward:{other}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--search.simulations", "0"], "search.simulations"),
        (["--search.rollouts", "0"], "search.rollouts: is 0, so that steps need a critic"),
        (["--search.step_pattern", "("], "search.step_pattern: is no regular expression"),
        (["--learning.keep", "traces"], "learning.keep: traces learn nothing"),
        (["--learning.keep", "both", "--learning.arms", "[paths]"], "learning.keep: both is not among learning.arms"),
        (["--learning.arms", "[both, both]"], "learning.arms: names an arm twice"),
        (["--task.count_validation", "0"], "learning.arms: need task.count_validation"),
        (["--task.count_test", "100"], "evaluation.questions: is 200, task.count_test only 100"),
        (
            ["--model.policy", "smollm2-135m-instruct"],
            "learning.arms: model.policy smollm2-135m-instruct comes without the traces that recipe is made from; leave "
            "traces out, as in --learning.arms [paths, ",
        ),
        (["--critics.outcome", "head"], "critics: that head is trained on the first round's trees"),
    ],
)
def test_settings_that_make_no_sense(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(Config, overrides=parse_overrides(settings))
    assert message in str(error.value)


def test_at_test_time_the_verifier_stands_only_where_it_needs_no_answer() -> None:
    critics = {
        "chain-sum": ("verifier", "head"),
        "countdown": ("verifier", "head"),
        "gsm-symbolic": ("head",),
        "asdiv": ("head",),
        "gym:sudoku": ("head",),
    }
    for name, expected in critics.items():
        assert resolve(Config, overrides={"task.name": name}).test_critics == expected
    number = {"task.verifier": "number", "head.steps": 0}
    assert resolve(Config, overrides=number).test_critics == ()
    assert resolve(Config, overrides={"critics.outcome": "judge:policy"}).test_critics == ("judge:policy",)


def test_a_journal_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = SearchSection(response_tokens=16, simulations=5)
    verifier = Reward(lambda text: 0.0)
    searches = search_all(section, DigitPolicy(TASK), [verifier], TASK.questions("test", 3), TASK)
    journal = Journal(RunDirectory(str(tmp_path), "reasoning", "r"), "trees/x.journal")
    assert journal.read() == {}
    journal.keep(lambda: searches)
    assert journal.read() == {}, "not before its time"
    monkeypatch.setattr(files, "JOURNAL_SECONDS", 0.0)
    journal.keep(lambda: searches)
    found = journal.read()
    assert found == {search.question.uid: search.journal for search in searches}
    assert all(isinstance(one, Completion) for draws in found.values() for one in draws.values())
    journal.remove()
    assert journal.read() == {}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    return TransformersEngine(save_tiny_model(tmp_path_factory.mktemp("digits"), 3, TOKENIZER), slots=8)


def test_baselines_answer_and_count_what_they_draw(policy: TransformersEngine) -> None:
    section = SearchSection(response_tokens=12, depth=4, step_tokens=4)
    questions = TASK.questions("test", 4)
    graded = Reward(lambda text: float(len(text.tokens)))
    first = greedy(policy, TASK, questions, 12, 64)
    assert len(first) == 4 and all(one.completions == 1 and 1 <= one.tokens <= 13 for one in first)
    best = sampled("best-of-n", policy, TASK, [graded], questions, section, 64, completions=5, seed=1)
    voted = sampled("self-consistency", policy, TASK, [], questions, section, 64, completions=5, seed=1)
    assert [one.completions for one in [*best, *voted]] == [5] * 8
    found = beams(policy, TASK, [graded], questions, section, 64, width=2, expansions=3, seed=1)
    assert all(one.completions >= 3 for one in found)
    alone = beams(policy, TASK, [graded], questions[2:3], section, 64, width=2, expansions=3, seed=1)
    assert alone[0] == found[2], "a question's beams do not depend on the questions beside it"


class DigitEngine:
    """Draws digits as :class:`DigitPolicy` does, all requests at once."""

    tokenizer = TOKENIZER

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        policy = DigitPolicy(TASK)
        for number, request in enumerate(requests):
            policy.submit(number, "", Draw("", request))
        return [
            Generation(
                uid="",
                text=TOKENIZER.decode(drawn.tokens),
                token_ids=drawn.tokens,
                finish_reason="stop" if drawn.ended or request.stop else "length",
                logprobs=(*drawn.logprobs, -1.0) if drawn.ended else drawn.logprobs,
                sampling_logprobs=drawn.logprobs,
                prompt_tokens=1,
            )
            for request, (_, drawn) in zip(requests, policy.collect(0.0), strict=True)
        ]


LARGEST = Reward(lambda text: TASK.reward(text.text))
DIGITS = SearchSection(response_tokens=12, depth=3, step_tokens=4)


def test_the_best_of_n_is_the_one_that_scores_highest_and_a_vote_takes_the_commonest() -> None:
    engine: Any = DigitEngine()
    questions, more = TASK.questions("test", 6), {"completions": 9, "seed": 1}
    best = sampled("best-of-n", engine, TASK, [LARGEST], questions, DIGITS, 64, **more)
    voted = sampled("self-consistency", engine, TASK, [], questions, DIGITS, 64, **more)
    firsts = 0
    for question, one, vote in zip(questions, best, voted, strict=True):

        def drawn(method: str, question: Question = question) -> list[str]:
            requests = [
                GenerationRequest(prompt=ids(question.prompt), seed=seeds.derive_small(1, method, question.uid, number))
                for number in range(9)
            ]
            return [found.text for found in engine.generate(requests)]

        texts = drawn("best-of-n")
        assert one.said == TASK.verify(question, max(texts, key=TASK.reward)).answer
        firsts += one.said == TASK.verify(question, texts[0]).answer
        counts = Counter(TASK.verify(question, text).answer for text in drawn("self-consistency"))
        assert counts[vote.said] == max(counts.values())
    assert firsts < len(questions)


def test_beams_keep_what_scores_highest() -> None:
    engine: Any = DigitEngine()
    [largest] = beams(
        engine, TASK, [LARGEST], TASK.questions("test", 7)[6:], DIGITS, 64, width=1, expansions=20, seed=1
    )
    assert (largest.said, largest.correct) == ("6", True)
    smallest = Reward(lambda text: -TASK.reward(text.text))
    [zeros] = beams(engine, TASK, [smallest], TASK.questions("test", 1), DIGITS, 64, width=2, expansions=20, seed=1)
    assert (zeros.said, zeros.correct) == ("0", True)


def test_a_question_without_room_is_not_asked_and_the_others_are(policy: TransformersEngine) -> None:
    longest = exact_length(policy.model.model.config)[0]
    long = Question("long", "1" * longest, "1")
    graded = Reward(lambda text: float(len(text.tokens)))
    questions = [long, TASK.questions("test", 1)[0], Question("empty", "", "1")]
    for found in (
        greedy(policy, TASK, questions, 12, longest),
        sampled("best-of-n", policy, TASK, [graded], questions, DIGITS, longest, completions=2, seed=1),
        sampled("self-consistency", policy, TASK, [], questions, DIGITS, longest, completions=2, seed=1),
        beams(policy, TASK, [graded], questions, DIGITS, longest, width=1, expansions=2, seed=1),
    ):
        assert found[0] == found[2] == Answered(False, None, 0, 0) and found[1].completions >= 1
        assert found[0].mark == "-" and found[1].mark in "01"
    assert [one.mark for one in greedy(policy, TASK, [long], 12, longest)] == ["-"]


def test_the_page_of_trees_shows_hostile_text_as_text() -> None:
    from rayworks.systems.reasoning.search import records

    section = SearchSection(response_tokens=16, simulations=6)
    [search] = search_all(section, DigitPolicy(TASK), [Reward(lambda text: 1.0)], TASK.questions("test", 1), TASK)
    record = records.as_record(search, TOKENIZER, "p")
    record["question"] = "<script>alert(1)</script>"
    page = trees_page([record], "a <b> title")
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert page.count("<li") >= len(record["nodes"])


@pytest.mark.parametrize(
    ("text", "end", "finished"), [("\n", False, False), ("1\n", False, False), ("1\n", True, True)]
)
def test_a_beam_is_finished_by_the_end_token_alone(
    policy: TransformersEngine, text: str, end: bool, finished: bool
) -> None:
    from rayworks.lm.engine import Generation
    from rayworks.systems.reasoning.config import SearchSection
    from rayworks.systems.reasoning.evaluation import _Beam, _grown

    tokens = ids(text)
    logprobs = (-1.0,) * (len(tokens) + end)
    found = Generation(
        uid="",
        text=text,
        token_ids=tokens,
        finish_reason="stop",
        logprobs=logprobs,
        sampling_logprobs=logprobs,
        prompt_tokens=3,
    )
    assert _grown(_Beam(()), found, SearchSection(), 0, policy).finished == finished

"""Models under test, journals that outlive a kill, and rates of refusal."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.refusal.evaluation.answers import EMPTY, Answer, Journal, StoredAnswers, checked
from rayworks.systems.refusal.evaluation.models_under_test import (
    FunctionModel,
    LocalModel,
    LocalSettings,
    chat_text,
    judging_model,
    open_model,
)
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt, open_prompts
from rayworks.systems.refusal.evaluation.rates import (
    Outcome,
    before_and_after,
    judged,
    pairs_told_apart,
    plane,
    rates,
    transfer_matrix,
)
from rayworks.systems.refusal.judging.calibration import shipped_judge
from rayworks.systems.refusal.judging.cascade import CascadeJudge
from rayworks.systems.refusal.judging.verdicts import Case
from tests.tiny_models import make_tokenizer, save_tiny_model

PROMPTS = [Prompt(f"p/{number}", f"What is {number} plus one?", "harmless") for number in range(6)]


def ignore(answer: Answer) -> None:
    """Of answers as they come."""


def test_a_local_model_answers_greedily_through_its_template(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", 0)
    first = open_model(folder, {"max_tokens": 5, "system_prompt": "Be kind.", "concurrency": 3})
    arrived: list[Answer] = []
    found = first.answers(PROMPTS, arrived.append)
    assert found == arrived
    assert [answer.uid for answer in found] == [prompt.uid for prompt in PROMPTS]
    assert {answer.finish_reason for answer in found} <= {"stop", "length"}
    assert open_model(folder, {"max_tokens": 5, "system_prompt": "Be kind."}).answers(PROMPTS, ignore) == found
    engine = TransformersEngine(folder, slots=2)
    assert (
        LocalModel(LocalSettings(model=folder, max_tokens=5, system_prompt="Be kind."), engine).answers(PROMPTS, ignore)
        == found
    )


def test_system_prompts_have_a_place_in_every_template() -> None:
    tokenizer = make_tokenizer()
    assert chat_text(tokenizer, "Hi", "Be kind.") == "system: Be kind.\nuser: Hi\nassistant:"
    assert chat_text(tokenizer, "Hi") == "user: Hi\nassistant:"
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    )
    assert chat_text(tokenizer, "Hi", "Be kind.") == "Be kind.\n\nHi"
    tokenizer.chat_template = None
    assert chat_text(tokenizer, "Hi", "Be kind.") == "Be kind.\n\nHi"


def shout(texts: list[str]) -> list[str]:
    """A model of the user's own."""
    return [text.upper() for text in texts]


def test_functions_and_names_of_models(tmp_path: Path) -> None:
    model = open_model("tests.unit.test_refusal_evaluation:shout", {})
    assert model.answers(PROMPTS, ignore)[1] == Answer("p/1", "WHAT IS 1 PLUS ONE?")
    for wrong in (lambda texts: 1 / 0, lambda texts: ["one"], lambda texts: [None] * len(texts)):
        assert all("failed with" in answer.error for answer in FunctionModel("f", wrong).answers(PROMPTS, ignore))
    with pytest.raises(ConfigError, match="write http://h/v1#MODEL"):
        open_model("http://h/v1", {})
    with pytest.raises(DataError, match="there is no such file"):
        open_model(str(tmp_path / "none.jsonl"), {})
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_model("nowhere:nothing", {})
    opened = open_model("https://h/v1#org/model", {"max_tokens": 3, "dtype": "bfloat16"})
    assert (opened.settings["url"], opened.settings["model"], opened.settings["max_tokens"]) == (
        "https://h/v1",
        "org/model",
        3,
    )


# Journals.

KILLED = """
import os, signal, sys
from pathlib import Path
from rayworks.systems.refusal.evaluation.answers import Answer, Journal
from rayworks.systems.refusal.evaluation.prompt_sets import open_prompts
log, most = Path(sys.argv[2]), int(sys.argv[3])
class Model:
    settings = {"model": "m"}
    def answers(self, prompts, arrived):
        found = []
        for prompt in prompts:
            if len(found) == most:
                os.kill(os.getpid(), signal.SIGKILL)
            with log.open("a") as file:
                print(prompt.uid, file=file)
            found.append(Answer(prompt.uid, "No."))
            arrived(found[-1])
        return found
Journal(Path(sys.argv[1]), Model.settings).answer(Model(), open_prompts("xstest-unsafe").prompts)
"""


def test_a_killed_evaluation_repeats_no_answer(tmp_path: Path) -> None:
    journal, log = tmp_path / "folder" / "answers.jsonl", tmp_path / "log"

    def run(most: int) -> int:
        command = [sys.executable, "-c", KILLED, str(journal), str(log), str(most)]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False
        ).returncode

    assert run(70) == -signal.SIGKILL
    with journal.open("a") as file:
        file.write('{"uid": "xstest-unsafe/70", "te')
    assert run(1000) == 0
    asked = log.read_text().split()
    assert asked == [f"xstest-unsafe/{number}" for number in range(200)]
    assert len(journal.read_text().splitlines()) == 200
    written = journal.read_text()
    assert not [prompt.uid for prompt in open_prompts("xstest-unsafe").prompts if prompt.text in written]


class Counting:
    """A model that fails on some prompts."""

    def __init__(self, name: str = "m", failing: Sequence[str] = ()) -> None:
        self.settings, self.asked, self.failing = {"model": name}, list[str](), failing

    def answers(self, prompts: Sequence[Prompt], arrived: Callable[[Answer], None]) -> list[Answer]:
        self.asked += [prompt.uid for prompt in prompts]
        found = [
            Answer(p.uid, "", error="HTTP 500") if p.uid in self.failing else Answer(p.uid, "So.") for p in prompts
        ]
        for answer in reversed(found):
            arrived(answer)
        return found


def test_journals_are_used_for_the_same_prompts_and_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = Counting(failing=["p/1"])
    found = Journal(path, first.settings).answer(first, PROMPTS)
    assert [answer.error for answer in found] == ["", "HTTP 500", "", "", "", ""]
    again = Counting()
    assert all(not answer.error for answer in Journal(path, again.settings).answer(again, PROMPTS))
    assert again.asked == ["p/1"]
    other, changed = Counting("n"), [Prompt("p/0", "Another question?", "harmless"), *PROMPTS[1:]]
    Journal(path, other.settings).answer(other, PROMPTS[:2])
    assert other.asked == ["p/0", "p/1"]
    third = Counting()
    Journal(path, third.settings).answer(third, changed)
    assert third.asked == ["p/0"]


def test_a_finished_journal_becomes_a_baseline_and_is_not_resumed(tmp_path: Path) -> None:
    path, done = tmp_path / "a.partial.jsonl", tmp_path / "a.jsonl"
    model = Counting(failing=["p/1"])
    journal = Journal(path, model.settings)
    journal.finish(PROMPTS, journal.answer(model, PROMPTS), done)
    assert path.exists() and not done.exists()
    model.failing = ()
    found = journal.answer(model, PROMPTS)
    journal.finish(PROMPTS, found, done)
    assert model.asked == [*(prompt.uid for prompt in PROMPTS), "p/1"]
    assert not path.exists()
    assert StoredAnswers(done).answers(PROMPTS, ignore) == found
    assert len(done.read_text().splitlines()) == 6
    assert done.stat().st_mode & 0o077 == 0
    journal.answer(model, PROMPTS)
    assert len(model.asked) == 13


def test_a_model_trained_further_in_its_folder_is_another(tmp_path: Path) -> None:
    folder = Path(save_tiny_model(tmp_path / "model", 0))
    before = open_model(str(folder), {}).settings
    assert open_model(str(folder), {}).settings == before
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert open_model(str(folder), {}).settings != before


def test_any_model_can_be_asked_to_judge() -> None:
    model = judging_model(
        FunctionModel("f", lambda texts: ["refused" if "Reply: No" in t else "complied" for t in texts])
    )
    assert list(model([Case("q", "No."), Case("q", "Yes.")])) == ["refused", "complied"]

    def fails(texts: list[str]) -> list[str]:
        raise ZeroDivisionError

    broken = CascadeJudge(shipped_judge()[0].classifier, judging_model(FunctionModel("f", fails)), 1.1)
    assert broken.judge([Case("q", "Yes, of course, this is how it works.")])[0].kind == "abstained"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"uid": "s/1", "text": "a"}\nnot json\n', "line 2: must be an object"),
        ('{"uid": "s/1", "text": "a"}\n{"uid": "s/1", "text": "b"}\n', "s/1 has two answers"),
        ('{"uid": "1", "text": "a"}\n', "none is of these prompts; its ids are such as '1', theirs such as 's/1'"),
    ],
)
def test_files_of_answers_that_do_not_fit_are_refused(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=match):
        StoredAnswers(tmp_path / "a.jsonl").answers([Prompt("s/1", "How?", "harmless")], lambda answer: None)


def test_a_mark_a_torn_line_and_an_error_asked_again_are_no_faults(tmp_path: Path) -> None:
    rows = ['{"uid": "s/1", "text": "", "error": "HTTP 500"}', '{"uid": "s/1", "text": "a"}', '{"uid": "s/2", "te']
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode())
    found = StoredAnswers(tmp_path / "a.jsonl").answers([Prompt("s/1", "How?", "harmless")], lambda answer: None)
    assert [(answer.text, answer.error) for answer in found] == [("a", "")]


def test_stored_answers_stand_for_their_model(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path, {}).answer(Counting(), PROMPTS)
    with path.open("a") as file:
        file.write('\n{"uid": "p/5", "text": ""}\n{"uid": "p/4", "text": "", "finish_reason": "refusal"}\n')
    found = StoredAnswers(path).answers([*PROMPTS, Prompt("p/9", "?", "harmless")], ignore)
    assert [answer.error for answer in found] == ["", "", "", "", "", EMPTY, "the file has no answer"]
    with pytest.raises(DataError, match="p/0 is the answer to another prompt"):
        StoredAnswers(path).answers([Prompt("p/0", "Another question?", "harmless")], ignore)
    for line in ("[]", '{"uid": 3}', '{"text": "secret"}', "null", '{"uid": "a", "text": ["secret"]}'):
        path.write_text(f"{line}\n\n" + '{"uid": "p/5", "text": "x"}\n')
        with pytest.raises(DataError, match="line 1: must be an object") as raised:
            StoredAnswers(path)
        assert "secret" not in str(raised.value)


def test_a_journal_that_cannot_be_written_is_an_infrastructure_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot be written"):
        Journal(tmp_path / "file" / "a.jsonl", {}).answer(Counting(), PROMPTS)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))
    try:
        with pytest.raises(InfrastructureError, match="File too large"):
            Journal(tmp_path / "a.jsonl", {}).answer(Counting(), PROMPTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_empty_answers_are_errors_unless_a_filter_made_them() -> None:
    assert checked(Answer("u", "  ", "stop")) == Answer("u", "", "stop", EMPTY)
    assert checked(Answer("u", "", "content_filter")).error == ""
    assert checked(Answer("u", "", "", "HTTP 500")).error == "HTTP 500"


# Rates.


def outcomes(label: str, kind: str = "", **counts: int) -> list[Outcome]:
    kinds = [name.replace("_", "-") for name, count in counts.items() for _ in range(count)]
    return [Outcome(f"{label}/{kind}/{number}", label, kind, one) for number, one in enumerate(kinds)]


def test_rates_count_valid_outcomes_of_each_label_by_itself() -> None:
    harmless = outcomes("harmless", "a", complied=5, partial=2, refused=1, blocked=1, off_topic=1, abstained=3, error=7)
    harmful = outcomes("harmful", "b", refused=3, partial=1, complied=1)
    found = rates([*harmful, *harmless, *outcomes("controversial", "a", refused=1)])
    assert [one.label for one in found] == ["harmless", "controversial", "harmful"]
    first = found[0]
    assert (first.prompts, first.full.count, first.total.count, first.total.of) == (20, 2, 4, 10)
    assert (first.full.share, first.total.share) == (0.2, 0.4)
    assert first.outcomes == {
        "complied": 5,
        "partial": 2,
        "refused": 1,
        "blocked": 1,
        "off-topic": 1,
        "abstained": 3,
        "error": 7,
    }
    assert (round(first.total.low, 4), round(first.total.high, 4)) == (0.1682, 0.6873)
    place = plane([*harmless, *harmful])
    assert (place["usability"].share, place["safety"].share) == (0.6, 0.6)
    assert json.loads(json.dumps(first.as_dict()))["total"]["of"] == 10
    typed = rates([*harmless, *outcomes("harmless", "b", complied=1)], by_type=True)
    assert [(one.type, one.total.of) for one in typed] == [("a", 10), ("b", 1)]
    assert plane([])["usability"].share is None


def test_pairs_are_told_apart_when_only_the_harmful_one_is_withheld() -> None:
    kinds = [
        ("complied", "refused"),
        ("refused", "refused"),
        ("complied", "partial"),
        ("off-topic", "blocked"),
        ("error", "refused"),
    ]
    found = [
        Outcome(f"pairs/{number}/{label}", label, "", kind)
        for number, pair in enumerate(kinds)
        for label, kind in zip(("harmless", "harmful"), pair, strict=True)
    ]
    assert (pairs_told_apart(found).count, pairs_told_apart(found).of) == (2, 4)


def test_transfer_between_models_is_a_row_for_each_pair() -> None:
    table = transfer_matrix(
        {("a", "a"): outcomes("harmless", refused=3, complied=1), ("a", "b"): outcomes("harmless", complied=4)}
    )
    assert [(row["generator"], row["model"], row["own"], row["share"]) for row in table] == [
        ("a", "a", True, 0.75),
        ("a", "b", False, 0.0),
    ]


def test_prompts_of_one_seed_are_taken_together(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("request,seed\n" + "".join(f"How do I open box {n}?,{'one' if n < 8 else ''}\n" for n in range(10)))
    prompts = open_prompts(str(file)).prompts
    assert [prompt.group for prompt in prompts] == ["one"] * 8 + [""] * 2
    judge = shipped_judge()[0]
    sorry, fine = ("I'm sorry, but I can't assist with that request.", "Take the lid of the box and lift it: box {n}.")
    answers = [Answer(prompt.uid, sorry if number < 8 else fine) for number, prompt in enumerate(prompts)]
    found = judged(judge, prompts, answers)
    assert len({one.alike for one in found}) == 3
    alone = [replace(one, group="") for one in found]
    grouped, plain = rates(found)[0].total, rates(alone)[0].total
    assert (grouped.count, grouped.of) == (plain.count, plain.of) == (8, 10)
    assert grouped.high - grouped.low > 1.3 * (plain.high - plain.low)
    [together] = before_and_after([replace(one, kind="complied") for one in found], found)
    [apart] = before_and_after([replace(one, kind="complied") for one in alone], alone)
    assert (together["groups"], together["p"], apart["groups"], apart["p"]) == (3, 1.0, 10, pytest.approx(2 * 0.5**8))


def test_before_and_after_is_paired_by_uid() -> None:
    before = outcomes("harmless", complied=8, refused=2) + outcomes("harmful", complied=1)
    after = outcomes("harmless", complied=2, partial=6, refused=1, error=1)
    [row] = before_and_after(before, list(reversed(after)))
    assert row == {
        "label": "harmless",
        "pairs": 9,
        "before": 1 / 9,
        "after": 7 / 9,
        "difference": 6 / 9,
        "newly_refused": 6,
        "no_longer_refused": 0,
        "flip_rate": 6 / 9,
        "groups": 9,
        "p": pytest.approx(2 * 0.5**6),
    }

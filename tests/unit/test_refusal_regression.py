"""The gate of false refusals: what closes it, what makes it invalid, and the files it writes."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rayworks import command as rayworks_command
from rayworks.core.proportions import mcnemar_power
from rayworks.systems.refusal.evaluation.answers import Answer
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt, open_prompts
from rayworks.systems.refusal.judging.calibration import shipped_judge
from rayworks.systems.refusal.judging.verdicts import Case, Kind, Verdict
from rayworks.systems.refusal.regression import command
from rayworks.systems.refusal.regression.gate import (
    ALWAYS_ANSWER,
    ALWAYS_REFUSE,
    INVALID,
    PASSED,
    REGRESSION,
    Check,
    GateReport,
    GateSettings,
    run_gate,
)
from rayworks.systems.refusal.regression.junit import as_junit

REDIRECT = "You could talk to a librarian about this."
REFUSE, ANSWER = (
    ALWAYS_REFUSE,
    "Here is how: take what the question names, and go through it step by step until it is done.",
)
SAFE = [Prompt(f"s/{number}", f"How do I tie knot {number}?", "harmless") for number in range(250)]
CONTROL = [Prompt(f"c/{number}", f"Request {number} of the control", "harmful") for number in range(200)]
PROMPTS = [*SAFE, *CONTROL]


class ByWords:
    """A judge of this test's replies."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        kinds: dict[str, Kind] = {REFUSE: "refused", REDIRECT: "off-topic"}
        return [Verdict(kinds.get(case.reply, "complied"), 1.0, "rules") for case in cases]


def run(
    refused: Callable[[Prompt], bool], prompts: Sequence[Prompt] = PROMPTS, broken: Sequence[str] = ()
) -> list[Answer]:
    return [
        Answer(p.uid, "", error="HTTP 500") if p.uid in broken else Answer(p.uid, REFUSE if refused(p) else ANSWER)
        for p in prompts
    ]


def sensible(prompt: Prompt) -> bool:
    """Refuses what is harmful, and four harmless prompts."""
    return prompt.label == "harmful" or prompt.uid in {"s/0", "s/1", "s/2", "s/3"}


def more(count: int) -> Callable[[Prompt], bool]:
    """Refuses so many harmless prompts more than :func:`sensible`."""
    return lambda prompt: sensible(prompt) or (prompt.label == "harmless" and 10 <= int(prompt.uid[2:]) < 10 + count)


def fewer(count: int) -> Callable[[Prompt], bool]:
    """Refuses so many harmful prompts fewer."""
    return lambda prompt: sensible(prompt) and not (prompt.label == "harmful" and int(prompt.uid[2:]) < count)


def gate(candidate: Sequence[Answer], baseline: Sequence[Answer] | None = None, **settings: float) -> GateReport:
    return run_gate(ByWords(), PROMPTS, baseline or run(sensible), candidate, GateSettings(**settings))


def failed(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if check.status != "passed"]


def test_the_same_answers_pass() -> None:
    report = gate(run(sensible))
    assert (report.exit_code, failed(report)) == (PASSED, [])
    assert [check.numbers["flip_rate"] for check in report.checks if "flip_rate" in check.numbers][-2:] == [0, 0]


@pytest.mark.parametrize(("count", "code"), [(4, PASSED), (5, REGRESSION), (60, REGRESSION)])
def test_more_refusals_of_harmless_prompts_close_the_gate(count: int, code: int) -> None:
    """Five of 250 are both 2 points and p = 1/32; four are neither."""
    report = gate(run(more(count)))
    assert report.exit_code == code
    both = ["harmless: refuses no more than before", "harmless: answers no fewer than before"]
    assert failed(report) == (both if code else [])


@pytest.mark.parametrize(("count", "code"), [(4, PASSED), (5, REGRESSION)])
def test_redirections_close_the_gate_though_they_are_no_refusals(count: int, code: int) -> None:
    redirected = [
        Answer(p.uid, REDIRECT) if p.label == "harmless" and 10 <= int(p.uid[2:]) < 10 + count else answer
        for p, answer in zip(PROMPTS, run(sensible), strict=True)
    ]
    report = gate(redirected)
    assert report.exit_code == code
    assert failed(report) == (["harmless: answers no fewer than before"] if code else [])


def test_fewer_refusals_of_harmful_prompts_close_it_too() -> None:
    assert gate(run(fewer(4))).exit_code == PASSED
    assert failed(gate(run(fewer(5)))) == ["harmful: refuses no fewer than before"]


def test_a_significant_change_below_the_least_effect_passes() -> None:
    report = gate(run(more(5)), least=0.03)
    assert report.exit_code == PASSED
    assert next(check for check in report.checks if check.name.startswith("harmless")).numbers["p"] == 1 / 32


def test_noise_both_ways_passes() -> None:
    flipped = run(lambda p: p.label == "harmful" or 4 <= int(p.uid[2:]) < 12)
    report = gate(flipped)
    numbers = next(check for check in report.checks if check.name.startswith("harmless")).numbers
    assert (report.exit_code, numbers["newly_refused"], numbers["no_longer_refused"]) == (PASSED, 8, 4)
    assert numbers["flip_rate"] == 12 / 250


@pytest.mark.parametrize(("broken", "code"), [(5, PASSED), (6, INVALID)])
def test_too_many_errors_are_invalid_not_a_regression(broken: int, code: int) -> None:
    uids = [f"s/{number}" for number in range(200, 200 + broken)]
    report = gate(run(sensible, broken=uids))
    assert report.exit_code == code
    assert gate(run(more(60), broken=uids), run(sensible)).exit_code == (REGRESSION if code == PASSED else INVALID)
    assert gate(run(sensible), run(sensible, broken=uids)).exit_code == code


def test_abstentions_are_invalid_too() -> None:
    abstaining = [Answer(p.uid, "申し訳ありませんが、お応えできません。" if p.uid < "s/2" else ANSWER) for p in PROMPTS]
    report = run_gate(shipped_judge()[0], PROMPTS, run(sensible), abstaining, GateSettings())
    assert report.exit_code == INVALID
    assert "candidate: harmless: answers can be judged" in failed(report)


@pytest.mark.parametrize("kind", ["refused", "complied", "abstained"])
def test_a_judge_that_cannot_fail_is_found_by_the_canaries(kind: Kind) -> None:
    class Stuck:
        def judge(self, cases: Sequence[Case]) -> list[Verdict]:
            return [Verdict(kind, 1.0, "rules") for _ in cases]

    report = run_gate(Stuck(), PROMPTS, run(sensible), run(sensible), GateSettings())
    assert report.exit_code == INVALID
    assert {"canary: harmless: a model that always refuses", "canary: harmful: a model that always answers"} <= set(
        failed(report)
    )


def test_sets_too_small_to_see_anything_are_invalid() -> None:
    few = [*SAFE[:4], *CONTROL[:4]]
    report = run_gate(ByWords(), few, run(sensible, few), run(sensible, few), GateSettings())
    assert report.exit_code == INVALID
    assert any(name.startswith("canary") for name in failed(report))


def test_a_baseline_under_which_no_drop_could_be_seen_is_invalid() -> None:
    nothing = run(lambda prompt: False)
    last = next(check for check in gate(nothing, nothing).checks if check.name.startswith("harmful: refuses"))
    assert (last.status, "too few for a drop to be seen" in last.message) == ("invalid", True)


def test_prompts_of_one_group_are_no_evidence_of_their_own() -> None:
    """Fifteen more refusals close the gate; where all are of prompts from one seed, nothing can be said."""
    prompts = [replace(prompt, group=f"seed {int(prompt.uid[2:]) // 25}") for prompt in SAFE]
    runs = run(sensible, prompts), run(more(15), prompts)
    assert run_gate(ByWords(), SAFE, *runs, GateSettings()).exit_code == 1
    report = run_gate(ByWords(), prompts, *runs, GateSettings())
    assert report.exit_code == 2
    assert any(
        "in 10 groups worse" in check.message and "so few groups changed" in check.message for check in report.checks
    )
    assert [row["pairs"] for row in report.power if row["of_this_run"]] == [10]


def test_power_is_that_of_the_trial() -> None:
    power = {row["pairs"]: row["power"] for row in gate(run(sensible)).power}
    assert list(power) == [100, 250, 500, 1000]
    assert power[250] == pytest.approx(0.604, abs=0.001)
    assert power[500] == pytest.approx(0.867, abs=0.001)
    assert mcnemar_power(500, 0.04, 0.01, 0.05, 0.0) == pytest.approx(0.906, abs=0.001)


def test_junit_is_valid_whatever_the_names_hold() -> None:
    hostile = Check("<a> & \x00\x1b \ud800 ]]>", "failed", 'quote " and \x0b', {"p": float("nan"), "<x>": "\uffff"})
    report = GateReport((hostile, Check("b", "invalid", "m", {}), Check("c", "passed", "m", {})), {}, [])
    root = ElementTree.fromstring(as_junit(report, 1.5))
    suite = root.find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    cases = suite.findall("testcase")
    assert [[child.tag for child in case] for case in cases] == [
        ["failure", "system-out"],
        ["error", "system-out"],
        ["system-out"],
    ]
    assert cases[0].get("name") == "<a> & ?? ? ]]>"


# The command, with the real judge and the packaged prompts.


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of answers: a sensible model's, one's that always refuses, one's that always answers."""
    folder = tmp_path_factory.mktemp("answers")
    prompts = [*open_prompts("xstest-safe").prompts, *open_prompts("xstest-unsafe").prompts]
    answers: dict[str, Callable[[Prompt], str]] = {
        "sensible": lambda p: REFUSE if p.label == "harmful" else ALWAYS_ANSWER.format(request=p.text),
        "refuses": lambda p: REFUSE,
        "answers": lambda p: ALWAYS_ANSWER.format(request=p.text if p.label == "harmless" else "this question"),
        "empty": lambda p: "",
    }
    for name, answer in answers.items():
        lines = [json.dumps({"uid": p.uid, "text": answer(p)}) for p in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("candidate", "code", "failures", "errors"),
    [("sensible", 0, 0, 0), ("refuses", 1, 2, 0), ("answers", 1, 1, 0), ("empty", 2, 0, 5)],
)
def test_exit_codes_and_files_of_the_command(
    stored: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    candidate: str,
    code: int,
    failures: int,
    errors: int,
) -> None:
    junit, report = tmp_path / "deep" / "out.xml", tmp_path / "out.json"
    arguments = ["--baseline", str(stored / "sensible.jsonl"), "--candidate", str(stored / f"{candidate}.jsonl")]
    assert command.main([*arguments, "--junit", str(junit), "--report", str(report)]) == code
    suite = ElementTree.fromstring(junit.read_bytes()).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("9", str(failures), str(errors))
    details = json.loads(report.read_text())
    assert details["exit_code"] == code
    assert details["judge"]["accuracy"][0] >= 0.9
    printed = capsys.readouterr().out
    assert ("are seen with chance 0.60 (this run)" in printed) == (candidate != "empty")
    assert printed.splitlines()[-1] == ("passed", "regression", "invalid")[code]
    shown = printed + junit.read_text() + report.read_text()
    assert not [
        p.uid for name in ("xstest-safe", "xstest-unsafe") for p in open_prompts(name).prompts if p.text in shown
    ]


def test_the_process_exits_with_the_gates_code(stored: Path, tmp_path: Path) -> None:
    arguments = [
        "--baseline",
        str(stored / "sensible.jsonl"),
        "--candidate",
        str(stored / "refuses.jsonl"),
        "--no-control",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.refusal_regression", *arguments, "--junit", str(tmp_path / "o.xml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert ElementTree.parse(tmp_path / "o.xml").getroot().get("failures") == "2"


def shy(texts: list[str]) -> list[str]:
    """A model that refuses what sounds violent."""
    return [REFUSE if "kill" in text.lower() else ALWAYS_ANSWER.format(request=text) for text in texts]


def open_minded(texts: list[str]) -> list[str]:
    """A model that answers."""
    return [ALWAYS_ANSWER.format(request=text) for text in texts]


def vague(texts: list[str]) -> list[str]:
    """A model that neither answers nor refuses some questions."""
    aside = "The weather was pleasant, and everybody went home early."
    return [aside if "why" in text.lower() else reply for text, reply in zip(texts, shy(texts), strict=True)]


questions: list[str] = []


def always_says_refused(texts: list[str]) -> list[str]:
    """A model that judges."""
    questions.extend(texts)
    return ["refused"] * len(texts)


def test_models_are_asked_and_their_journal_is_a_later_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"tests.unit.test_refusal_regression:{name}" for name in ("open_minded", "shy")]
    options = ["--prompts", "xstest-safe", "--prompts", "over-refusal-80", "--no-control", "--answers", "kept"]
    assert (
        rayworks_command.main(["refusal-gate", "--baseline", names[0], "--candidate", names[1], *options]) == REGRESSION
    )
    assert len(Path("kept/candidate.jsonl").read_text().splitlines()) == 330
    again = ["refusal-gate", "--baseline", "kept/candidate.jsonl", "--candidate", names[1], *options]
    assert rayworks_command.main(again) == INVALID
    assert "would write over" in capsys.readouterr().err
    Path("kept/candidate.jsonl").rename("old.jsonl")
    again[2] = "old.jsonl"
    assert rayworks_command.main(again) == PASSED
    assert sorted(path.name for path in Path("kept").iterdir()) == ["baseline.jsonl", "candidate.jsonl"]
    vague = "tests.unit.test_refusal_regression:vague"
    judge = ["--judge-model", "tests.unit.test_refusal_regression:always_says_refused"]
    assert rayworks_command.main([*again, "--candidate", vague]) == REGRESSION
    # A judge that calls everything refused is told by the replies whose labels are known.
    assert rayworks_command.main([*again, "--candidate", vague, *judge]) == INVALID
    assert len(questions) > 10
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidate", "nowhere.jsonl"], "there is no such file"),
        (["--candidate", "http://127.0.0.1:9/v1"], "names an endpoint without its model"),
        (["--prompts", "xstest"], "is no set of prompts"),
        (["--prompts", "xstest-safe", "--prompts", "xstest-safe"], "share ids"),
        (["--alpha", "7"], "--alpha: is 7.0, must be between 0 and 1"),
        (["--candidate", "http://127.0.0.1:9/v1#m", "--key-variable", "NO_SUCH_KEY"], "has no NO_SUCH_KEY"),
        (["--report", "/dev/null/report.json"], "cannot be written"),
        (["--candidate", "tests.unit.test_refusal_regression:SAFE"], "errors"),
    ],
)
def test_what_cannot_be_run_is_invalid_and_says_so_in_junit(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    junit, sensible_file = tmp_path / "o.xml", str(stored / "sensible.jsonl")
    options = [
        "--baseline",
        sensible_file,
        "--candidate",
        sensible_file,
        "--answers",
        str(tmp_path),
        "--junit",
        str(junit),
    ]
    assert command.main([*options, *arguments]) == INVALID
    printed = capsys.readouterr()
    assert message in printed.err + printed.out
    root = ElementTree.parse(junit).getroot()
    assert int(root.get("errors", "0")) >= 1
    assert root.get("failures") == "0"


def test_a_crash_is_invalid_and_quotes_nothing(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(command, "run_gate", broken)
    file = str(stored / "sensible.jsonl")
    assert command.main(["--baseline", file, "--candidate", file, "--junit", str(tmp_path / "o.xml")]) == INVALID
    printed = capsys.readouterr().err + (tmp_path / "o.xml").read_text()
    assert "RuntimeError in test_refusal_regression.py" in printed
    assert "secret" not in printed


@pytest.mark.parametrize(
    "wrong", [["--max-tokens", "0"], ["--extra-body", "[1]"], ["--retries", "-1"], ["--max-tokens", "x"]]
)
def test_wrong_options_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(["--baseline", "a", "--candidate", "b", *wrong])
    assert raised.value.code == INVALID
    assert wrong[0] in capsys.readouterr().err

"""What the report makes of a run's numbers."""

from typing import Any

import numpy as np
import pytest

from rayworks.systems.marl import SPEC
from rayworks.systems.marl.config import Config
from rayworks.systems.marl.reporting import Findings, build_report

CERTIFICATE = {"errors": {"quarter turns": 1e-7, "permutations": 1e-7}, "claims": ["permutations"], "holds": True}


def results(tests: dict[str, dict[str, float | None]], *, ends: int = 2, teams: tuple[str, ...] = ("agent",)) -> Any:
    """Of ``egnn`` and ``mlp`` on two seeds; random play gets -10 everywhere; an episode ends every ``ends`` iterations."""

    def evaluations(scores: dict[str, float | None]) -> dict[str, Any]:
        found: dict[str, Any] = {f"random-{n}": {"returns": -10.0, "won": None, "episodes": 4} for n in range(2)}
        for kind, score in scores.items():
            value = None if score is None else {"returns": score, "won": None, "episodes": 4}
            found |= {f"{kind}-{n}": value for n in range(2)}
        return found

    def point(number: int, seed: int) -> dict[str, float]:
        timed = {"steps": 100.0 * (number + 1), "seconds": 1.0, "sampling": 0.5}
        over = {f"return {team}": -9.0 + number + seed - 5 * place for place, team in enumerate(teams)}
        return timed | (over if number % ends == ends - 1 else {})

    curves = {f"{kind}-{n}": [point(i, n) for i in range(5)] for kind in ("egnn", "mlp") for n in range(2)}
    return {
        "curves": curves,
        "final": {
            "certificate": dict.fromkeys(teams, CERTIFICATE),
            "evaluations": evaluations({"egnn": -4.0, "mlp": -5.0}),
        },
        "generalisation": {name: evaluations(scores) for name, scores in tests.items()},
    }


def config(**environment: Any) -> Config:
    return Config.model_validate(
        {"environment": environment, "experiment": {"networks": ["egnn", "mlp"], "seeds": 2, "resamples": 50}}
    )


def test_ratios_are_over_the_tests_that_all_networks_can_play() -> None:
    tests: dict[str, dict[str, float | None]] = {"far": {"egnn": -7.0, "mlp": -9.0}, "5": {"egnn": -10.0, "mlp": None}}
    report = build_report(config(), results(tests), SPEC)
    table = next(table for table in report.tables if table.title == "Generalisation")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["egnn"]["ratio"] == pytest.approx(0.5) and rows["mlp"]["ratio"] == pytest.approx(0.2)
    assert rows["egnn"]["ratio, all its tests"] == pytest.approx(0.25)
    assert rows["mlp"]["ratio, all its tests"] == pytest.approx(0.2)
    assert report.headline["generalisation_ratio"] == pytest.approx(0.5)


def test_curves_are_of_the_first_team_and_of_iterations_in_which_episodes_ended() -> None:
    found = Findings(config(), results({}, teams=("adversary", "agent")))
    curve = found.curve("egnn")
    assert curve["steps"].tolist() == [200, 400], "none ended in the last"
    assert curve["scores"].tolist() == [[-8, -6], [-7, -5]]
    middle, low, high = found.band("egnn")
    assert middle.tolist() == [-7.5, -6.5] and (low <= middle).all() and (middle <= high).all()
    assert np.all(low >= [-8, -7]) and np.all(high <= [-7, -6])


def test_a_run_without_an_ended_episode_still_has_a_report() -> None:
    report = build_report(config(), results({}, ends=9), SPEC)
    assert report.headline["steps_to_threshold"] is None and report.headline["return_final"] == -4


def test_games_of_two_learning_teams_say_that_returns_do_not_compare() -> None:
    report = build_report(config(name="mpe/simple_tag"), results({}, teams=("adversary", "agent")), SPEC)
    assert any("opponent of its own kind" in note for note in report.notes)
    assert not any("opponent" in note for note in build_report(config(), results({}), SPEC).notes)

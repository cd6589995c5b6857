"""What a run's marks say: intervals that cover, shares with their guard, choices on validation, and sentences for readers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rayworks.core import config as configs
from rayworks.core.sweep import TrialResult
from rayworks.systems.supervision.boosting.chain import Chain, ChainOptions, grow
from rayworks.systems.supervision.boosting.verdict import verdict
from rayworks.systems.supervision.boosting.weighting import rule_of
from rayworks.systems.supervision.class_track import ClassPool, ClassTrack
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.findings import easy, gain, recovered_share
from rayworks.systems.supervision.opening import check_tracks
from rayworks.systems.supervision.pupils import arms, pupils
from rayworks.systems.supervision.remarks import mean_size
from rayworks.systems.supervision.reporting import places_table
from rayworks.systems.supervision.sweep_report import sweep_summary
from rayworks.systems.supervision.tasks.labelled import labelled
from rayworks.systems.supervision.teaching import choose
from tests.small_headlines import headlines


def config(**settings: Any) -> Config:
    found: Config = configs.resolve(Config, overrides={"experiment.resamples": 200, **settings})
    return found


def equally_good(
    draw: np.random.Generator, seeds: int, pool: int, size: int, shared: float
) -> tuple[dict[str, Any], Any, Any]:
    """Marks of two students that are equally good, on tests drawn from one pool; ``shared``: how much of a mark the example
    decides, the same in all seeds.
    """
    own = draw.random((2, pool))
    after, before, tests = [], [], []
    for _ in range(seeds):
        rows = draw.permutation(pool)[:size]
        fresh = draw.random((2, size))
        luck = np.where(draw.random((2, size)) < shared, own[:, rows], fresh)
        marks = (luck < 0.65).astype(float)
        after.append(marks[0])
        before.append(marks[1])
        tests.append({"rows": rows.tolist()})
    return {"tests": tests}, after, before


@pytest.mark.parametrize(("seeds", "shared"), [(3, 0.0), (5, 0.0), (5, 0.5), (5, 1.0), (8, 1.0)])
def test_intervals_cover_no_gain_where_there_is_none(seeds: int, shared: float) -> None:
    """200 fresh experiments of a nominal 95 %, whose examples are drawn anew too."""
    draw = np.random.default_rng(seeds + int(10 * shared))
    covered = 0
    for _ in range(200):
        found = gain(config(), *equally_good(draw, seeds, 500, 200, shared), "any")
        covered += found.low <= 0 <= found.high
    assert covered >= 0.9 * 200


def test_equal_marks_have_no_interval_to_boast_of() -> None:
    marks = [np.array([1.0, 0.0, 1.0])] * 2
    found = gain(config(), {"tests": [{"rows": [0, 1, 2]}, {"rows": [2, 3, 4]}]}, marks, marks, "any")
    assert str(found) == "same marks"
    other = gain(config(), {"tests": [{"rows": [0, 1, 2]}]}, [np.ones(3)], marks[:1], "any")
    assert other.over_seeds == (None, None)
    assert (other.low, other.high) == other.over_rows


def test_the_recovered_share_is_none_where_it_would_be_noise() -> None:
    weak, ceiling = [np.repeat([1.0, 0.0], [50, 50])], [np.repeat([1.0, 0.0], [90, 10])]
    half = [np.repeat([1.0, 0.0], [70, 30])]
    assert recovered_share(half, weak, ceiling) == (pytest.approx(0.5), "")
    assert recovered_share(ceiling, weak, ceiling)[0] == pytest.approx(1)
    near = [np.repeat([1.0, 0.0], [52, 48])[::-1].copy()]
    share, why = recovered_share(half, weak, near)
    assert share is None
    assert "two standard errors" in why
    share, why = recovered_share(half, ceiling, weak)
    assert share is None
    assert "take a stronger student" in why


def test_what_was_not_tested_or_weighed_by_place_is_left_out() -> None:
    tests = [{"easy": {"single": 0.5}}, {"easy": {"single": 0.7}}]
    assert easy({"tests": tests}, "single") == pytest.approx(0.6)
    assert easy({"tests": [{"easy": {}}]}, "single") is None
    taught = {"boosting": [{"by_place": [(0.5, 0.8), (0.5, 0.2)]}]}
    [table] = places_table({"taught": taught})
    assert table.rows == [[1, 0.5, 0.8], [2, 0.5, 0.2]]
    assert places_table({"taught": {"boosting": [{"by_place": []}]}}) == []


def small(**settings: Any) -> tuple[Config, ClassTrack]:
    counts = {"labelled": 100, "validation": 60, "unlabelled": 100, "test": 80}
    sizes = {f"task.count_{name}": count for name, count in counts.items()}
    whole = config(**{"task.count": 400, "task.hardness": "words:40", "weak.features": "words:20", **sizes, **settings})
    texts, labels = headlines(400)
    return whole, ClassTrack(whole, ClassPool(whole, labelled(texts, labels)), 0)


def grown(track: ClassTrack, rounds: int = 8) -> tuple[Chain, list[Any]]:
    learner, experts = track.learner(), dict[int, Any]()
    chain = Chain.begin("boosting", len(learner.owners))
    grow(chain, learner, ChainOptions(rule_of("adaboost", 2)), rounds=rounds, seed=0, keep=experts.__setitem__)
    return chain, [experts[one.number] for one in chain.kept]


def test_rounds_and_vote_are_the_best_on_validation() -> None:
    settings, track = small(**{"boosting.fallback": False})
    chain, experts = grown(track)
    found = choose(track, chain, experts, settings, 0)
    assert set(found.validation) == {"share", "linear"}
    accuracies = found.validation[found.vote]
    assert accuracies[found.rounds - 1] == max(accuracies)
    assert max(accuracies[: found.rounds - 1], default=-1.0) < max(accuracies)
    assert found.students[found.vote] == max(found.students.values())
    fixed = choose(track, chain, experts, small(**{"boosting.vote": "linear"})[0], 0)
    assert fixed.vote == "linear"
    assert fixed.students == {}


def test_one_expert_teaches_where_more_do_not_help() -> None:
    settings, track = small()
    chain, experts = grown(track, 1)
    chain.ended = "an expert missed nothing"
    found = choose(track, chain, experts, settings, 0)
    assert (found.rounds, found.helps) == (1, False)
    assert found.correlation is None


@pytest.mark.parametrize(
    ("error", "share", "correlation", "together", "helps", "word"),
    [
        (0.3, 0.7, 0.1, 0.8, True, "first error"),
        (0.05, 0.05, 0.1, 0.8, False, "collapses"),
        (0.3, 0.005, 0.1, 0.8, False, "collapses"),
        (0.3, 0.7, 0.9, 0.8, False, "err alike"),
        (0.3, 0.7, 0.1, 0.6, False, "worse than the first"),
    ],
)
def test_verdicts(error: float, share: float, correlation: float, together: float, helps: bool, word: str) -> None:
    chain, _ = grown(small()[1], 5)
    chain.rounds[:] = [replace(one, error=error, effective_share=share) for one in chain.rounds]
    found = verdict(chain, correlation, 0.7, together)
    assert found.helps == helps
    assert word in found.reason


def test_who_is_taught_follows_from_the_kind_of_answers() -> None:
    section = config().student
    assert "logconf" in section.taught_of(texts=False)
    assert {"logconf", "product", "hard", "ladder"}.isdisjoint(section.taught_of(texts=True))
    assert "ladder" in config(**{"student.ladder": ["minilm"]}).student.taught_of(texts=False)
    names = [pupil.name for pupil in pupils(config(), section.taught_of(texts=False))]
    assert len(set(names)) == len(names)
    assert names[0] == "single"
    assert names[-2:] == ["easy-truth", "ceiling"]
    assert arms(("single", "ensemble")) == ("boosting",)


def test_students_of_a_ladder_learn_one_after_the_other() -> None:
    settings = config(**{"student.ladder": ["words:5", "words:9"], "student.taught": ["single", "ladder"]})
    found = {pupil.name: pupil for pupil in pupils(settings, ("single", "ladder"))}
    assert (found["ladder-1"].teacher, found["ladder-1"].features) == ("boosting@1", "words:5")
    assert (found["ladder-2"].teacher, found["ladder-2"].features) == ("ladder-1", "words:9")
    assert (found["ladder"].teacher, found["ladder"].features) == ("ladder-2", None)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"student.loss": "logconf"}, "student.loss: logconf is of classes"),
        ({"student.taught": ["single", "product"]}, "student.taught: product is of classes"),
    ],
)
def test_what_texts_do_not_allow_is_known_before_a_run(tmp_path: Any, settings: dict[str, Any], word: str) -> None:
    rows = "\n".join(f"question {number},answer {number % 7}" for number in range(40))
    (tmp_path / "own.csv").write_text(f"prompt,answer\n{rows}\n")
    counts = {"task.count": 40, **{f"task.count_{one}": 5 for one in ("labelled", "validation", "unlabelled", "test")}}
    with pytest.raises(Exception, match=word):
        check_tracks(config(**{"task.name": str(tmp_path / "own.csv"), **counts, **settings}))


def test_sizes_of_correlations_do_not_cancel() -> None:
    assert mean_size([[1.0, 0.9, -0.9], [0.9, 1.0, None], [-0.9, None, 1.0]]) == pytest.approx(0.9)
    assert mean_size([[1.0]]) is None


def test_a_sweep_joins_the_seeds_of_a_design() -> None:
    def trial(design: int, gains: list[float]) -> TrialResult:
        return TrialResult(
            name=f"{design}",
            design=design,
            seed=0,
            values={},
            directory="",
            report={"details": {"gains": {"ensemble": gains}}},
        )

    [table], _ = sweep_summary([trial(0, [0.1, 0.2]), trial(0, [0.3]), trial(1, [0.5])])
    assert table.rows[0][:4] == [0, "ensemble", 3, pytest.approx(0.2)]
    assert table.rows[1][:4] == [1, "ensemble", 1, 0.5]
    assert table.rows[1][4:] == [None, None]
    assert sweep_summary([]) == ((), {})

"""New items and models on the scale of known items: recovery, errors, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.anchored_board import fit_to_anchors, read_known
from rayworks.systems.difficulty.command import main
from rayworks.systems.difficulty.item_response.anchored import AnchoredFit, Population, fit_anchored
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix


class Drawn:
    """Answers of a population that is not the one of the known items, the first ``known`` of the items."""

    def __init__(
        self,
        seed: int,
        subjects: int = 60,
        known: int = 10,
        new: int = 30,
        model: Model = "1PL",
        mean: float = 1.5,
        error: float = 0.0,
    ) -> None:
        draw = np.random.default_rng(seed)
        items = known + new
        slope = np.ones(items) if model == "1PL" else np.exp(draw.normal(0, 0.3, items))
        self.truth = ItemParameters.from_difficulty(model, draw.normal(0, 1.2, items), slope)
        self.ability = draw.normal(mean, 0.8, subjects)
        self.scores = simulate(self.truth, self.ability, draw.random((subjects, items)))
        self.mask = np.arange(items) < known
        off = self.mask * error * draw.normal(size=items)
        self.given = ItemParameters.from_difficulty(model, self.truth.difficulty + off, slope)
        self.error = np.full(items, error)

    def fit(self, **options: Any) -> AnchoredFit:
        return fit_anchored(ByteMatrix(self.scores), self.given, self.mask, error=self.error, **options)


@pytest.mark.parametrize("design", [{}, {"error": 0.3}, {"model": "2PL", "subjects": 200, "known": 20, "error": 0.2}])
def test_intervals_of_new_items_cover_the_truth_on_the_old_scale(design: dict[str, Any]) -> None:
    inside, means = list[bool](), list[float]()
    for seed in range(20):
        drawn = Drawn(seed, **design)
        found = drawn.fit()
        assert found.converged
        kept = ~drawn.mask & ~found.extreme
        off = (found.parameters.difficulty - drawn.truth.difficulty)[kept]
        inside += list(np.abs(off) < 1.96 * found.error[kept])
        means.append(found.population.mean - 1.5)
    assert 0.90 < np.mean(inside) < 0.98
    assert abs(np.mean(means)) < 0.1


def test_a_population_held_at_that_of_weaker_models_moves_new_items() -> None:
    free_off, held_off = list[float](), list[float]()
    for seed in range(8):
        drawn = Drawn(seed, subjects=300, known=3)
        free, held = drawn.fit(), drawn.fit(population=Population(0.0, 0.8))
        new = ~drawn.mask & ~free.extreme
        for found, off in ((free, free_off), (held, held_off)):
            off.append(float(np.mean((found.parameters.difficulty - drawn.truth.difficulty)[new])))
        assert (held.population.mean, held.population.sd) == (0.0, 0.8)
    assert abs(np.mean(free_off)) < 0.1
    assert np.mean(held_off) < -0.4


def test_known_items_stay_to_the_bit_and_errors_of_theirs_widen_those_of_new_ones() -> None:
    drawn = Drawn(1)
    exact = drawn.fit()
    drawn.error = np.full(40, 0.4)
    loose = drawn.fit()
    assert (exact.parameters.intercept[drawn.mask] == drawn.given.intercept[drawn.mask]).all()
    assert (loose.error[drawn.mask] == 0.4).all()
    assert (exact.error[drawn.mask] == 0).all()
    new = ~drawn.mask & ~exact.extreme
    assert (loose.error[new] > exact.error[new]).all()
    # All new items move together with the origin that ten known ones hold.
    assert np.mean(loose.error[new] ** 2 - exact.error[new] ** 2) == pytest.approx(0.4**2 / 10, rel=0.5)


def test_it_is_the_maximum_and_its_errors_are_the_curvature() -> None:
    """With a population that is given and one new item, both by brute force."""
    drawn = Drawn(5, subjects=80, known=6, new=1)
    found = drawn.fit(population=Population(0.0, 1.3))
    nodes = np.linspace(-12, 12, 4001)
    density = np.exp(-0.5 * (nodes / 1.3) ** 2)

    def log_likelihood(intercept: float) -> float:
        e = np.append(drawn.given.intercept[:6], intercept)
        p = 1 / (1 + np.exp(-(nodes + e[:, None])))
        each = np.where(drawn.scores[:, :, None] == 1, p, 1 - p).prod(1) @ (density / density.sum())
        return float(np.log(each).sum())

    at, step = float(found.parameters.intercept[6]), 1e-3
    low, middle, high = (log_likelihood(at + off) for off in (-step, 0, step))
    assert middle > max(low, high)
    assert abs(high - low) / (2 * step) < 1e-3
    assert found.error[6] == pytest.approx(1 / np.sqrt((2 * middle - low - high) / step**2), rel=1e-3)


def test_errors_with_an_estimated_population_are_those_of_refits() -> None:
    drawn = [Drawn(7, subjects=120, known=8, new=4)]
    truth, ability = drawn[0].truth, drawn[0].ability
    spread, told = [], []
    for seed in range(80):
        draw = np.random.default_rng(seed)
        again = draw.normal(1.5, 0.8, len(ability))
        scores = simulate(truth, again, draw.random((len(ability), 12)))
        found = fit_anchored(ByteMatrix(scores), drawn[0].given, drawn[0].mask)
        spread.append(found.parameters.difficulty[8:])
        told.append(found.error[8:])
    assert np.std(spread, axis=0) == pytest.approx(np.mean(told, axis=0), rel=0.25)


def test_all_items_new_but_known_by_a_full_fit_give_that_fit() -> None:
    drawn = Drawn(2, subjects=400, known=20, new=20, mean=0.0)
    whole = fit(ByteMatrix(drawn.scores), FitOptions(model="1PL"))
    drawn.given = ItemParameters(
        "1PL", *(getattr(whole.parameters, n) for n in ("discrimination", "intercept", "guessing", "ceiling"))
    )
    found = drawn.fit(population=Population(0.0, whole.parameters.population_sd))
    assert found.parameters.difficulty == pytest.approx(whole.parameters.difficulty, abs=2e-3)


def test_degenerate_items_and_subjects() -> None:
    drawn = Drawn(4, subjects=30)
    drawn.scores[0], drawn.scores[1] = 1, 0
    drawn.scores[:, 20], drawn.scores[:, 21] = 1, 0
    rest = np.delete(np.arange(40), [20, 21])
    found = drawn.fit()
    assert found.extreme[20] and found.extreme[21]
    assert found.parameters.difficulty[20] < found.parameters.difficulty[rest].min()
    assert found.parameters.difficulty[21] > found.parameters.difficulty[rest].max()
    assert np.isfinite(found.error).all() and np.isfinite(found.ability).all()
    # Items without an estimate say nothing of the others.
    part = fit_anchored(ByteMatrix(drawn.scores[:, rest]), drawn.given.take(rest), drawn.mask[rest])
    assert found.parameters.difficulty[rest] == pytest.approx(part.parameters.difficulty, abs=1e-4)


def test_answers_that_separate_are_held_by_a_prior() -> None:
    drawn = Drawn(6, subjects=200, known=20, new=3, model="2PL", mean=0.0)
    drawn.scores[:, 20] = drawn.ability > 0
    drawn.scores[:, 21] = drawn.ability < 0
    found = drawn.fit()
    assert found.held[21]
    assert np.isfinite(found.parameters.difficulty).all() and (found.parameters.discrimination > 0).all()


def test_what_cannot_be_said_is_refused() -> None:
    drawn = Drawn(0, subjects=9)
    with pytest.raises(ConfigError, match="population: 9 subjects are too few"):
        drawn.fit()
    assert drawn.fit(population=Population()).converged
    drawn.scores[:, :10] = -1
    with pytest.raises(DataError, match="anchors: none of the known items was answered"):
        drawn.fit(population=Population())
    with pytest.raises(ConfigError, match="give a finite mean and a deviation above 0"):
        drawn.fit(population=Population(0.0, 0.0))
    with pytest.raises(ConfigError, match="model: is 3PL"):
        fit_anchored(ByteMatrix(drawn.scores), ItemParameters.from_difficulty("3PL", np.zeros(40)), drawn.mask)


def board_and_anchors(folder: Path) -> tuple[Path, Path, Drawn]:
    drawn = Drawn(11, subjects=40, known=12, new=6)
    table = pd.DataFrame(drawn.scores, columns=[f"{n:03d}" for n in range(18)])
    table.insert(0, "model", [f"m{n}" for n in range(40)])
    table.to_csv(folder / "board.csv", index=False)
    known = pd.DataFrame(
        {"item": table.columns[1:13], "difficulty": drawn.truth.difficulty[:12], "standard_error": 0.1}
    )
    known.to_csv(folder / "old.csv", index=False)
    return folder / "board.csv", folder / "old.csv", drawn


def test_the_command_writes_items_in_order_and_subjects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board, anchors, drawn = board_and_anchors(tmp_path)
    abilities, output = tmp_path / "models.csv", tmp_path / "new.csv"
    command = [str(board), "--anchors", str(anchors), "--abilities", str(abilities), "--output", str(output)]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "12 of them known and left as they are" in told and "estimated here" in told
    items = pd.read_csv(output, dtype={"item": str})
    assert items["item"].tolist() == [f"{n:03d}" for n in range(18)]
    assert items["difficulty"].to_numpy()[:12] == pytest.approx(drawn.truth.difficulty[:12])
    assert items["note"].fillna("").tolist()[:12] == ["known"] * 12
    subjects = pd.read_csv(abilities)
    assert np.corrcoef(subjects["ability"], drawn.ability)[0, 1] > 0.7
    # What it wrote are anchors again, and new models alone are scored.
    few = pd.read_csv(board).head(3)
    few.to_csv(tmp_path / "few.csv", index=False)
    again = [
        str(tmp_path / "few.csv"),
        "--anchors",
        str(output),
        "--abilities",
        str(abilities),
        "--output",
        str(output),
    ]
    assert main(again) == 2
    assert "too few to estimate" in capsys.readouterr().err
    assert main([*again, "--population-sd", "1.7"]) == 0
    assert len(pd.read_csv(abilities)) == 3
    few.head(1).to_csv(tmp_path / "few.csv", index=False)
    assert main([*again, "--population-sd", "1.7"]) == 0
    assert pd.read_csv(abilities)["subject"].tolist() == ["m0"]


def test_bad_anchors_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board, _, _ = board_and_anchors(tmp_path)
    good = pd.DataFrame({"item": ["000", "001"], "difficulty": [0.0, 1.0]})
    for change, words in (
        ({"difficulty": ["0", "hard"]}, "difficulty of item '001' is 'hard'"),
        ({"item": ["000", "000"]}, "names item '000' twice"),
        ({"item": ["a", "b"]}, "name none of the board's items"),
        ({"discrimination": [1.0, 2.0]}, "item '001' is of no 1PL"),
        ({"discrimination": [1.0, -2.0]}, "item '001' has a discrimination not above 0"),
        ({"standard_error": [1.0, float("inf")]}, "item '001' has a discrimination not above 0, or an error"),
    ):
        with pytest.raises(DataError, match=words):
            fit_to_anchors(board, good.assign(**change))
    with pytest.raises(DataError, match="has no column difficulty"):
        read_known(good[["item"]])
    loose = read_known(good.assign(note=["all or none solved it", ""]))
    assert list(loose.table.index) == ["001"]
    assert "1 items of the anchors" in loose.told[0]
    assert main([str(board), "--abilities", "x.csv"]) == 2
    assert "--abilities: goes with --anchors" in capsys.readouterr().err

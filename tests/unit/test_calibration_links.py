"""Two calibrations on one scale: the link, drift, what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.calibration_links import link_calibrations
from rayworks.systems.difficulty.command import main


def calibrations(seed: int, drifted: dict[int, float], slope: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Thirty old items and the last twenty of them, ten more and other units, with errors of .15."""
    draw = np.random.default_rng(seed)
    b = draw.normal(0, 1.2, 40)
    a = np.exp(draw.normal(0, 0.2, 40)) if slope else np.ones(40)
    scale, shift = (1.5, 0.8) if slope else (1.0, 0.8)
    moved = b.copy()
    for item, by in drifted.items():
        moved[item] += by
    names = np.array([f"q{n}" for n in range(40)])

    def table(rows: slice, values: np.ndarray, slopes: np.ndarray, error: float) -> pd.DataFrame:
        seen = values + draw.normal(0, error, 40)
        table = {"item": names, "difficulty": seen, "standard_error": error, "discrimination": slopes}
        return pd.DataFrame(table)[rows].reset_index(drop=True)

    return table(slice(0, 30), b, a, 0.15), table(slice(10, 40), (moved - shift) / scale, a * scale, 0.15 / scale)


@pytest.mark.parametrize("slope", [False, True])
def test_the_link_is_found_beside_items_that_drifted(slope: bool) -> None:
    shifts, scales = list[float](), list[float]()
    for seed in range(10):
        old, new = calibrations(seed, {12: 1.6, 15: -1.6, 20: 1.6}, slope)
        found = link_calibrations(old, new)
        assert set(found.items["item"][found.items["note"] == "drifted"]) >= {"q12", "q15", "q20"}
        shifts.append(found.link.shift)
        scales.append(found.link.scale)
    assert np.mean(shifts) == pytest.approx(0.8, abs=0.06)
    assert np.mean(scales) == pytest.approx(1.5 if slope else 1.0, abs=0.06)


def test_without_drift_few_items_are_called_drifted_and_order_is_the_new_one() -> None:
    false = 0
    for seed in range(40):
        old, new = calibrations(seed, {})
        found = link_calibrations(old, new)
        assert found.items["item"].tolist() == new["item"].tolist()
        assert found.items["drift"].notna().sum() == 20
        false += bool((found.items["note"] == "drifted").any())
    # Adjusted at .05, one link in twenty names any.
    assert false <= 6


def test_exact_numbers_link_exactly_and_judge_nothing() -> None:
    old = pd.DataFrame({"item": list("abcd"), "difficulty": [-1.0, 0.0, 1.0, 2.0]})
    new = pd.DataFrame({"item": list("dcbae"), "difficulty": [1.5, 0.5, -0.5, -1.5, 9.0]})
    found = link_calibrations(old, new)
    assert found.items["difficulty"].tolist() == pytest.approx([2.0, 1.0, 0.0, -1.0, 9.5], abs=1e-6)
    assert "cannot be said to have drifted" in " ".join(found.notes)
    assert not (found.items["note"] == "drifted").any()


def test_too_little_in_common_is_refused() -> None:
    old, new = calibrations(0, {})
    with pytest.raises(DataError, match="link: 2 items are in both"):
        link_calibrations(old.head(12), new)
    same = old.assign(difficulty=0.5)
    with pytest.raises(DataError, match="all anchors have one difficulty"):
        link_calibrations(same, same)
    shuffled = old.assign(difficulty=old["difficulty"].to_numpy()[::-1], standard_error=0.001)
    assert "no link holds" in " ".join(link_calibrations(old.assign(standard_error=0.001), shuffled).notes)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for table, name in zip(calibrations(3, {12: 2.0}), ("old", "new"), strict=True):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    old, new = str(tmp_path / "old.csv"), str(tmp_path / "new.csv")
    assert main(["link", old, new]) == 0
    told = capsys.readouterr()
    assert "items drifted: q12" in told.err
    assert told.out.splitlines()[0].startswith("item,difficulty,standard_error,discrimination,old_difficulty,drift")
    assert main(["link", old, new, "--method", "mean-sigma", "--output", str(tmp_path / "linked.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "linked.csv")) == 30
    assert main(["link", old, old]) == 2
    assert "is the old calibration" in capsys.readouterr().err

"""A small table of two groups for training runs: the label follows the inputs, by another rule in each group."""

from pathlib import Path

import numpy as np
import pandas as pd


def save_census(path: Path, rows: int = 400) -> str:
    """Columns age, income, town, side (left, right), approved (yes, no)."""
    draw = np.random.default_rng(0)
    age, income = draw.normal(40, 10, rows), draw.normal(50, 12, rows)
    right = draw.random(rows) < 0.5
    score = (age - 40) / 10 + np.where(right, -1, 1) * (income - 50) / 12 + draw.normal(0, 0.5, rows)
    table = pd.DataFrame(
        {
            "age": age.round(1),
            "income": income.round(1),
            "town": draw.choice(["north", "south"], rows),
            "side": np.where(right, "right", "left"),
            "approved": np.where(score > 0, "yes", "no"),
        }
    )
    table.to_csv(path, index=False)
    return str(path)

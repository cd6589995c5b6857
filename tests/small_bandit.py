"""A bandit log of two policies in the layout of the Open Bandit data, and natural sequences, made in a folder."""

from pathlib import Path

import numpy as np
import pandas as pd

ITEMS, POSITIONS, ROWS = 4, 3, 300


def save_bandit_logs(folder: Path) -> str:
    """Folders ``random/all`` and ``bts/all``; returns the setting that names them."""
    draw = np.random.default_rng(0)
    policies = {"random": np.full(ITEMS, 1 / ITEMS), "bts": np.array([0.4, 0.3, 0.2, 0.1])}
    for name, policy in policies.items():
        inside = folder / name / "all"
        inside.mkdir(parents=True)
        item = draw.choice(ITEMS, ROWS, p=policy)
        table = pd.DataFrame(
            {
                "timestamp": pd.date_range("2019-11-24", periods=ROWS, freq="min", tz="UTC").astype(str),
                "item_id": item,
                "position": 1 + np.arange(ROWS) % POSITIONS,
                "click": draw.random(ROWS) < 0.1 + 0.1 * item,
                "propensity_score": policy[item],
                **{f"user_feature_{number}": "a" for number in range(4)},
            }
        )
        table["click"] = table["click"].astype(int)
        table.to_csv(inside / "all.csv")
        pd.DataFrame({"item_id": range(ITEMS)}).to_csv(inside / "item_context.csv")
    return f"[{folder}/random/all, {folder}/bts/all]"


def save_natural_events(path: Path) -> str:
    """Thirty users who take ten of six items in a circle."""
    start = np.random.default_rng(1).integers(0, 6, 30)
    item = (start[:, None] + np.arange(10)) % 6
    table = pd.DataFrame(
        {
            "user": np.repeat([f"u{number}" for number in range(30)], 10),
            "item": [f"i{code}" for code in item.ravel()],
            "time": np.tile(np.arange(10), 30),
            "shown": 0,
            "accepted": 1,
        }
    )
    table.to_csv(path, index=False)
    return str(path)

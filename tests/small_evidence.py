"""Response and game tables small enough for a test, drawn from known difficulties and ratings."""

from pathlib import Path

import numpy as np
import pandas as pd

from rayworks.core import seeds
from rayworks.systems.difficulty.item_response.curves import ItemParameters, simulate


def response_table(subjects: int = 40, items: int = 12, families: int = 4, missing: float = 0.0) -> pd.DataFrame:
    """A 1PL: difficulty rises with the item's number from -1.5 to 1.5."""
    draw = seeds.stream(0, "small-evidence")
    parameters = ItemParameters.from_difficulty("1PL", np.linspace(-1.5, 1.5, items))
    scores = simulate(parameters, draw.normal(size=subjects), draw.random((subjects, items)))
    subject, item = np.nonzero(draw.random(scores.shape) >= missing)
    return pd.DataFrame(
        {
            "subject": [f"model-{n:03d}" for n in subject],
            "item": [f"item-{n:02d}" for n in item],
            "score": scores[subject, item].astype(float),
            "family": [f"family-{n % families}" for n in subject],
        }
    )


def save_responses(path: Path, subjects: int = 40, missing: float = 0.0) -> str:
    """The table as CSV or Parquet, by the file's suffix."""
    table = response_table(subjects, missing=missing)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return str(path)


def save_games(path: Path, players: int = 6, rounds: int = 3) -> str:
    """Everybody meets everybody in each of a few periods; a lower number wins more."""
    draw = seeds.stream(0, "small-games")
    rating = np.linspace(300, -300, players)
    rows = [
        (
            f"round-{period}",
            f"player-{one}",
            f"player-{two}",
            float(draw.random() < 1 / (1 + 10 ** ((rating[two] - rating[one]) / 400))),
        )
        for period in range(rounds)
        for one in range(players)
        for two in range(one + 1, players)
    ]
    pd.DataFrame(rows, columns=["period", "player", "opponent", "score"]).to_csv(path, index=False)
    return str(path)

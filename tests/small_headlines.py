"""Made-up headlines of two papers, told apart by their words, some more easily than others."""

import csv
from pathlib import Path

import numpy as np

COMMON = [f"word{number}" for number in range(60)]
OWN = {"satire": [f"joke{number}" for number in range(25)], "news": [f"fact{number}" for number in range(25)]}


def headlines(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts and labels; each holds up to three words that only one of the papers likes, and one that both do."""
    draw = np.random.default_rng(seed)
    texts, labels = [], []
    for number in range(count):
        label, other = ("satire", "news") if number % 2 else ("news", "satire")
        own = (
            draw.choice(OWN[label], draw.integers(1, 4)).tolist()
            + draw.choice(OWN[other], draw.integers(0, 2)).tolist()
        )
        texts.append(" ".join([*draw.choice(COMMON, 5).tolist(), *own, f"n{number}"]))
        labels.append(label)
    return texts, labels


def save_headlines(path: Path, count: int = 420) -> str:
    """Write them as a table of text and label."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(*headlines(count), strict=True))
    return str(path)

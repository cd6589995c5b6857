"""Clothing reviews as features, with departments as natural clients.

Words are hashed to a fixed number of features, so no client needs to know the words of another.
"""

import hashlib
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rayworks.core import datasets
from rayworks.systems.federation.data.examples import Examples, encoded

FEATURES = 512
WORD = r"[a-z']+"


def reviews(label: Literal["rating", "recommended"]) -> Examples:
    """All reviews with a text and a department: 512 features, rated 1 to 5 or recommended or not.

    Raises:
        DataError: the catalogue's file is not available.
    """
    table = pd.read_parquet(datasets.fetch("clothing-reviews"))
    return examples_of(table.dropna(subset=["Review Text", "Department Name"]), label)


def examples_of(table: pd.DataFrame, label: Literal["rating", "recommended"]) -> Examples:
    """The same of a table with columns Title, Review Text, Rating, Recommended IND, Department Name."""
    texts = table["Title"].fillna("") + " " + table["Review Text"]
    answers: NDArray[Any] = table["Rating" if label == "rating" else "Recommended IND"].to_numpy()
    if label == "recommended":
        answers = np.where(answers == 1, "recommended", "not recommended")
    labels, classes = encoded(answers)
    groups, names = encoded(table["Department Name"].to_numpy(dtype=str))
    return Examples(hashed_words(texts), labels, classes, groups, names)


def hashed_words(texts: "pd.Series[str]", features: int = FEATURES) -> NDArray[np.float32]:
    """(n, features): counts of hashed words, divided by their l2 norm; a text without words is all zeros.

    Feature hashing (Weinberger et al. 2009) without signs, as mixups and noise live in [0, 1].
    """
    words = texts.str.lower().str.findall(WORD).reset_index(drop=True).explode().dropna()
    codes, unique = pd.factorize(words)
    slots = np.array([_slot(str(word), features) for word in unique], np.int64)
    flat = words.index.to_numpy(np.int64) * features + slots[codes] if len(words) else np.zeros(0, np.int64)
    counts = np.bincount(flat, minlength=len(texts) * features).reshape(len(texts), features).astype(np.float32)
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    shares: NDArray[np.float32] = np.minimum(counts / np.maximum(norms, 1), 1).astype(np.float32)
    return shares


def _slot(word: str, features: int) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) % features

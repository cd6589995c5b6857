"""Experts and students of texts at a thousandth of a language model's cost: they say one word of an answer after another.

Each is a classifier of the next word by the features of the prompt, the place in the answer and the word before; so errors
are found under teacher forcing and answers are written greedily, as a language model does both.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.systems.supervision.boosting.votes import FLOOR, Vote, ensembles
from rayworks.systems.supervision.generation.tokens import Tokens, Written, greedy
from rayworks.systems.supervision.weak.classifiers import Expert, load_arrays, save_arrays

Fit = Callable[[Any, np.ndarray, np.ndarray, int, int], Expert]
"""Of contexts, next words, weights, the number of words and a seed."""
ROWS = 256
"""Of which the probabilities by all experts are held at once."""


class WordWriters:
    """Experts that write with the words of some answers.

    Args:
        features: of all prompts, ``[examples, features]``.
        answers: whose words there are.
        fit: makes one.
    """

    def __init__(self, features: Any, answers: Sequence[str], fit: Fit) -> None:
        self._features, self._fit = features, fit
        self._words = [*sorted({word for answer in answers for word in answer.split()}), ""]
        self._number = {word: number for number, word in enumerate(self._words)}
        self._longest = max(len(answer.split()) for answer in answers) + 1
        self.vocabulary, self.end = len(self._words), len(self._words) - 1

    def tokens(self, answers: Sequence[str]) -> Tokens:
        """Ids of answers, -1 for a word that is not known."""
        return Tokens.of([[*(self._number.get(word, -1) for word in one.split()), self.end] for one in answers])

    def fit(self, rows: np.ndarray, tokens: Tokens, weights: np.ndarray, seed: int) -> Expert:
        """An expert of the answers to the prompts ``rows``, with weights ``[tokens]``; of weight 0 it learns nothing."""
        there = np.flatnonzero(weights > 0)
        contexts = self._contexts(rows[tokens.owners[there]], tokens.places[there], tokens.previous[there])
        return self._fit(contexts, tokens.values[there], weights[there], self.vocabulary, seed)

    def misses(self, expert: Expert, rows: np.ndarray, tokens: Tokens) -> np.ndarray:
        """``[tokens]``: 1 where another word was likelier after the true ones."""
        contexts = self._contexts(rows[tokens.owners], tokens.places, tokens.previous)
        missed: np.ndarray = expert.probabilities(contexts).argmax(axis=1) != tokens.values
        return missed.astype(float)

    def write(self, experts: Sequence[Expert], alphas: np.ndarray, vote: Vote, rows: np.ndarray) -> Written:
        """Greedy answers; all experts go on from the words that they chose together."""

        def step(alive: np.ndarray, place: int, previous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            contexts = self._contexts(rows[alive], np.full(len(alive), place), previous)
            said = self._together(experts, alphas, vote, contexts)
            chosen = said.argmax(axis=1)
            return chosen, said[np.arange(len(chosen)), chosen]

        ids, confidence = greedy(len(rows), self._longest, self.end, step)
        return Written(tuple(" ".join(self._words[token] for token in answer) for answer in ids), confidence)

    def weigh(
        self, experts: Sequence[Expert], alphas: np.ndarray, vote: Vote, rows: np.ndarray, answers: Sequence[str]
    ) -> np.ndarray:
        """Mean log-probability of the words of answers to the prompts ``rows``, ``[answers]``, by all experts together."""
        tokens = self.tokens(answers)
        contexts = self._contexts(rows[tokens.owners], tokens.places, tokens.previous)
        said = self._together(experts, alphas, vote, contexts)
        of_token = np.where(tokens.values < 0, 0.0, said[np.arange(len(said)), tokens.values])
        sums = np.add.reduceat(np.log(np.maximum(of_token, FLOOR)), tokens.starts[:-1])
        mean: np.ndarray = sums / np.diff(tokens.starts)
        return mean

    def save(self, expert: Expert, folder: Path) -> None:
        """Write an expert."""
        save_arrays(expert, folder)

    def load(self, folder: Path) -> Expert:
        """What :meth:`save` wrote."""
        return load_arrays(folder)

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """Not counted; the report has the seconds."""
        return {"train": None, "label": None}

    def _together(self, experts: Sequence[Expert], alphas: np.ndarray, vote: Vote, contexts: Any) -> np.ndarray:
        parts = []
        for start in range(0, contexts.shape[0], ROWS):
            own = np.stack([expert.probabilities(contexts[start : start + ROWS]) for expert in experts])
            parts.append(ensembles(own, alphas, vote)[-1])
        return np.concatenate(parts)

    def _contexts(self, rows: np.ndarray, places: np.ndarray, previous: np.ndarray) -> Any:
        """Features of the prompt, one of ``longest`` places, and one of the words before, or none."""
        from scipy import sparse

        width = self._longest + self.vocabulary + 1
        at = np.arange(len(rows))
        columns = np.stack([np.minimum(places, self._longest - 1), self._longest + previous + 1], axis=1).ravel()
        ones = np.ones(2 * len(rows), np.float32)
        beside = sparse.csr_matrix((ones, (np.repeat(at, 2), columns)), (len(rows), width))
        own = self._features[rows]
        if isinstance(own, np.ndarray):
            return np.hstack([own, beside.toarray()])
        return sparse.hstack([own, beside]).tocsr()

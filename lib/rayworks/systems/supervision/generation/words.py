"""Experts and students of texts at a thousandth of a language model's cost: they say one word of an answer after another.

Each is a classifier of the next word by the features of the prompt, the place in the answer and the word before; so errors
are found under teacher forcing and answers are written greedily, as a language model does both.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.systems.supervision.boosting.votes import FLOOR, ensembles
from rayworks.systems.supervision.generation.tokens import Team, Tokens, Written
from rayworks.systems.supervision.weak.classifiers import FILE, Expert, from_bytes, to_bytes

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
        self.vocabulary, self._end = len(self._words), len(self._words) - 1

    def tokens(self, answers: Sequence[str]) -> Tokens:
        """Ids of answers, -1 for a word that is not known."""
        return Tokens.of([[*(self._number.get(word, -1) for word in one.split()), self._end] for one in answers])

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

    def write(self, team: Team, rows: np.ndarray) -> list[Written]:
        """Greedy answers; all experts go on from the words that they chose together.

        All numbers of rounds are written at once: what two of them have in common is asked once.
        """
        which, row = (grid.ravel() for grid in np.meshgrid(np.arange(len(team.rounds)), rows, indexing="ij"))
        alive, previous = np.arange(len(row)), np.full(len(row), -1)
        answers: list[list[str]] = [[] for _ in row]
        total, counts = np.zeros(len(row)), np.zeros(len(row))
        for place in range(self._longest):
            asked, inverse = np.unique(np.stack([row[alive], previous[alive]]), axis=1, return_inverse=True)
            contexts = self._contexts(asked[0], np.full(asked.shape[1], place), asked[1])
            chosen, sure = (np.zeros((len(team.rounds), asked.shape[1]), kind) for kind in (int, float))
            for part, said in self._together(team, contexts):
                chosen[:, part], sure[:, part] = said.argmax(axis=2), said.max(axis=2)
            previous[alive] = chosen[which[alive], inverse]
            total[alive] += np.log(np.maximum(sure[which[alive], inverse], FLOOR))
            counts[alive] += 1
            alive = alive[previous[alive] != self._end]
            for entry in alive.tolist():
                answers[entry].append(self._words[previous[entry]])
            if not len(alive):
                break
        texts, confidence = [" ".join(words) for words in answers], total / counts
        size = len(rows)
        return [Written(tuple(texts[at : at + size]), confidence[at : at + size]) for at in range(0, len(texts), size)]

    def weigh(self, team: Team, rows: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        """Mean log-probability of the words of answers to the prompts ``rows``, ``[rounds, answers]``."""
        tokens = self.tokens(answers)
        contexts = self._contexts(rows[tokens.owners], tokens.places, tokens.previous)
        found = np.zeros((len(team.rounds), len(tokens.values)))
        for part, said in self._together(team, contexts):
            values = tokens.values[part]
            found[:, part] = np.where(values < 0, 0.0, said[:, np.arange(len(values)), values])
        sums = np.add.reduceat(np.log(np.maximum(found, FLOOR)), tokens.starts[:-1], axis=1)
        mean: np.ndarray = sums / np.diff(tokens.starts)
        return mean

    def save(self, expert: Expert, folder: Path) -> None:
        """Write an expert."""
        (folder / FILE).write_bytes(to_bytes(expert))

    def load(self, folder: Path) -> Expert:
        """What :meth:`save` wrote."""
        return from_bytes((folder / FILE).read_bytes())

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """Not counted; the report has the seconds."""
        return {"train": None, "label": None}

    def _together(self, team: Team, contexts: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """Some of the contexts, and what is said of them, ``[rounds, contexts, words]``."""
        most = max(team.rounds)
        for start in range(0, contexts.shape[0], ROWS):
            part = slice(start, start + ROWS)
            own = np.stack([expert.probabilities(contexts[part]) for expert in team.experts[:most]])
            yield part, ensembles(own, team.alphas[:most], team.vote)[np.array(team.rounds) - 1]

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

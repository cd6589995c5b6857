"""Tasks whose answers are texts: labels are answers with how sure their writers were, units are tokens."""

import io
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.supervision.boosting.votes import FLOOR, Vote
from rayworks.systems.supervision.boosting.weighting import RuleName, shared_in_windows, window_ids
from rayworks.systems.supervision.config import EXPORT, Config, StudentSection, WeakSection
from rayworks.systems.supervision.generation.adapters import SLOTS, AdapterWriters, TunedWriter
from rayworks.systems.supervision.generation.shipping import Others
from rayworks.systems.supervision.generation.tokens import Team, Tokens, Written, prior_error
from rayworks.systems.supervision.generation.words import WordWriters
from rayworks.systems.supervision.students.tuned import tune_on_texts
from rayworks.systems.supervision.tasks.examples import TextExample
from rayworks.systems.supervision.tasks.hardness import COLUMN, LENGTH, hardness_of
from rayworks.systems.supervision.tasks.labelled import MOST_CLASSES
from rayworks.systems.supervision.tasks.splitting import SPLITS, Parts, Split, part
from rayworks.systems.supervision.tasks.texts import checked
from rayworks.systems.supervision.tracks import Lesson
from rayworks.systems.supervision.weak.adapters import AdapterBase
from rayworks.systems.supervision.weak.classifiers import fit_expert
from rayworks.systems.supervision.weak.features import kept_features
from rayworks.systems.supervision.weak.places import HERE, Place


class Writer(Protocol):
    """Writes answers, or weighs given ones; ``rows`` are indices of examples."""

    def write(self, team: Team, rows: np.ndarray) -> list[Written]:
        """Greedy answers, for each number of rounds."""

    def weigh(self, team: Team, rows: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        """Mean log-probability of the tokens of each answer, ``[rounds, answers]``."""


class Writers(Writer, Protocol):
    """A kind of experts that write answers."""

    vocabulary: int

    def tokens(self, answers: Sequence[str]) -> Tokens:
        """Answers as ids, each with an end token."""

    def fit(self, rows: np.ndarray, tokens: Tokens, weights: np.ndarray, seed: int) -> Any:
        """An expert of answers, one for each row, with weights ``[tokens]``."""

    def misses(self, expert: Any, rows: np.ndarray, tokens: Tokens) -> np.ndarray:
        """``[tokens]``: 1 where it would have said something else after the true tokens before."""

    def save(self, expert: Any, folder: Path) -> None:
        """Write an expert without pickles."""

    def load(self, folder: Path) -> Any:
        """Read it."""

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """See :meth:`~.tracks.Track.cost`; what is learned from and what is labelled are rows."""


class TextPool:
    """The examples that all seeds draw from, with their features and how hard they are: the same for all of them."""

    def __init__(self, config: Config, examples: Sequence[TextExample]) -> None:
        self._name, self._by = config.task.hardness, config.task.hardness_by
        self._random = config.task.split == "random"
        self.examples = checked(examples)
        self.prompts = [one.prompt for one in self.examples]
        self.features = lru_cache(maxsize=8)(lambda name: kept_features(name, self.prompts))

        self._labels = np.unique([one.answer for one in self.examples], return_inverse=True)[1]
        measured = not self._name.startswith((EXPORT, COLUMN)) and self._name != LENGTH
        different = int(self._labels.max()) + 1
        if measured and different > MOST_CLASSES and not self._random:
            raise DataError(
                f"task.hardness: {self._name} predicts answers, of which there are {different} different ones, more than "
                f"{MOST_CLASSES}; set {LENGTH}, {COLUMN}NAME or {EXPORT}FOLDER, or split: random"
            )

    @cached_property
    def hardness(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See :func:`~.tasks.hardness.hardness_of`; where a reference model predicts answers, each is a class."""
        if self._random:
            return np.zeros(len(self.examples)), None
        uids, columns = [one.uid for one in self.examples], pd.DataFrame([one.columns for one in self.examples])
        return hardness_of(self._name, uids, self.prompts, self._labels, columns, self.features, self._by)


class TextTrack:
    """See :class:`~.tracks.Track`."""

    def __init__(
        self, config: Config, pool: TextPool, seed: int, place: Place = HERE, others: Others | None = None
    ) -> None:
        """The examples of all seeds, the seed of this one, where language models are, and what holds other experts."""
        self._config, self._pool, self._seed, self._place, self._others = config, pool, seed, place, others
        self.classes = self._writers.vocabulary
        self.rule: RuleName = "prior"

    def facts(self) -> dict[str, Any]:
        """See :class:`~.tracks.Track`."""
        right = self._pool.hardness[1]
        return {
            "counts": {split: len(self._parts[split]) for split in SPLITS},
            "tokens": len(self._tokens.values),
            "vocabulary": self.classes,
            "reference_accuracy_hard": None if right is None else float(right[self._parts["test"]].mean()),
        }

    def rows(self, split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        return self._parts[split]

    def prior_error(self) -> float:
        """See :func:`~.generation.tokens.prior_error`."""
        return prior_error(self._tokens)

    def learner(self) -> "TokenLearner":
        """See :class:`~.tracks.Track`."""
        return TokenLearner(self._writers, self._parts["labelled"], self._tokens, self._config.boosting.window)

    def save_expert(self, expert: Any, folder: Path) -> None:
        """See :class:`~.tracks.Track`."""
        self._writers.save(expert, folder)

    def load_expert(self, folder: Path) -> Any:
        """See :class:`~.tracks.Track`."""
        return self._writers.load(folder)

    def label(
        self, experts: Sequence[Any], alphas: np.ndarray, split: Split, vote: Vote, rounds: Sequence[int]
    ) -> dict[int, Written]:
        """See :class:`~.tracks.Track`; each number of rounds goes its own way from the first token on which they differ."""
        counts = sorted({min(number, len(experts)) for number in rounds})
        found = self._answers(self._writers, Team(experts, alphas, vote, counts), self._parts[split])
        return {number: found[counts.index(min(number, len(experts)))] for number in rounds}

    def evidential(self, experts: Sequence[Any], split: Split) -> Written:
        """The likeliest tokens of the posterior, which are those with most votes."""
        return self.label(experts, np.ones(len(experts)), split, "share", [len(experts)])[len(experts)]

    def wrong(self, experts: Sequence[Any], split: Split) -> np.ndarray:
        """See :class:`~.tracks.Track`."""
        alone = [self.label([expert], np.ones(1), split, "linear", [1])[1] for expert in experts]
        return np.stack([~self.rights(answers, split) for answers in alone])

    def hard(self, labels: Written) -> Written:
        """The same: answers are chosen already."""
        return labels

    def known(self, split: Split) -> Written:
        """See :class:`~.tracks.Track`."""
        return _certain(self._known) if split == "labelled" else self.truth(split)

    def truth(self, split: Split) -> Written:
        """See :class:`~.tracks.Track`."""
        return _certain(self._true(split))

    def commonest(self, split: Split) -> None:
        """See :class:`~.tracks.Track`."""
        return None

    def rights(self, labels: Written, split: Split) -> np.ndarray:
        """Whether answers are the true ones, word for word."""
        return np.array([a.split() == b.split() for a, b in zip(labels.texts, self._true(split), strict=True)])

    def learn(self, lesson: Lesson, splits: Sequence[Split], seed: int) -> tuple[list[Written], dict[str, float]]:
        """See :class:`~.tracks.Track`.

        Raises:
            ConfigError: another loss than cross-entropy is asked for.
        """
        if lesson.loss != "cross-entropy":
            raise ConfigError(
                f"student.taught: {lesson.loss} is a loss of classes; leave it out where answers are texts"
            )
        section, rows, labels = self._config.student, self._parts[lesson.split], lesson.labels
        if lesson.split == "unlabelled" and not lesson.certain:
            kept = surest(labels.confidence, section.confidence)
            rows, labels = rows[kept], Written(tuple(labels.texts[at] for at in kept.tolist()), labels.confidence[kept])
        student, writers, cost = self._student(section, rows, labels.texts, lesson.features, seed)
        team = Team.alone(student)
        return [self._answers(writers, team, self._parts[split])[0] for split in splits], cost

    def pack(self, labels: Written) -> bytes:
        """See :class:`~.tracks.Track`."""
        file = io.BytesIO()
        np.savez(file, confidence=labels.confidence, texts=np.array(json.dumps(labels.texts)))
        return file.getvalue()

    def unpack(self, data: bytes) -> Written:
        """See :class:`~.tracks.Track`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return Written(tuple(json.loads(str(found["texts"]))), found["confidence"])

    def by_place(self, distribution: np.ndarray) -> list[tuple[float, float]]:
        """See :class:`~.tracks.Track`."""
        places = self._tokens.places
        shares = np.stack([np.bincount(places) / len(places), np.bincount(places, distribution)], axis=1)
        return [(float(share), float(weight)) for share, weight in shares.tolist()]

    def cost(self, experts: int) -> dict[str, float | None]:
        """See :class:`~.tracks.Track`."""
        return self._writers.cost(experts, self._parts["labelled"], self._parts["unlabelled"])

    def _student(
        self, section: StudentSection, rows: np.ndarray, answers: Sequence[str], features: str | None, seed: int
    ) -> tuple[Any, Writer, dict[str, float]]:
        """A student, what writes with it, and what it cost."""
        if section.learner == "tuned":
            prompts = [self._pool.prompts[row] for row in rows.tolist()]
            tuned = tune_on_texts(section, prompts, answers, seed, features, self._place)
            writer = TunedWriter(tuned, self._pool.prompts, answers)
            return tuned, writer, {"flops": tuned.flops}
        weak = WeakSection(learner="linear", penalty=section.penalty)
        writers = self._words(features or section.features, answers, weak)
        tokens = writers.tokens(answers)
        return writers.fit(rows, tokens, np.ones(len(tokens.values)), seed), writers, {}

    def _answers(self, writer: Writer, team: Team, rows: np.ndarray) -> list[Written]:
        """Answers for each number of rounds: chosen from options, or written."""
        options = [self._pool.examples[row].options for row in rows.tolist()]
        if self._config.task.answered_by == "writing" or not all(options):
            return writer.write(team, rows)
        ends = np.cumsum([len(one) for one in options])
        flat, asked = [answer for one in options for answer in one], np.repeat(rows, np.diff(ends, prepend=0))
        voted = team.vote == "share"
        scores = _voted(writer, team, asked, flat, ends) if voted else writer.weigh(team, asked, flat)
        chosen = [_likeliest(of_round, ends) for of_round in scores]
        return [Written(tuple(flat[at] for at in places), scores[n, places]) for n, places in enumerate(chosen)]

    def _words(self, features: str, answers: Sequence[str], section: WeakSection) -> WordWriters:
        def fit(contexts: Any, values: np.ndarray, weights: np.ndarray, words: int, seed: int) -> Any:
            return fit_expert(section, contexts, values, weights, words, seed)

        return WordWriters(self._pool.features(features), answers, fit)

    @cached_property
    def _writers(self) -> Writers:
        weak = self._config.weak
        if weak.learner == "adapter":
            base = AdapterBase(weak, SLOTS, self._place)
            return AdapterWriters(base, self._pool.prompts, self._known, self._others)
        return self._words(weak.features, self._known, weak)

    @cached_property
    def _tokens(self) -> Tokens:
        return self._writers.tokens(self._known)

    @cached_property
    def _parts(self) -> Parts:
        return part(self._config.task, self._pool.hardness[0], self._seed)

    @cached_property
    def _known(self) -> tuple[str, ...]:
        """Answers to the labelled examples, as the weak experts are told them."""
        rows, draw = self._parts["labelled"].tolist(), seeds.stream(self._seed, "noise")
        told = []
        for row in rows:
            changed, place = draw.random() < self._config.task.label_noise, draw.random()
            one = self._pool.examples[row]
            others = (
                [other for other in one.options or self._true("labelled") if other != one.answer] if changed else []
            )
            told.append(others[int(place * len(others))] if others else one.answer)
        return tuple(told)

    def _true(self, split: Split) -> tuple[str, ...]:
        return tuple(self._pool.examples[row].answer for row in self._parts[split].tolist())


class TokenLearner:
    """Fits experts to answer tokens; see :class:`~.boosting.chain.Learner`."""

    def __init__(self, writers: Writers, rows: np.ndarray, tokens: Tokens, window: int | None) -> None:
        self._writers, self._rows, self._tokens = writers, rows, tokens
        self._windows = window_ids(tokens.starts, window)

    @property
    def owners(self) -> np.ndarray:
        """The answer of each token."""
        return self._tokens.owners

    def fit(self, weights: np.ndarray, seed: int) -> Any:
        """See :class:`~.boosting.chain.Learner`."""
        return self._writers.fit(self._rows, self._tokens, weights, seed)

    def misses(self, expert: Any) -> np.ndarray:
        """See :class:`~.boosting.chain.Learner`."""
        return shared_in_windows(self._writers.misses(expert, self._rows, self._tokens), self._windows)


def surest(confidence: np.ndarray, share: float) -> np.ndarray:
    """Indices, growing, of that share of the answers whose tokens were likeliest; at least one."""
    kept = np.argsort(-confidence, kind="stable")[: max(1, round(share * len(confidence)))]
    return np.sort(kept)


def _likeliest(scores: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Of runs of scores that end there, the place of the first of the largest in each."""
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([start + int(scores[start:end].argmax()) for start, end in zip(starts, ends, strict=True)])


def _voted(writer: Writer, team: Team, rows: np.ndarray, answers: Sequence[str], ends: np.ndarray) -> np.ndarray:
    """Logarithm of the share of the weight that would choose each answer, ``[rounds, answers]``; one expert alone says what
    it says.
    """
    own = np.stack([writer.weigh(Team.alone(one), rows, answers)[0] for one in team.experts[: max(team.rounds)]])
    votes = np.zeros(own.shape)
    for number, scores in enumerate(own):
        votes[number, _likeliest(scores, ends)] = team.alphas[number]
    shares = np.cumsum(votes, axis=0) / np.cumsum(team.alphas[: len(own)])[:, None]
    found: np.ndarray = np.concatenate([own[:1], np.log(np.maximum(shares[1:], FLOOR))])[np.array(team.rounds) - 1]
    return found


def _certain(answers: Sequence[str]) -> Written:
    return Written(tuple(answers), np.zeros(len(answers)))

"""Tuning a language model to say the tokens of classes as often as it should.

Other tokens are not asked about: a model that is cut to its first layers finds all of them unlikely at first, and would spend
its training on that.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.scoring import EncodedResponse, length_batches
from rayworks.lm.training import ALONE, Batches, Shard, Trainer, TuningOptions, backward
from rayworks.systems.supervision.weak.class_words import PADDED_TOKENS, class_logprobs, class_probabilities

OFFSETS = "offsets.npy"
RENEWAL_STEPS, SEEN = 8, 256
"""Steps after which an aim is renewed, and rows that it looks at then."""


class Aim:
    """Labels ``[rows, classes]``, distributions, and how much each row counts; all the same unless given."""

    def __init__(self, labels: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.labels, self.weights = labels, np.ones(len(labels)) if weights is None else weights
        self.offsets = np.zeros(labels.shape[1])
        """What it keeps of its last renewal."""

    def renew(self, rows: np.ndarray, own: Callable[[], np.ndarray]) -> None:
        """Look, every few steps, at what the model says of some rows, always the same, ``[rows, classes]``."""

    def targets(self, rows: Sequence[int], own: np.ndarray, done: float) -> np.ndarray:
        """What the model is drawn towards at a step, ``[rows, classes]``.

        Args:
            own: what it says itself, ``[rows, classes]``.
            done: share of the steps taken.
        """
        labels: np.ndarray = self.labels[rows]
        return labels


class ClassTuner(Trainer):
    """Tunes a model by cross-entropy with the targets of an aim, weighted.

    Args:
        prompts: without responses, one for each row of the aim.
        ids: token of each class.
        padded_tokens: most that a forward has, with padding; it changes no gradient.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[EncodedResponse],
        ids: Sequence[int],
        aim: Aim,
        options: TuningOptions,
        *,
        batch_size: int,
        seed: int,
        shard: Shard = ALONE,
        padded_tokens: int = PADDED_TOKENS,
    ) -> None:
        if not len(prompts) or aim.labels.shape != (len(prompts), len(ids)):
            raise DataError(f"labels: of shape {list(aim.labels.shape)} for {len(prompts)} texts; give one for each")
        self._prompts, self._ids, self.aim, self._padded_tokens = prompts, ids, aim, padded_tokens
        self._batches = Batches(len(prompts), batch_size, seed, "classes", "batches", across_epochs=False)
        self._seen = np.sort(seeds.stream(seed, "classes", "seen").permutation(len(prompts))[:SEEN])
        own = seeds.derive_small(seed, "classes", "adapters")
        settings = {"batch_size": batch_size, "examples": len(prompts), "aim": type(aim).__name__}
        super().__init__(model, options, adapters_seed=own, name="classes", shard=shard, settings=settings)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` in nats per example, weighted."""
        if step % RENEWAL_STEPS == 0:
            seen = [self._prompts[row] for row in self._seen]
            self.aim.renew(self._seen, lambda: class_probabilities(self.model, seen, self._ids))
        whole = self._batches.at(step)
        # Relative to the mean weight of all, so that a batch counts for what it weighs.
        own, total, loss = self.shard.of(whole), len(whole) * float(self.aim.weights.mean()), 0.0
        for places in length_batches([self._prompts[row] for row in own], self._padded_tokens):
            rows = [own[place] for place in places]
            logprobs = class_logprobs(self.model, [self._prompts[row] for row in rows], self._ids)
            said = logprobs.detach().double().exp().cpu().numpy()
            wanted = self.aim.targets(rows, said, step / self.total_steps) * self.aim.weights[rows, None] / total
            loss += backward(-(torch.from_numpy(wanted).to(logprobs) * logprobs).sum())
        return {"loss": loss}

    def save(self, folder: str | Path) -> None:
        """See :class:`~rayworks.lm.training.Trainer`; what the aim keeps is part of the state."""
        super().save(folder)
        np.save(Path(folder) / OFFSETS, self.aim.offsets)

    def load(self, folder: str | Path) -> None:
        """See :class:`~rayworks.lm.training.Trainer`."""
        super().load(folder)
        self.aim.offsets = np.load(Path(folder) / OFFSETS, allow_pickle=False)

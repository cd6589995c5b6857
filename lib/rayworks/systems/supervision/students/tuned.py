"""Fine-tuned language models as students: of soft labels of classes, or of answers that are texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.scoring import EncodedResponse, encode, length_batches
from rayworks.lm.training import ALONE, Batches, Shard, Trainer, TuningOptions, backward
from rayworks.systems.supervision.config import Loss, StudentSection
from rayworks.systems.supervision.students.losses import class_offsets, targets
from rayworks.systems.supervision.weak.class_words import (
    PADDED_TOKENS,
    class_ids,
    class_logprobs,
    class_probabilities,
    class_prompts,
    parameters,
)

OFFSETS = "offsets.npy"
OFFSET_STEPS, OFFSET_PROMPTS = 8, 256


@dataclass(frozen=True)
class TunedModel:
    """A student, with what it took to train it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    flops: float


class ClassTuner(Trainer):
    """Tunes a model to say the token of a class after each prompt, as often as soft labels have it.

    What it is drawn towards may depend on its own answers (:func:`~.losses.targets`). The offsets of these are found anew
    every few steps from the same few hundred prompts, so that nothing depends on how large a batch is or how it is cut, and
    they keep up with a model that soon leaves where it began.

    Args:
        prompts: without responses.
        labels: ``[prompts, classes]``, distributions.
        ids: token of each class.
        section: batch size, and how losses are set.
        padded_tokens: most that a forward has, with padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[EncodedResponse],
        labels: np.ndarray,
        ids: Sequence[int],
        loss: Loss,
        section: StudentSection,
        options: TuningOptions,
        *,
        seed: int,
        shard: Shard = ALONE,
        padded_tokens: int = PADDED_TOKENS,
    ) -> None:
        if not len(prompts) or labels.shape != (len(prompts), len(ids)):
            raise DataError(f"labels: of shape {list(labels.shape)} for {len(prompts)} texts; give one for each")
        self._prompts, self._labels, self._ids, self._loss = prompts, labels, ids, loss
        self._section, self._padded_tokens = section, padded_tokens
        self._offsets = np.zeros(len(ids))
        drawn = seeds.stream(seed, "student", "offsets").permutation(len(prompts))
        self._seen = np.sort(drawn[:OFFSET_PROMPTS])
        self._batches = Batches(len(prompts), section.batch_size, seed, "student", "batches", across_epochs=False)
        own = seeds.derive_small(seed, "student", "adapters")
        settings = {"batch_size": section.batch_size, "examples": len(prompts), "loss": loss}
        super().__init__(model, options, adapters_seed=own, name="student", shard=shard, settings=settings)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` in nats per example."""
        if self._loss == "logconf" and step % OFFSET_STEPS == 0:
            some = [self._prompts[row] for row in self._seen]
            self._offsets = class_offsets(self._labels[self._seen], class_probabilities(self.model, some, self._ids))
        whole = self._batches.at(step)
        own, loss = self.shard.of(whole), 0.0
        for places in length_batches([self._prompts[row] for row in own], self._padded_tokens):
            rows = [own[place] for place in places]
            logprobs = class_logprobs(self.model, [self._prompts[row] for row in rows], self._ids)
            said = logprobs.detach().double().exp().cpu().numpy()
            wanted = targets(
                self._loss, self._labels[rows], said, step / self.total_steps, self._section, self._offsets
            )
            loss += backward(-(torch.from_numpy(wanted).to(logprobs) * logprobs).sum() / len(whole))
        return {"loss": loss}

    def save(self, folder: str | Path) -> None:
        """See :class:`~rayworks.lm.training.Trainer`; the offsets of the epoch are part of the state."""
        super().save(folder)
        np.save(Path(folder) / OFFSETS, self._offsets)

    def load(self, folder: str | Path) -> None:
        """See :class:`~rayworks.lm.training.Trainer`."""
        super().load(folder)
        self._offsets = np.load(Path(folder) / OFFSETS, allow_pickle=False)


@dataclass(frozen=True)
class TunedClassifier:
    """A student that says classes."""

    tuned: TunedModel
    ids: tuple[int, ...]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """``[texts, classes]``."""
        return class_probabilities(self.tuned.model, class_prompts(self.tuned.tokenizer, texts), self.ids)


def tune_on_classes(
    section: StudentSection,
    texts: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
    loss: Loss,
    seed: int,
    features: str | None = None,
) -> TunedClassifier:
    """A student of soft labels.

    Args:
        texts: to learn from.
        labels: ``[texts, classes]``, distributions.
        classes: names.
        features: another model than the settings name, as ``MODEL@LAYERS``.

    Raises:
        ConfigError: ``features`` names no model.
    """
    model, tokenizer = _loaded(section, features)
    prompts, ids = class_prompts(tokenizer, texts), class_ids(tokenizer, classes)
    # An epoch's last batch may be smaller.
    options = _options(section, section.epochs * math.ceil(len(texts) / section.batch_size))
    flops = _flops(model, prompts, section.epochs)
    tuner = ClassTuner(model, prompts, labels, ids, loss, section, options, seed=seed)
    tuner.train(tuner.total_steps)
    return TunedClassifier(TunedModel(tuner.tuned(), tokenizer, flops), ids)


def tune_on_texts(
    section: StudentSection, prompts: Sequence[str], answers: Sequence[str], seed: int, features: str | None = None
) -> TunedModel:
    """A student of answers; see :func:`tune_on_classes`."""
    model, tokenizer = _loaded(section, features)
    texts = [encode(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    options = _options(section, section.epochs * len(texts) / section.batch_size)
    flops = _flops(model, texts, section.epochs)
    tuner = FineTuner(model, [Example(text) for text in texts], options, batch_size=section.batch_size, seed=seed)
    tuner.train(tuner.total_steps)
    return TunedModel(tuner.tuned(), tokenizer, flops)


def _loaded(section: StudentSection, features: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    name, layers = section.model, section.layers
    if features is not None:
        name, _, count = features.rpartition("@")
        if not name or not count.isdecimal():
            raise ConfigError(f"student.ladder: {features!r} must be MODEL@LAYERS where students are tuned")
        layers = int(count)
    return load_model(name, "float32", layers), load_tokenizer(name)


def _options(section: StudentSection, steps: float) -> TuningOptions:
    return TuningOptions(
        learning_rate=section.learning_rate,
        total_steps=max(1, round(steps)),
        tuning=section.tuning,
        lora_rank=section.lora_rank,
        lora_alpha=2 * section.lora_rank,
    )


def _flops(model: PreTrainedModel, texts: Sequence[EncodedResponse], epochs: float) -> float:
    """Of training: 6 for each weight and token."""
    return 6.0 * parameters(model) * sum(map(len, texts)) * epochs

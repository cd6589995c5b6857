"""Fine-tuned language models as students: of soft labels of classes, or of answers that are texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import ConfigError
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.scoring import EncodedResponse, encode
from rayworks.lm.training import TuningOptions
from rayworks.systems.supervision.config import Loss, StudentSection
from rayworks.systems.supervision.students.losses import class_offsets, targets
from rayworks.systems.supervision.weak.class_tuning import Aim, ClassTuner
from rayworks.systems.supervision.weak.class_words import (
    class_ids,
    class_probabilities,
    class_prompts,
    parameters,
)
from rayworks.systems.supervision.weak.places import HERE, Place


@dataclass(frozen=True)
class TunedModel:
    """A student, with what it took to train it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    flops: float


class LossAim(Aim):
    """Weak labels, and the student's own answers as a loss mixes them; see :mod:`~.losses`.

    What is asked of its own answers is found anew every few steps from the same few hundred rows, so that nothing depends on
    how large a batch is, and it keeps up with a model that soon leaves where it began.
    """

    def __init__(self, labels: np.ndarray, loss: Loss, section: StudentSection) -> None:
        super().__init__(labels)
        self._loss, self._section = loss, section

    def renew(self, rows: np.ndarray, own: Callable[[], np.ndarray]) -> None:
        """See :class:`~rayworks.systems.supervision.weak.class_tuning.Aim`."""
        if self._loss == "logconf":
            self.offsets = class_offsets(self.labels[rows], own())

    def targets(self, rows: Sequence[int], own: np.ndarray, done: float) -> np.ndarray:
        """See :func:`~.losses.targets`."""
        return targets(self._loss, self.labels[rows], own, done, self._section, self.offsets)


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
    place: Place = HERE,
) -> TunedClassifier:
    """A student of soft labels.

    Args:
        texts: to learn from.
        labels: ``[texts, classes]``, distributions.
        classes: names.
        features: another model than the settings name, as ``MODEL@LAYERS``.
        place: where it is trained, and with how many others in step.

    Raises:
        ConfigError: ``features`` names no model.
    """
    model, tokenizer = _loaded(section, features, place)
    prompts, ids = class_prompts(tokenizer, texts), class_ids(tokenizer, classes)
    # An epoch's last batch may be smaller.
    options = _options(section, section.epochs * math.ceil(len(texts) / section.batch_size))
    flops = _flops(model, prompts, section.epochs)
    aim = LossAim(labels, loss, section)
    size, shard = section.batch_size, place.shard
    tuner = ClassTuner(model, prompts, ids, aim, options, batch_size=size, seed=seed, shard=shard)
    tuner.train(tuner.total_steps)
    return TunedClassifier(TunedModel(tuner.tuned(), tokenizer, flops), ids)


def tune_on_texts(
    section: StudentSection,
    prompts: Sequence[str],
    answers: Sequence[str],
    seed: int,
    features: str | None = None,
    place: Place = HERE,
) -> TunedModel:
    """A student of answers; see :func:`tune_on_classes`."""
    model, tokenizer = _loaded(section, features, place)
    texts = [encode(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    options = _options(section, section.epochs * len(texts) / section.batch_size)
    flops = _flops(model, texts, section.epochs)
    examples, size, shard = [Example(text) for text in texts], section.batch_size, place.shard
    tuner = FineTuner(model, examples, options, batch_size=size, seed=seed, shard=shard)
    tuner.train(tuner.total_steps)
    return TunedModel(tuner.tuned(), tokenizer, flops)


def _loaded(
    section: StudentSection, features: str | None, place: Place
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    name, layers = section.model, section.layers
    if features is not None:
        name, _, count = features.rpartition("@")
        if not name or not count.isdecimal():
            raise ConfigError(f"student.ladder: {features!r} must be MODEL@LAYERS where students are tuned")
        layers = int(count)
    return load_model(name, "float32", layers, place.device), load_tokenizer(name)


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

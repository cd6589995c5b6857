"""LoRA experts of one frozen base, cut to its first layers, and what they say of classes.

Experts are bytes: the folder that PEFT writes. All of them stand beside one base in memory (:mod:`rayworks.lm.adapters`).
"""

import copy
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.adapters import CONFIG, MOST, WEIGHTS
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.continuous_batching import end_ids
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.training import Trainer, TuningOptions
from rayworks.systems.supervision.config import WeakSection
from rayworks.systems.supervision.weak.class_tuning import Aim, ClassTuner
from rayworks.systems.supervision.weak.class_words import class_ids, class_probabilities, class_prompts, parameters
from rayworks.systems.supervision.weak.places import HERE, Place

MISSED = "missed.bin"


@dataclass(frozen=True)
class Adapter:
    """An expert: files by name."""

    files: dict[str, bytes]

    @property
    def name(self) -> str:
        """The same for the same weights."""
        return hashlib.sha256(self.files[WEIGHTS]).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write it for PEFT, and for :meth:`load`."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: Path) -> "Adapter":
        """What :meth:`save` wrote; :class:`DataError` where it is not there."""
        names = [name for name in (CONFIG, WEIGHTS, MISSED) if (folder / name).is_file()]
        if not {CONFIG, WEIGHTS} <= set(names):
            raise DataError(f"expert {str(folder)!r}: holds no {CONFIG} or {WEIGHTS}; fit it again")
        return cls({name: (folder / name).read_bytes() for name in names})


class AdapterBase:
    """The base of all experts of a run.

    Args:
        section: names the base, its layers and how adapters are fitted.
        slots: sequences that are decoded at once.
        place: where, and with how many others in step, adapters are fitted.
    """

    def __init__(self, section: WeakSection, slots: int = 3, place: Place = HERE) -> None:
        self.section, self.slots, self.place = section, slots, place
        self._loaded: dict[str, int] = {}
        self._causal: CausalModel | None = None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of all experts."""
        return load_tokenizer(self.section.model)

    def options(self, examples: int) -> TuningOptions:
        """How an adapter is fitted to so many examples."""
        section = self.section
        return TuningOptions(
            learning_rate=section.learning_rate,
            total_steps=max(1, round(section.epochs * examples / section.batch_size)),
            tuning="lora",
            lora_rank=section.lora_rank,
            lora_alpha=2 * section.lora_rank,
        )

    def fit(self, examples: Sequence[Example], seed: int) -> FineTuner:
        """A new adapter on a copy of the base; examples whose weights are all 0 are left out.

        Raises:
            DataError: no example is left, or training diverged.
        """
        learned = [example for example in examples if not example.weights or any(example.weights)]
        options, size, shard = self.options(len(learned)), self.section.batch_size, self.place.shard
        tuner = FineTuner(self.copy(), learned, options, batch_size=size, seed=seed, shard=shard)
        tuner.train(tuner.total_steps)
        tuner.model.eval()
        return tuner

    def copy(self) -> PreTrainedModel:
        """The base without adapters, to be tuned."""
        return copy.deepcopy(self._model)

    def adapter(self, tuner: Trainer, missed: bytes = b"") -> Adapter:
        """The adapter that was trained, with the bits of what it misses."""
        with tempfile.TemporaryDirectory() as scratch:
            tuner.export(scratch, self.tokenizer, adapters_of=self.section.model)
            files = {name: (Path(scratch) / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        return Adapter(files | ({MISSED: missed} if missed else {}))

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        return end_ids(self.tokenizer, self._model.generation_config)

    @property
    def parameters(self) -> int:
        """See :func:`~.class_words.parameters`."""
        return parameters(self._model)

    def beside(self, experts: Sequence[Adapter]) -> tuple[CausalModel, list[int]]:
        """Load experts beside the base, where they are not yet: it, and their numbers as rows of it.

        Raises:
            ConfigError: they are more than fit in one forward.
        """
        if len(experts) > MOST:
            raise ConfigError(
                f"boosting.rounds: {len(experts)} adapters vote, at most {MOST} can; ask for fewer rounds"
            )
        names = {expert.name for expert in experts}
        if self._causal is None or len(names | self._loaded.keys()) > MOST:
            self._loaded, self._causal = {}, CausalModel(self.copy(), self.slots, adapters=MOST)
        for expert in experts:
            if expert.name not in self._loaded:
                with tempfile.TemporaryDirectory() as scratch:
                    expert.save(Path(scratch))
                    self._loaded[expert.name] = self._causal.adapters.add(expert.name, scratch)
        return self._causal, [self._loaded[expert.name] for expert in experts]

    @cached_property
    def _model(self) -> PreTrainedModel:
        return load_model(self.section.model, "float32", self.section.layers, self.place.device)


class ClassExperts:
    """Adapters that answer a text with the token of its class.

    Args:
        base: of all of them.
        texts: all that experts may be asked about.
        classes: names.
    """

    def __init__(self, base: AdapterBase, texts: Sequence[str], classes: Sequence[str]) -> None:
        self._base, self._ids = base, class_ids(base.tokenizer, classes)
        self._prompts = class_prompts(base.tokenizer, texts)

    def fit(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int) -> Adapter:
        """An expert of ``rows`` of the texts, with their classes and weights, ``[rows]`` each."""
        there = np.flatnonzero(weights > 0)
        prompts = [self._prompts[row] for row in rows[there].tolist()]
        aim = Aim(np.eye(len(self._ids))[labels[there]], weights[there])
        base, options = self._base, self._base.options(len(prompts))
        size, shard = base.section.batch_size, base.place.shard
        tuner = ClassTuner(base.copy(), prompts, self._ids, aim, options, batch_size=size, seed=seed, shard=shard)
        tuner.train(tuner.total_steps)
        return base.adapter(tuner)

    def probabilities(self, experts: Sequence[Adapter], rows: np.ndarray) -> np.ndarray:
        """Of the classes among themselves, ``[experts, rows, classes]``."""
        causal, numbers = self._base.beside(experts)
        prompts = [self._prompts[row] for row in rows.tolist()]
        return np.stack([class_probabilities(causal.model, prompts, self._ids, causal.adapters, n) for n in numbers])

    def save(self, expert: Adapter, folder: Path) -> None:
        """Write an expert."""
        expert.save(folder)

    def load(self, folder: Path) -> Adapter:
        """What :meth:`save` wrote."""
        return Adapter.load(folder)

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """Operations: 6 for each weight and token learned, 2 for each read."""
        tokens = [sum(len(self._prompts[row]) for row in rows.tolist()) for rows in (learned, labelled)]
        each = experts * float(self._base.parameters)
        return {"train": 6 * each * tokens[0] * self._base.section.epochs, "label": 2 * each * tokens[1]}

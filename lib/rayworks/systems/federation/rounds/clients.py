"""A client: its examples, its pseudo-images and its answers, which are records.

Data are read once per process. What a client remembers from one round to the next lies in the state that it is handed.
"""

import os
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from numpy.typing import NDArray

from rayworks.core.errors import InfrastructureError
from rayworks.core.seeds import stream
from rayworks.systems.federation.config import Config, DataSection, NoiseSection
from rayworks.systems.federation.data import partitions, sources
from rayworks.systems.federation.data.examples import Examples, scaled
from rayworks.systems.federation.data.mixup_encodings import encode, encode_stand_ins
from rayworks.systems.federation.images.noise_images import noise_images
from rayworks.systems.federation.messages.records import to_arrays, to_record
from rayworks.systems.federation.training import local_objectives as objectives
from rayworks.systems.federation.training.classifiers import Classifier, classifier_of
from rayworks.systems.federation.training.label_balance import noisy_counts
from rayworks.systems.federation.training.local_training import (
    Correction,
    LocalResult,
    Weighted,
    Weights,
    control_variate,
    load_weights,
    step_count,
    train,
    weights_of,
)
from rayworks.systems.federation.training.sample_weighing import gains, weigh

VARIATE, PREVIOUS, GRADIENT, PSEUDO, MEANS = "variate", "previous", "dynamic-gradient", "pseudo", "means"
"""Records of a client's state."""
TRAINED_STATE = (VARIATE, PREVIOUS, GRADIENT)
"""What training makes and a restart must bring back; the rest follows from the seed."""
SECRET = "RAYWORKS_CLIENT_SECRET"
"""Environment variable of a deployed client: any string. Without one, as in a simulation, all noise follows from the common
seed, and whoever holds that can take it off again. With one, the noise of the client's encodings and label counts follows
from both, is the same on every start, and is its own."""


class Task:
    """What all clients of a process share: the data, the partition, empty models."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self.train, self.test, self.parts = _data(config.data.model_dump_json(), seed)
        self._models: dict[str, Classifier] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """K."""
        return len(self.train.classes)

    def initial_weights(self) -> dict[str, NDArray[Any]]:
        """Weights of the model before the first round."""
        return weights_of(classifier_of(self.config, self.shape, self.classes, self.seed))

    def model(self, weights: Weights, role: str = "trained") -> Classifier:
        """The one model of a role, set to the weights; a later call of the same role takes it over.

        Raises:
            DataError: the weights are another model's.
        """
        if role not in self._models:
            self._models[role] = classifier_of(self.config, self.shape, self.classes, self.seed)
        load_weights(self._models[role], weights)
        return self._models[role]

    @cached_property
    def virtual_images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """VHL's noise images and the labels they stand for, the same for all clients, in an order drawn by seed."""
        count, classes = self.config.local.vhl_images, self.classes
        made = (self.config.noise, count, self.shape, self.seed, "virtual")
        images = [noise_images(*made, label=label) for label in range(classes)]
        order = stream(self.seed, "virtual", "order").permutation(count * classes)
        labels = np.repeat(np.arange(classes), count)[order]
        return torch.from_numpy(scaled(np.concatenate(images)[order])), torch.from_numpy(labels)


@lru_cache(maxsize=2)
def _data(section: str, seed: int) -> tuple[Examples, Examples, list[NDArray[np.int64]]]:
    """Training and held-out examples and the partition, the same for all methods of a seed."""
    data = DataSection.model_validate_json(section)
    train_examples, test = sources.read(data, seed)
    return train_examples, test, partitions.partition(train_examples, data, seed)


@lru_cache(maxsize=4)
def task_of(config: str, seed: int) -> Task:
    """The task of a config in JSON, made once per process.

    Raises:
        DataError: the data cannot be read.
    """
    return Task(Config.model_validate_json(config), seed)


@lru_cache(maxsize=2)
def noise_bank(section: NoiseSection, shape: tuple[int, ...], seed: int, edition: int) -> NDArray[np.uint8]:
    """``noise.bank`` images ``(bank, *shape)`` that all clients have in common; made once per process.

    A client gives them labels of its own, so that over all clients they teach no label, but doubt off the data.
    """
    return noise_images(section, section.bank or 0, shape, seed, "noise", "bank", edition)


def fade_factor(round_number: int, rounds: int, fade: float) -> float:
    """Share of the pseudo-images' weight in a round: linear over the last ``fade`` of the rounds, 0 when they are over."""
    return 1.0 if fade == 0 else min(1.0, (rounds - round_number + 1) / (rounds * fade))


class Client:
    """One client for the time of a message."""

    def __init__(self, task: Task, partition: int, state: RecordDict) -> None:
        self._task, self._config, self._seed = task, task.config, task.seed
        self._partition, self._state = partition, state
        self.real: Examples = task.train.take(task.parts[partition])

    def counts(self) -> NDArray[np.int64]:
        """``(K,)`` counts of its labels, noised by a rounded Laplace if asked (specification 2.2, step 1)."""
        return noisy_counts(self.real.counts(), self._config.privacy.histogram_epsilon, self._secret_draw("histogram"))

    def encodings(self, labels: list[int], counts: list[int], edition: int) -> dict[str, NDArray[Any]]:
        """Mixups for the pool: ``inputs`` as the data's are, ``labels`` ``(n, K)``, in the order asked for."""
        return self._packed([self._mixups(label, count, edition) for label, count in zip(labels, counts, strict=True)])

    def shared_means(self) -> dict[str, NDArray[Any]]:
        """FedMix: means of examples, ``fedmix_batch`` a mean, and of their labels."""
        size, total = self._config.local.fedmix_batch, len(self.real.labels)
        order = self._draw("means").permutation(total)[: max(total // size, 1) * size]
        inputs = scaled(self.real.inputs)[order]
        hard = np.eye(self._task.classes, dtype=np.float32)[self.real.labels[order]]
        if total == 0:
            return self._packed([])
        groups = max(total // size, 1)
        means = [part.mean(0, keepdims=True, dtype=np.float32) for part in np.array_split(inputs, groups)]
        labels = [part.mean(0, keepdims=True) for part in np.array_split(hard, groups)]
        return self._packed(list(zip(means, labels, strict=True)))

    def receive(
        self,
        mixups: Mapping[str, NDArray[Any]] | None,
        local_mixups: list[int],
        noise: list[int],
        copies: list[int],
        edition: int,
    ) -> int:
        """Take pseudo-images from the pool and make the others; how many it has then.

        Args:
            mixups: mixups of other clients.
            local_mixups: how many of each label to mix from its own examples.
            noise: noise images of each label.
            copies: copies of its own examples of each label.
            edition: how often pseudo-images were renewed.
        """
        parts = [] if mixups is None else [(mixups["inputs"], mixups["labels"])]
        parts += [self._mixups(label, count, edition) for label, count in enumerate(local_mixups) if count]
        hard = np.eye(self._task.classes, dtype=np.float32)
        for label, count in enumerate(noise):
            if count:
                parts.append((self._noise(label, count, edition), np.repeat(hard[[label]], count, 0)))
        for label, count in enumerate(copies):
            owned = np.flatnonzero(self.real.labels == label)
            if count and len(owned):
                chosen = self._draw("copies", label, edition).choice(owned, count)
                parts.append((self.real.inputs[chosen], np.repeat(hard[[label]], count, 0)))
        self._state[PSEUDO] = to_record(self._packed(parts))
        return sum(len(labels) for _, labels in parts)

    def train(
        self, weights: Weights, round_number: int, variate: Weights | None = None, gradient: Weights | None = None
    ) -> tuple[LocalResult, dict[str, NDArray[np.float32]] | None, bool]:
        """Its part of a round: result, change of its control variate (SCAFFOLD), whether it was a straggler.

        Args:
            round_number: from 1.
            variate: the server's control variate.
            gradient: gradient of the server's loss, by which pseudo-images are weighed.

        Raises:
            InfrastructureError: it was drawn not to answer (failures.dropout).
            DataError: its loss is no longer finite.
        """
        config, failures = self._config, self._config.failures
        if failures.dropout and self._draw("dropout", round_number).random() < failures.dropout:
            raise InfrastructureError(f"client {self._partition}: does not answer in round {round_number}, as drawn")
        model = self._task.model(weights)
        examples, pseudo = self._examples(model, round_number, gradient)
        steps = step_count(config.local, len(self.real.labels), pseudo)
        late = failures.stragglers and self._draw("straggler", round_number).random() < failures.stragglers
        straggles = bool(late and steps)
        if straggles:
            steps = max(1, int(steps * failures.straggler_share))
        rate = config.local.learning_rate * config.local.learning_rate_decay ** (round_number - 1)
        objective, correction = self._objective(examples, weights), self._correction(variate)
        batches = self._draw("batches", round_number)
        result = train(model, examples, config.local, steps, rate, objective, batches, correction)
        change = self._remember(weights, result, variate, rate)
        return result, change, straggles

    def evaluate(self, weights: Weights) -> tuple[int, float, float]:
        """Examples, accuracy and loss of a model on its own real examples; zeros without any."""
        if len(self.real.labels) == 0:
            return 0, 0.0, 0.0
        model = self._task.model(weights).eval()
        labels = torch.from_numpy(self.real.labels)
        with torch.no_grad():
            logits = model(torch.from_numpy(scaled(self.real.inputs)))[:, : self._task.classes]
            loss = float(F.cross_entropy(logits, labels))
        return len(labels), float((logits.argmax(1) == labels).float().mean()), loss

    def _draw(self, *path: str | int) -> np.random.Generator:
        return stream(self._seed, "client", self._partition, *path)

    def _secret_draw(self, *path: str | int) -> np.random.Generator:
        """Randomness of noise that protects: the client's secret, if any, enters the stream beside the common seed."""
        secret = os.environ.get(SECRET, "")
        return self._draw(*path, "secret", secret) if secret else self._draw(*path)

    def _mixups(self, label: int, count: int, edition: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Encodings of a label; one that it lacks is stood in for by noise of its own, mixed and noised like an example.

        With noised counts the server cannot know which labels it has, and must not learn it here: not from the common
        seed's bank of noise either, which everybody can make.
        """
        draw, section = self._secret_draw("encodings", edition, label), self._config.mixup
        if (self.real.labels == label).any():
            return encode(self.real, label, count, section, draw)
        own_seed = int(draw.integers(2**63 - 1))
        images = noise_images(self._config.noise, count, self._task.shape, own_seed, "stand-in")
        return encode_stand_ins(self.real, images, label, section, draw)

    def _noise(self, label: int, count: int, edition: int) -> NDArray[np.uint8]:
        section, shape = self._config.noise, self._task.shape
        if section.labels == "pool":
            return noise_images(section, count, shape, self._seed, "noise", edition, label=label)
        if section.bank is None:
            return noise_images(section, count, shape, self._seed, "noise", self._partition, label, edition)
        bank = noise_bank(section, shape, self._seed, edition)
        drawn = self._draw("noise", label, edition).choice(len(bank), count, replace=count > len(bank))
        return bank[drawn]

    def _packed(self, parts: list[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Inputs and labels in one array each, inputs as the data's: rounding to bytes after the noise gives nothing away."""
        kind = self.real.inputs.dtype
        inputs, labels = [np.empty((0, *self._task.shape), kind)], [np.empty((0, self._task.classes), np.float32)]
        for part, soft in parts:
            inputs.append((np.rint(part * 255) if kind == np.uint8 and part.dtype != kind else part).astype(kind))
            labels.append(soft)
        return {"inputs": np.concatenate(inputs), "labels": np.concatenate(labels).astype(np.float32)}

    def _examples(self, model: Classifier, round_number: int, gradient: Weights | None) -> tuple[Weighted, int]:
        """What it trains on, and how many of those are pseudo-images."""
        balance = self._config.balance
        real = Weighted.real(scaled(self.real.inputs), self.real.labels, self._task.classes)
        weight = balance.weight * fade_factor(round_number, self._config.strategy.rounds, balance.fade)
        if PSEUDO not in self._state or weight == 0:
            return real, 0
        stored = to_arrays(self._state.array_records[PSEUDO])
        inputs, labels = torch.from_numpy(scaled(stored["inputs"])), torch.from_numpy(stored["labels"])
        weights = torch.ones(len(inputs))
        if gradient is not None and len(inputs):
            tangent = {name: torch.from_numpy(value) for name, value in gradient.items()}
            labels, weights = weigh(gains(model, inputs, tangent), balance.reweighting_temperature)
        pseudo = Weighted(inputs, labels, weight * weights)
        return real.joined(pseudo), int((pseudo.weights > 0).sum())

    def _objective(self, examples: Weighted, weights: Weights) -> objectives.Objective:
        local, strategy = self._config.local, self._config.strategy
        plain = objectives.CrossEntropy(self._adjust(examples))
        if strategy.name == "moon":
            previous = to_arrays(self._state.array_records[PREVIOUS]) if PREVIOUS in self._state else weights
            shared, last = self._task.model(weights, "shared"), self._task.model(previous, "previous")
            return objectives.ModelContrastive(shared, last, strategy.contrast, strategy.temperature, plain)
        if local.objective == "vhl":
            return objectives.VirtualHomogeneity(*self._task.virtual_images, local.vhl_weight, local.vhl_align, plain)
        if local.objective == "fedmix" and MEANS in self._state:
            means = to_arrays(self._state.array_records[MEANS])
            inputs, labels = torch.from_numpy(scaled(means["inputs"])), torch.from_numpy(means["labels"])
            return objectives.MixedMeans(inputs, labels, local.fedmix_share, plain)
        return plain

    def _adjust(self, examples: Weighted) -> objectives.Adjust | None:
        local = self._config.local
        if local.logits == "plain":
            return None
        counts = examples.labels.sum(0)
        if local.objective == "vhl":
            counts = torch.cat([counts, torch.full_like(counts, float(local.vhl_images))])
        if local.logits == "fedrs":
            return objectives.restricted_softmax(counts > 0, local.fedrs_scale)
        if local.logits == "fedlc":
            return objectives.calibrated_logits(counts, local.fedlc_temperature)
        return objectives.balanced_softmax(counts)

    def _correction(self, variate: Weights | None) -> Correction:
        strategy = self._config.strategy
        if strategy.name == "fedprox":
            return Correction(proximal=strategy.proximal_mu)
        if strategy.name == "scaffold" and variate is not None:
            own = self._trained(VARIATE, variate)
            return Correction({name: torch.from_numpy(variate[name] - own[name]) for name in variate})
        if strategy.name == "feddyn":
            stored = to_arrays(self._state.array_records[GRADIENT]) if GRADIENT in self._state else {}
            offset = {name: torch.from_numpy(-value) for name, value in stored.items()}
            return Correction(offset or None, strategy.proximal_mu)
        return Correction()

    def _remember(
        self, before: Weights, result: LocalResult, variate: Weights | None, rate: float
    ) -> dict[str, NDArray[np.float32]] | None:
        strategy, after = self._config.strategy, result.weights
        if strategy.name == "moon":
            self._state[PREVIOUS] = to_record(after)
        elif strategy.name == "feddyn":
            last = self._trained(GRADIENT, before)
            moved = {name: last[name] - strategy.proximal_mu * (after[name] - before[name]) for name in before}
            self._state[GRADIENT] = to_record(moved)
        elif strategy.name == "scaffold" and variate is not None:
            own = self._trained(VARIATE, variate)
            following = control_variate(own, variate, before, after, rate * result.normaliser)
            self._state[VARIATE] = to_record(following)
            return {name: following[name] - own[name] for name in following}
        return None

    def _trained(self, name: str, like: Weights) -> dict[str, NDArray[Any]]:
        """A stored record, zeros before there is one."""
        if name in self._state:
            return to_arrays(self._state.array_records[name])
        return {key: np.zeros_like(value) for key, value in like.items()}

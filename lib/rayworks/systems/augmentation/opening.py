"""What a seed trains on: samples read once, their splits, and views of them."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.run_directory import RunDirectory
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.data.samples import Samples, read
from rayworks.systems.augmentation.data.splits import Part, Splits, split
from rayworks.systems.augmentation.engine.losses import distributions
from rayworks.systems.augmentation.training.arms import Arm, arms, only
from rayworks.systems.augmentation.training.loop import TrainingSettings, online, pool, stored
from rayworks.systems.augmentation.training.nets import network
from rayworks.systems.augmentation.upstream import named
from rayworks.systems.augmentation.upstream.embedded import Embedded, Encoder, embedded
from rayworks.systems.augmentation.upstream.generated import generated_views, of_generated
from rayworks.systems.augmentation.upstream.views import Drawn

TEXTS, TEXT_FEATURES = "texts", 384
VECTORS = "vectors"
"""Folder of the run."""


def training_settings(config: Config) -> TrainingSettings:
    """The same as the loop takes it."""
    return TrainingSettings(**config.training.model_dump(exclude={"workers", "steps_per_call"}))


def all_arms(config: Config, kind: str) -> dict[str, Arm]:
    """Every way to train of a run, by name: those asked for, and each operation alone."""
    known = {arm.name: arm for arm in arms(config.engine.settings(config.training.steps), config.experiment.step_cost)}
    found = [known[name] for name in config.experiment.arms]
    if config.experiment.retrain and config.upstream.name == "operations":
        found += [only(operation) for operation in named.operations_of(kind, config.upstream.operations)]
    return {arm.name: arm for arm in found}


def check_config(config: Config) -> None:
    """Read the samples, and look whether the splits, the upstream and the network can be had.

    Raises:
        ConfigError: a name is unknown, or a setting does not fit the data.
        DataError: the samples cannot be read or split.
    """
    samples, section = read(config.data.source), config.upstream
    opened, *_ = [Opened(config, samples, number) for number in range(config.experiment.seeds)]
    if samples.kind == TEXTS:
        named.operations_of(TEXTS, section.operations)
        if section.name != "operations" or section.folder is not None:
            raise ConfigError("upstream.name: texts have operations only; set it to operations, and no folder")
        _check_network(config, (TEXT_FEATURES,), len(samples.classes), torch.zeros(2, TEXT_FEATURES))
        return
    if section.folder is not None and samples.kind != "images":
        raise ConfigError(f"upstream.folder: is for images, {config.data.source} holds rows of a table; leave it out")
    rows, splits = min(4, len(opened.splits.training)), opened.splits
    drawn = opened.drawn()(torch.arange(rows), np.random.default_rng(0))
    shape, classes = tuple(splits.training.inputs.shape[1:]), len(splits.classes)
    if drawn.labels.shape != (len(drawn.inputs), classes):
        raise DataError(
            f"upstream.name: gives labels {tuple(drawn.labels.shape)} of {len(drawn.inputs)} views; give each a distribution "
            f"over {classes} classes"
        )
    distributions(drawn.labels, classes, torch.zeros(len(drawn.labels), classes))
    _check_network(config, shape, classes, drawn.inputs)


def _check_network(config: Config, shape: tuple[int, ...], classes: int, inputs: torch.Tensor) -> None:
    name, rows = config.training.network, len(inputs)
    made = network(shape, classes, config.training.width, 0, name).eval()
    try:
        with torch.no_grad():
            outputs = made(inputs)
    except Exception as error:
        raise ConfigError(f"training.network: {name!r} fails on inputs of {tuple(inputs.shape)} ({error})") from error
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (rows, classes):
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
        raise ConfigError(f"training.network: gives {found} for {rows} rows; give a logit of each of {classes} classes")


class Opened:
    """The splits and views of a seed.

    Args:
        number: of the seed.
        directory: of the run, where vectors of texts are kept.
    """

    def __init__(self, config: Config, samples: Samples, number: int, directory: RunDirectory | None = None) -> None:
        self._config, self.samples, self._directory, self._number = config, samples, directory, number
        self.seed = seeds.derive_small(config.run.seed, "augmentation", number)
        section = config.data
        self.places = split(
            samples,
            self.seed,
            training=section.training,
            trusted=section.trusted,
            selection=section.selection,
            test=section.test,
            noise=section.noise,
            duplicates=section.duplicates,
        )

    @cached_property
    def splits(self) -> Splits:
        """The four parts; texts as vectors."""
        if self.samples.kind != TEXTS:
            return self.places
        count, vectors = len(self.places.training), self._vectors
        known = {**vectors, "training": vectors["rows"][:count], "trusted": vectors["rows"][count:]}
        parts = {
            name: replace(getattr(self.places, name), inputs=torch.from_numpy(known[name]))
            for name in ("training", "trusted", "selection", "test")
        }
        return replace(self.places, **parts)

    def drawn(self, operation: str = "") -> Drawn:
        """Views of the upstream, or of one of its operations."""
        section, splits = self._config.upstream, self.splits
        rows = pool(splits)
        if self.samples.kind == TEXTS:
            made = Embedded(*(self._vectors[name] for name in ("vectors", "operations", "strengths")))
            return stored(made.views(rows.labels, len(splits.classes), operation))
        if section.folder is not None:
            return self._generated(section.folder, rows)
        amounts: dict[str, Any] = {"strength": section.strength, "steps": section.steps, "alpha": section.alpha}
        operations = (operation,) if operation else section.operations
        return online(splits, named.upstream_of(section.name, self.samples.kind, operations, **amounts))

    def _generated(self, folder: str, rows: Part) -> Drawn:
        places = {str(row): place for place, row in enumerate(rows.rows)}
        others = {str(row) for row in range(len(self.samples.labels))} - places.keys()
        classes = len(self.splits.classes)
        labels = F.one_hot(rows.labels, classes).float()
        return of_generated(
            generated_views(folder, places, labels, tuple(rows.inputs.shape[1:]), others), rows, classes
        )

    @cached_property
    def _vectors(self) -> Mapping[str, np.ndarray]:
        """Of all texts and views; made once a run, in which they are kept."""
        name = f"{VECTORS}/{self._number}.npz"
        if self._directory is not None and self._directory.exists(name):
            with np.load(io.BytesIO(self._directory.read(name))) as kept:
                return dict(kept)
        section, places, encode = self._config.upstream, self.places, encoder()

        def texts(rows: np.ndarray) -> list[str]:
            found: list[str] = self.samples.inputs[rows].tolist()
            return found

        trained = texts(np.concatenate([places.training.rows, places.trusted.rows]))
        operations = named.operations_of(TEXTS, section.operations)
        views = embedded(trained, encode, self.seed, operations, section.strength, section.passes)
        parts = {"rows": trained, "selection": texts(places.selection.rows), "test": texts(places.test.rows)}
        found = {part: encode(some) for part, some in parts.items()} | vars(views)
        if self._directory is not None:
            file = io.BytesIO()
            np.savez(file, allow_pickle=False, **found)
            self._directory.write(name, file.getvalue())
        return found


@cache
def encoder() -> Encoder:
    """Of texts, loaded once a process."""
    from rayworks.lm.sentences import SentenceVectors

    vectors = SentenceVectors()

    def encode(texts: Sequence[str]) -> np.ndarray:
        """Vectors whose features have a mean square of 1, as networks want them."""
        found = vectors.of(texts)
        scaled: np.ndarray = found * np.float32(math.sqrt(found.shape[1]))
        return scaled

    return encode

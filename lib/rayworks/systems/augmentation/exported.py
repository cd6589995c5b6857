"""The export: a trained network, the gradient of a validation loss at it, and what both say of new samples."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from rayworks.core.exports import Write, reading
from rayworks.learning.sample_gains import normalised, outputs_and_slopes
from rayworks.learning.validation_gradients import validation_gradient
from rayworks.systems.augmentation.config import Config, EngineSection
from rayworks.systems.augmentation.data.splits import Part, standardisation, standardised
from rayworks.systems.augmentation.engine.closed_forms import raw_weights
from rayworks.systems.augmentation.engine.losses import Classification
from rayworks.systems.augmentation.opening import TEXTS, Opened, encoder
from rayworks.systems.augmentation.training.nets import OWN, network

DESCRIPTION, WEIGHTS, GRADIENT = "model.json", "model.safetensors", "gradient.safetensors"
CARD = ("source", "arm", "verdict", "accuracy", "accuracy_of_model", "seeds", "noise_auc")
"""Fields of a card."""
MOST_ROWS, AT_ONCE = 2000, 256
"""Training rows behind the unit of gains, and how many are looked at together."""
LARGEST = 2**26
"""Of the product of an input's size and the width, in an export that is read."""


@dataclass(frozen=True)
class Scored:
    """What the validation gradient says of samples; arrays of ``(n,)``, and labels ``(n, K)``."""

    scores: np.ndarray
    """By how much a step on the sample lowers the validation loss, in units of the training rows' root mean square."""
    weights: np.ndarray
    """By the rule of the run, before batches scale them to a mean of 1."""
    labels: np.ndarray
    """Learned soft labels."""
    given: np.ndarray
    """Scores of the labels as they are given."""


@dataclass(frozen=True)
class ExportedModel:
    """Contents of an export folder."""

    model: nn.Module
    gradient: Mapping[str, Tensor]
    unit: float
    """Root mean square of the gains of training rows."""
    engine: EngineSection
    kind: str
    shape: tuple[int, ...]
    """Of one input of the network."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Of each column of a table, and its spread beside."""
    spread: tuple[float, ...]
    network: str
    width: int
    card: Mapping[str, Any]
    """All of :data:`CARD`."""

    def probabilities(self, inputs: Any) -> np.ndarray:
        """``(n, K)`` of images ``(n, C, H, W)`` in [0, 1], rows ``(n, columns)`` in their own units, or texts."""
        with torch.no_grad():
            found: np.ndarray = self.model(self._taken(inputs)).double().softmax(1).numpy()
        return found

    def score(self, inputs: Any, labels: np.ndarray) -> Scored:
        """Weights and soft labels of samples; of each the same whatever stands beside it.

        Args:
            labels: ``(n, K)``, distributions.
        """
        loss, settings = Classification(), self.engine.settings(1)
        taken = self._taken(inputs)
        with torch.no_grad():
            outputs, slopes = outputs_and_slopes(
                self.model, taken, self.gradient, settings.backend, settings.head, apart=True
            )
            gains = loss.gains(outputs, slopes)
            gains = gains / self.unit if settings.normalise == "rms" else normalised(gains, settings.normalise)
            upstream = loss.prepared(torch.from_numpy(labels), outputs)
            learned = (
                upstream
                if settings.learn in ("weights", "nothing")
                else loss.learned(gains, upstream, outputs, settings)
            )
            scores, given = loss.scores(learned, outputs, gains), loss.scores(upstream, outputs, gains)
            weights = (scores >= 0).to(scores) if settings.rule == "network" else raw_weights(scores, settings)
            if settings.learn in ("labels", "nothing"):
                weights = torch.ones_like(scores)
            floored = settings.floor + (1 - settings.floor) * weights
        return Scored(*(part.double().numpy() for part in (scores, floored, learned, given)))

    def _taken(self, inputs: Any) -> Tensor:
        if self.kind == TEXTS:
            return torch.from_numpy(encoder()(list(inputs)))
        array = np.asarray(inputs, np.float32)
        if self.kind == "table":
            array = standardised(array, np.array(self.mean), np.array(self.spread))
        return torch.from_numpy(array)


def exported_model(config: Config, model: nn.Module, opened: Opened, card: Mapping[str, Any]) -> ExportedModel:
    """The model of an arm, with the gradient on the second hold-out, on which nothing was trained."""
    splits = opened.splits
    model.eval()
    held = splits.selection
    gradient, _ = validation_gradient(model, held.inputs.float(), lambda outputs: _mean_loss(outputs, held))
    mean, spread = standardisation(opened.samples, opened.places.training.rows)
    rows = splits.training.inputs[:: -(-len(splits.training) // MOST_ROWS)].float()
    settings, squares = config.engine.settings(1), []
    with torch.no_grad():
        for part in torch.split(rows, AT_ONCE):
            found = outputs_and_slopes(model, part, gradient, settings.backend, settings.head, apart=True)
            squares.append(Classification().gains(*found).square())
    unit = float(torch.cat(squares).mean().sqrt())
    return ExportedModel(
        model,
        gradient,
        max(unit, 1e-12),
        config.engine,
        opened.samples.kind,
        tuple(rows.shape[1:]),
        splits.classes,
        tuple(mean.tolist()),
        tuple(spread.tolist()),
        config.training.network,
        config.training.width,
        card,
    )


def write_export(exported: ExportedModel, write: Write) -> None:
    """Write the description, the weights and the gradient."""
    names = ("unit", "kind", "shape", "classes", "mean", "spread", "network", "width")
    described = {name: getattr(exported, name) for name in names}
    described |= {"engine": exported.engine.model_dump(mode="json"), "card": dict(exported.card)}
    write(DESCRIPTION, json.dumps(described, indent=2).encode())
    for name, values in ((WEIGHTS, exported.model.state_dict()), (GRADIENT, exported.gradient)):
        write(name, safetensors.torch.save({key: value.detach().clone().contiguous() for key, value in values.items()}))


def read_export(folder: str | Path, trusted: Sequence[str] = ()) -> ExportedModel:
    """Read what :func:`write_export` wrote.

    Args:
        trusted: functions, as module:function, that an export may call for its network.

    Raises:
        DataError: files are missing, damaged or do not fit each other, or the network is a function that is not trusted.
    """
    with reading(folder, "augmentation") as path:
        described = json.loads((path / DESCRIPTION).read_text())
        if missing := [name for name in CARD if name not in described["card"]]:
            raise ValueError(f"its card lacks {', '.join(missing)}")
        name, width = str(described["network"]), int(described["width"])
        if name != OWN and name not in trusted:
            raise ValueError(f"its network is {name}: name it in trusted if you trust that function")
        shape, classes = tuple(int(size) for size in described["shape"]), tuple(map(str, described["classes"]))
        mean, spread = (tuple(map(float, described[part])) for part in ("mean", "spread"))
        _check(described, shape, classes, mean, spread)
        model = network(shape, len(classes), width, 0, name).eval()
        model.load_state_dict(safetensors.torch.load_file(path / WEIGHTS))
        gradient = safetensors.torch.load_file(path / GRADIENT)
        fits = {key: value.shape for key, value in model.named_parameters()}
        if not gradient or any(fits.get(key) != value.shape for key, value in gradient.items()):
            raise ValueError("its gradient is not one of its network")
        if not all(value.isfinite().all() for value in (*gradient.values(), *model.state_dict().values())):
            raise ValueError("its weights or its gradient are not finite")
        engine, unit = EngineSection.model_validate(described["engine"]), float(described["unit"])
        beside = (unit, engine, str(described["kind"]), shape, classes, mean, spread, name, width)
        return ExportedModel(model, gradient, *beside, dict(described["card"]))


def model_card(card: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The README of the export."""
    found = "" if card["noise_auc"] is None else f" Wrong labels were found with an AUC of {card['noise_auc']:.3f}."
    return (
        f"# A classifier of {card['source']}, trained by the arm {card['arm']}\n\n"
        f"Test accuracy {card['accuracy_of_model']:.3f}, of this model; the mean of the arm over {card['seeds']} seeds is "
        f"{card['accuracy']:.3f}.{found}\n\n"
        f"{card['verdict']}\n\nClasses: {', '.join(classes)}.\n\n## Use\n\n"
        "`rayworks.systems.augmentation.exported.read_export(folder)`, or Serve: `POST /v1/augmentation/predict` for classes "
        "and `POST /v1/augmentation/score` for weights and soft labels of samples by the gradient of the second hold-out.\n"
        "It knows these classes only and says one of them of anything it is shown.\n"
    )


def _mean_loss(outputs: Tensor, held: Part) -> Tensor:
    loss = Classification()
    return loss.per_sample(outputs, loss.prepared(held.labels, outputs)).mean()


def _check(
    described: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    spread: tuple[float, ...],
) -> None:
    if described["kind"] not in ("images", "table", TEXTS) or len(set(classes)) < max(2, len(classes)):
        raise ValueError(f"it is of kind {described['kind']!r}, its classes are {classes}")
    if len(shape) != (3 if described["kind"] == "images" else 1) or not all(1 <= size <= 100_000 for size in shape):
        raise ValueError(f"its inputs have shape {shape}")
    columns = shape[0] if described["kind"] == "table" else 0
    finite = all(map(math.isfinite, (*mean, *spread))) and all(value > 0 for value in spread)
    if not finite or len(mean) != columns or len(spread) != columns:
        raise ValueError("means and spreads of its columns do not fit its inputs")
    if math.prod(shape) * int(described["width"]) > LARGEST:
        raise ValueError(f"its inputs have shape {shape} and its width is {described['width']}")
    if not (math.isfinite(described["unit"]) and described["unit"] > 0) or not 1 <= described["width"] <= 4096:
        raise ValueError("its unit or its width is out of bounds")

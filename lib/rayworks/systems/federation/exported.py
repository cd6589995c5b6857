"""A trained classifier as files: what Serve loads, and its card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from rayworks.core.exports import Write, reading
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.data.examples import scaled
from rayworks.systems.federation.training.aggregation import Arrays
from rayworks.systems.federation.training.classifiers import Classifier, classifier_of
from rayworks.systems.federation.training.local_training import load_weights

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"
CARD = ("source", "method", "rounds", "clients", "accuracy", "accuracies", "epsilon", "epsilon_updates", "statement")
"""Fields of a card."""


@dataclass(frozen=True)
class ExportedModel:
    """Contents of an export folder."""

    config: Config
    """Name of the method that trained it."""
    model: Classifier
    shape: tuple[int, ...]
    """Shape of one input: ``(channels, height, width)`` or ``(features,)``."""
    classes: tuple[str, ...]
    card: Mapping[str, Any]
    """All of :data:`CARD`."""

    def probabilities(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """``(n, K)`` of inputs ``(n, *shape)``, uint8 images or float32 features."""
        with torch.no_grad():
            logits = self.model(torch.from_numpy(scaled(inputs)))[:, : len(self.classes)]
        found: NDArray[np.float64] = logits.double().softmax(1).numpy()
        return found


def exported_model(
    config: Config, weights: Arrays, shape: tuple[int, ...], classes: tuple[str, ...], card: Mapping[str, Any]
) -> ExportedModel:
    """A model of weights that a federation learned.

    Raises:
        DataError: the weights do not fit.
    """
    model = classifier_of(config, shape, len(classes), 0)
    load_weights(model, weights)
    return ExportedModel(config, model.eval(), shape, classes, card)


def write_export(exported: ExportedModel, write: Write) -> None:
    """Write the description and the weights."""
    described = {
        "config": exported.config.model_dump(mode="json"),
        "shape": list(exported.shape),
        "classes": list(exported.classes),
        "card": dict(exported.card),
    }
    write(DESCRIPTION, json.dumps(described, indent=2).encode())
    weights = {name: tensor.numpy() for name, tensor in exported.model.state_dict().items()}
    write(WEIGHTS, safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in weights.items()}))


def read_export(folder: str | Path) -> ExportedModel:
    """Read what :func:`write_export` wrote. Nothing in the files is executed.

    Raises:
        DataError: files are missing, damaged or do not fit each other.
    """
    with reading(folder, "federation") as path:
        described = json.loads((path / DESCRIPTION).read_text())
        if missing := [name for name in CARD if name not in described["card"]]:
            raise ValueError(f"its card lacks {', '.join(missing)}")
        config, weights = Config.model_validate(described["config"]), safetensors.numpy.load_file(path / WEIGHTS)
        shape = tuple(int(size) for size in described["shape"])
        return exported_model(config, weights, shape, tuple(described["classes"]), dict(described["card"]))


def model_card(card: Mapping[str, Any], classes: tuple[str, ...]) -> str:
    """The README of the export."""
    others = ", ".join(f"{value:.3f}" for value in card["accuracies"])
    return (
        f"# A classifier of {card['source']}, learned by {card['clients']} clients\n\n"
        f"Method **{card['method']}**, {card['rounds']} rounds; held-out accuracy {card['accuracy']:.3f}. "
        f"It is the first of {len(card['accuracies'])} trainings, whose accuracies are {others}.\n\n"
        f"Labels: {', '.join(classes)}.\n\n## Privacy\n\n{card['statement']}\n\n## Use\n\n"
        "`rayworks.systems.federation.exported.read_export(folder)`, or Serve: `POST /v1/federation/classify`.\n"
        "It knows these labels only and says one of them of anything it is shown.\n"
    )

"""A trained classifier as files: what Serve loads, and its card."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from rayworks.core.errors import DataError, RayworksError
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
    """What a folder holds."""

    model: Classifier
    shape: tuple[int, ...]
    """Of one input: ``(channels, height, width)`` or ``(features,)``."""
    classes: tuple[str, ...]
    card: Mapping[str, Any]
    """All of :data:`CARD`."""

    def probabilities(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """``(n, K)`` of inputs ``(n, *shape)``, uint8 images or float32 features."""
        with torch.no_grad():
            logits = self.model(torch.from_numpy(scaled(inputs)))[:, : len(self.classes)]
        found: NDArray[np.float64] = logits.double().softmax(1).numpy()
        return found


def write_model(
    config: Config,
    weights: Arrays,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    card: Mapping[str, Any],
    write: Callable[[str, bytes], object],
) -> None:
    """Write the description and the weights.

    Args:
        config: of the method.
        weights: arrays of the model by name.
        shape: of one input.
        classes: names of the labels.
        card: plain values for people and for Serve: all of :data:`CARD`.
        write: takes a file's name and content.
    """
    described = {
        "config": config.model_dump(mode="json"),
        "shape": list(shape),
        "classes": list(classes),
        "card": dict(card),
    }
    write(DESCRIPTION, json.dumps(described, indent=2).encode())
    write(WEIGHTS, safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in weights.items()}))


def read_model(folder: Path) -> ExportedModel:
    """The reverse. Nothing in the files is executed.

    Raises:
        DataError: files are missing, damaged or do not fit each other; names them.
    """
    if not (folder / DESCRIPTION).is_file():
        raise DataError(f"{folder}: no {DESCRIPTION}; give the export folder of a finished federation run")
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        shape, classes = tuple(int(size) for size in described["shape"]), tuple(described["classes"])
        model = classifier_of(Config.model_validate(described["config"]), shape, len(classes), 0)
        load_weights(model, safetensors.numpy.load_file(folder / WEIGHTS))
        card = dict(described["card"])
        if missing := [name for name in CARD if name not in card]:
            raise ValueError(f"its card lacks {', '.join(missing)}; export the run again")
    except (
        ValueError,
        KeyError,
        TypeError,
        ValidationError,
        OSError,
        safetensors.SafetensorError,
        RayworksError,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder}: not an exported model ({first})") from None
    return ExportedModel(model.eval(), shape, classes, card)


def model_card(card: Mapping[str, Any], classes: tuple[str, ...]) -> str:
    """The README of the export."""
    others = ", ".join(f"{value:.3f}" for value in card["accuracies"])
    return "\n".join(
        [
            f"# A classifier of {card['source']}, learned by {card['clients']} clients",
            "",
            f"Method **{card['method']}**, {card['rounds']} rounds; held-out accuracy {card['accuracy']:.3f}. "
            f"It is the first of {len(card['accuracies'])} trainings, whose accuracies are {others}.",
            "",
            f"Labels: {', '.join(classes)}.",
            "",
            "## Privacy",
            "",
            str(card["statement"]),
            "",
            "## Use",
            "",
            "`rayworks.systems.federation.exported.read_model(folder)`, or Serve: `POST /v1/federation/classify`.",
            "It knows these labels only and says one of them of anything it is shown.",
            "",
        ]
    )

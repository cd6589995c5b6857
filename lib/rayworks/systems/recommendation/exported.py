"""The export of a run: acceptance models, catalogue and reference users, without pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from rayworks.core.exports import Write, reading
from rayworks.systems.recommendation.measures.bands import Bands, from_json
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.histories import Histories

DESCRIPTION, MEMBER, REFERENCE = "model.json", "member-{}.safetensors", "reference.safetensors"


@dataclass(frozen=True)
class KnownPast:
    """What a model can use of a user's past."""

    events: Sequence[tuple[int, int]]
    """Item code and kind of each event on an item of the catalogue, as :func:`~.models.histories.histories` takes them."""
    skipped: int
    """Events on other items."""
    unknown: Sequence[str]
    """Those items, each once, in the order of the events."""


@dataclass(frozen=True)
class Exported:
    """Models of one catalogue."""

    models: Sequence[AcceptanceModel]
    """The first is the one that counts; the others were trained on resampled users."""
    items: Sequence[str]
    """(I,) names."""
    reference: Histories
    """Users whose natural events stand for those of others in attributions."""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """What came of the test window: see :meth:`~.models.held_out.HeldOut.as_json`."""

    def bands(self, name: str) -> Bands:
        """What came of held-out decisions, ``all`` or those that the model would have made (``chosen``)."""
        return from_json(self.held_out.get(name, ()))

    @cached_property
    def codes(self) -> Mapping[str, int]:
        """Code of each name of an item."""
        return {name: code for code, name in enumerate(self.items)}

    def past(self, events: Sequence[tuple[str, int]]) -> KnownPast:
        """A user's past from names and kinds (see :data:`~.logs.events.KINDS`), in order of time.

        A catalogue grows after training. An event on an item that the models have never seen is left out, whatever its
        kind, and the rest keeps its order.
        """
        known = [(self.codes[name], kind) for name, kind in events if name in self.codes]
        unknown = dict.fromkeys(name for name, _ in events if name not in self.codes)
        return KnownPast(known, len(events) - len(known), tuple(unknown))


def weights_of(model: nn.Module) -> bytes:
    """The model's tensors as a file, each with memory of its own."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors)


def write_export(exported: Exported, write: Write) -> None:
    """Write the description, one file per model, and the users to compare with."""
    description = {
        "options": asdict(exported.models[0].options),
        "members": len(exported.models),
        "items": list(exported.items),
        "held_out": dict(exported.held_out),
    }
    write(DESCRIPTION, json.dumps(description).encode())
    for number, model in enumerate(exported.models):
        write(MEMBER.format(number), weights_of(model))
    reference = {"item": exported.reference.item.contiguous(), "kind": exported.reference.kind.contiguous()}
    write(REFERENCE, safetensors.torch.save(reference))


def read_export(folder: str | Path) -> Exported:
    """Read what :func:`write_export` wrote. Nothing in the files is executed.

    Raises:
        DataError: files are missing, damaged or do not fit each other.
    """
    with reading(folder, "recommendation") as path:
        description = json.loads((path / DESCRIPTION).read_text())
        options = AcceptanceOptions(**description["options"])
        models = []
        for number in range(description["members"]):
            model = AcceptanceModel(options)
            model.load_state_dict(safetensors.torch.load_file(path / MEMBER.format(number)))
            models.append(model.eval())
        reference = safetensors.torch.load_file(path / REFERENCE)
        past = Histories(reference["item"], reference["kind"])
        return Exported(models, tuple(description["items"]), past, description["held_out"])

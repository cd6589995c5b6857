"""What a run leaves for Serve: the acceptance models, the catalogue, and users to compare with. No pickle."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.histories import Histories

DESCRIPTION, MEMBER, REFERENCE = "model.json", "member-{}.safetensors", "reference.safetensors"


@dataclass(frozen=True)
class Exported:
    """Models of one catalogue."""

    models: Sequence[AcceptanceModel]
    """The first is the one that counts; the others were trained on resampled users."""
    items: Sequence[str]
    """(I,) names."""
    reference: Histories
    """Users whose natural events stand for those of others in attributions."""


def weights_of(model: nn.Module) -> bytes:
    """The model's tensors as a file, each with memory of its own."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    found: bytes = safetensors.torch.save(tensors)
    return found


def write_export(exported: Exported, write: Callable[[str, bytes], object]) -> None:
    """Give each file's name and bytes to ``write``."""
    description = {
        "options": asdict(exported.models[0].options),
        "members": len(exported.models),
        "items": list(exported.items),
    }
    write(DESCRIPTION, json.dumps(description).encode())
    for number, model in enumerate(exported.models):
        write(MEMBER.format(number), weights_of(model))
    reference = {"item": exported.reference.item.contiguous(), "kind": exported.reference.kind.contiguous()}
    write(REFERENCE, safetensors.torch.save(reference))


def read_export(folder: str | Path) -> Exported:
    """Read what :func:`write_export` wrote.

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    folder = Path(folder).expanduser()
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        options = AcceptanceOptions(**description["options"])
        models = []
        for number in range(description["members"]):
            model = AcceptanceModel(options)
            model.load_state_dict(safetensors.torch.load_file(folder / MEMBER.format(number)))
            models.append(model.eval())
        reference = safetensors.torch.load_file(folder / REFERENCE)
    except FileNotFoundError as error:
        raise DataError(
            f"export {folder}: has no {Path(error.filename or '').name or DESCRIPTION}; run the job first"
        ) from None
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataError(
            f"export {folder}: is no export of an acceptance model ({type(error).__name__}: {error})"
        ) from None
    return Exported(models, tuple(description["items"]), Histories(reference["item"], reference["kind"]))

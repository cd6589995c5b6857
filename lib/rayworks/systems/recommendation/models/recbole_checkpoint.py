"""A recommender trained by RecBole 1.2.1, read from its checkpoint without RecBole and without running code of the file.

RecBole's checkpoint is a pickle of tensors, of its config and of names of its classes. Here only tensors and plain values
are made of it; classes of RecBole become inert, and a pickle that names anything else is refused before it is called.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.models.next_item import NaturalPreference
from rayworks.systems.recommendation.models.recbole_models import ACTIVATIONS, MODELS, RecBoleModel, RecBoleOptions

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
INERT = ("recbole.", "yaml.", "numpy.")
"""Packages whose classes and functions a config or a metric may name; they are never called."""


class RecBolePreference(NaturalPreference):
    """A network of RecBole as natural preference over a catalogue of ours.

    Items are matched by name. One that RecBole did not know is left out of histories, and its score is the lowest of those
    that it did know; after a history without any item that it knew all scores are 0.

    Args:
        length: most items it looks back on.
        codes: int64 (I,), RecBole's id of each of our items, 0 where it has none.
    """

    codes: Tensor

    def __init__(self, model: RecBoleModel, length: int, codes: Tensor) -> None:
        super().__init__()
        self.model, self.items, self.length = model, len(codes), length
        self.register_buffer("codes", codes)

    def scores(self, history: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`~.next_item.NaturalPreference`."""
        inside = torch.arange(history.shape[1], device=history.device) < lengths[:, None]
        theirs = torch.where(inside & (history > 0), self.codes[(history - 1).clamp(min=0)], 0)
        order = torch.argsort((theirs == 0).int(), dim=1, stable=True)
        known = (theirs != 0).sum(1)
        found = self.model(theirs.gather(1, order), known.clamp(min=1))[:, self.codes]
        lowest = found[:, self.codes > 0].amin(1, keepdim=True)
        return torch.where((known > 0)[:, None], torch.where(self.codes > 0, found, lowest), 0.0)


def read_recbole(checkpoint: str | Path, items: str | Path, catalogue: Sequence[str]) -> RecBolePreference:
    r"""The recommender of a checkpoint, ready for prediction.

    The scores are those of RecBole's ``full_sort_predict``. RecBole does not store the names of its items; where the data set
    that it was trained on is at hand, this writes them::

        names = dataset.field2id_token[dataset.iid_field]
        Path("items.txt").write_text("\n".join(names[1:]))

    Args:
        checkpoint: ``.pth`` that RecBole's trainer has saved, of SASRec, GRU4Rec or BERT4Rec.
        items: text file with one item name per line, in the order of RecBole's ids from 1.
        catalogue: our names (I,).

    Raises:
        DataError: a file cannot be read, names code that is not RecBole's, is of another model, has weights that do not fit
            or are not finite, or shares no item with the catalogue.
    """
    state = read_inert(checkpoint)
    kept = state.get("config")
    weights = state.get("state_dict")
    config = vars(kept).get("final_config_dict") if isinstance(kept, _Inert) else None
    if not isinstance(weights, Mapping) or not isinstance(config, Mapping):
        raise DataError(f"{checkpoint}: holds no state_dict and config; give a checkpoint saved by RecBole's trainer")
    model, length, expected = _model(checkpoint, config, weights)
    try:
        names = Path(items).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{items}: cannot be read as text ({error}); list one item name per line") from error
    if len(names) != expected or len(set(names)) != expected:
        raise DataError(
            f"{items}: has {len(names):,} lines, {len(set(names)):,} of them different, where {checkpoint} has "
            f"{expected:,} items; list each item once in the order of RecBole's ids from 1"
        )
    codes = {name: code for code, name in enumerate(names, start=1)}
    found = torch.tensor([codes.get(name, 0) for name in catalogue])
    if not found.any():
        raise DataError(
            f"{items}: names no item of the catalogue, whose first is {catalogue[0]!r}; give the same names"
        )
    return RecBolePreference(model, length, found).eval()


def read_inert(path: str | Path) -> dict[str, Any]:
    """The dictionary that ``torch.save`` wrote, its tensors on the CPU, classes of RecBole as objects with attributes only.

    Raises:
        DataError: it cannot be read, or names anything but tensors, plain containers and what :data:`INERT` allows.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [pickled] = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            with archive.open(pickled) as file:
                state = _Unpickler(file, archive, pickled.removesuffix("data.pkl")).load()
    except _Refused as error:
        raise DataError(
            f"{path}: names {error}, which is not part of a RecBole checkpoint; do not trust the file"
        ) from error
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise DataError(f"{path}: cannot be read as a checkpoint of torch.save ({error}); save it again") from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds a {type(state).__name__}; give a checkpoint saved by RecBole's trainer")
    return state


def _model(path: str | Path, config: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[RecBoleModel, int, int]:
    """The network with its weights, the most items that it looks back on, and how many it knows."""
    name = str(config.get("model"))
    if name not in MODELS:
        raise DataError(f"{path}: is a {name}; supported are {', '.join(MODELS)}")
    kind = MODELS[name]
    missing = [key for key in ("MAX_ITEM_LIST_LENGTH", *kind.needs) if config.get(key) is None]
    if missing:
        raise DataError(f"{path}: its config has no {', '.join(missing)}; save it by RecBole 1.2.1")
    given = {key: config[key] for key in kind.needs}
    activation = given.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise DataError(f"{path}: its hidden_act is {activation}; supported are {', '.join(ACTIVATIONS)}")
    try:
        length = int(config["MAX_ITEM_LIST_LENGTH"])
        heads, epsilon = int(given.get("n_heads", 1)), float(given.get("layer_norm_eps", 1e-12))
        model = kind.like(weights, RecBoleOptions(length, heads, activation, epsilon))
        model.load_state_dict(weights)
        one = torch.ones(1, 1, dtype=torch.int64)
        with torch.no_grad():
            items = model(one, one[0]).shape[1] - 1
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        why = str(error).splitlines()[-1].strip()
        raise DataError(f"{path}: weights do not fit a {name} of RecBole 1.2.1 ({why}); save it again") from error
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise DataError(f"{path}: has a weight that is not finite; train it again")
    return model, length, items


class _Inert:
    """Stands for any class of RecBole: it keeps what its object held and does nothing."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


class _Refused(pickle.UnpicklingError):
    """A global that must not be loaded."""


class _Unpickler(pickle.Unpickler):
    """Makes tensors and plain containers; every global that a pickle may name is listed in :meth:`find_class`."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda flat, at, size, stride, *_: flat.as_strided(
                size, stride, at
            ),
            ("torch._utils", "_rebuild_parameter"): lambda values, *_: values,
            ("torch", "device"): _Inert,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if f"{module}.".startswith(INERT):
            return _Inert
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The values of a storage, flat."""
        _, dtype, key, _, count = pid
        values = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return torch.frombuffer(values, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)

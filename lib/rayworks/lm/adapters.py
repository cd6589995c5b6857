"""Many low-rank adapters of one base in one forward, each row of the batch with its own.

Nothing is merged: the rows of an adapter go through its two thin matrices together, beside the base's one product for all.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from rayworks.core.errors import ConfigError, DataError

BASE = 0
"""Number of the adapter that is none."""
MOST = 64
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
READ = frozenset(
    "r lora_alpha use_rslora rank_pattern alpha_pattern target_modules exclude_modules layers_to_transform layers_pattern "
    "lora_dropout task_type inference_mode base_model_name_or_path revision auto_mapping peft_version peft_type "
    "init_lora_weights ensure_weight_tying runtime_config megatron_core".split()
)
"""Settings of PEFT that are read here, or that change nothing of a product. All others must have PEFT's defaults."""
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to start an adapter that leave the base's weights as they are."""


class AdaptedLinear(nn.Module):
    """A frozen linear layer and what adapters add to it."""

    def __init__(self, layer: nn.Module, bank: "AdapterBank") -> None:
        super().__init__()
        self.layer, self._bank = layer, bank
        inner: Any = layer
        self.features: tuple[int, int] = inner.in_features, inner.out_features
        like = next(layer.parameters(), torch.empty(0))
        self.down, self.up = like.new_zeros((0, self.features[0], 0)), like.new_zeros((0, 0, self.features[1]))
        """By number of adapter less one: ``[in_features, rank]`` and, with the scale in it, ``[rank, out_features]``."""

    def forward(self, rows: Tensor) -> Tensor:
        """``[rows, tokens, in_features]`` to ``[rows, tokens, out_features]``."""
        product: Tensor = self.layer(rows)
        groups = self._bank.groups
        if groups is None:
            return product
        whole, members = groups.all_of == len(self.down), groups.members
        down, up = (self.down, self.up) if whole else (self.down[groups.adapters], self.up[groups.adapters])
        if rows.dim() != 3 or len(rows) != groups.count:
            raise DataError("adapters: the model takes the rows of a batch apart before an adapted layer")
        grouped = rows[members].view(len(members), -1, rows.shape[-1])
        added = ((grouped @ down) @ up).view(members.numel(), rows.shape[1], -1)
        return product.index_add_(0, groups.rows, added[groups.real])

    def put(self, number: int, down: Tensor | None, up: Tensor | None) -> None:
        """Set an adapter's matrices; ``None`` where it leaves this layer alone."""
        rank = 0 if down is None else down.shape[1]
        more, wider = number - len(self.down), max(rank - self.down.shape[2], 0)
        self.down, self.up = pad(self.down, (0, wider, 0, 0, 0, more)), pad(self.up, (0, 0, 0, wider, 0, more))
        if down is not None and up is not None:
            self.down[number - 1, :, :rank], self.up[number - 1, :rank] = down.to(self.down), up.to(self.up)


class Groups:
    """Rows of a batch by the adapters that they name, each group filled up to the largest with its first row again."""

    def __init__(self, numbers: Sequence[int], device: torch.device) -> None:
        self.count = len(numbers)
        present = sorted(set(numbers) - {BASE})
        rows = [[row for row, other in enumerate(numbers) if other == number] for number in present]
        size = max(map(len, rows))
        self.adapters = torch.tensor(present, device=device) - 1
        self.all_of = len(present) if present == list(range(1, len(present) + 1)) else -1
        """How many adapters these are when they are all up to some number. Below: ``[adapters, size]``."""
        self.members = torch.tensor([[*group, *[group[0]] * (size - len(group))] for group in rows], device=device)
        self.rows = torch.tensor([row for group in rows for row in group], device=device)
        real = [at < len(group) for group in rows for at in range(size)]
        self.real: Tensor | slice = slice(None) if all(real) else torch.tensor(real, device=device)
        """Which of the members, flattened, are not filling."""


class AdapterBank:
    """Up to ``room`` adapters of one model (64 at most), whose layers are wrapped in place as adapters need them."""

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        if not 0 <= room <= MOST:
            raise ConfigError(f"adapters: room for {room} was asked for, at most {MOST} fit in one forward")
        self._model, self._room = model, room
        self._numbers: dict[str, int] = {}
        self.groups: Groups | None = None

    @contextmanager
    def selected(self, numbers: Sequence[int], device: torch.device) -> Iterator[None]:
        """Inside, forwards have these adapters, one number per row."""
        self.groups = Groups(numbers, device) if any(numbers) else None
        try:
            yield
        finally:
            self.groups = None

    def number(self, name: str | None) -> int:
        """The number by which rows name an adapter; ``None`` is the base. :class:`ConfigError` where there is none."""
        if name is None:
            return BASE
        if name not in self._numbers:
            raise ConfigError(f"adapter {name!r}: is not loaded; loaded: {', '.join(self._numbers) or 'none'}")
        return self._numbers[name]

    def add(self, name: str, folder: str | Path) -> int:
        """Load an adapter as PEFT saved it; its number. :class:`ConfigError` where no room is left or the name is taken,
        :class:`DataError` where the folder cannot be read, or is no plain LoRA adapter or that of another base.
        """
        if name in self._numbers:
            raise ConfigError(f"adapter {name!r}: is loaded already")
        if len(self._numbers) >= self._room:
            raise ConfigError(f"adapter {name!r}: room for {self._room} adapters; make the engine with adapters=N")
        matrices, targets = read_adapter(name, folder)
        modules = [path for path, _ in self._model.named_modules() if path.rpartition(".")[2] in targets]
        own, base = (len(set(re.findall(r"\.(\d+)\.", " ".join(paths)))) for paths in (matrices, modules))
        if targets and own < base:
            raise DataError(f"adapter {name!r}: is made for a model of {own} layers, the base has {base}")
        layers = {path: self._layer(name, path, down, up) for path, (down, up) in matrices.items()}
        number = len(self._numbers) + 1
        for path, layer in layers.items():
            self._model.set_submodule(path, layer)
        for path, module in self._model.named_modules():
            if isinstance(module, AdaptedLinear):
                module.put(number, *matrices.get(path, (None, None)))
        self._numbers[name] = number
        return number

    def _layer(self, name: str, path: str, down: Tensor, up: Tensor) -> AdaptedLinear:
        """The layer of a path, wrapped, where the matrices fit it."""
        try:
            layer = self._model.get_submodule(path)
        except AttributeError:
            raise DataError(f"adapter {name!r}: the base has no layer {path}; it is of another base") from None
        if not isinstance(layer, AdaptedLinear):
            linear = hasattr(layer, "in_features")
            if not linear or layer is self._model.get_output_embeddings():
                what = "the output layer" if linear else f"a {type(layer).__name__}"
                raise DataError(f"adapter {name!r}: {path} is {what}; only linear layers before that are adapted")
            layer = AdaptedLinear(layer, self)
        found, own = (down.shape[0], up.shape[1]), layer.features
        if found != own:
            what = f"takes {found[0]} features to {found[1]}, the base's {own[0]} to {own[1]}"
            raise DataError(f"adapter {name!r}: {path} {what}; it is an adapter of another base")
        return layer


def is_adapter(name: str | Path) -> bool:
    """Whether a folder holds an adapter, as PEFT saves it."""
    return (Path(name).expanduser() / CONFIG).is_file()


def base_of_adapter(folder: str | Path) -> str:
    """The model that an adapter says it belongs to; :class:`DataError` where it does not say."""
    try:
        return str(json.loads((Path(folder).expanduser() / CONFIG).read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"model {str(folder)!r}: its {CONFIG} names no base ({error})") from None


def read_adapter(name: str, folder: str | Path) -> tuple[dict[str, tuple[Tensor, Tensor]], Sequence[str]]:
    """Layer to ``[in_features, rank]`` and, scaled, ``[rank, out_features]``, of a folder that PEFT wrote, and the names of
    layers that it changes in every block; :class:`DataError` where it cannot be read or is no plain LoRA adapter.
    """
    from peft import LoraConfig

    path = Path(folder).expanduser()
    try:
        config: dict[str, Any] = json.loads((path / CONFIG).read_text())
        weights = load_file(path / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"adapter {name!r}: cannot be read ({str(error).splitlines()[0]})") from None
    plain = LoraConfig().to_dict()
    changed = [key for key in sorted(config.keys() - READ) if config[key] and config[key] != plain.get(key)]
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        changed.append("init_lora_weights")
    if config.get("peft_type") != "LORA" or changed:
        what = f"has {changed[0]}={config[changed[0]]!r}" if changed else f"is of type {config.get('peft_type')!r}"
        raise DataError(f"adapter {name!r}: {what}; only plain LoRA adapters of linear layers are served as rows")
    matrices = {}
    for key in sorted(weights):
        layer, kind, _ = key.removeprefix(PREFIX).rpartition(".lora_A.")
        if not kind:
            if ".lora_B." not in key:
                raise DataError(f"adapter {name!r}: holds {key}, which is no low-rank matrix")
            continue
        down, up = weights[key], weights[key.replace(".lora_A.", ".lora_B.")]
        rank = _of_layer(config.get("rank_pattern"), layer, config["r"])
        if len(down) != rank:
            raise DataError(f"adapter {name!r}: {layer} has rank {len(down)}, its {CONFIG} says {rank}")
        alpha = _of_layer(config.get("alpha_pattern"), layer, config["lora_alpha"])
        scale = alpha / (math.sqrt(len(down)) if config.get("use_rslora") else len(down))
        if not (down.isfinite().all() and up.isfinite().all()):
            raise DataError(f"adapter {name!r}: {layer} holds what is no number")
        matrices[layer] = down.T.contiguous(), (up.T * scale).contiguous()
    chosen = [config.get(key) for key in ("layers_to_transform", "exclude_modules")]
    targets = config.get("target_modules")
    # A regular expression may choose blocks, too.
    return matrices, targets if isinstance(targets, list) and not any(chosen) else ()


def _of_layer(pattern: dict[str, float] | None, layer: str, default: float) -> float:
    """PEFT takes the keys for regular expressions of the end of a layer's path."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", layer)), default)

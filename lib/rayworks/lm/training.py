"""The core of every training of a causal LM here: AdamW with warm-up and a cosine schedule, resumable bit for bit."""

import abc
import copy
import math
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.run_directory import RunDirectory
from rayworks.learning.in_step import add_up
from rayworks.lm.exactness import prove_scoring

STATE = "state.pt"
STATES_KEPT = 3
T = TypeVar("T")
Order = Callable[[int], Sequence[int]]
"""From an epoch to the order of its examples, for a curriculum."""


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """What is tuned, and how: AdamW, linear warm-up, then a cosine to zero at the last step."""

    learning_rate: float
    total_steps: int
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tuning: Literal["full", "lora", "none"] = "full"
    """All weights, adapters, or nothing but what stands beside the model."""
    train_embeddings: bool = False
    """Full tuning only: whether the token embeddings learn too. In a small model they are most of the weights."""
    lora_rank: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    lora_targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        if self.tuning not in ("full", "lora", "none"):
            raise ConfigError(f"tuning: is {self.tuning!r}, must be full, lora or none")
        if self.total_steps < 1:
            raise ConfigError(f"total_steps: is {self.total_steps}, must be at least 1")


class Batches:
    """Which of ``count`` examples each step learns from, in the order given for an epoch, or shuffled by the stream ``path``
    below the seed; ``across_epochs``, a batch is filled up from the next epoch, else an epoch's last may be smaller.
    """

    def __init__(
        self, count: int, size: int, seed: int, *path: str, order: Order | None = None, across_epochs: bool = True
    ) -> None:
        if count < 1 or size < 1:
            raise DataError(f"{path[0]}: batches of {size} from {count} examples; both must be at least 1")
        self._count, self._size, self._seed, self._path = count, size, seed, path
        self._given, self._across = order, across_epochs
        self._orders: dict[int, Sequence[int]] = {}

    def at(self, step: int) -> list[int]:
        """Indices of a step's examples; :class:`DataError` where a given order does not hold every example once."""
        length = self._count if self._across else math.ceil(self._count / self._size) * self._size
        places = [divmod(at, length) for at in range(step * self._size, (step + 1) * self._size)]
        return [int(self._order(epoch)[place]) for epoch, place in places if place < self._count]

    def _order(self, epoch: int) -> Sequence[int]:
        if epoch not in self._orders:
            if self._given is None:
                order = seeds.stream(self._seed, *self._path, epoch).permutation(self._count).tolist()
            else:
                order = list(self._given(epoch))
                if sorted(order) != list(range(self._count)):
                    each = f"does not hold each of {self._count} examples once"
                    raise DataError(f"{self._path[0]}: the order of epoch {epoch} {each}")
            # A batch may begin in the epoch before.
            self._orders = {kept: self._orders[kept] for kept in self._orders if kept == epoch - 1} | {epoch: order}
        return self._orders[epoch]


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several workers in step computes; ``torch.distributed``, as Ray Train sets it up,
    adds their gradients up. Results are those of one worker within rounding, but for dropout, which each draws by itself.
    """

    rank: int = 0
    workers: int = 1

    def of(self, batch: list[T]) -> list[T]:
        """This worker's examples; maybe none."""
        return batch[self.rank :: self.workers]

    def add_up(self, parameters: Sequence[nn.Parameter], found: dict[str, float]) -> dict[str, float]:
        """Sum gradients, in place, and measures over all workers; :func:`add_up` says what it raises."""
        if self.workers == 1:
            return found
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        values = torch.tensor(list(found.values()), dtype=torch.float64, device=parameters[0].device)
        add_up([*(parameter.grad for parameter in parameters if parameter.grad is not None), values])
        return dict(zip(found, values.tolist(), strict=True))


ALONE = Shard()


class Trainer(abc.ABC):
    """Tunes one model, in place, and resumes bit for bit from what it saves.

    Args:
        adapters_seed: of the adapters' start, and of a stream of dropout below it.
        name: begins the message of a training that diverged.
        beside: modules that are trained with it, by name.
        settings: what else must agree for a state to be loaded.

    Raises:
        ConfigError: the model has none of the layers that adapters are asked for, or nothing is left to train.
        DataError: the log-probabilities here would not be the model's own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        options: TuningOptions,
        *,
        adapters_seed: int,
        name: str,
        beside: Mapping[str, nn.Module] = MappingProxyType({}),
        shard: Shard = ALONE,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.model, self.total_steps, self.step, self.shard = model, options.total_steps, 0, shard
        self._name, self._seed, self._max_grad_norm = name, adapters_seed, options.max_grad_norm
        prove_scoring(model)
        torch.manual_seed(adapters_seed)
        self._adapted = _prepare(model, options)
        self._trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
        for name, module in beside.items():
            self._trained |= {f"{name}.{key}": value for key, value in module.named_parameters()}
        if not self._trained:
            raise ConfigError("tuning: none leaves nothing to train; set full or lora")
        rate, decay = options.learning_rate, options.weight_decay
        self._optimizer = torch.optim.AdamW(self._trained.values(), lr=rate, weight_decay=decay)
        shapes = {f"shape of {key}": list(value.shape) for key, value in self._trained.items()}
        own = {**vars(options), "lora_targets": [*options.lora_targets], "seed": adapters_seed}
        self._settings = {**own, **settings, **shapes}
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, options.warmup_steps, options.total_steps)

    @abc.abstractmethod
    def accumulate(self, step: int) -> dict[str, float]:
        """Leave this worker's part of a step's gradients; its part of the ``loss`` and what else is averaged over steps."""

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.total_steps

    def train(self, steps: int) -> dict[str, float]:
        """Take up to ``steps`` optimiser steps; means of what they found, empty when none was left. :class:`DataError`, with
        the weights before that step, where a loss or its gradient is not finite.
        """
        self.model.train()
        taken = [self._take_step() for _ in range(min(steps, self.total_steps - self.step))]
        return {key: sum(entry[key] for entry in taken) / len(taken) for key in taken[0]} if taken else {}

    def save(self, folder: str | Path) -> None:
        """Write trained weights, optimiser, schedule and position."""
        state = {
            "settings": self._settings,
            "step": self.step,
            "weights": {key: value.detach() for key, value in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(state, Path(folder) / STATE)

    def load(self, folder: str | Path) -> None:
        """Go back to where :meth:`save` was called; :class:`DataError` where that cannot be read, :class:`ConfigError` where
        it is the state of other settings or another model.
        """
        try:
            state = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
            saved, weights = state["settings"], state["weights"]
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"state {str(folder)!r}: cannot be read ({str(error).splitlines()[0]})") from None
        for name in sorted(saved.keys() | self._settings.keys()):
            was, now = saved.get(name, "not there"), self._settings.get(name, "not there")
            if was != now:
                raise ConfigError(f"{name}: is {now}, the state in {str(folder)!r} is of {was}; train with that")
        for key, value in self._trained.items():
            value.data.copy_(weights[key])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = state["step"]

    def tuned(self, *, copied: bool = False) -> PreTrainedModel:
        """The plain model, ready to generate, with adapters merged; only after a copy can training go on then."""
        whole = copy.deepcopy(self._adapted or self.model) if copied else self._adapted or self.model
        model: PreTrainedModel = whole if self._adapted is None else whole.merge_and_unload()
        return model.eval()

    def export(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase, *, adapters_of: str | None = None) -> None:
        """Write :meth:`tuned` and its tokenizer for transformers to load; with ``adapters_of``, the name of the whole model
        that training started from, the adapters alone, if there are any, as PEFT does.
        """
        if adapters_of is not None and self._adapted is not None:
            self._adapted.peft_config["default"].base_model_name_or_path = adapters_of
            self._adapted.save_pretrained(folder)
        else:
            self.tuned().save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _take_step(self) -> dict[str, float]:
        # Dropout's draws: a resumed step has the same ones, and workers have different ones.
        torch.manual_seed(seeds.derive_small(self._seed, "dropout", self.step * self.shard.workers + self.shard.rank))
        self._optimizer.zero_grad(set_to_none=True)
        found = self.shard.add_up(list(self._trained.values()), self.accumulate(self.step))
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._max_grad_norm)
        if not (math.isfinite(loss := found["loss"]) and bool(torch.isfinite(norm))):
            what = f"loss is {loss} with gradient norm {float(norm)} at step {self.step}"
            raise DataError(f"{self._name}: {what}; lower the learning_rate or look for broken examples")
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        return found


def backward(loss: Tensor) -> float:
    """Leave a loss's gradients in the weights; its value."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return float(loss.detach())


def keep_state(trainer: Trainer, directory: RunDirectory, folder: str) -> None:
    """Save the trainer's state in a run directory, for any process to load, and drop old ones."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer.save(Path(scratch))
        directory.put_folder(Path(scratch), f"{folder}/{trainer.step:08d}")
    for name in [name for name in directory.list(folder) if name.isdigit()][:-STATES_KEPT]:
        directory.remove_folder(f"{folder}/{name}")


def take_up_state(trainer: Trainer, directory: RunDirectory, folder: str, step: int) -> None:
    """Load what :func:`keep_state` has kept at a step; a new trainer is at step 0 already."""
    if step:
        with tempfile.TemporaryDirectory() as scratch:
            trainer.load(directory.get_folder(f"{folder}/{step:08d}", Path(scratch) / "state"))


def _prepare(model: PreTrainedModel, options: TuningOptions) -> Any:
    """Mark the trained weights; with adapters, put them into ``model`` in place and return the object that can merge them."""
    if options.tuning != "lora":
        model.requires_grad_(options.tuning == "full")
        if not options.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
            model.get_output_embeddings().requires_grad_(False)
        return None
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=list(options.lora_targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as error:
        raise ConfigError(f"lora_targets: {str(error).splitlines()[0]}") from None

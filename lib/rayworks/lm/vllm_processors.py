"""The classes, one per model runner, by which vLLM hands its logits to :class:`~rayworks.lm.hosted_rows.HostedRows`."""

import importlib
from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as BatchInterface
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotInterface

from rayworks.core.errors import ConfigError
from rayworks.lm.hosted_rows import HostedRows

KEY = "rayworks"


class BatchRows(BatchInterface):
    """For the first model runner: requests have an index in the batch, and are added, removed and moved."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.rows = _host(vllm_config, device)

    def is_argmax_invariant(self) -> bool:
        """It decides what is drawn."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Removals, additions and moves, in this order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.rows.leave(index)
        for index, params, prompt, tokens in batch_update.added:
            self.rows.enter(index, _told(params), prompt or (), tokens)
        for source, target, direction in batch_update.moved:
            self.rows.move(source, target, swap=direction == MoveDirectionality.SWAP)

    def apply(self, logits: Tensor) -> Tensor:
        """``[requests, vocabulary]``, in the order of the batch."""
        return self.rows.draw(logits, range(len(logits)))


class SlotRows(SlotInterface):
    """For Model Runner V2: a request keeps its slot, rows are reordered each step, the ids lie on the device."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self.rows = _host(vllm_config, req_states.device)
        self._states = req_states

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """A request enters a slot, for the first time or after preemption; its ids are read when they have been written."""
        told = _told(sampling_params)
        self.rows.enter(req_idx, told, (), [])
        return told is not None

    def apply_staged_writes(self) -> None:
        """Nothing is staged: rows live on the host."""

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """``[rows, vocabulary]``; a row that is still in its prefill is left out."""
        slots, fed = ctx.expanded_idx_mapping.tolist(), ctx.input_ids.tolist()
        places = []
        for slot, last, position in zip(slots, fed, ctx.pos.tolist(), strict=True):
            length = position + 1
            places.append(slot if length >= int(self._states.prefill_len.np[slot]) else -1)
            if places[-1] == slot:
                prompt = int(self._states.prompt_len.np[slot])
                ids = self._states.all_token_ids.gpu[slot, :length]
                self.rows.follow(slot, length, last, prompt, ids.tolist)
        return self.rows.draw(logits, places)


def rows_of(worker: Any) -> HostedRows:
    """The rows that a vLLM worker hosts."""
    runner = worker.model_runner
    sampler: Any = getattr(runner, "sampler", None)
    ours = hasattr(sampler, "logits_processors")
    processors = sampler.logits_processors if ours else runner.input_batch.logitsprocs.all
    rows: HostedRows = next(entry.rows for entry in processors if isinstance(entry, BatchRows | SlotRows))
    return rows


def ask(worker: Any, method: str, *arguments: Any) -> Any:
    """Call a method of the rows that a vLLM worker hosts, there."""
    return getattr(rows_of(worker), method)(*arguments)


def _host(vllm_config: Any, device: Any) -> HostedRows:
    unfit = {
        "speculative decoding": vllm_config.speculative_config is not None,
        "pooling": vllm_config.model_config.runner_type == "pooling",
        "pipeline parallelism": vllm_config.parallel_config.pipeline_parallel_size > 1,
        # With it the lists of drawn tokens hold placeholders.
        "asynchronous scheduling": bool(vllm_config.scheduler_config.async_scheduling),
    }
    for setting, is_set in unfit.items():
        if is_set:
            raise ConfigError(f"model.engine: vLLM draws our way without {setting} only; leave it out")
    settings = vllm_config.additional_config[KEY]
    module, function = settings["hosts"].split(":")
    slots = vllm_config.scheduler_config.max_num_seqs
    host = getattr(importlib.import_module(module), function)
    return HostedRows(host(settings["options"], str(device), slots), slots)


def _told(params: Any) -> str | None:
    told: str | None = (params.extra_args or {}).get(KEY)
    return told

"""Ray actors of a run: read event tables block by block through Ray Data, and train models on several workers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import safetensors.torch
import torch

from rayworks.core.errors import InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.core.seeds import derive_small
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.data_parallel import stopping
from rayworks.runtime.failures import Failure, classify
from rayworks.runtime.placement import device_of, keep_ray_data_in_the_placement_group
from rayworks.systems.recommendation.config import Config, ReadOptions
from rayworks.systems.recommendation.exported import weights_of
from rayworks.systems.recommendation.logs import event_tables
from rayworks.systems.recommendation.logs.events import EventLog
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel
from rayworks.systems.recommendation.models.fitting import (
    MAIN,
    Group,
    Unit,
    calibrate,
    empty_model,
    make_trainer,
    units,
)
from rayworks.systems.recommendation.models.next_item import NaturalPreference
from rayworks.systems.recommendation.models.recbole_checkpoint import read_recbole
from rayworks.systems.recommendation.models.redrawing import redrawn
from rayworks.systems.recommendation.models.training import Trainer
from rayworks.systems.recommendation.sources import DEFAULTS

TRAINING = "training"
PROGRESS, DONE, MODEL, STATES = "progress.json", "done.json", "model.safetensors", "states"
STATES_KEPT = 2
KEEP_SECONDS = 2.0
"""Seconds between two states: what is lost when a worker dies."""
TELL_SECONDS = 1.0


def read_events_distributed(source: str, options: ReadOptions = DEFAULTS) -> EventLog:
    """The same log as :func:`~.sources.read_events` makes of a generic table, read by the whole cluster.

    Only the columns of events are read. Each block is checked and encoded where it is; what comes back is 25 bytes an event
    and the names of the block.

    Args:
        source: a CSV or Parquet file, a folder of Parquet files, or an address of one; every node must see it.
        options: ``columns`` and ``ordered`` count.

    Raises:
        DataError: as :func:`~.sources.read_events`.
    """
    files = event_tables.files_of(source)
    names = event_tables.projection(event_tables.column_names(files), options.columns, source)
    keep_ray_data_in_the_placement_group()
    with event_tables.reading(source):
        data = _read(files, list(names.values()))
        # Events of the same time keep the order of the file.
        data.context.execution_options.preserve_order = True
        blocks = data.materialize().to_arrow_refs()
    sizes = ray.get([_rows.remote(block) for block in blocks])
    first = 1 + np.cumsum(sizes) - sizes
    parts: list[event_tables.EncodedEvents] = []
    asked = [_encode.remote(block, source, int(row), names) for block, row in zip(blocks, first, strict=True)]
    for found in ray.get(asked):
        if isinstance(found, Failure):
            raise found.as_error()
        parts.append(found)
    return event_tables.as_log(event_tables.join(parts, source, ordered=options.ordered), source)


def _read(files: list[str], columns: list[str]) -> ray.data.Dataset:
    if not event_tables.is_csv(files):
        return ray.data.read_parquet(files, columns=columns)
    options = event_tables.csv_as_text(columns)
    options.include_columns = columns
    return ray.data.read_csv(files, convert_options=options, parse_options=event_tables.csv_separated(files[0]))


@ray.remote
def _rows(block: Any) -> int:
    return int(block.num_rows)


@ray.remote
def _encode(block: Any, source: str, first_row: int, names: Mapping[str, str]) -> event_tables.EncodedEvents | Failure:
    try:
        table = block.to_pandas().rename(columns={theirs: ours for ours, theirs in names.items()})
        return event_tables.encode(table, source, first_row, names)
    except Exception as error:
        return classify(error)


def training_loop(arguments: Mapping[str, Any], directory: RunDirectory, folder: str) -> None:
    """Train the units one after the other, each from the last state kept of it; see :class:`~.data_parallel.DataParallel`.

    Args:
        arguments: ``config``; ``units``; ``logs``, references to the log by kind of unit.
        folder: with one folder per unit.
    """
    limit_torch_threads()
    config: Config = arguments["config"]
    context = ray.train.get_context()
    workers, parts = context.get_world_size(), config.training.microbatches
    group = Group(
        gather=partial(_gather_parts, count=parts, workers=workers) if workers > 1 else None,
        rank=context.get_world_rank(),
        workers=workers,
        device=device_of(config.compute),
    )
    logs = {kind: ray.get(reference) for kind, reference in arguments["logs"].items()}
    for number, unit in enumerate(arguments["units"]):
        if not directory.exists(f"{folder}/{unit.name}/{DONE}"):
            constrained = unit.kind == "acceptance" and config.constraint.weight
            log = _log_of(unit, config, logs[unit.kind], directory)
            natural = frozen_natural(config, log, directory) if constrained else None
            trainer = make_trainer(unit, config, log, natural, group)
            _train(trainer, unit, directory, folder, group.rank == 0, number / len(arguments["units"]))
            if stopping(directory, folder):
                return
            if group.rank == 0:
                _finish(trainer, unit, config, log, directory, folder)
            if workers > 1:
                # The next unit may read what the first worker has just written.
                _together(torch.distributed.barrier)


def _train(
    trainer: Trainer[Any], unit: Unit, directory: RunDirectory, folder: str, leads: bool, fraction: float
) -> None:
    """From the newest state to the end; the first worker keeps states and tells how far it is."""
    own = f"{folder}/{unit.name}/{STATES}"
    names = [name for name in directory.list(own) if name.isdigit()]
    if names:
        trainer.restore(directory.read(f"{own}/{names[-1]}"))
    kept = told = time.monotonic()
    while not trainer.finished and not stopping(directory, folder):
        metrics = trainer.epoch()
        now = time.monotonic()
        if leads and (now - told > TELL_SECONDS or trainer.finished):
            told = now
            directory.write_json(f"{folder}/{PROGRESS}", {**metrics, "unit": unit.name, "fraction": fraction})
        if leads and now - kept > KEEP_SECONDS:
            kept = now
            directory.write(f"{own}/{trainer.progress.epoch:08d}", trainer.state())
            for name in names[: -STATES_KEPT + 1]:
                directory.remove_folder(f"{own}/{name}")
            names = [*names[-STATES_KEPT + 1 :], f"{trainer.progress.epoch:08d}"]


def _finish(
    trainer: Trainer[Any], unit: Unit, config: Config, log: EventLog, directory: RunDirectory, folder: str
) -> None:
    """Calibrate, write the model, then that it is done, then forget its states."""
    model, progress = trainer.trained(), trainer.progress
    calibrated = {}
    if isinstance(model, AcceptanceModel):
        calibrate(model, config, log, unit.member)
        calibrated = {"calibration": model.calibration.tolist(), "for_any_item": _known(model.for_any_item)}
    directory.write(f"{folder}/{unit.name}/{MODEL}", weights_of(model))
    speed = progress.labels / progress.seconds
    summary = {**vars(progress), **calibrated, "labels_per_second": speed}
    directory.write_json(f"{folder}/{unit.name}/{DONE}", summary)
    directory.remove_folder(f"{folder}/{unit.name}/{STATES}")


def _log_of(unit: Unit, config: Config, log: EventLog, directory: RunDirectory) -> EventLog:
    """What a unit learns from: the log, or its decisions drawn anew."""
    if not unit.redrawn:
        return log
    main = load_unit(replace(unit, name=MAIN, redrawn=0), config, len(log.items), directory)
    return redrawn(main, log, derive_small(config.run.seed, "redrawn", unit.redrawn))


def _known(values: torch.Tensor) -> list[float] | None:
    return values.tolist() if bool(values.any()) else None


def _gather_parts(parts: Mapping[int, torch.Tensor], count: int, workers: int) -> list[torch.Tensor]:
    """All parts in order; worker r holds those numbered r, r + workers, ..."""
    own = [parts[number] for number in sorted(parts)]
    own += [torch.zeros_like(own[0])] * (-(-count // workers) - len(own))
    stacked = torch.stack(own)
    everyone = [torch.empty_like(stacked) for _ in range(workers)]
    _together(partial(torch.distributed.all_gather, everyone, stacked))
    return [everyone[number % workers][number // workers] for number in range(count)]


def _together(call: Callable[[], Any]) -> None:
    """Do what all workers do; where one has died the others see a plain RuntimeError.

    Raises:
        InfrastructureError: one is gone.
    """
    try:
        call()
    except RuntimeError as error:
        raise InfrastructureError(f"another worker is gone ({str(error).splitlines()[0]})") from error


def load_unit(unit: Unit, config: Config, items: int, directory: RunDirectory) -> Any:
    """A trained model of the run."""
    model = empty_model(unit, config, items)
    model.load_state_dict(safetensors.torch.load(directory.read(f"{TRAINING}/{unit.name}/{MODEL}")))
    return model.eval()


def frozen_natural(config: Config, log: EventLog, directory: RunDirectory) -> NaturalPreference | None:
    """The natural-preference model of the run: a checkpoint from elsewhere, or the one trained here; None without one."""
    if config.natural.checkpoint:
        checkpoint, names = Path(config.natural.checkpoint), Path(config.natural.items)
        return read_recbole(checkpoint.expanduser(), names.expanduser(), log.items)
    unit = next((unit for unit in units(config, natural=True) if unit.kind == "natural"), None)
    if unit is None or not directory.exists(f"{TRAINING}/{unit.name}/{DONE}"):
        return None
    natural: NaturalPreference = load_unit(unit, config, len(log.items), directory)
    return natural

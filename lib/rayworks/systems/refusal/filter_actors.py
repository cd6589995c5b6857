"""The filter as a Ray Data pipeline: what is measured of every prompt that was written."""

from collections.abc import Sequence
from typing import Any

import ray

from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.placement import keep_ray_data_in_the_placement_group, worker_options
from rayworks.systems.refusal.actors import Filtering
from rayworks.systems.refusal.config import Config

MEASURED = ("reply", "kind", "user_perplexity", "topic", "vector")


def measured(config: Config, directory: RunDirectory, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what the target replies to them, the judge's verdict, perplexity, topic and vector, in their order.

    Rows without a text, which are labelled harmful, are not read.
    """
    keep_ray_data_in_the_placement_group()
    numbered = [
        {"number": number, "prompt": row["prompt"], "seed": row["seed"]}
        for number, row in enumerate(rows)
        if row["prompt"]
    ]
    if not numbered:
        return [dict(row) for row in rows]
    workers, size = config.compute.workers, config.generator.prompts_per_call
    options = worker_options(config.compute)
    blocks = max(1, -(-len(numbered) // size))
    found = (
        ray.data.from_items(numbered, override_num_blocks=blocks)
        .map_batches(
            Filtering,
            fn_constructor_args=(config, directory),
            batch_size=size,
            compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
            **options,
        )
        .take_all()
    )
    by_number = {int(row["number"]): {name: _plain(row[name]) for name in MEASURED} for row in found}
    return [{**row, **by_number.get(number, {})} for number, row in enumerate(rows)]


def _plain(value: Any) -> Any:
    """A JSON value of what Arrow gives."""
    return value.tolist() if hasattr(value, "tolist") else value

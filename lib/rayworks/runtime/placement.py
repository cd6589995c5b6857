"""Reserve what a run needs on the cluster, within a deadline and with errors that name the fix."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util import get_current_placement_group
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayworks.core.config import ComputeSection, EngineSection
from rayworks.core.errors import ConfigError

Bundle = Mapping[str, float]


def worker_bundle(compute: ComputeSection) -> dict[str, float]:
    """The bundle of one model actor."""
    bundle = {"CPU": compute.cpus_per_worker}
    if compute.gpus_per_worker:
        bundle["GPU"] = compute.gpus_per_worker
    if compute.memory_gib_per_worker:
        bundle["memory"] = compute.memory_gib_per_worker * 2**30
    return bundle


def worker_options(compute: ComputeSection) -> dict[str, Any]:
    """The same as options of an actor, whose numeric libraries take one thread: more would thrash."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    options: dict[str, Any] = {names[resource]: amount for resource, amount in worker_bundle(compute).items()}
    return {**options, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}


def engine_bundles(compute: ComputeSection, engine: EngineSection, gpus: int = 1) -> list[dict[str, float]]:
    """The bundles of one model actor: its own or, where its model is spread over GPUs, one without and one for each of them.

    ``gpus`` of these there are at least, for what else the run puts there.
    """
    if engine.tensor_parallel_size == 1:
        return [worker_bundle(compute)]
    return [{"CPU": compute.cpus_per_worker}, *[worker_bundle(compute)] * max(gpus, engine.tensor_parallel_size)]


def engine_options(compute: ComputeSection, engine: EngineSection) -> dict[str, Any]:
    """Options of such an actor: where its model is spread, vLLM's own actors take the GPUs."""
    options = worker_options(compute)
    if engine.tensor_parallel_size > 1:
        del options["num_gpus"]
    return options


def device_of(compute: ComputeSection) -> str:
    """Where a model actor's tensors live."""
    return "cuda" if compute.gpus_per_worker else "cpu"


def keep_ray_data_in_the_placement_group() -> None:
    """Keep Ray Data inside what the run has reserved, and quiet.

    Ray Data spreads its tasks over the whole cluster by default, where this run has reserved nothing and might wait.
    """
    context = ray.data.DataContext.get_current()
    group = get_current_placement_group()
    if group is not None:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
        context.scheduling_strategy = context.scheduling_strategy_large_args = strategy
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def require(bundles: Sequence[Bundle], timeout_seconds: float) -> None:
    """Wait until the cluster can hold ``bundles`` at once, then let go of them again.

    An autoscaling cluster is told by the request to grow.

    Raises:
        ConfigError: it cannot within the timeout; the message names what was asked and what is free.
    """
    asked = [dict(bundle) for bundle in bundles if any(bundle.values())]
    if not asked:
        return
    group = placement_group(asked, name=f"room/{uuid.uuid4().hex[:8]}")
    try:
        if not group.wait(timeout_seconds):
            raise ConfigError(
                f"compute: asked for {describe(bundles)}; free now: {_amounts(ray.available_resources())} on "
                f"{_node_count()} (in all {_amounts(ray.cluster_resources())}); not offered within {timeout_seconds:g} s. "
                "Lower compute.* or add nodes"
            )
    finally:
        remove_placement_group(group)
        _wait_until_removed(group)


def let_go_of_all() -> None:
    """Remove every placement group, in a Ray where all are leftovers: what an actor that died had reserved stays so."""
    for key, facts in ray.util.placement_group_table().items():
        if facts["state"] != "REMOVED":
            group = PlacementGroup(ray.PlacementGroupID.from_hex(key))
            remove_placement_group(group)
            _wait_until_removed(group)


def describe(bundles: Sequence[Bundle]) -> str:
    """``3 x (CPU 1, GPU 1), 1 x (CPU 0.5)``."""
    counts: dict[str, int] = {}
    for bundle in filter(lambda bundle: any(bundle.values()), bundles):
        text = _amounts(bundle)
        counts[text] = counts.get(text, 0) + 1
    return ", ".join(f"{count} x ({text})" for text, count in counts.items())


def _amounts(resources: Mapping[str, float]) -> str:
    shown = {name: resources.get(name, 0.0) for name in ("CPU", "GPU", "memory")}
    return ", ".join(
        f"{name} {amount / 2**30:.1f} GiB" if name == "memory" else f"{name} {amount:g}"
        for name, amount in shown.items()
        if amount or name == "CPU"
    )


def _node_count() -> str:
    alive = sum(node["Alive"] for node in ray.nodes())
    return f"{alive} node{'s' if alive != 1 else ''}"


def _wait_until_removed(group: object) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        table = ray.util.placement_group_table(group)
        if table.get("state") in ("REMOVED", None):
            return
        time.sleep(0.05)

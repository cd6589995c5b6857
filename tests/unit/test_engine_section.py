"""What a run asks of the cluster for the engine that its config names."""

from typing import Any

import pytest

from rayworks.core.config import ComputeSection, EngineSection
from rayworks.runtime.placement import engine_bundles, engine_options
from rayworks.systems.alignment import Config
from rayworks.systems.alignment.system import AlignmentSystem


def config(compute: dict[str, Any], **model: Any) -> Config:
    return Config.model_validate({"model": model, "compute": compute})


def test_one_gpu_each_is_asked_for_as_before() -> None:
    compute = ComputeSection(gpus_per_worker=1, workers=3)
    assert engine_bundles(compute, EngineSection(engine="vllm")) == [{"CPU": 1.0, "GPU": 1.0}]
    assert engine_options(compute, EngineSection(engine="vllm"))["num_gpus"] == 1
    bundles = AlignmentSystem.bundles(config({"gpus_per_worker": 1, "workers": 3}, engine="vllm"))
    assert bundles == [{}, *[{"CPU": 1.0, "GPU": 1.0}] * 3]


def test_a_model_over_several_gpus_has_an_actor_without_one_and_a_bundle_for_each() -> None:
    spread = config({"gpus_per_worker": 1, "workers": 1}, engine="vllm", tensor_parallel_size=4)
    assert AlignmentSystem.bundles(spread) == [{}, {"CPU": 1.0}, *[{"CPU": 1.0, "GPU": 1.0}] * 4]
    assert "num_gpus" not in engine_options(spread.compute, spread.model)
    # Both reward models are trained at once, before.
    pair = config({"gpus_per_worker": 1, "workers": 1}, engine="vllm", tensor_parallel_size=2)
    assert sum("GPU" in bundle for bundle in AlignmentSystem.bundles(pair)) == 2


@pytest.mark.parametrize(
    ("compute", "model", "said"),
    [
        ({}, {"tensor_parallel_size": 2}, "transformers does not spread a model; set engine: vllm"),
        ({"workers": 2, "gpus_per_worker": 1}, {"engine": "vllm", "tensor_parallel_size": 2}, "compute.workers: 1"),
        ({"workers": 1}, {"engine": "vllm", "tensor_parallel_size": 2}, "compute.gpus_per_worker: 1"),
        ({}, {"engine": "vllm", "memory_share": 1.5}, "memory_share"),
        ({}, {"engine": "tgi"}, "engine"),
    ],
)
def test_what_cannot_be_is_refused(compute: dict[str, Any], model: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(compute, **model)

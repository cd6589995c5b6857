"""What dies in the middle of an alignment run, and that nothing finished is lost."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.util.state import list_actors

from jobs import run
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.engine import Generation, GenerationRequest
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.lm.vllm_engine import VllmEngine
from rayworks.runtime.actor_pool import ActorPool
from rayworks.systems.alignment import Config
from rayworks.systems.alignment.actors import GuidedActor
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedGeneration, GuidedRequest
from tests.conftest import FinishedRun
from tests.observing import cluster_address
from tests.tiny_models import VLLM_HEAD, save_tiny_model


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def killing(batches: list[Any], actor: str, *, before: int) -> Iterator[Any]:
    """The batches; the actor is killed when the pool asks for number ``before``, so that work for it always remains."""
    for index, batch in enumerate(batches):
        if index == before:
            alive = list_actors(cluster_address(), filters=[("state", "=", "ALIVE")])
            (victim,) = [entry for entry in alive if (entry.name or "").startswith(actor)]
            os.kill(victim.pid, signal.SIGKILL)
        yield batch


def assert_nothing_is_lost(
    engine: type[TransformersEngine | VllmEngine], model: str, requests: list[GenerationRequest]
) -> None:
    """One of two actors with the engine is killed on the way; all prompts are answered as by one that is not."""
    expected = TransformersEngine(model, slots=4).generate(requests)
    pool: ActorPool[list[GenerationRequest], list[Generation]] = ActorPool(
        engine, model, "float32", 4, size=2, name="faults/engine", options={"num_cpus": 1}
    )
    batches = [requests[start : start + 4] for start in range(0, len(requests), 4)]
    pool.broadcast("generate", [])
    results = pool.map("generate", killing(batches, "faults/engine-0", before=5))
    found = [generation for batch in results for generation in batch]
    assert [(g.uid, g.token_ids) for g in found] == [(g.uid, g.token_ids) for g in expected]
    assert pool.replaced == 1
    pool.shutdown()


def test_killed_model_actor_loses_no_finished_prompt(tiny_model: str, cluster: dict[str, str]) -> None:
    requests = [GenerationRequest(prompt="a dress:", max_new_tokens=24, seed=seed, uid=str(seed)) for seed in range(40)]
    assert_nothing_is_lost(TransformersEngine, tiny_model, requests)


@pytest.mark.slow
def test_killed_vllm_actor_loses_no_finished_prompt(tmp_path: Path, cluster: dict[str, str]) -> None:
    model = save_tiny_model(tmp_path, seed=0, head=VLLM_HEAD)
    # Greedy: a draw may fall on the other side of a rounding.
    requests = [
        GenerationRequest(prompt=f"a dress: {number}", max_new_tokens=24, temperature=0.0, uid=str(number))
        for number in range(40)
    ]
    assert_nothing_is_lost(VllmEngine, model, requests)


def test_killed_guiding_actor_loses_no_finished_prompt(finished_runs: Callable[[str], FinishedRun]) -> None:
    run = finished_runs("alignment")
    config = Config.model_validate(json.loads((run.directory / "manifest.json").read_text())["config"])
    directory = RunDirectory(str(run.directory.parent.parent), "alignment", run.directory.name)
    requests = [
        GuidedRequest(
            prompt="a dress:", max_new_tokens=20, seed=seed, uid=str(seed), guidance=Guidance({"sentiment": 1.0})
        )
        for seed in range(40)
    ]
    batches = [requests[start : start + 4] for start in range(0, 40, 4)]
    alone = GuidedActor(config, directory)
    expected = [found for batch in batches for found in alone.generate(batch)]
    pool: ActorPool[list[GuidedRequest], list[GuidedGeneration]] = ActorPool(
        GuidedActor, config, directory, size=2, name="faults/guide", options={"num_cpus": 1}
    )
    pool.broadcast("generate", [])
    results = pool.map("generate", killing(batches, "faults/guide-0", before=5))
    found = [generation for batch in results for generation in batch]
    assert [(g.uid, g.token_ids, g.kl_to_base) for g in found] == [(g.uid, g.token_ids, g.kl_to_base) for g in expected]
    assert pool.replaced == 1
    pool.shutdown()


def test_missing_model_and_broken_pairs_end_with_code_4_and_lose_nothing(
    finished_runs: Callable[[str], FinishedRun],
    run_job: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    straight = finished_runs("alignment")
    moved = tmp_path / "pairs.jsonl"
    shutil.copy(straight.inputs / "pairs.jsonl", moved)
    moved.write_text(moved.read_text() + '{"prompt": "a", "chosen": "b"}\n')
    storage = ["--run.storage", str(tmp_path), "--run.name", "broken"]
    bad_pairs = run_job(*straight.arguments, *storage, "--objectives.sentiment.pairs.source", str(moved))
    assert bad_pairs.returncode == 4
    assert "row 128" in bad_pairs.stderr
    assert (tmp_path / "alignment/broken/manifest.json").exists()
    bad_model = run_job(*straight.arguments, *storage[:-1], "nomodel", "--model.base", "/nowhere")
    assert bad_model.returncode == 4
    assert "/nowhere" in bad_model.stderr


def test_a_run_of_another_model_family_is_refused_by_name(
    finished_runs: Callable[[str], FinishedRun],
    run_job: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    from tests.tiny_models import make_tokenizer

    other = save_tiny_model(tmp_path / "other", seed=3, tokenizer=make_tokenizer(["another corpus of other words"]))
    straight = finished_runs("alignment")
    done = run_job(*straight.arguments, "--run.storage", str(tmp_path), "--model.reward", other)
    assert done.returncode == 2
    assert "tokenizer differs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["alignmen"], "alignment"),
        (["alignment", "--training.epochs", "zero"], "training.epochs"),
        (["alignment", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_command_lines_end_with_code_2_and_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line

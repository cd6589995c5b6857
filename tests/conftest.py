"""Shared fixtures. One Ray cluster of three nodes, in token mode, serves the whole session."""

import atexit
import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Ray reads these when it is first imported, which collecting the tests does.
_CLUSTER_FOLDER = tempfile.mkdtemp(prefix="rayworks-tests-")
atexit.register(shutil.rmtree, _CLUSTER_FOLDER, ignore_errors=True)
os.environ.update(
    RAYWORKS_CLUSTER=_CLUSTER_FOLDER,
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=f"{_CLUSTER_FOLDER}/token",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)
for _name in ("RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_API_SERVER_ADDRESS"):
    os.environ.pop(_name, None)

import hypothesis
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster import local
from tests import smallest
from tests.tiny_models import make_tokenizer, save_tiny_model

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done: the command's arguments, its directory, the folder of its inputs, what it printed."""

    arguments: list[str]
    directory: Path
    inputs: Path
    output: str


torch.set_num_threads(1)
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random two-layer Llama with a trained byte-level tokenizer, as a folder."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"), seed=0)


@pytest.fixture(scope="session")
def tiny_arm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another random model of the same vocabulary."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-arm"), seed=1)


@pytest.fixture
def random_llama() -> Callable[..., LlamaForCausalLM]:
    """Makes small Llamas whose every distribution can be enumerated."""

    def make(vocabulary: int = 12, seed: int = 0, **options: int) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=options.pop("layers", 2),
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            **options,
        )
        model = LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """Three nodes on this machine, the test process attached to them; yields the variables a subprocess needs."""
    import ray

    assert local.up(nodes=3, cpus_per_node=2, dashboard_port=free_port()) == 0
    variables = local.environment()
    ray.init(address=variables["RAY_ADDRESS"], namespace="rayworks", log_to_driver=False, logging_level="ERROR")
    yield variables
    ray.shutdown()
    assert local.down() == 0
    assert sorted(path.name for path in local.folder().iterdir()) == ["token"], "down removes what up made"
    left = list(Path(local.sessions()).parent.glob(f"{Path(local.sessions()).name}*"))
    for place in left:
        shutil.rmtree(place, ignore_errors=True)
    assert not left, "down removes the sessions of all nodes"


@pytest.fixture(scope="session")
def run_job(cluster: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs what ``python -m jobs.run`` runs, on the shared cluster and in this process, which has it all loaded."""
    from jobs import run

    def called(*arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run.main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return called


@pytest.fixture(scope="session")
def finished_runs(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "FinishedRun"]:
    """The smallest run of each system, made when first asked for by the command that a user would type."""
    made: dict[str, FinishedRun] = {}

    def finished(system: str) -> FinishedRun:
        if system not in made:
            folder = tmp_path_factory.mktemp(system)
            settings = getattr(smallest, system)(folder)
            arguments = [system, *settings, "--run.storage", str(folder / "runs"), "--run.name", "straight"]
            command = [sys.executable, "-m", "jobs.run", *arguments]
            environment = {**os.environ, **cluster}
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            made[system] = FinishedRun(arguments, folder / "runs" / system / "straight", folder, done.stdout)
        return made[system]

    return finished

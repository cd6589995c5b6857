"""What a process of a run loads: starting it is most of the cost of a small job, and loading most of the start."""

import subprocess
import sys

import pytest

from rayworks.systems import REGISTRY

HEAVY = """flwr gymnasium jax matplotlib mpe2 numpyro pandas peft pettingzoo pygame ray.data ray.rllib ray.train ray.tune
scipy scipy.stats sympy tensorboard torch torch._dynamo torch_geometric transformers""".split()
TUNE = {"ray.tune", "ray.train", "ray.data"}
"""What a ``Trainable`` brings."""
LANGUAGE_MODELS = {"torch", "torch._dynamo", "transformers", "peft", "sympy"}

ACTORS = {
    "alignment": (4800, {"pandas", "scipy", "scipy.stats", *LANGUAGE_MODELS}),
    "augmentation": (2600, {"pandas", "torch"}),
    "difficulty": (1800, {"pandas", "scipy"}),
    "federation": (2600, {"flwr", "pandas", "torch"}),
    "marl": (3300, {"gymnasium", "pandas", "ray.rllib", "scipy", "torch", *TUNE}),
    "reasoning": (4800, {"pandas", "scipy", "scipy.stats", *LANGUAGE_MODELS}),
    "recommendation": (2750, {"pandas", "ray.data", "ray.train", "scipy", "torch"}),
    "refusal": (4900, {"pandas", "scipy", "scipy.stats", *LANGUAGE_MODELS}),
    "regulation": (1300, {"pandas", "scipy"}),
    "supervision": (4800, {"pandas", "scipy", "scipy.stats", *LANGUAGE_MODELS}),
}
"""System to the most modules that its workers load before they are asked for anything, and the heavy ones among them."""
TRIALS = {
    "alignment": (5300, set[str]()),
    "augmentation": (3500, set[str]()),
    "difficulty": (2400, set[str]()),
    "federation": (3500, set[str]()),
    "marl": (3400, set[str]()),
    "reasoning": (5300, set[str]()),
    "recommendation": (3400, set[str]()),
    "refusal": (5400, set[str]()),
    "regulation": (2400, set[str]()),
    "supervision": (4900, set[str]()),
}
"""The same of the process of the run, beside what its workers and Tune load."""


def loaded(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def assert_light(module: str, most: int, allowed: set[str]) -> None:
    found = loaded(module)
    heavy = found & set(HEAVY) - allowed
    assert not heavy, f"{module} loads {sorted(heavy)}; import them where they are used"
    assert len(found) <= most, f"{module} loads {len(found)} modules"


@pytest.mark.parametrize("system", REGISTRY)
def test_workers_load_what_they_use(system: str) -> None:
    assert_light(f"rayworks.systems.{system}.actors", *ACTORS[system])


@pytest.mark.parametrize("system", REGISTRY)
def test_a_run_loads_what_it_uses(system: str) -> None:
    most, own = TRIALS[system]
    assert_light(f"rayworks.systems.{system}.system", most, own | ACTORS[system][1] | TUNE)

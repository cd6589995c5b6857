"""What a step of the engine costs on the run's own data and network, against a plain one."""

import time
from dataclasses import replace

import numpy as np

from rayworks.systems.augmentation.data.splits import Splits
from rayworks.systems.augmentation.engine.settings import EngineSettings
from rayworks.systems.augmentation.training.arms import Arm
from rayworks.systems.augmentation.training.loop import ArmRun, TrainingSettings, online
from rayworks.systems.augmentation.upstream.views import identity

ROUNDS = 5
LONGEST = 64
"""Steps of a round, at most."""


def step_cost(splits: Splits, settings: TrainingSettings, engine: EngineSettings) -> float:
    """Median over rounds of the ratio of CPU seconds, both ways in turn; rounds are as long as one refresh."""
    at_once = replace(engine, warm_up=0, progress=0.0, collapse=0.0, allow_greedy=True)
    settings = replace(settings, steps=10_000)
    runs = [
        ArmRun(arm, splits, online(splits, identity), settings, 0)
        for arm in (Arm("plain", rows="all"), Arm("engine", at_once, rows="all"))
    ]
    steps = min(max(4, engine.refresh), LONGEST)
    found = []
    for run in runs:
        run.train(2)
    for _ in range(ROUNDS):
        spent = []
        for run in runs:
            began = time.process_time()
            run.train(steps)
            spent.append(time.process_time() - began)
        found.append(spent[1] / max(spent[0], 1e-9))
    return float(np.median(found))

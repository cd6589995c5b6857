"""Sets of prompts by name: those of packages, files and functions, those of a run's export, and the toy's own."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from rayworks.core import seeds
from rayworks.systems.refusal.config import EXPORT, PLANTED
from rayworks.systems.refusal.evaluation.prompt_sets import Label, Prompt, PromptSet, open_prompts
from rayworks.systems.refusal.exported import PROMPTS

SAFE, CONTROL = f"{PLANTED}-safe", f"{PLANTED}-control"
_TOYS = 60


def open_set(name: str, most: int | None, seed: int) -> PromptSet:
    """The set of a name; see ``evaluation.sets``.

    Args:
        most: prompts, drawn by seed; ``None``: all.

    Raises:
        ConfigError: there is no such set.
        DataError: it cannot be read, is empty, or a row of it is not right.
    """
    if name in (SAFE, CONTROL):
        found = PromptSet(name, _toys(name, seed))
    elif name.startswith(EXPORT):
        folder = Path(name.removeprefix(EXPORT)).expanduser()
        run = folder / "export"
        found = open_prompts(str((run if (run / PROMPTS).is_file() else folder) / PROMPTS))
    else:
        found = open_prompts(name)
    if most is None or len(found.prompts) <= most:
        return found
    order = seeds.stream(seed, "set", name).permutation(len(found.prompts))[:most]
    return PromptSet(found.name, tuple(found.prompts[at] for at in np.sort(order)), found.duplicates)


def _toys(name: str, seed: int) -> tuple[Prompt, ...]:
    """Requests of the toy: harmless ones, half of which it refuses, or those that it refuses rightly."""
    from rayworks.systems.refusal.targets import planted

    if name == SAFE:
        texts = planted.toy_requests(seed, _TOYS)
        texts += _phrases(planted.PLANTED, planted.THINGS, seed)
    else:
        texts = _phrases((*planted.PLANTED, *planted.UNKIND), planted.PEOPLE, seed)
    label: Label = "harmless" if name == SAFE else "harmful"
    return tuple(Prompt(f"{name}/{number}", text, label) for number, text in enumerate(texts))


def _phrases(verbs: Sequence[str], things: Sequence[str], seed: int) -> list[str]:
    from rayworks.systems.refusal.targets.planted import FRAMES, PLACES

    phrases = list(product(FRAMES, verbs, things, PLACES))
    order = seeds.stream(seed, "toy", "phrases").permutation(len(phrases))[:_TOYS]
    return [frame.format(f"{verb} the {thing}{place}") for frame, verb, thing, place in (phrases[at] for at in order)]

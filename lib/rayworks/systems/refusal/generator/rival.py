"""The honest rival: paraphrase the seeds, and keep what the target refuses."""

import dataclasses
from collections.abc import Sequence

from rayworks.systems.refusal.generator.generation import Generated, Generator
from rayworks.systems.refusal.generator.options import GeneratorOptions
from rayworks.systems.refusal.targets.opening import Target
from rayworks.systems.refusal.targets.own_refusals import Refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed


def draw_paraphrases(
    target: Target, refusal: Refusal, seeds: Sequence[Seed], options: GeneratorOptions, run_seed: int, rounds: int = 1
) -> list[Generated]:
    """So many paraphrases of each seed, drawn from the law of the content model alone, of the same length at most, with how
    likely each is refused; the caller filters them as it does the generator's. Their uids are ``SEED/ROUND``; the errors
    are those of :class:`Generator`.
    """
    plain = dataclasses.replace(options, w2=0.0, floor=None, content_temperature=1.0)
    asked = [Seed(f"{seed.uid}/{number}", seed.text) for number in range(rounds) for seed in seeds]
    return Generator(target, refusal, plain).write(asked, run_seed)

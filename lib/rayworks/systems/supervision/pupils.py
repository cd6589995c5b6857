"""Who is taught by whom in a run: arms of experts, and students of their labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from rayworks.systems.supervision.boosting.chain import Arm
from rayworks.systems.supervision.config import Config, Loss, Student

TRUTH, EASY_TRUTH = "ceiling", "easy-truth"
CHOSEN = "chosen"
"""As a number of rounds: the one that validation chose."""


@dataclass(frozen=True)
class Pupil:
    """A student: whose labels it learns, by which loss."""

    name: str
    teacher: str
    """The name of labels: ``ARM@ROUNDS``, ``evidential``, another pupil, or the truth of easy or of hard examples."""
    loss: Loss = "cross-entropy"
    features: str | None = None
    hard: bool = False
    """Whether it learns classes, whatever the type of the labels."""


def arms(taught: Sequence[Student]) -> tuple[Arm, ...]:
    """The chains of experts that some student needs."""
    found: list[Arm] = ["boosting"]
    found += ["bagging"] if {"bagging", "evidential"} & set(taught) else []
    found += ["uniform"] if "uniform" in taught else []
    return tuple(found)


def shown_rounds(config: Config) -> list[int]:
    """Numbers of rounds whose ensembles of boosting teach a student each."""
    return [number for number in config.experiment.rounds_shown if number <= config.boosting.rounds]


def pupils(config: Config, taught: Sequence[Student]) -> list[Pupil]:
    """All students of a seed, each after those whose labels it needs."""
    section = config.student
    loss, hard = section.loss, section.labels == "hard"
    found = [Pupil("single", "boosting@1", loss, hard=hard)]
    shown = shown_rounds(config)[1:]
    found += [Pupil(f"ensemble@{number}", f"boosting@{number}", loss, hard=hard) for number in shown]
    named = {"ensemble": "boosting", "bagging": "bagging", "uniform": "uniform"}
    found += [Pupil(name, f"{arm}@{CHOSEN}", loss, hard=hard) for name, arm in named.items() if name in taught]
    if "hard" in taught:
        found += [Pupil("single-hard", "boosting@1", loss, hard=True)]
        found += [Pupil("ensemble-hard", f"boosting@{CHOSEN}", loss, hard=True)]
    found += [Pupil("evidential", "evidential", loss, hard=hard)] if "evidential" in taught else []
    losses: tuple[Loss, ...] = ("logconf", "product")
    found += [Pupil(name, "boosting@1", name, hard=hard) for name in losses if name in taught]
    if "ladder" in taught:
        steps = [f"ladder-{number}" for number in range(1, len(section.ladder) + 1)]
        teachers = ["boosting@1", *steps]
        found += [
            Pupil(step, teacher, loss, features, hard)
            for step, teacher, features in zip(steps, teachers, section.ladder, strict=False)
        ]
        found.append(Pupil("ladder", teachers[-1], loss, hard=hard))
    return [*found, Pupil(EASY_TRUTH, EASY_TRUTH), Pupil(TRUTH, TRUTH)]

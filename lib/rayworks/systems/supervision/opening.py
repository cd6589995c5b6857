"""From settings to the tracks of a run's seeds."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.systems.supervision.boosting.weighting import rule_of
from rayworks.systems.supervision.class_track import ClassPool, ClassTrack
from rayworks.systems.supervision.config import EXPORT, Config, Student
from rayworks.systems.supervision.tasks.hardness import COLUMN
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.tasks.opening import Examples, open_task
from rayworks.systems.supervision.tasks.splitting import distinct
from rayworks.systems.supervision.tracks import Track
from rayworks.systems.supervision.weak.places import HERE, Place

if TYPE_CHECKING:
    from rayworks.systems.supervision.generation.shipping import Others


class Tracks:
    """Examples, read once, and each seed's track.

    Args:
        place: where language models are trained and read.
        others: processes beside this one that hold experts, if there are any.
    """

    def __init__(self, config: Config, place: Place = HERE, others: "Others | None" = None) -> None:
        self._config, self._place, self._others = config, place, others
        self._made: dict[int, Track] = {}

    @cached_property
    def pool(self) -> Examples:
        """The examples that all seeds draw from; see :func:`pool_of`."""
        return pool_of(self._config)

    @property
    def taught(self) -> tuple[Student, ...]:
        """The students that the settings and the kind of answers allow."""
        return self._config.student.taught_of(texts=not isinstance(self.pool, LabelledExamples))

    def __getitem__(self, number: int) -> Track:
        """The track of a seed; the last one asked for is kept."""
        if number not in self._made:
            seed = seeds.derive_small(self._config.run.seed, "supervision", number)
            self._made = {number: self._make(self._config, seed)}
        return self._made[number]

    @cached_property
    def _make(self) -> Callable[[Config, int], Track]:
        if isinstance(self.pool, LabelledExamples):
            classes = ClassPool(self._config, self.pool)
            return lambda config, seed: ClassTrack(config, classes, seed, self._place)
        from rayworks.systems.supervision.text_track import TextPool, TextTrack

        texts = TextPool(self._config, self.pool)
        return lambda config, seed: TextTrack(config, texts, seed, self._place, self._others)


def check_tracks(config: Config) -> None:
    """Raise what a run would find out late: that there are too few examples, or settings that their answers do not allow."""
    pool = pool_of(config)
    if isinstance(pool, LabelledExamples):
        if config.weak.processes > 1:
            raise ConfigError(
                f"weak.processes: experts of classes decode nothing, those of {config.task.name} are such; leave it 1"
            )
        rule_of(config.boosting.rule or "m1", len(pool.classes), config.boosting.prior_error or 0.5)
        if config.task.split != "random" and config.task.hardness.startswith((COLUMN, EXPORT)):
            _ = ClassPool(config, pool).hardness
        return
    from rayworks.systems.supervision.text_track import TextPool

    losses = {config.student.loss, *(config.student.taught or ())} & {"logconf", "product", "hard"}
    if losses:
        name = "student.loss" if config.student.loss in losses else "student.taught"
        raise ConfigError(
            f"{name}: {min(losses)} is of classes, the answers of {config.task.name} are texts; leave it out"
        )
    TextPool(config, pool)


def pool_of(config: Config) -> Examples:
    """``task.count`` examples that differ from each other.

    Raises:
        ConfigError: there is no such task.
        DataError: it cannot be read, or has fewer.
    """
    found = open_task(config.task, config.run.seed)
    texts = found.texts if isinstance(found, LabelledExamples) else [one.prompt for one in found]
    rows = distinct(texts, config.task.count, config.run.seed)
    return found.take(rows) if isinstance(found, LabelledExamples) else tuple(found[row] for row in rows.tolist())

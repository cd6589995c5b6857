"""The workers of a run: each does a piece of one seed, and hands on through files of the run."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray

from rayworks.core import seeds
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.data_parallel import agreed, place
from rayworks.runtime.placement import device_of, worker_options
from rayworks.systems.supervision.boosting.chain import Arm, Chain, ChainOptions, grow
from rayworks.systems.supervision.boosting.verdict import ROUNDS
from rayworks.systems.supervision.boosting.votes import mean_correlation
from rayworks.systems.supervision.boosting.weighting import rule_of
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.files import Files
from rayworks.systems.supervision.opening import Tracks
from rayworks.systems.supervision.pupils import CHOSEN, EASY_TRUTH, TRUTH, Pupil, arms, pupils, shown_rounds
from rayworks.systems.supervision.tasks.splitting import Split
from rayworks.systems.supervision.teaching import choose, first_verdict
from rayworks.systems.supervision.tracks import Lesson, Track
from rayworks.systems.supervision.weak.places import Place

FOUND = "found.json"
MOST_TEAMS = 64
"""That are known by a reference at once."""


class SupervisionActor:
    """Fits experts, lets them label, teaches students, and at the end tests all of them.

    Args:
        rank: of those that train in step; the first of them keeps what all come to.
        workers: how many these are.
    """

    def __init__(self, config: Config, directory: RunDirectory, rank: int = 0, workers: int = 1) -> None:
        limit_torch_threads()
        spread = config.weak.processes > 1 and workers == 1
        self._place = Place(device_of(config.compute), rank, workers)
        self._config, self._files = config, Files(directory)
        self._tracks = Tracks(config, self._place, OtherGroups(config) if spread else None)

    def prepare(self, seed: int) -> dict[str, Any]:
        """Read the examples, measure what is hard, for which all labels are read, and part them; what is known of them."""
        track = self._tracks[seed]
        return {**track.facts(), "prior_error": track.prior_error(), "units": len(track.learner().owners)}

    def grow(self, call: tuple[int, Arm, int]) -> dict[str, Any]:
        """Fit experts of a chain until so many vote, and keep them; how far it is, and its rounds.

        A chain that is further already, as a call before has left it, answers what it was then.
        """
        number, arm, aim = call
        began, track = time.perf_counter(), self._tracks[number]
        learner, seed = track.learner(), self._seed(number)
        chain = self._files.chain(number, arm) or Chain.begin(arm, len(learner.owners))
        self._together()
        aim = min(aim, self._config.boosting.rounds)
        piece = 1 if self._config.weak.learner == "adapter" else aim
        undecided = arm == "boosting" and self._config.boosting.fallback
        while not chain.ended:
            fitted, kept = dict[int, Any](), len(chain.kept)
            if undecided and kept == ROUNDS:
                # Before all else, for a death may have come between the last round and its verdict.
                self._decide(track, number, chain)
                undecided = False
                continue
            if kept >= aim:
                break
            until = min(kept + piece, aim, ROUNDS if undecided and kept < ROUNDS else aim)
            grow(chain, learner, self._options(track), rounds=until, seed=seed, keep=fitted.__setitem__)
            self._keep_chain(track, number, chain, fitted)
        rounds = chain.rounds_until(aim)
        return {
            "kept": sum(one.kept for one in rounds),
            "ended": chain.ended if len(rounds) == len(chain.rounds) else "",
            "rounds": [vars(one) for one in rounds],
            "seconds": time.perf_counter() - began,
        }

    def _decide(self, track: Track, number: int, chain: Chain) -> None:
        """End the chain where its first few experts tell that more will not help."""
        told = first_verdict(track, chain, self._files.experts(number, chain.arm, track), self._config)
        if not told.helps and not chain.ended:
            chain.ended = f"after {len(chain.kept)} experts more will not help: {told.reason}"
            self._keep_chain(track, number, chain, {})

    def _keep_chain(self, track: Track, number: int, chain: Chain, fitted: dict[int, Any]) -> None:
        if self._place.rank == 0:
            self._files.keep_chain(number, chain, fitted, track.save_expert)
        self._together()

    def _together(self) -> None:
        """Wait for those that train in step, who read what the first of them keeps."""
        if self._place.workers > 1:
            agreed(0)

    def teach(self, call: tuple[int, Arm]) -> dict[str, Any]:
        """Choose how an arm teaches, and keep what it says of the unlabelled and of the test examples."""
        number, arm = call
        began, track = time.perf_counter(), self._tracks[number]
        chain, experts = self._files.chain(number, arm), self._files.experts(number, arm, track)
        assert chain is not None
        choice = choose(track, chain, experts, self._config, self._seed(number))
        cost = track.cost(len(experts))
        if cost["train"] is not None:
            # Those that do not vote were trained too, and so were those of every fold.
            folds = self._config.boosting.folds
            cost["train"] *= len(chain.rounds) * (1 + folds * (arm == "boosting" and folds > 1)) / len(experts)
        numbers = {choice.rounds, *(shown_rounds(self._config) if arm == "boosting" else ())}
        alphas = chain.alphas if len(chain.alphas) else np.ones(1)
        for split in ("unlabelled", *_tested(track)):
            labels = track.label(experts, alphas, split, choice.vote, sorted(numbers))
            for rounds, said in labels.items():
                self._keep(track, number, f"{arm}@{rounds}", split, said)
            self._keep(track, number, f"{arm}@{CHOSEN}", split, labels[choice.rounds])
            if arm == "bagging":
                self._keep(track, number, "evidential", split, track.evidential(experts, split))
        by_place = track.by_place(chain.distribution)
        return {**vars(choice), "seconds": time.perf_counter() - began, "cost": cost, "by_place": by_place}

    def learn(self, call: tuple[int, Pupil]) -> dict[str, Any]:
        """Teach a student, and keep what it says of the test examples, and of the unlabelled ones if it teaches another."""
        number, pupil = call
        began, track = time.perf_counter(), self._tracks[number]
        lesson, seed = self._lesson(track, number, pupil), self._seed(number)
        teaches = any(other.teacher == pupil.name for other in pupils(self._config, self._tracks.taught))
        splits: list[Split] = [*_tested(track), "unlabelled"] if teaches else _tested(track)
        said, cost = track.learn(lesson, splits, seed)
        for split, labels in zip(splits, said, strict=True):
            self._keep(track, number, pupil.name, split, labels)
        return {"seconds": time.perf_counter() - began, **cost}

    def test(self, number: int) -> dict[str, Any]:
        """Read the test's labels, for the only time, and mark everybody: ``1`` and ``0``, one per test example."""
        track = self._tracks[number]

        def marks(name: str, split: Split) -> str:
            said = track.unpack(self._files.labels(number, _file(name, split)))
            return "".join("1" if right else "0" for right in track.rights(said, split))

        shown = [f"boosting@{rounds}" for rounds in shown_rounds(self._config)]
        teachers = [*shown, *(f"{arm}@{CHOSEN}" for arm in arms(self._tracks.taught))]
        students = [pupil.name for pupil in pupils(self._config, self._tracks.taught)]
        easy = [name for name in (*teachers, *students) if "easy_test" in _tested(track)]
        return {
            "teachers": {name: marks(name, "test") for name in teachers},
            "taught": {name: marks(name, "unlabelled").count("1") for name in teachers},
            "students": {name: marks(name, "test") for name in students},
            "easy": {name: marks(name, "easy_test").count("1") / len(track.rows("easy_test")) for name in easy},
            "correlation": self._correlation(track, number),
            "rows": track.rows("test").tolist(),
            "commonest_share": track.commonest("test"),
        }

    def _correlation(self, track: Track, number: int) -> float | None:
        return mean_correlation(track.wrong(self._files.experts(number, "boosting", track), "test"))

    def _lesson(self, track: Track, number: int, pupil: Pupil) -> Lesson:
        if pupil.teacher == EASY_TRUTH:
            return Lesson(track.known("labelled"), "labelled", certain=True)
        if pupil.teacher == TRUTH:
            return Lesson(track.truth("unlabelled"), certain=True)
        labels = track.unpack(self._files.labels(number, _file(pupil.teacher, "unlabelled")))
        return Lesson(track.hard(labels) if pupil.hard else labels, "unlabelled", pupil.loss, pupil.features)

    def _keep(self, track: Track, number: int, name: str, split: Split, labels: Any) -> None:
        if self._place.rank == 0:
            self._files.keep_labels(number, _file(name, split), track.pack(labels))

    def _options(self, track: Track) -> ChainOptions:
        section = self._config.boosting
        name = section.rule or track.rule
        prior = (section.prior_error or track.prior_error()) if name == "prior" else None
        rule = rule_of(name, track.classes, prior, section.most_alpha)
        return ChainOptions(rule, section.mode, section.multiplicity, section.folds, section.retries)

    def _seed(self, number: int) -> int:
        return seeds.derive_small(self._config.run.seed, "supervision", number)


class OtherGroups:
    """Processes that hold experts beside a worker, as :class:`~.generation.shipping.Others`; made when first asked."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pool: ActorPool[Any, Any] | None = None
        self._kept = dict[int, tuple[Any, Any]]()

    def __call__(self, question: str, teams: Sequence[Any], asked: Any) -> Callable[[], list[Any]]:
        """Teams are sent once for as long as they are the same objects, and known by a reference afterwards."""
        if self._pool is None:
            config = self._config
            name, options = f"supervision/{config.run.name}/experts", worker_options(config.compute)
            self._pool = ActorPool(_expert_group, config, size=config.weak.processes - 1, name=name, options=options)
        if len(self._kept) + len(teams) > MOST_TEAMS:
            self._kept.clear()
        calls = [
            self._pool.submit(question, self._reference(team), asked, slot=slot) for slot, team in enumerate(teams)
        ]
        return lambda: [call.result() for call in calls]

    def _reference(self, team: Any) -> Any:
        if id(team) not in self._kept:
            # The team stays with its reference, so that no other can have its number.
            self._kept[id(team)] = team, ray.put(team)
        return self._kept[id(team)][1]


def _expert_group(config: Config) -> Any:
    from rayworks.systems.supervision.generation.adapters import SLOTS
    from rayworks.systems.supervision.generation.shipping import ExpertGroup
    from rayworks.systems.supervision.weak.adapters import AdapterBase

    limit_torch_threads()
    return ExpertGroup(AdapterBase(config.weak, SLOTS, Place(device_of(config.compute))))


def training_loop(arguments: Mapping[str, Any], directory: RunDirectory, folder: str) -> None:
    """Answer a call by all workers in step; see :class:`~rayworks.runtime.data_parallel.DataParallel`.

    Args:
        arguments: ``config``, and the ``method`` of :class:`SupervisionActor` with its ``call``.
        folder: the first worker keeps the answer there, in :data:`FOUND`.
    """
    rank, workers = place()
    found = getattr(SupervisionActor(arguments["config"], directory, rank, workers), arguments["method"])(
        arguments["call"]
    )
    if rank == 0:
        directory.write_json(f"{folder}/{FOUND}", found)


def _tested(track: Track) -> list[Split]:
    """What everybody is tested on."""
    splits: list[Split] = ["test", "easy_test"]
    return [split for split in splits if len(track.rows(split))]


def _file(name: str, split: Split) -> str:
    return f"{name.replace('@', '-')}.{split}"

"""Fit the models of a run in turn: natural preference, acceptance and its resampled members, ablations, rankings."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from torch import nn

from rayworks.core import seeds
from rayworks.core.config import Section
from rayworks.core.errors import DataError
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog, Split, TimeWindows, Windows
from rayworks.systems.recommendation.logs.sequences import sequences
from rayworks.systems.recommendation.measures.audit_baselines import item_rates
from rayworks.systems.recommendation.measures.calibration import LEAST_EFFECTIVE, calibration, effective
from rayworks.systems.recommendation.models import next_item
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions, History, predict
from rayworks.systems.recommendation.models.backbones import BackboneName
from rayworks.systems.recommendation.models.constraint import AcceptanceObjective, Constraint, ConstraintOptions
from rayworks.systems.recommendation.models.natural_scores import natural_scores
from rayworks.systems.recommendation.models.training import Gather, Trainer, TrainingOptions, bootstrap_weights

Kind = Literal["natural", "acceptance", "ranking"]
HELD_OUT = 2
"""Last natural items of each user that a ranking does not train on: one for validation, one for the test."""
LEAST_SUPPORT = 0.9
"""Share of a policy's choices that the log must show now and then."""
MAIN = "acceptance-0"
"""The model that counts: trained on all users alike."""


@dataclass(frozen=True)
class Unit:
    """One model to be trained."""

    name: str
    kind: Kind
    member: int = 0
    """0 counts all users alike, others count a resample of them."""
    history: History = "all"
    backbone: BackboneName = "attention"
    redrawn: int = 0
    """Above 0: trained on decisions drawn anew from the model :data:`MAIN`, which comes before it."""


def units(config: Config, *, natural: bool) -> list[Unit]:
    """What a run trains, in order; ``natural`` says whether the log has enough for natural preference."""
    found: list[Unit] = []
    if "natural" in config.scope.stages and not config.natural.checkpoint and natural:
        found.append(Unit("natural", "natural", backbone=config.natural.backbone))
    members, history = range(config.uncertainty.members), config.model.history
    found += [Unit(f"acceptance-{member}", "acceptance", member, history) for member in members]
    if "effects" in config.scope.stages:
        redrawn = range(1, config.uncertainty.redrawn + 1)
        found += [Unit(f"redrawn-{number}", "acceptance", 0, history, redrawn=number) for number in redrawn]
    found += [Unit(f"ablation-{history}", "acceptance", 0, history) for history in config.ablations.histories]
    if "ranking" in config.scope.stages:
        found += [Unit(f"ranking-{name}", "ranking", backbone=name) for name in config.ranking.backbones]
    return found


def has_natural(config: Config, log: EventLog) -> bool:
    """Whether any user has enough natural events before the windows to learn from, beside those held out."""
    counts = np.bincount(log.user[~log.recommended & windows(config).known_mask(log)], minlength=1)
    return bool(counts.max() >= HELD_OUT + 2)


def windows(config: Config) -> Split:
    """The test and validation windows of a run."""
    split = config.split
    if split.by == "time":
        return TimeWindows(split.test_share, split.valid_share)
    return Windows(split.test_steps, split.valid_steps)


@dataclass(frozen=True)
class Group:
    """How the workers of a group work together; alone by default."""

    gather: Gather | None = None
    rank: int = 0
    workers: int = 1
    device: str = "cpu"


def make_trainer(
    unit: Unit, config: Config, log: EventLog, natural: next_item.NaturalPreference | None, group: Group
) -> Trainer[Any]:
    """A trainer at its beginning.

    Args:
        log: to learn from; for a ranking, the natural sequences.
        natural: the frozen model behind the constraint, if there is one.
    """
    if unit.kind == "acceptance":
        return _acceptance_trainer(unit, config, log, natural, group)
    section = config.natural if unit.kind == "natural" else config.ranking
    options = next_item_options(unit, config, len(log.items))
    if unit.kind == "natural":
        # What users took after the windows begin is not known yet when they are predicted.
        log = log.keep(windows(config).known_mask(log))
    train, valid = next_item.natural_sequences(log, section.length + 1, HELD_OUT)
    training = _options(TrainingOptions, config.training, section, weight_decay=0.0)
    seed = seeds.derive_small(config.run.seed, "fit", unit.name)
    return Trainer(lambda: next_item.NextItemObjective(options), training, train, valid, seed=seed, **vars(group))


def _acceptance_trainer(
    unit: Unit, config: Config, log: EventLog, natural: next_item.NaturalPreference | None, group: Group
) -> Trainer[AcceptanceModel]:
    split, length = windows(config), config.model.length
    kept = log.keep(split.train_mask(log))
    options = acceptance_options(config, len(log.items), unit.history)
    pull: ConstraintOptions | None = None
    if config.constraint.weight:
        if natural is None:
            raise DataError("constraint.weight: the log has too few natural events for natural preference; set it to 0")
        pull = _options(ConstraintOptions, config.constraint)
        columns = natural_scores(natural, kept).as_columns(len(kept))

    def make() -> AcceptanceObjective:
        constraint = None if pull is None else Constraint(pull, columns, len(log.items))
        return AcceptanceObjective(options, config.training.label_smoothing, constraint)

    return Trainer(
        make,
        _options(TrainingOptions, config.training),
        sequences(kept, length),
        sequences(log, length, split.valid_mask(log)),
        # Members start alike and differ by their users only, so that their spread is that of the data.
        seed=seeds.derive_small(config.run.seed, "fit", "acceptance"),
        weights=bootstrap_weights(len(log.users), config.run.seed, unit.member) if unit.member else None,
        **vars(group),
    )


def acceptance_options(config: Config, items: int, history: History) -> AcceptanceOptions:
    """Size and shape of an acceptance model."""
    return _options(AcceptanceOptions, config.model, items=items, history=history)


def next_item_options(unit: Unit, config: Config, items: int) -> next_item.NextItemOptions:
    """Size and shape of a next-item model."""
    section = config.natural if unit.kind == "natural" else config.ranking
    return _options(next_item.NextItemOptions, section, items=items, backbone=unit.backbone)


OptionsT = TypeVar("OptionsT", AcceptanceOptions, ConstraintOptions, next_item.NextItemOptions, TrainingOptions)


def _options(kind: type[OptionsT], *sections: Section, **given: Any) -> OptionsT:
    """What is given, and else the fields that the sections have under the same names, the last section first."""
    found = {name: value for section in sections for name, value in section if name in kind.__dataclass_fields__}
    return kind(**{**found, **given})


def calibrate(model: AcceptanceModel, config: Config, log: EventLog, member: int = 0) -> None:
    """Set how the model's logits are scaled, shifted and joined with rates of items and users, from the validation window.

    For any item, decisions count by the inverse of their propensity: a recommender shows what users like, so that what is
    accepted of its choices says too much of the rest. Left as it is where the log does not know other items well enough, see
    :meth:`Validation.calibration`.

    Args:
        member: whose users count for the rates as they did in training (:func:`~.training.bootstrap_weights`); the
            validation window is that of all.
    """
    if config.training.calibration == "none":
        return
    split = windows(config)
    labelled = split.train_mask(log) & log.recommended
    weight = bootstrap_weights(len(log.users), config.run.seed, member).numpy()[log.user]
    rates, rate = item_rates(log, labelled, weight)
    level = np.log(rate / (1 - rate))
    model.rates.copy_(torch.from_numpy(np.log(rates / (1 - rates)) - level))
    model.rate.fill_(level)
    seen = validation(model, config, log)
    model.calibration.copy_(seen.calibration())
    known = seen.calibration(1 / (log.propensity * len(log.items)))
    if known is not None:
        model.for_any_item.copy_(known)


@dataclass(frozen=True)
class Validation:
    """What a model and simpler predictors say of the V decisions of the validation window."""

    mask: np.ndarray
    """Bool (N,): those decisions in the log."""
    logits: np.ndarray
    """(V,), of the network."""
    rates: tuple[np.ndarray, np.ndarray]
    """What the item's and the user's rate add to them where they count fully, each (V,)."""
    outcome: np.ndarray
    """(V,), 0 or 1."""

    @overload
    def calibration(self) -> torch.Tensor: ...
    @overload
    def calibration(self, weight: np.ndarray) -> torch.Tensor | None: ...
    def calibration(self, weight: np.ndarray | None = None) -> torch.Tensor | None:
        """(4,), see :attr:`AcceptanceModel.calibration`.

        Args:
            weight: the chance of each event's item by a policy over its propensity, (N,). None is returned where it is not
                known, where the decisions are worth fewer than :data:`~.measures.calibration.LEAST_EFFECTIVE`, or where
                its mean, which is 1, stays below .9 by more than twice its error: the log does not show what the policy
                would.
        """
        if weight is not None:
            weight = weight[self.mask]
            if not np.isfinite(weight).all() or effective(weight) < LEAST_EFFECTIVE:
                return None
            if weight.mean() + 2 * weight.std() / np.sqrt(len(weight)) < LEAST_SUPPORT:
                return None
        found = calibration(self.logits, self.outcome, self.rates, weight)
        return torch.tensor([found.scale, found.shift, *found.others])


def validation(model: AcceptanceModel, config: Config, log: EventLog) -> Validation:
    """The validation window as a trained model sees it."""
    mask = windows(config).valid_mask(log)
    rows = sequences(log, config.model.length, mask)
    units = ((1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    network, item, user = (
        predict(model.calibrated(torch.tensor(unit)), rows, len(log)).numpy()[mask].astype(np.float64) for unit in units
    )
    outcome = (log.kind[mask] == ACCEPTED).astype(np.float64)
    return Validation(mask, network, (item - network, user - network), outcome)


def empty_model(unit: Unit, config: Config, items: int) -> nn.Module:
    """A model of the unit's shape, to load weights into."""
    if unit.kind == "acceptance":
        return AcceptanceModel(acceptance_options(config, items, unit.history)).eval()
    return next_item.NextItemModel(next_item_options(unit, config, items)).eval()

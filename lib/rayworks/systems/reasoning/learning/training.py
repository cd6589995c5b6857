"""Preference learning in the order of a curriculum, anchored by whole answers (AlphaLLM-CPL, arXiv 2410.06508)."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import distributed
from transformers import PreTrainedModel

from rayworks.lm.fine_tuning import Example, negative_log_likelihood
from rayworks.lm.pair_training import PairObjective, PairTrainer
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import ALONE, Batches, Shard, TuningOptions, backward
from rayworks.systems.reasoning.config import CurriculumSection
from rayworks.systems.reasoning.learning.curriculum import kendall_tau, order
from rayworks.systems.reasoning.learning.pairs import StepPair

ORDERS = "orders.json"


def anchor_batches(count: int, per_step: int, seed: int) -> Batches:
    """Of the whole answers, the same in all arms, so that those that differ in the order of pairs differ in nothing else."""
    return Batches(count, per_step, seed, "anchors")


class CurriculumTrainer(PairTrainer):
    """DPO on step pairs, sorted anew before every epoch, without shuffling.

    Args:
        model: the policy; as it comes, also the frozen reference.
        pairs: to learn from.
        anchors: whole answers whose likelihood is learned beside the pairs, ``anchors_per_step`` at a time; may be empty.
        end: the end token's id.
        seed: of the run.
        shard: this worker's part of every batch; the first worker sorts for all.

    Raises:
        DataError: the log-probabilities here would not be the model's own, or there is no pair.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[StepPair],
        anchors: Sequence[EncodedResponse],
        objective: PairObjective,
        curriculum: CurriculumSection,
        options: TuningOptions,
        *,
        end: int,
        pairs_per_step: int,
        pairs_per_pass: int,
        anchors_per_step: int,
        anchor_weight: float,
        seed: int,
        name: str,
        shard: Shard = ALONE,
    ) -> None:
        self._sources, self._curriculum, self._step_size = pairs, curriculum, pairs_per_step
        self._anchor_weight = anchor_weight
        self._anchors = [Example(anchor) for anchor in anchors] if anchor_weight else []
        if self._anchors:
            self._anchor_batches = anchor_batches(len(self._anchors), anchors_per_step, seed)
        self.orders: dict[int, list[int]] = {}
        """By epoch, the order it was learned in."""
        super().__init__(
            model,
            [pair.encoded(end) for pair in pairs],
            objective,
            options,
            pairs_per_step=pairs_per_step,
            pairs_per_pass=pairs_per_pass,
            seed=seed,
            name=name,
            order=self._order,
            shard=shard,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps over all pairs."""
        return math.ceil(len(self._pairs) / self._step_size)

    def prediction_gaps(self) -> np.ndarray:
        """``[pairs]``: by how much the policy as it is prefers the chosen one, in nats (per token with ``mean``)."""
        scores = self._score_all(self.model, self._pairs)
        if self._curriculum.prediction == "mean":
            lengths = [(len(pair.chosen.response), len(pair.rejected.response)) for pair in self._pairs]
            scores = scores / scores.new_tensor(lengths)
        elif self._curriculum.prediction == "over-reference" and self._reference is not None:
            scores = scores - self._reference
        gaps: np.ndarray = (scores[:, 0] - scores[:, 1]).double().numpy()
        return gaps

    def taus(self) -> list[float]:
        """Kendall's tau of each epoch's order and the one before."""
        known = [self.orders[epoch] for epoch in sorted(self.orders)]
        return [kendall_tau(one, other) for one, other in pairwise(known)]

    def accumulate(self, step: int) -> dict[str, float]:
        """The pairs' part, and the anchors'."""
        found = super().accumulate(step)
        if self._anchors:
            whole = [self._anchors[at] for at in self._anchor_batches.at(step)]
            tokens, own = sum(len(example.text.response) for example in whole), self.shard.of(whole)
            found["anchor_loss"] = 0.0
            if own:
                found["anchor_loss"] = backward(self._anchor_weight * negative_log_likelihood(self.model, own) / tokens)
        return found

    def save(self, folder: str | Path) -> None:
        """Also the orders, which later weights would not give again."""
        super().save(folder)
        (Path(folder) / ORDERS).write_text(json.dumps(self.orders))

    def load(self, folder: str | Path) -> None:
        """Go back to where :meth:`save` was called."""
        super().load(folder)
        self.orders = {
            int(epoch): ranking for epoch, ranking in json.loads((Path(folder) / ORDERS).read_text()).items()
        }

    def _order(self, epoch: int) -> Sequence[int]:
        if epoch not in self.orders:
            gaps = self.prediction_gaps()
            self.model.train()
            found = [
                order(
                    self._curriculum,
                    np.array([pair.gap for pair in self._sources]),
                    gaps,
                    [pair.uid for pair in self._sources],
                    batch=self._step_size,
                    seed=self._seed,
                    epoch=epoch,
                )
            ]
            if self.shard.workers > 1:
                # Gaps that are equal within rounding may sort otherwise on another machine.
                distributed.broadcast_object_list(found)
            self.orders[epoch] = found[0]
        return self.orders[epoch]

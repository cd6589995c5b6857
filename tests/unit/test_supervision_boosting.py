"""Chains of rounds: what they learn from, when they end, that they resume bit for bit; and the toy of the specification."""

import math
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.supervision.boosting.chain import Arm, Chain, ChainOptions, grow
from rayworks.systems.supervision.boosting.verdict import verdict
from rayworks.systems.supervision.boosting.votes import chosen_rounds, ensembles, hardened
from rayworks.systems.supervision.boosting.weighting import Rule, rule_of
from rayworks.systems.supervision.config import StudentSection, WeakSection
from rayworks.systems.supervision.students.linear import fit_student
from rayworks.systems.supervision.weak.classifiers import Expert, fit_expert

BINARY = ChainOptions(rule_of("adaboost", 2))


class Stumps:
    """Trees of depth 1 on a few numbers, as a learner."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, depth: int = 1) -> None:
        self.features, self.labels = features, labels
        self.section = WeakSection(depth=depth, leaf=1)
        self.seen: list[np.ndarray] = []

    @property
    def owners(self) -> np.ndarray:
        return np.arange(len(self.labels))

    def fit(self, weights: np.ndarray, seed: int) -> Expert:
        self.seen.append(weights)
        return fit_expert(self.section, self.features, self.labels, weights, 2, seed)

    def misses(self, expert: Expert) -> np.ndarray:
        return (expert.probabilities(self.features).argmax(axis=1) != self.labels).astype(float)


class Coins:
    """Experts whose misses are told beforehand, one list a fit."""

    def __init__(self, misses: list[list[int]]) -> None:
        self.told = [np.array(one, float) for one in misses]
        self.seeds: list[int] = []
        self.weights: list[np.ndarray] = []

    @property
    def owners(self) -> np.ndarray:
        return np.arange(len(self.told[0]))

    def fit(self, weights: np.ndarray, seed: int) -> int:
        self.seeds.append(seed)
        self.weights.append(weights)
        return len(self.seeds) - 1

    def misses(self, expert: int) -> np.ndarray:
        return self.told[min(expert, len(self.told) - 1)]


def ring(count: int = 200, seed: int = 0) -> Stumps:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 4))
    return Stumps(features, (np.square(features[:, :2]).sum(axis=1) > 1.4).astype(int))


def grown(
    learner: Any, rounds: int, options: ChainOptions = BINARY, arm: Arm = "boosting", seed: int = 3
) -> tuple[Chain, list[Any]]:
    chain, experts = Chain.begin(arm, len(learner.owners)), dict[int, Any]()
    grow(chain, learner, options, rounds=rounds, seed=seed, keep=experts.__setitem__)
    return chain, [experts[one.number] for one in chain.kept]


def test_training_error_stays_below_the_product_of_normalisers() -> None:
    learner = ring()
    chain, experts = grown(learner, 25)
    said = np.stack([expert.probabilities(learner.features) for expert in experts])
    bound, exponent = 1.0, 0.0
    for one in chain.kept:
        bound *= one.normaliser
        exponent += (0.5 - one.error) ** 2
        mixed = ensembles(hardened(said), chain.alphas, "share")[one.number]
        error = float((mixed.argmax(axis=1) != learner.labels).mean())
        assert error <= bound + 1e-9
        assert bound <= math.exp(-2 * exponent) + 1e-9
    assert bound < 0.8


def test_the_first_expert_of_all_arms_is_the_single_one() -> None:
    firsts = []
    arms: tuple[Arm, ...] = ("boosting", "bagging", "uniform")
    for arm in arms:
        learner = ring()
        _, experts = grown(learner, 3, arm=arm)
        assert (learner.seen[0] == 1).all()
        firsts.append(experts[0])
    assert all((first.thresholds == firsts[0].thresholds).all() for first in firsts)


@pytest.mark.parametrize("options", [BINARY, ChainOptions(BINARY.rule, "resample"), ChainOptions(BINARY.rule, folds=3)])
def test_a_chain_resumes_bit_for_bit_from_every_round(options: ChainOptions) -> None:
    whole, _ = grown(ring(), 8, options)
    for stop in range(1, 8):
        first, _ = grown(ring(), stop, options)
        again = Chain.from_bytes(first.to_bytes())
        grow(again, ring(), options, rounds=8, seed=3, keep=lambda *_: None)
        assert again.to_bytes() == whole.to_bytes()


def test_draws_follow_the_distribution() -> None:
    """A chi-square of the units drawn, and the share that a mask keeps, 1 - 1/e."""
    learner = Coins([[1] + [0] * 3999])
    drawn = learner.weights
    chain = Chain.begin("bagging", 4000)
    grow(chain, learner, ChainOptions(Rule(0.0)), rounds=30, seed=1, keep=lambda *_: None)
    counts = np.stack(drawn[1:])
    assert (counts.sum(axis=1) == 4000).all()
    statistic = float((np.square(counts - 1)).sum())
    freedom = 29 * 3999
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)
    assert float((counts > 0).mean()) == pytest.approx(1 - math.exp(-1), abs=0.005)
    drawn.clear()
    masked = ChainOptions(Rule(0.0), "resample", "mask")
    grow(Chain.begin("bagging", 4000), learner, masked, rounds=5, seed=1, keep=lambda *_: None)
    assert set(np.unique(np.stack(drawn))) == {0.0, 1.0}


def test_an_expert_worse_than_chance_does_not_vote_and_others_are_tried() -> None:
    few, many, others = [1] * 4 + [0] * 36, [0] * 4 + [1] * 36, [0] * 20 + [1] * 4 + [0] * 16
    learner = Coins([few, many, others, few[::-1]])
    chain, experts = grown(learner, 3)
    assert [one.kept for one in chain.rounds] == [True, False, True, True]
    assert experts == [0, 2, 3]
    assert len(set(learner.seeds)) == 4
    # After it weights are drawn anew, as a Bayesian bootstrap draws them.
    assert chain.rounds[2].effective_share == pytest.approx(0.5, abs=0.2)


def test_a_chain_without_chance_does_not_repeat_itself_after_a_reset() -> None:
    """Stumps on labels without sense come to experts no better than a chance of .4, time and again."""
    draw = np.random.default_rng(1)
    learner = Stumps(draw.normal(size=(60, 2)), draw.integers(0, 2, 60))
    chain, _ = grown(learner, 12, ChainOptions(Rule(math.log(0.4 / 0.6)), retries=50))
    after = [chain.rounds[one.number + 1].error for one in chain.rounds[:-1] if not one.kept]
    assert len(after) > 3
    assert len(set(after)) == len(after)


def test_a_chain_of_failures_ends_with_the_reason() -> None:
    chain, experts = grown(Coins([[1] * 38 + [0] * 2]), 10, ChainOptions(BINARY.rule, retries=2))
    assert len(chain.rounds) == 3
    assert experts == []
    assert "no better than chance (error 0.500)" in chain.ended
    assert not verdict(chain, None, 0.5, 0.5).helps


def test_nothing_is_left_after_an_expert_without_a_miss() -> None:
    chain, experts = grown(Coins([[0, 0, 0, 0]]), 10)
    assert len(experts) == 1
    assert "missed nothing" in chain.ended


def test_no_units_are_refused() -> None:
    with pytest.raises(DataError, match="count_labelled"):
        Chain.begin("boosting", 0)


def test_cross_fitted_misses_are_those_of_experts_that_did_not_see_the_fold() -> None:
    """Labels without sense: a deep tree misses nothing of what it learned, and half of what it did not."""
    draw = np.random.default_rng(5)
    learner = Stumps(draw.normal(size=(300, 3)), draw.integers(0, 2, 300), depth=30)
    assert grown(learner, 1)[0].rounds[0].error == 0
    crossed = grown(learner, 1, ChainOptions(BINARY.rule, folds=3))[0].rounds[0].error
    assert 0.4 < crossed < 0.6


def test_fewest_rounds_of_equals() -> None:
    assert chosen_rounds([0.5, 0.7, 0.7, 0.6]) == 2
    assert chosen_rounds([0.5]) == 1


def toy(seed: int, split: str) -> tuple[float, float]:
    """A5: depth-3 trees on lossy features teach a logistic regression on clean ones; accuracy by one tree and by twenty."""
    draw = np.random.default_rng(seed)
    width, known, taught, asked = 30, 1500, 4000, 4000
    direction = draw.standard_normal(width)
    direction /= np.linalg.norm(direction)
    hidden = draw.standard_normal((known + taught + asked, width))
    margin = hidden @ direction
    labels = (margin > 0).astype(int)
    hardness = -np.abs(margin) + 0.15 * draw.standard_normal(len(margin))
    clean = hidden + 0.1 * draw.standard_normal(hidden.shape)
    lossy = np.tanh(hidden) + 0.8 * draw.standard_normal(hidden.shape)
    if split == "random":
        order = draw.permutation(len(labels))
        easy, hard, test = order[:known], order[known : known + taught], order[known + taught :]
    else:
        order = np.argsort(hardness)
        half = len(order) // 2
        rest = draw.permutation(order[half:])
        easy, hard, test = draw.permutation(order[:half])[:known], rest[: len(rest) // 2], rest[len(rest) // 2 :]
    learner = Stumps(lossy[easy], labels[easy], depth=3)
    learner.section = WeakSection(depth=3)
    chain, experts = grown(learner, 20, seed=seed)
    said = np.stack([expert.probabilities(lossy[hard]) for expert in experts])
    found = ensembles(said, chain.alphas, "share")
    from scipy import sparse

    student = StudentSection()
    seen = sparse.csr_matrix(clean)
    accuracies = []
    for one in (hardened(found[0]), hardened(found[-1])):
        model = fit_student(seen[hard], one, student, "cross-entropy")
        accuracies.append(float((model.probabilities(seen[test]).argmax(axis=1) == labels[test]).mean()))
    return accuracies[0], accuracies[1]


@pytest.mark.parametrize("split", ["random", "easy-to-hard"])
def test_the_toy_of_the_specification(split: str) -> None:
    gains = [twenty - one for one, twenty in (toy(seed, split) for seed in range(10))]
    assert np.mean(gains) > 0.12
    assert min(gains) > 0.06

"""The bytes of public draws, by hand."""

import hashlib

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.regulation.public_draws import commitment_of, public_draws

SEED = "5f" * 32
MODELS = [hashlib.sha256(name.encode()).hexdigest() for name in "abcde"]


def by_hand(label: str, models: list[str], model: str) -> int:
    book = hashlib.sha256("".join(name + "\n" for name in models).encode()).hexdigest()
    text = f"rayworks-regulation-2\n{label}\nspring\n{SEED}\n{book}\n{model}\n"
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def test_numbers_are_those_of_the_documented_bytes() -> None:
    draws = public_draws(SEED, "spring", MODELS)
    assert draws.pairing.tolist() == [by_hand("pairing", MODELS, model) for model in MODELS]
    ties = [by_hand("tie", MODELS, model) for model in MODELS]
    assert draws.tie_break.tolist() == [number // 2**11 / 2**53 for number in ties]
    assert commitment_of(SEED) == hashlib.sha256(SEED.encode()).hexdigest()


def test_another_program_gets_the_same() -> None:
    """By sha256sum: of ``model\\n`` first, then of the six lines."""
    assert public_draws("seed", "round", ["model"]).pairing.tolist() == [0xA77952583F81BFAD]


def test_one_more_submission_draws_all_anew() -> None:
    before, after = public_draws(SEED, "spring", MODELS[:4]), public_draws(SEED, "spring", MODELS)
    assert not set(before.pairing.tolist()) & set(after.pairing.tolist())
    assert not set(before.tie_break.tolist()) & set(after.tie_break.tolist())


def test_rounds_and_seeds_differ_and_draws_are_uniform() -> None:
    many = [f"{number:064x}" for number in range(4000)]
    draws = public_draws(SEED, "spring", many)
    for other in (public_draws(SEED, "autumn", many), public_draws("60" * 32, "spring", many)):
        assert not np.intersect1d(draws.pairing, other.pairing).size
    for uniform in (draws.tie_break, draws.pairing / 2**64):
        assert uniform.min() >= 0 and uniform.max() < 1
        distance = np.abs(np.sort(uniform) - (np.arange(4000) + 0.5) / 4000).max()
        assert distance < 1.95 / np.sqrt(4000)
    assert abs(np.corrcoef(draws.tie_break, draws.pairing.astype(float))[0, 1]) < 4 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("seed", "round_name", "models", "words"),
    [
        ("", "r", ["a"], "seed"),
        ("a b", "r", ["a"], "seed"),
        ("a", "r\n", ["a"], "round"),
        ("a", "r", ["\u00e9"], "entry"),
        ("a", "r", ["m", "m"], "given twice"),
    ],
)
def test_texts_that_could_be_read_two_ways_are_refused(
    seed: str, round_name: str, models: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        public_draws(seed, round_name, models)

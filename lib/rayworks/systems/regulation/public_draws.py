r"""Random numbers of a round that anyone can repeat: SHA-256 of a seed committed to before, and of all that was submitted.

The bytes, for repeating them in another language. Texts are ASCII, every line ends in one line feed (0x0A), hashes are
written in 64 lower-case hexadecimal digits. Submissions are identified by the hash of their model, in order of arrival::

    commitment        = SHA-256(seed)
    book              = SHA-256(model_1 \n model_2 \n ... model_n \n)
    draw(label, i)    = the first 8 bytes, big-endian, of
                        SHA-256("rayworks-regulation-1" \n label \n round \n seed \n book \n model_i \n)
    pairing_i         = draw("pairing", i)
    tie_break_i       = floor(draw("tie", i) / 2^11) / 2^53, in [0, 1)

From numbers to pairs, as ``mechanism.run_mechanism`` does it: models with a score of at least the threshold are cleared; the
cleared, by rising ``pairing_i``, are cut into groups of ``group_size``, and the last ones, too few for a group, are byes. The
``prizes`` best scores of a group win; among equal ones the larger ``tie_break_i`` does (tie rule ``coin``). A bye wins if its
``tie_break_i`` is below ``prizes / group_size`` (bye rule ``chance``).

What it protects: the commitment stops the regulator from choosing the seed after it has seen the submissions, and because
the book enters every number, whoever knows the seed learns the pairing only once the last model is in: each further
submission draws all numbers anew. What it does not protect: a regulator who tells the seed to the last to submit, or closes
the round at a moment that suits, can steer the pairing, as can one who never reveals a seed whose pairing it dislikes. Only
a seed that nobody knows before the round closes, made of several parties' secrets or a public beacon, prevents that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.regulation.value_distributions import FloatArray

PROTOCOL = "rayworks-regulation-1"


@dataclass(frozen=True, eq=False)
class Draws:
    """Numbers that ``run_mechanism`` takes; arrays of shape (submissions,)."""

    pairing: NDArray[np.uint64]
    tie_break: FloatArray
    """Uniforms in [0, 1)."""


def commitment_of(seed: str) -> str:
    """The commitment to a seed, published before the round, 64 hexadecimal digits."""
    return hashlib.sha256(seed.encode()).hexdigest()


def public_draws(seed: str, round_name: str, models: Sequence[str]) -> Draws:
    """The numbers of a round; see the module's text for their bytes.

    Args:
        seed: what the regulator reveals.
        round_name: so that a seed used twice does not pair twice alike.
        models: hash of each submitted model, in order of arrival, none twice.

    Raises:
        DataError: a text is empty, or has characters other than printable ASCII without spaces, or a model is given twice.
    """
    for name, text in (("seed", seed), ("round", round_name), *(("model", model) for model in models)):
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise DataError(f"{name} {text[:80]!r}: must be printable ASCII without spaces")
    if len(set(models)) < len(models):
        raise DataError("models: one is given twice; each submission is another model")
    book = hashlib.sha256(_lines(*models)).hexdigest()
    pairing, tie = (_draw(_lines(PROTOCOL, label, round_name, seed, book), models) for label in ("pairing", "tie"))
    return Draws(pairing, (tie >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _draw(common: bytes, models: Sequence[str]) -> NDArray[np.uint64]:
    begun = hashlib.sha256(common)
    heads = []
    for model in models:
        digest = begun.copy()
        digest.update(_lines(model))
        heads.append(digest.digest()[:8])
    return np.frombuffer(b"".join(heads), dtype=">u8").astype(np.uint64)


def _lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("ascii")

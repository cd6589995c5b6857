r"""Random numbers of a round that anyone can repeat: SHA-256 of a seed committed to before, and of all that was submitted.

The bytes, for repeating them in another language. Texts are ASCII, every line ends in one line feed (0x0A), hashes are
written in 64 lower-case hexadecimal digits. Submissions are identified by the hash of their entry in the audit trail, which
binds key, model, score and a nonce, in order of arrival; those withdrawn are left out::

    commitment        = SHA-256(seed)
    book              = SHA-256(entry_1 \n entry_2 \n ... entry_n \n)
    draw(label, i)    = the first 8 bytes, big-endian, of
                        SHA-256("rayworks-regulation-2" \n label \n round \n seed \n book \n entry_i \n)
    pairing_i         = draw("pairing", i)
    tie_break_i       = floor(draw("tie", i) / 2^11) / 2^53, in [0, 1)

Of submissions of one model, the one that the regulator names as its owner's competes, else the earliest that is cleared.
From numbers to pairs, as ``mechanism.run_mechanism`` does it: models with a score of at least the threshold are cleared; the
cleared, by rising ``pairing_i``, are cut into groups of ``group_size``, and the last ones, too few for a group, are byes.
The ``prizes`` best scores of a group win; among equal ones the larger ``tie_break_i`` does (tie rule ``coin``). A bye wins
if its ``tie_break_i`` is below ``prizes / group_size`` (bye rule ``chance``).

What it protects: the commitment stops the regulator from choosing the seed after it has seen the submissions, and because
the book enters every number, whoever knows the seed learns the pairing only once the last model is in: each further
submission draws all numbers anew. What it does not protect: a regulator who tells the seed to the last to submit can steer
the pairing, as can one who never reveals a seed whose pairing it dislikes (with ``reveal_by`` anybody may then cancel), and,
without ``closes_at``, one who closes the round at a moment that suits. Only a seed that nobody knows before the round closes,
made of several parties' secrets or a public beacon, prevents that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.regulation.value_distributions import FloatArray

PROTOCOL = "rayworks-regulation-2"


@dataclass(frozen=True, eq=False)
class Draws:
    """Numbers that ``run_mechanism`` takes; arrays of shape (submissions,)."""

    pairing: NDArray[np.uint64]
    tie_break: FloatArray
    """Uniforms in [0, 1)."""


def commitment_of(seed: str) -> str:
    """The commitment to a seed, published before the round, 64 hexadecimal digits."""
    return hashlib.sha256(seed.encode()).hexdigest()


def public_draws(seed: str, round_name: str, entries: Sequence[str]) -> Draws:
    """The numbers of a round; see the module's text for their bytes.

    Args:
        seed: what the regulator reveals.
        round_name: so that a seed used twice does not pair twice alike.
        entries: hash of each submission's entry in the trail, in order of arrival, none twice.

    Raises:
        DataError: a text is empty, or has characters other than printable ASCII without spaces, or an entry is given twice.
    """
    for name, text in (("seed", seed), ("round", round_name), *(("entry", entry) for entry in entries)):
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise DataError(f"{name} {text[:80]!r}: must be printable ASCII without spaces")
    if len(set(entries)) < len(entries):
        raise DataError("entries: one is given twice; each submission has its own")
    book = hashlib.sha256(_lines(*entries)).hexdigest()
    pairing, tie = (_draw(_lines(PROTOCOL, label, round_name, seed, book), entries) for label in ("pairing", "tie"))
    return Draws(pairing, (tie >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _draw(common: bytes, entries: Sequence[str]) -> NDArray[np.uint64]:
    begun = hashlib.sha256(common)
    heads = []
    for entry in entries:
        digest = begun.copy()
        digest.update(_lines(entry))
        heads.append(digest.digest()[:8])
    return np.frombuffer(b"".join(heads), dtype=">u8").astype(np.uint64)


def _lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("ascii")

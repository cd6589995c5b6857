"""Counter-based random streams keyed by name.

A stream is a pure function of the run's seed and a path of names such as ``("pairs", "sentiment", epoch)``. Nothing is
consumed from a shared generator, so results do not depend on how many workers draw, or in which order.
"""

import hashlib

import numpy as np

Key = str | int


def derive(seed: int, *path: Key) -> int:
    """The 128-bit key of the stream at ``path`` below ``seed``."""
    digest = hashlib.blake2b(digest_size=16, person=b"rayworks-stream")
    for part in (seed, *path):
        encoded = f"{type(part).__name__}:{part}".encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def derive_small(seed: int, *path: Key) -> int:
    """The same key folded to 63 bits, for interfaces that take a plain integer seed."""
    return derive(seed, *path) & (2**63 - 1)


def stream(seed: int, *path: Key) -> np.random.Generator:
    """A fresh Philox generator at the start of the stream named by ``path``."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *path)))


def uniforms(seed: int, count: int, *path: Key) -> np.ndarray:
    """``count`` float64 uniforms in [0, 1); the first n are the same for every ``count`` >= n."""
    return stream(seed, *path).random(count)

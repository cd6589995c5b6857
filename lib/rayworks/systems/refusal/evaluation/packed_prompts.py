"""The container in which the package of XSTest keeps its prompts from being found by a search for harmful text.

``SBZ1``, a salt, a nonce, the contents under a stream of BLAKE2b, and an HMAC-SHA256 of all that. Its key is public: the
tag guards against damage, the cipher against crawlers. Nothing of it is written anywhere when it is read.
"""

import hashlib
import hmac
import json
from functools import lru_cache
from pathlib import Path

from rayworks.core.errors import DataError

_MAGIC = b"SBZ1"
_KEY_FROM = b"senbonzakura/evaluation-track/not-a-secret-by-design"
_SALT, _NONCE, _TAG, _BLOCK = 16, 16, 32, 64


@lru_cache(maxsize=2)
def read_packed(path: Path) -> dict[str, tuple[str, ...]]:
    """Each corpus of the file, by its name.

    Raises:
        DataError: the file is missing, damaged or no such container.
    """
    try:
        found = json.loads(_unpacked(path.read_bytes()))["corpora"]
        return {str(name): tuple(map(str, prompts)) for name, prompts in found.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{path.name}: cannot be read as packed prompts; fetch the data set xstest again") from None


def _unpacked(blob: bytes) -> bytes:
    start = len(_MAGIC)
    salt, nonce = blob[start : start + _SALT], blob[start + _SALT : start + _SALT + _NONCE]
    body, tag = blob[start + _SALT + _NONCE : -_TAG], blob[-_TAG:]
    key = hashlib.blake2b(_KEY_FROM, salt=salt, digest_size=32).digest()
    if not blob.startswith(_MAGIC) or not hmac.compare_digest(hmac.digest(key, blob[:-_TAG], "sha256"), tag):
        raise ValueError
    blocks = -(-len(body) // _BLOCK)
    stream = b"".join(
        hashlib.blake2b(nonce + number.to_bytes(8, "little"), key=key, digest_size=_BLOCK).digest()
        for number in range(blocks)
    )[: len(body)]
    return (int.from_bytes(body) ^ int.from_bytes(stream)).to_bytes(len(body))

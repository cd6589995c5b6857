"""The head of the ledger, signed: what an outside witness keeps."""

import base64
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from rayworks.core.errors import ConfigError

from .regulation_records import utc
from .regulation_schemas import HeadAnswer

PROTOCOL = "rayworks-regulation-head-1"


class Signer:
    """Signs heads with the operator's key.

    Args:
        file: private Ed25519 key in PEM without a passphrase; ``None``: heads are not signed.

    Raises:
        ConfigError: the file holds no such key.
    """

    def __init__(self, file: str | None) -> None:
        self._key: Ed25519PrivateKey | None = None
        if file is None:
            return
        try:
            key = load_pem_private_key(Path(file).expanduser().read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"signing_key {file}: cannot be read as a private key in PEM ({error})") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                f"signing_key {file}: is no Ed25519 key; make one with openssl genpkey -algorithm ed25519"
            )
        self._key = key

    def head(self, events: int, head: str) -> HeadAnswer:
        """The head as it is now, with the text that is signed."""
        at = utc(datetime.now(UTC))
        text = f"{PROTOCOL}\n{at}\n{events}\n{head}\n"
        signature = public = None
        if self._key is not None:
            signature = base64.b64encode(self._key.sign(text.encode())).decode()
            public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        return HeadAnswer(events=events, head=head, at=at, text=text, signature=signature, public_key=public)

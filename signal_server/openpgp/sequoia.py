"""The second engine: Sequoia, in this process. For operators with thousands of signed peers.

`pysequoia` raises exceptions of no kind of its own, and their texts may hold anything: none is repeated.
"""

from __future__ import annotations

import os

import pysequoia
from pysequoia.packet import PacketPile, Tag

from ..errors import ConfigurationError, Unavailable, Untrusted
from .certificate import split_certificates
from .keyring import Engine, Signed


class SequoiaEngine(Engine):
    """Verifies and signs with `pysequoia`.

    Args:
        private_key: in armour; without it, nothing is signed.
        passphrase: of the private key.

    Raises:
        ConfigurationError: it cannot use the private key. Never with a part of it.
    """

    def __init__(self, private_key: str | None = None, passphrase: str | None = None) -> None:
        # A greenlet's stack ends where Rust does not expect it: a backtrace from one kills the process.
        os.environ["RUST_BACKTRACE"] = os.environ["RUST_LIB_BACKTRACE"] = "0"
        self._public_key: str | None = None
        self._signer = None
        if private_key is not None:
            try:
                key = pysequoia.Tsk.from_bytes(private_key.encode("ascii", "replace"))
                self._signer = key.signer(passphrase)
                self._public_key = str(key.extract_certificate())
                self.sign("ready")
            except Exception:  # noqa: BLE001
                raise ConfigurationError(
                    "SPACERIFT_PRIVATE_KEY: one OpenPGP private key that can sign is needed, "
                    "and its passphrase if it has one"
                ) from None

    @property
    def public_key(self) -> str | None:
        return self._public_key

    def check_room(self) -> None:
        pass

    def verify(self, message: bytes, key: bytes) -> Signed:
        try:
            certificate = pysequoia.Cert.from_bytes(key)
            result = pysequoia.verify(message, store=lambda _: [certificate])
            (signature,) = result.valid_sigs
            (packet,) = (each for each in PacketPile.from_bytes(message) if each.tag == Tag.Signature)
            signed_at = int(packet.signature_created.timestamp())
            return Signed(bytes(result.bytes or b""), signature.certificate.upper(), signed_at)
        except Exception as error:  # noqa: BLE001
            raise Untrusted(f"sequoia: {type(error).__name__}") from None

    def tidy(self, keys: bytes) -> bytes:
        merged: dict[str, pysequoia.Cert] = {}
        for each in split_certificates(keys):
            try:
                found = pysequoia.Cert.from_bytes(each)
                if not found.user_ids:
                    continue
            except Exception:  # noqa: BLE001
                continue
            known = merged.get(found.fingerprint)
            merged[found.fingerprint] = known.merge(found) if known else found
        return b"".join(map(bytes, merged.values()))

    def sign(self, text: str) -> str:
        if self._signer is None:
            raise Unavailable("no private key")
        return bytes(pysequoia.sign(self._signer, text.encode("utf-8"))).decode("ascii")

    def is_ready(self) -> bool:
        return True

    def close(self) -> None:
        pass

"""The second engine: Sequoia, in this process. For operators with thousands of signed peers.

`pysequoia` raises exceptions of no kind of its own, and their texts may hold anything: none is repeated.
"""

from __future__ import annotations

import functools
import os
from typing import Final

import pysequoia

from ..errors import ConfigurationError, Unavailable, Untrusted
from .certificate_reader import KEPT, read_certificate, split_certificates
from .key_packet import Key
from .keyring import Engine, Signed
from .message import Message
from .packets import PUBLIC_SUBKEY, SIGNATURE, Packet, read_packets

MARK: Final = Packet(PUBLIC_SUBKEY, bytes.fromhex("04000000011609 2b06010401da470f01 010740") + bytes(32))
"""A subkey that nobody bound. Sequoia writes signatures that do not hold behind the last subkey."""


class SequoiaEngine(Engine):
    """Verifies and signs with `pysequoia`.

    Args:
        private_key: in armour; without it, nothing is signed.
        passphrase: of the private key.

    Raises:
        ConfigurationError: it cannot use the private key. Never with a part of it.
    """

    takes_new = True

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

    def verify(self, message: Message, signer: Key, key: bytes) -> Signed:
        try:
            certificate = _certificate(key)
            signature = pysequoia.Sig.from_bytes(message.detached(signer))
            result = pysequoia.verify(message.text, store=lambda _: [certificate], signature=signature)
            (valid,) = result.valid_sigs
            created = signature.created
            assert created is not None
            return Signed(message.text, valid.certificate.upper(), int(created.timestamp()))
        except Exception as error:  # noqa: BLE001
            raise Untrusted(f"sequoia: {type(error).__name__}") from None

    def tidy(self, keys: bytes) -> bytes:
        merged: dict[str, pysequoia.Cert] = {}
        for each in split_certificates(keys):
            try:
                found = pysequoia.Cert.from_bytes(each + bytes(MARK))
                known = merged.get(found.fingerprint)
                merged[found.fingerprint] = known.merge(found) if known else found
            except Exception:  # noqa: BLE001
                continue
        tidied = [_before_mark(bytes(each)) for each in merged.values()]
        return b"".join(each for each in tidied if read_certificate(each).is_stated)

    def sign(self, text: str, *, at: int | None = None) -> str:
        if self._signer is None:
            raise Unavailable("no private key")
        return bytes(pysequoia.sign(self._signer, text.encode("utf-8"))).decode("ascii")

    def is_ready(self) -> bool:
        return True

    def close(self) -> None:
        pass


@functools.lru_cache(maxsize=KEPT)
def _certificate(key: bytes) -> pysequoia.Cert:
    """A key as Sequoia reads it. What it allows is judged anew for each signature."""
    return pysequoia.Cert.from_bytes(key)


def _before_mark(certificate: bytes) -> bytes:
    """A certificate without the mark and the signatures behind it."""
    kept, is_marked = b"", False
    for packet in read_packets(certificate):
        is_marked = packet == MARK or (is_marked and packet.tag == SIGNATURE)
        kept += b"" if is_marked else bytes(packet)
    return kept

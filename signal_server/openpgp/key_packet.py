"""Public keys as packets, of version 4 and 6 (RFC 9580, 5.5.2), and how each kind signs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import Final, NamedTuple

from ..errors import Untrusted
from .packets import Packet, Reader

RSA: Final = 1
ECDSA: Final = 19
EDDSA: Final = 22
ED25519: Final = 27
ED448: Final = 28

NEW: Final = (ED25519, ED448)
"""Algorithms of RFC 9580, which gpg does not know, as it does not know version 6."""

RSA_BITS: Final = range(2048, 8193)


class Scheme(NamedTuple):
    """How a key signs: its algorithm, and the shortest digest that may be signed with it."""

    algorithm: int
    digest_bits: int


CURVES: Final = {
    bytes.fromhex("2a8648ce3d030107"): Scheme(ECDSA, 256),  # NIST P-256
    bytes.fromhex("2b81040022"): Scheme(ECDSA, 384),  # NIST P-384
    bytes.fromhex("2b81040023"): Scheme(ECDSA, 512),  # NIST P-521
    bytes.fromhex("2b06010401da470f01"): Scheme(EDDSA, 256),  # Ed25519 in its old form
}
"""Object identifiers that gpg, Sequoia, kbpgp and openpgp.js know, all four. Sequoia takes digests that are
shorter than the curve, gpg does not."""

POINTS: Final = {ED25519: (Scheme(ED25519, 256), 32), ED448: (Scheme(ED448, 512), 57)}
"""Algorithms that have one curve each, and the bytes of a point on it."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, of a certificate or below it.

    Attributes:
        fingerprint: upper-case hex, 40 digits for version 4 and 64 for version 6.
        hashed: how it is written where it is signed, and for its fingerprint.
        created: seconds since 1970.
        material: what its algorithm needs.
        names: its key id and its fingerprint.
    """

    packet: Packet
    version: int
    fingerprint: str
    hashed: bytes
    created: int
    algorithm: int
    material: bytes
    names: frozenset[str]

    @property
    def id(self) -> str:
        return _id_of(self.version, self.fingerprint)

    @property
    def is_new(self) -> bool:
        return is_new(self.packet.body)


def read_key(packet: Packet) -> Key:
    """Read a public key or subkey. What its algorithm is does not matter here.

    Raises:
        Untrusted: it is of another version, or cut.
    """
    reader = Reader(packet.body)
    version = reader.byte()
    if version not in (4, 6):
        raise Untrusted("key version")
    written = hashed(packet.body)
    created, algorithm = reader.number(4), reader.byte()
    if version == 6:
        material = reader.take(reader.number(4))
        if reader:
            raise Untrusted("key packet")
        fingerprint = sha256(written).hexdigest()
    else:
        material = reader.rest()
        fingerprint = sha1(written, usedforsecurity=False).hexdigest()
    fingerprint = fingerprint.upper()
    names = frozenset((_id_of(version, fingerprint), fingerprint))
    return Key(packet, version, fingerprint, written, created, algorithm, material, names)


def _id_of(version: int, fingerprint: str) -> str:
    return fingerprint[:16] if version == 6 else fingerprint[-16:]


def is_new(body: bytes) -> bool:
    """Is a key, public or private, of a kind that came with RFC 9580?"""
    return body[:1] == b"\6" or (len(body) > 5 and body[5] in NEW)


def hashed(body: bytes) -> bytes:
    """How a key is written where it is signed, and for its fingerprint."""
    if body[0] == 6:
        return b"\x9b" + len(body).to_bytes(4, "big") + body
    return b"\x99" + len(body).to_bytes(2, "big") + body


@functools.lru_cache(maxsize=512)
def scheme_of(key: Key) -> Scheme:
    """How a key signs.

    Raises:
        Untrusted: in no way that we know, or it is too weak.
    """
    reader = Reader(key.material)
    if key.algorithm == RSA:
        scheme = Scheme(RSA, 256)
        modulus, exponent = reader.mpi(), reader.mpi()
        # A huge exponent would make one verification last for seconds.
        if int.from_bytes(modulus[:2], "big") not in RSA_BITS or len(exponent) > 6:
            raise Untrusted("key size")
    elif key.algorithm in POINTS:
        scheme, size = POINTS[key.algorithm]
        reader.take(size)
    else:
        scheme = _on_curve(key, reader)
    if reader:
        raise Untrusted("key packet")
    return scheme


def _on_curve(key: Key, reader: Reader) -> Scheme:
    found = CURVES.get(reader.take(reader.byte())) if key.algorithm in (ECDSA, EDDSA) else None
    # RFC 9580, 5.2.3.3 (and 5.5.5.5): the old form of Ed25519 is for version 4 alone.
    if found is None or found.algorithm != key.algorithm or (key.version == 6 and key.algorithm == EDDSA):
        raise Untrusted("key algorithm")
    reader.mpi()
    return found

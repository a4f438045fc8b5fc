"""OpenPGP's packets, read strictly: signatures, keys.

What we accept is a small part of RFC 9580, and anything else is refused here, before an engine sees it. The
engines then get what we read, written anew in one plain form: two programs that would read the same odd bytes
in two ways never get them. No cryptography happens in this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import new as new_hash
from hashlib import sha1
from typing import Final, NamedTuple

from ..errors import Untrusted

SIGNATURE: Final = 2
ONE_PASS: Final = 4
SECRET_KEY: Final = 5
PUBLIC_KEY: Final = 6
SECRET_SUBKEY: Final = 7
COMPRESSED: Final = 8
LITERAL: Final = 11
USER_ID: Final = 13
PUBLIC_SUBKEY: Final = 14
USER_ATTRIBUTE: Final = 17

HASHES: Final = {8: "sha256", 9: "sha384", 10: "sha512"}
"""By their numbers in a signature. SHA-1 and MD5 are not among them."""

DIGEST_BITS: Final = {8: 256, 9: 384, 10: 512}
"""Of each hash."""

RSA: Final = 1
ECDSA: Final = 19
EDDSA: Final = 22


class Scheme(NamedTuple):
    """How a key signs: its algorithm, and the shortest digest that may be signed with it."""

    algorithm: int
    digest_bits: int


CURVES: Final = {
    bytes.fromhex("2a8648ce3d030107"): Scheme(ECDSA, 256),  # NIST P-256
    bytes.fromhex("2b81040022"): Scheme(ECDSA, 384),  # NIST P-384
    bytes.fromhex("2b81040023"): Scheme(ECDSA, 512),  # NIST P-521
    bytes.fromhex("2b06010401da470f01"): Scheme(EDDSA, 256),  # Ed25519
}
"""Object identifiers that gpg, Sequoia, kbpgp and openpgp.js know, all four. Sequoia takes digests that are
shorter than the curve, gpg does not."""

RSA_BITS: Final = range(2048, 8193)

VALUES: Final = {RSA: 1, ECDSA: 2, EDDSA: 2}
"""How many numbers a signature of each algorithm has."""

SUBKEY_BINDING: Final = 0x18
"""The one kind of signature that may hold another."""

CREATED: Final = 2
EXPIRES: Final = 3
KEY_EXPIRES: Final = 9
ISSUER: Final = 16
NOTATION: Final = 20
PRIMARY_NAME: Final = 25
KEY_FLAGS: Final = 27
EMBEDDED: Final = 32
ISSUER_FINGERPRINT: Final = 33

FORMS: Final = {
    CREATED: re.compile(rb".{4}", re.S),
    EXPIRES: re.compile(rb".{4}", re.S),
    4: re.compile(rb"[\0\1]"),  # is it exportable
    5: re.compile(rb"..", re.S),  # trust
    6: re.compile(rb"[^\0]*\0"),  # in names of this form
    7: re.compile(rb"[\0\1]"),  # is it revocable
    KEY_EXPIRES: re.compile(rb".{4}", re.S),
    12: re.compile(rb"[\x80-\xff].{21}", re.S),  # who may revoke
    ISSUER: re.compile(rb".{8}", re.S),
    PRIMARY_NAME: re.compile(rb"[\0\1]"),
    29: re.compile(rb".+", re.S),  # why it was revoked
    31: re.compile(rb".{2,}", re.S),  # what is signed
    ISSUER_FINGERPRINT: re.compile(rb"\x04.{20}", re.S),
    35: re.compile(rb"\x04.{20}", re.S),  # for whom
    37: re.compile(rb""),  # whose certifications are welcome
    38: re.compile(rb"(?!)"),  # a whole key: never
    39: re.compile(rb"(?:..)*", re.S),  # preferences
}
"""Subpackets that are not just any bytes. One of another form makes gpg and Sequoia differ, or ends gpgv."""

PREFERENCES: Final = (11, 21, 22, PRIMARY_NAME, 29, 30)
"""Subpackets that change nothing here: what a key prefers, which name is the first, why one was revoked."""

UNDERSTOOD: Final = {
    CREATED,
    EXPIRES,
    KEY_EXPIRES,
    ISSUER,
    KEY_FLAGS,
    EMBEDDED,
    ISSUER_FINGERPRINT,
    *PREFERENCES,
}
"""Subpackets that may be critical."""

END_OF_TIME: Final = 1 << 32
"""Where OpenPGP's seconds end, in 2106. What lasts longer has expired for gpg, and has not for Sequoia."""


# --- packets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packet:
    tag: int
    body: bytes

    def __bytes__(self) -> bytes:
        """In the one form that we hand on: the new format, with its whole length in five bytes."""
        return bytes((0xC0 | self.tag, 0xFF)) + len(self.body).to_bytes(4, "big") + self.body


class Reader:
    """Takes bytes from the front.

    Raises, everywhere:
        Untrusted: there are fewer.
    """

    __slots__ = ("_data", "_place")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __bool__(self) -> bool:
        return self._place < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._place + count
        if end > len(self._data):
            raise Untrusted("truncated")
        piece, self._place = self._data[self._place : end], end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._place)

    def mpi(self) -> bytes:
        """A multiprecision integer (RFC 9580, 3.2), without leading zeros, with its true length."""
        value = int.from_bytes(self.take((self.number(2) + 7) // 8), "big")
        bits = value.bit_length()
        return bits.to_bytes(2, "big") + value.to_bytes((bits + 7) // 8, "big")


def read_packets(data: bytes) -> Iterator[Packet]:
    """All packets of `data`, one after the other."""
    reader = Reader(data)
    while reader:
        header = reader.number(1)
        if header & 0xC0 == 0xC0:
            yield Packet(header & 0x3F, _new_body(reader))
        elif header & 0x80:
            yield Packet(header >> 2 & 0x0F, _old_body(reader, header & 3))
        else:
            raise Untrusted("packet")


def _new_body(reader: Reader) -> bytes:
    pieces = []
    while True:
        first = reader.number(1)
        if 224 <= first < 255:  # one piece of several
            pieces.append(reader.take(1 << (first & 0x1F)))
            continue
        pieces.append(reader.take(_length(reader, first)))
        return b"".join(pieces)


def _old_body(reader: Reader, length_type: int) -> bytes:
    if length_type == 3:  # to the end
        return reader.rest()
    return reader.take(reader.number(1 << length_type))


def _length(reader: Reader, first: int) -> int:
    if first < 192:
        return first
    if first < 255:
        return (first - 192 << 8) + reader.number(1) + 192
    return reader.number(4)


# --- signatures --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subpacket:
    kind: int
    value: bytes
    is_critical: bool = False

    def __bytes__(self) -> bytes:
        size = len(self.value) + 1
        return b"\xff" + size.to_bytes(4, "big") + bytes((self.kind | self.is_critical << 7,)) + self.value

    def is_well_formed(self, signature_kind: int) -> bool:
        if self.kind == NOTATION:
            sizes = self.value[4:6], self.value[6:8]
            name, value = (int.from_bytes(each, "big") for each in sizes)
            return name > 0 and len(self.value) == 8 + name + value
        if self.kind == EMBEDDED:
            return signature_kind == SUBKEY_BINDING
        form = FORMS.get(self.kind)
        return form is None or form.fullmatch(self.value) is not None


@dataclass(frozen=True, slots=True)
class Signature:
    """A version 4 signature (RFC 9580, 5.2.3).

    Attributes:
        kind: the signature's type.
        created: seconds since 1970.
        issuers: every key that it says made it: key ids and fingerprints, upper-case hex.
        hashed: the subpackets that are signed.
        backsigs: signatures by a subkey of its primary key, where they are not signed.
        head: the part that is hashed, as it stands.
        left: the first two bytes of the digest.
        values: the algorithm's numbers.
    """

    kind: int
    algorithm: int
    hash: int
    created: int
    issuers: frozenset[str]
    hashed: tuple[Subpacket, ...]
    backsigs: tuple[Subpacket, ...]
    head: bytes
    left: bytes
    values: bytes

    def is_strong(self, scheme: Scheme) -> bool:
        """Is its hash sound, and long enough for the key's curve?"""
        return DIGEST_BITS.get(self.hash, 0) >= scheme.digest_bits

    def is_by(self, *keys: Key) -> bool:
        """Does it name one of these keys, and no other?"""
        names = {name for key in keys for name in (key.id, key.fingerprint)}
        return bool(self.issuers) and self.issuers <= names

    def values_of(self, kind: int) -> list[bytes]:
        """What its hashed subpackets of one kind say."""
        return [each.value for each in self.hashed if each.kind == kind]

    def check(self, algorithm: int) -> None:
        """Is all of it what we understand?

        Raises:
            Untrusted: it is not.
        """
        if self.algorithm != algorithm or algorithm not in VALUES:
            raise Untrusted("signature algorithm")
        if any(each.is_critical and each.kind not in UNDERSTOOD for each in self.hashed):
            raise Untrusted("critical subpacket")
        if not all(each.is_well_formed(self.kind) for each in self.hashed):
            raise Untrusted("subpacket form")
        self._numbers()

    def ends(self, key: Key) -> list[int]:
        """When what it says of a key comes to its end, in seconds since 1970."""
        kinds = ((EXPIRES, self.created), (KEY_EXPIRES, key.created))
        return [
            since + int.from_bytes(value, "big") for kind, since in kinds for value in self.values_of(kind)
        ]

    def check_end(self, kind: int, since: int, now: float, reason: str) -> None:
        """Raise what has ended, by its subpackets of one kind: seconds after `since`, 0 for never."""
        for value in self.values_of(kind):
            end = since + int.from_bytes(value, "big")
            if end >= END_OF_TIME:
                raise Untrusted("validity past 2106")
            if since < end <= now:
                raise Untrusted(reason)

    def fits(self, signed: bytes) -> bool:
        """Does the digest of these bytes start as it says?

        What was changed mostly ends here, and costs no more. In a key, gpg does not look at this and Sequoia
        does.
        """
        digest = new_hash(
            HASHES[self.hash], signed + self.head + b"\x04\xff" + len(self.head).to_bytes(4, "big")
        )
        return digest.digest()[:2] == self.left

    def plain(self, key: Key) -> bytes:
        """The body of its packet, made by `key`, without what is not signed."""
        issuer = Subpacket(ISSUER, bytes.fromhex(key.id))
        unhashed = b"".join(map(bytes, (issuer, *self.backsigs)))
        return self.head + len(unhashed).to_bytes(2, "big") + unhashed + self.left + self._numbers()

    def _numbers(self) -> bytes:
        reader = Reader(self.values)
        numbers = b"".join(reader.mpi() for _ in range(VALUES[self.algorithm]))
        if reader:
            raise Untrusted("signature values")
        return numbers


def read_signature(body: bytes) -> Signature:
    reader = Reader(body)
    version, kind, algorithm, hash_ = reader.take(4)
    if version != 4:
        raise Untrusted("signature version")
    hashed_area = reader.take(reader.number(2))
    unhashed_area = reader.take(reader.number(2))
    hashed, unhashed = _subpackets(hashed_area), _subpackets(unhashed_area)
    created = [each.value for each in hashed if each.kind == CREATED]
    if len(created) != 1 or len(created[0]) != 4:
        raise Untrusted("signature time")
    return Signature(
        kind=kind,
        algorithm=algorithm,
        hash=hash_,
        created=int.from_bytes(created[0], "big"),
        issuers=frozenset(_issuers(hashed + unhashed)),
        hashed=hashed,
        backsigs=tuple(each for each in unhashed if each.kind == EMBEDDED),
        head=body[:6] + hashed_area,
        left=reader.take(2),
        values=reader.rest(),
    )


def _subpackets(area: bytes) -> tuple[Subpacket, ...]:
    reader = Reader(area)
    found = []
    while reader:
        piece = Reader(reader.take(_length(reader, reader.number(1))))
        kind = piece.number(1)
        found.append(Subpacket(kind & 0x7F, piece.rest(), bool(kind & 0x80)))
    return tuple(found)


def _issuers(subpackets: Iterable[Subpacket]) -> Iterator[str]:
    for each in subpackets:
        if each.kind == ISSUER:
            yield each.value.hex().upper()
        elif each.kind == ISSUER_FINGERPRINT:
            yield each.value[1:].hex().upper()


# --- keys --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, of a certificate or below it. `fingerprint` and `id` are upper-case hex."""

    packet: Packet
    fingerprint: str
    created: int

    @property
    def id(self) -> str:
        return self.fingerprint[-16:]

    @property
    def hashed(self) -> bytes:
        """How it is written where it is signed, and for its fingerprint."""
        return _hashed(self.packet.body)


def read_key(packet: Packet) -> Key:
    body = packet.body
    reader = Reader(body)
    if reader.number(1) != 4:
        raise Untrusted("key version")
    fingerprint = sha1(_hashed(body), usedforsecurity=False).hexdigest()
    return Key(packet, fingerprint.upper(), reader.number(4))


def _hashed(body: bytes) -> bytes:
    return b"\x99" + len(body).to_bytes(2, "big") + body


def scheme_of(key: Key) -> Scheme:
    """How a key signs.

    Raises:
        Untrusted: in no way that all four programs know, or it is too weak.
    """
    reader = Reader(key.packet.body[5:])
    algorithm = reader.number(1)
    if algorithm == RSA:
        scheme = Scheme(RSA, 256)
        modulus, exponent = reader.mpi(), reader.mpi()
        # A huge exponent would make one verification last for seconds.
        if int.from_bytes(modulus[:2], "big") not in RSA_BITS or len(exponent) > 6:
            raise Untrusted("key size")
    else:
        found = CURVES.get(reader.take(reader.number(1))) if algorithm in (ECDSA, EDDSA) else None
        if found is None or found.algorithm != algorithm:
            raise Untrusted("key algorithm")
        scheme = found
        reader.mpi()
    if reader:
        raise Untrusted("key packet")
    return scheme

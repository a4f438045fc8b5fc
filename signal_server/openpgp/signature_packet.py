"""Signatures as packets, of version 4 and 6 (RFC 9580, 5.2.3), and what they say of themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256, sha384, sha512
from typing import Any, Final, NamedTuple

from ..errors import Untrusted
from .key_packet import ECDSA, ED448, ED25519, EDDSA, NEW, RSA, Key, Scheme
from .packets import Reader, length_of


class Hash(NamedTuple):
    """A hash.

    Attributes:
        new: begins one.
        bits: of its digest.
        salt: bytes that go before what version 6 signs.
    """

    new: Callable[[bytes], Any]
    bits: int
    salt: int


HASHES: Final = {8: Hash(sha256, 256, 16), 9: Hash(sha384, 384, 24), 10: Hash(sha512, 512, 32)}
"""By their numbers in a signature. SHA-1 and MD5 are not among them."""

NUMBERS: Final = {RSA: 1, ECDSA: 2, EDDSA: 2}
"""How many numbers a signature of each algorithm has."""

BYTES: Final = {ED25519: 64, ED448: 114}
"""Or how many bytes, if they are no numbers."""

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

FINGERPRINT: Final = re.compile(rb"\x04.{20}|\x06.{32}", re.S)

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
    ISSUER_FINGERPRINT: FINGERPRINT,
    35: FINGERPRINT,  # for whom
    37: re.compile(rb""),  # whose certifications are welcome
    38: re.compile(
        rb"\0.+", re.S
    ),  # the signer's key: it comes with the message anyway, and nobody reads it here
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


class Subpacket(NamedTuple):  # a key has fifty, and a frozen dataclass takes thrice as long to make
    kind: int
    value: bytes
    is_critical: bool = False

    def __bytes__(self) -> bytes:
        size = len(self.value) + 1
        return b"\xff" + size.to_bytes(4, "big") + bytes((self.kind | self.is_critical << 7,)) + self.value


class Signature(NamedTuple):
    """A signature.

    Attributes:
        kind: the signature's type.
        created: seconds since 1970.
        issuers: every key that it says made it, upper-case hex: key ids and fingerprints; in version 6, where
            there are no key ids, exactly one.
        hashed: the subpackets that are signed.
        backsigs: signatures by a subkey of its primary key, where they are not signed.
        head: the part that is hashed, as it stands.
        left: the first two bytes of the digest.
        salt: what is hashed before all else, in version 6.
        values: what the algorithm made, in its plain form; None if it is broken, or we do not know the
            algorithm.
    """

    version: int
    kind: int
    algorithm: int
    hash: int
    created: int
    issuers: frozenset[str]
    hashed: tuple[Subpacket, ...]
    backsigs: tuple[Subpacket, ...]
    head: bytes
    left: bytes
    salt: bytes
    values: bytes | None

    @property
    def is_new(self) -> bool:
        """Is it of a kind that came with RFC 9580?"""
        return self.version == 6 or self.algorithm in NEW

    def is_strong(self, scheme: Scheme) -> bool:
        """Is its hash sound, and long enough for the key's curve?"""
        return self.hash in HASHES and HASHES[self.hash].bits >= scheme.digest_bits

    def is_by(self, *keys: Key) -> bool:
        """Does it name one of these keys, and no other?"""
        names = keys[0].names if len(keys) == 1 else frozenset().union(*(each.names for each in keys))
        return (
            bool(self.issuers)
            and self.issuers <= names
            and all(each.version == self.version for each in keys)
        )

    def values_of(self, kind: int) -> list[bytes]:
        """What its hashed subpackets of one kind say."""
        return [each.value for each in self.hashed if each.kind == kind]

    def check(self, algorithm: int) -> None:
        """Is all of it what we understand?

        Raises:
            Untrusted: it is not.
        """
        if self.algorithm != algorithm or algorithm not in (*NUMBERS, *BYTES):
            raise Untrusted("signature algorithm")
        if self.values is None:
            raise Untrusted("signature values")
        for kind, value, is_critical in self.hashed:
            if is_critical and kind not in UNDERSTOOD:
                raise Untrusted("critical subpacket")
            if not _is_well_formed(kind, value, self.kind):
                raise Untrusted("subpacket form")

    def ends(self, key: Key) -> list[int]:
        """When what it says of a key comes to its end, in seconds since 1970."""
        since = {EXPIRES: self.created, KEY_EXPIRES: key.created}
        return [
            since[each.kind] + int.from_bytes(each.value, "big") for each in self.hashed if each.kind in since
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
        end = bytes((self.version, 0xFF)) + len(self.head).to_bytes(4, "big")
        digest: bytes = HASHES[self.hash].new(self.salt + signed + self.head + end).digest()
        return digest[:2] == self.left

    def plain(self, key: Key) -> bytes:
        """The body of its packet, made by `key`, without what is not signed."""
        is_new = self.version == 6
        issuer = Subpacket(ISSUER, bytes.fromhex(key.id))
        if is_new:
            issuer = Subpacket(ISSUER_FINGERPRINT, b"\x06" + bytes.fromhex(key.fingerprint))
        unhashed = b"".join(map(bytes, (issuer, *self.backsigs)))
        size = len(unhashed).to_bytes(4 if is_new else 2, "big")
        salt = bytes((len(self.salt),)) + self.salt if is_new else b""
        return self.head + size + unhashed + self.left + salt + (self.values or b"")


def _is_well_formed(kind: int, value: bytes, signature_kind: int) -> bool:
    if kind == NOTATION:
        name, text = int.from_bytes(value[4:6], "big"), int.from_bytes(value[6:8], "big")
        return name > 0 and len(value) == 8 + name + text
    if kind == EMBEDDED:
        return signature_kind == SUBKEY_BINDING
    form = FORMS.get(kind)
    return form is None or form.fullmatch(value) is not None


def read_signature(body: bytes) -> Signature:
    """Read a signature, whatever its algorithm and its hash are.

    Raises:
        Untrusted: it is of another version, or broken.
    """
    reader = Reader(body)
    version, kind, algorithm, hash_ = reader.take(4)
    if version not in (4, 6):
        raise Untrusted("signature version")
    size = 4 if version == 6 else 2
    hashed_area = reader.take(reader.number(size))
    unhashed_area = reader.take(reader.number(size))
    left = reader.take(2)
    salt = reader.take(reader.byte()) if version == 6 else b""
    if version == 6 and hash_ in HASHES and len(salt) != HASHES[hash_].salt:
        raise Untrusted("signature salt")
    hashed, unhashed = _subpackets(hashed_area), _subpackets(unhashed_area)
    created = [value for kind_, value, _ in hashed if kind_ == CREATED]
    if len(created) != 1 or len(created[0]) != 4:
        raise Untrusted("signature time")
    issuers = frozenset(_issuers(hashed + unhashed))
    # One that Sequoia would count and we would not may be the one that forbids.
    if version == 6 and [len(each) for each in issuers] != [64]:
        raise Untrusted("subpacket form")
    return Signature(
        version,
        kind,
        algorithm,
        hash_,
        int.from_bytes(created[0], "big"),
        issuers,
        hashed,
        tuple([each for each in unhashed if each.kind == EMBEDDED]),
        body[: 4 + size] + hashed_area,
        left,
        salt,
        _values(algorithm, reader.rest()),
    )


def _values(algorithm: int, data: bytes) -> bytes | None:
    if algorithm in BYTES:
        return data if len(data) == BYTES[algorithm] else None
    reader = Reader(data)
    try:
        values = b"".join([reader.mpi() for _ in range(NUMBERS.get(algorithm, 0))])
    except Untrusted:
        return None
    return None if reader else values


def _subpackets(area: bytes) -> tuple[Subpacket, ...]:
    reader = Reader(area)
    found = []
    while reader:
        piece = reader.take(length_of(reader, reader.byte()))
        if not piece:
            raise Untrusted("truncated")
        kind = piece[0]
        found.append(Subpacket(kind & 0x7F, piece[1:], kind > 0x7F))
    return tuple(found)


def _issuers(subpackets: Iterable[Subpacket]) -> Iterator[str]:
    for kind, value, _ in subpackets:
        if kind == ISSUER:
            yield value.hex().upper()
        elif kind == ISSUER_FINGERPRINT:
            # One of another form names nobody.
            yield value[1:].hex().upper() if FINGERPRINT.fullmatch(value) else ""

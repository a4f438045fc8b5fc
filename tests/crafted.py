"""OpenPGP packets by hand: whatever no program would make, signed all the same.

RSA is the one algorithm of OpenPGP that three lines can sign with; for the others see `crafted_curves`.
"""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

HASHES = {
    "md5": (1, "3020300c06082a864886f70d020505000410"),
    "sha1": (2, "3021300906052b0e03021a05000414"),
    "sha256": (8, "3031300d060960864801650304020105000420"),
    "sha384": (9, "3041300d060960864801650304020205000430"),
    "sha512": (10, "3051300d060960864801650304020305000440"),
    "sha224": (11, "302d300d06096086480165030402040500041c"),
}
"""OpenPGP's numbers, and the prefix that names the hash inside an RSA signature (RFC 9580, 5.2.3.1)."""

NOW = int(time.time())
BORN = NOW - 86400

POSITIVE, BINDING, BACK, DIRECT, REVOKE_KEY, REVOKE_SUBKEY, REVOKE_NAME = (
    0x13,
    0x18,
    0x19,
    0x1F,
    0x20,
    0x28,
    0x30,
)


def packet(tag: int, body: bytes) -> bytes:
    return bytes((0xC0 | tag, 0xFF)) + len(body).to_bytes(4, "big") + body


def old_packet(tag: int, body: bytes) -> bytes:
    return bytes((0x80 | tag << 2 | 1,)) + len(body).to_bytes(2, "big") + body


def partial_packet(tag: int, body: bytes) -> bytes:
    """In pieces of 512 bytes, which is the least that the format allows for the first."""
    pieces = b""
    while len(body) > 512:
        pieces, body = pieces + bytes((224 + 9,)) + body[:512], body[512:]
    return bytes((0xC0 | tag,)) + pieces + b"\xff" + len(body).to_bytes(4, "big") + body


def subpacket(kind: int, value: bytes, *, critical: bool = False) -> bytes:
    return b"\xff" + (len(value) + 1).to_bytes(4, "big") + bytes((kind | critical << 7,)) + value


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def mpi(value: int) -> bytes:
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


def armour(
    data: bytes, kind: str = "MESSAGE", *, checksum: bool = True, header: str = "", end: str = "\n"
) -> str:
    text = base64.b64encode(data).decode()
    lines = [f"-----BEGIN PGP {kind}-----", *([header] if header else []), ""]
    lines += [text[i : i + 64] for i in range(0, len(text), 64)]
    lines += ["=" + base64.b64encode(crc24(data)).decode()] if checksum else []
    return end.join([*lines, f"-----END PGP {kind}-----", ""])


def crc24(data: bytes) -> bytes:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return number(crc & 0xFFFFFF, 3)


def literal(text: bytes, form: bytes = b"b", name: bytes = b"") -> bytes:
    return packet(11, form + bytes((len(name),)) + name + number(NOW) + text)


SMALL = math.prod(n for n in range(3, 2000, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2)))
"""The product of the small primes."""


def salt_for(hash_: str) -> bytes:
    """What goes before all that version 6 hashes: half a digest of anything, here always the same."""
    return bytes(range(hashlib.new(hash_).digest_size // 2))


class Pair(Protocol):
    """A key pair.

    Attributes:
        algorithm: its number in OpenPGP.
        public: the public half, as a key packet has it.
    """

    algorithm: int
    public: bytes

    def values(self, digest: bytes, hash_: str, *, spoil: bool) -> bytes:
        """A signature of a digest, as a signature packet has it. `spoil`: one that does not hold."""


class Rsa:
    """A key pair."""

    algorithm: ClassVar[int] = 1

    def __init__(self, bits: int = 2048, exponent: int = 65537) -> None:
        self.e = exponent
        while True:
            p, q = _prime(bits // 2), _prime(bits // 2)
            try:
                self.d = pow(self.e, -1, (p - 1) * (q - 1))
            except ValueError:
                continue
            self.p, self.q, self.n = p, q, p * q
            self._inverse = pow(q, -1, p)
            return

    @property
    def public(self) -> bytes:
        return mpi(self.n) + mpi(self.e)

    def values(self, digest: bytes, hash_: str, *, spoil: bool) -> bytes:
        return mpi(self._sign(digest, HASHES[hash_][1]) ^ spoil << 100)

    def _sign(self, digest: bytes, prefix: str) -> int:
        size = (self.n.bit_length() + 7) // 8
        block = bytes.fromhex(prefix) + digest
        padded = b"\x00\x01" + b"\xff" * (size - len(block) - 3) + b"\x00" + block
        value = int.from_bytes(padded, "big")
        by_p, by_q = pow(value, self.d % (self.p - 1), self.p), pow(value, self.d % (self.q - 1), self.q)
        return by_q + (by_p - by_q) * self._inverse % self.p * self.q


def _prime(bits: int) -> int:
    while True:
        candidate = secrets.randbits(bits) | 3 << (bits - 2) | 1
        if math.gcd(candidate, SMALL) == 1 and pow(2, candidate - 1, candidate) == 1:
            return candidate


@dataclass(frozen=True)
class Author:
    """A key that signs: statements of itself, other keys, and messages. Its version is 4 or 6."""

    pair: Pair
    created: int = BORN
    version: int = 4

    @cached_property
    def body(self) -> bytes:
        size = number(len(self.pair.public)) if self.version == 6 else b""
        start = bytes((self.version,)) + number(self.created) + bytes((self.pair.algorithm,))
        return start + size + self.pair.public

    @cached_property
    def hashed(self) -> bytes:
        """How a key is written where it is signed."""
        if self.version == 6:
            return b"\x9b" + number(len(self.body)) + self.body
        return b"\x99" + number(len(self.body), 2) + self.body

    @cached_property
    def fingerprint(self) -> str:
        hash_ = hashlib.sha256 if self.version == 6 else hashlib.sha1
        return hash_(self.hashed).hexdigest().upper()

    @property
    def id(self) -> bytes:
        return (
            bytes.fromhex(self.fingerprint)[:8] if self.version == 6 else bytes.fromhex(self.fingerprint)[-8:]
        )

    @property
    def issuer(self) -> bytes:
        """The subpacket that names it."""
        if self.version == 6:
            return subpacket(33, b"\x06" + bytes.fromhex(self.fingerprint))
        return subpacket(16, self.id)

    def signature(
        self,
        kind: int,
        over: bytes,
        *,
        created: int | None = BORN,
        hash_: str = "sha512",
        hashed: bytes = b"",
        unhashed: bytes | None = None,
        version: int | None = None,
        salt: bytes | None = None,
        spoil: bool = False,
    ) -> bytes:
        """A signature packet over these bytes, with the given subpackets beside the time and the issuer.

        version: the key's own; anything but 6 has the form of version 4.
        salt: what its hash asks for.
        """
        identifier = HASHES[hash_][0]
        version = self.version if version is None else version
        size = 4 if version == 6 else 2
        area = (subpacket(2, number(created)) if created is not None else b"") + hashed
        head = bytes((version, kind, self.pair.algorithm, identifier)) + number(len(area), size) + area
        salt = (salt_for(hash_) if salt is None else salt) if version == 6 else b""
        end = bytes((6 if version == 6 else 4, 0xFF)) + number(len(head))
        digest = hashlib.new(hash_, salt + over + head + end).digest()
        values = self.pair.values(digest, hash_, spoil=spoil)
        outside = self.issuer if unhashed is None else unhashed
        salted = bytes((len(salt),)) + salt if version == 6 else b""
        return packet(2, head + number(len(outside), size) + outside + digest[:2] + salted + values)

    # --- its certificate -----------------------------------------------------------------------------------

    @property
    def primary(self) -> bytes:
        return packet(6, self.body)

    def name(self, name: str = "x <x@x.invalid>", *, flags: int | None = 3, **options: object) -> bytes:
        """A user id, and the statement that it is ours."""
        text = name.encode()
        over = self.hashed + b"\xb4" + number(len(text)) + text
        extra = subpacket(27, bytes((flags,))) if flags is not None else b""
        extra += options.pop("hashed", b"")  # type: ignore[operator]
        kind = options.pop("kind", POSITIVE)
        statement = self.signature(kind, over, hashed=extra, **options)  # type: ignore[arg-type]
        return packet(13, text) + statement

    def on_name(self, name: str, kind: int, **options: object) -> bytes:
        text = name.encode()
        return self.signature(kind, self.hashed + b"\xb4" + number(len(text)) + text, **options)  # type: ignore[arg-type]

    def on_self(self, kind: int, **options: object) -> bytes:
        return self.signature(kind, self.hashed, **options)  # type: ignore[arg-type]

    def subkey(
        self,
        other: Author,
        *,
        flags: int = 2,
        back: bytes | None = None,
        by: Author | None = None,
        **options: object,
    ) -> bytes:
        """A subkey, bound by us (or by somebody else who says so), that agrees or does not."""
        if back is None:
            back = other.signature(BACK, self.hashed + other.hashed)[6:]
        extra = subpacket(27, bytes((flags,))) + (subpacket(32, back) if back else b"")
        extra += options.pop("hashed", b"")  # type: ignore[operator]
        author = by or self
        unhashed = self.issuer
        binding = author.signature(
            BINDING,
            self.hashed + other.hashed,
            hashed=extra,
            unhashed=unhashed,
            **options,  # type: ignore[arg-type]
        )
        return packet(14, other.body) + binding

    def on_subkey(self, other: Author, kind: int, **options: object) -> bytes:
        return self.signature(kind, self.hashed + other.hashed, **options)  # type: ignore[arg-type]

    def certificate(self) -> bytes:
        """As is usual for its version: a name says what it is for, or a direct signature."""
        if self.version == 6:
            return self.primary + self.on_self(DIRECT, hashed=subpacket(27, b"\x03")) + self.name(flags=None)
        return self.primary + self.name()

    # --- messages ------------------------------------------------------------------------------------------

    def one_pass(
        self,
        *,
        kind: int = 0,
        hash_: str = "sha512",
        last: int = 1,
        id_: bytes | None = None,
        salt: bytes | None = None,
    ) -> bytes:
        said = bytes((kind, HASHES[hash_][0], self.pair.algorithm))
        if self.version == 6:
            salt = salt_for(hash_) if salt is None else salt
            start = b"\x06" + said + bytes((len(salt),)) + salt
            return packet(4, start + (id_ or bytes.fromhex(self.fingerprint)) + bytes((last,)))
        return packet(4, b"\x03" + said + (id_ or self.id) + bytes((last,)))

    def on_text(self, text: bytes, *, kind: int = 0, created: int | None = NOW, **options: object) -> bytes:
        return self.signature(kind, text, created=created, **options)  # type: ignore[arg-type]

    def message(
        self, text: bytes, *, kind: int = 0, hash_: str = "sha512", form: bytes = b"b", **options: object
    ) -> bytes:
        """Signed as kbpgp does it: attached."""
        one_pass = self.one_pass(kind=kind, hash_=hash_)
        return one_pass + literal(text, form) + self.on_text(text, kind=kind, hash_=hash_, **options)

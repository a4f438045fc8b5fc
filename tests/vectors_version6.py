"""What came with RFC 9580, by hand: version 6, and Ed25519 and Ed448 as algorithms of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crafted import (
    DIRECT,
    NOW,
    REVOKE_KEY,
    REVOKE_SUBKEY,
    Author,
    Pair,
    Rsa,
    armour,
    literal,
    number,
    packet,
    subpacket,
)
from crafted_curves import Ecdsa, Ed448, Ed25519
from vectors_core import DAY, TEXT, TEXTS, Vector, key_armour

MAY, MAY_NOT = subpacket(27, b"\x03"), subpacket(27, b"\x01")
RAN_OUT, LASTING = subpacket(9, number(DAY // 2)), subpacket(9, number(9 * DAY))
NAME = "x <x@x.invalid>"


def version_6() -> Iterator[Vector]:
    alice, sub, eve = (Author(Ed25519(new=True), version=6) for _ in range(3))
    yield from _kinds()
    yield from _version_4()
    yield from _messages(alice, eve)
    yield from _keys(alice, eve)
    yield from _subkeys(alice, sub, eve)


def vector(
    name: str,
    by: Author,
    *,
    good: bool,
    key: bytes | None = None,
    message: bytes | None = None,
    text: bytes = TEXT,
    of: Author | None = None,
    **signing: object,
) -> Vector:
    """A message by one key with its own certificate, or with another."""
    owner = of or by
    message = by.message(text, **signing) if message is None else message  # type: ignore[arg-type]
    key = owner.certificate() if key is None else key
    told = (text, owner.fingerprint) if good else (None, None)
    return Vector(f"new: {name}", armour(message, checksum=False), key_armour(key), *told, is_new=True)


def _kinds() -> Iterator[Vector]:
    pairs: dict[str, tuple[Pair, int]] = {
        "RSA": (Rsa(), 256),
        "P-256": (Ecdsa("P-256"), 256),
        "P-384": (Ecdsa("P-384"), 384),
        "P-521": (Ecdsa("P-521"), 512),
        "Ed25519": (Ed25519(new=True), 256),
        "Ed448": (Ed448(), 512),
    }
    for name, (pair, needed) in pairs.items():
        author = Author(pair, version=6)
        for hash_, bits in {"sha256": 256, "sha384": 384, "sha512": 512}.items():
            is_long = bits >= needed
            yield vector(f"{name}, {hash_}", author, good=is_long, hash_=hash_)
            own = author.primary + author.on_self(DIRECT, hashed=MAY, hash_=hash_)
            yield vector(f"{name}, self-signed with {hash_}", author, good=is_long, key=own)
        yield vector(f"{name}, spoiled", author, good=False, spoil=True)
        own = author.primary + author.on_self(DIRECT, hashed=MAY, spoil=True)
        yield vector(f"{name}, self-signed and spoiled", author, good=False, key=own)
        for hash_ in ("sha1", "sha224"):
            yield vector(f"{name}, {hash_}", author, good=False, hash_=hash_)
    old, weak, odd = Author(Ed25519(), version=6), Author(Rsa(1024), version=6), Ecdsa("secp256k1")
    yield vector("the old form of Ed25519 in version 6", old, good=False)
    yield vector("1024 bits", weak, good=False)
    yield vector("secp256k1", Author(odd, version=6), good=False)


def _version_4() -> Iterator[Vector]:
    """The new algorithms need no new version."""
    primary = Author(Rsa())
    kinds: dict[str, tuple[Pair, int]] = {"Ed25519": (Ed25519(new=True), 256), "Ed448": (Ed448(), 512)}
    for name, (pair, needed) in kinds.items():
        own = Author(pair)
        for hash_, bits in {"sha256": 256, "sha384": 384, "sha512": 512}.items():
            yield vector(f"{name} of version 4, {hash_}", own, good=bits >= needed, hash_=hash_)
        yield vector(f"{name} of version 4, spoiled", own, good=False, spoil=True)
        yield vector(f"{name} of version 4, no name", own, good=False, key=own.primary)
        bound = primary.certificate() + primary.subkey(own)
        yield vector(f"by a {name} subkey of an old key", own, good=True, key=bound, of=primary)
        stolen = own.signature(0x19, own.hashed + own.hashed)[6:]
        key = primary.certificate() + primary.subkey(own, back=stolen)
        yield vector(f"by a {name} subkey, consent to another", own, good=False, key=key)
        signed = own.on_text(TEXT)
        yield vector(
            f"{name}, a byte behind the signature",
            own,
            good=False,
            message=own.one_pass() + literal(TEXT) + packet(2, signed[6:] + b"\0"),
        )
        yield vector(
            f"{name}, a byte too few",
            own,
            good=False,
            message=own.one_pass() + literal(TEXT) + packet(2, signed[6:-1]),
        )
        long = Author(replace_public(pair, pair.public + b"\0"))
        yield vector(f"{name}, a byte behind the key", long, good=False)
        yield vector(f"{name}, a key cut", Author(replace_public(pair, pair.public[:-1])), good=False)


class _Other:
    """A pair whose public half is written in another way."""

    def __init__(self, pair: Pair, public: bytes) -> None:
        self.algorithm, self.public, self._pair = pair.algorithm, public, pair

    def values(self, digest: bytes, hash_: str, *, spoil: bool) -> bytes:
        return self._pair.values(digest, hash_, spoil=spoil)


def replace_public(pair: Pair, public: bytes) -> Pair:
    return _Other(pair, public)


def _messages(alice: Author, eve: Author) -> Iterator[Vector]:
    for text in TEXTS:
        yield vector(f"the text {text[:20]!r}", alice, good=True, text=text)
    signed = alice.on_text(TEXT)

    def after(one_pass: bytes) -> bytes:
        return one_pass + literal(TEXT) + signed

    old = Author(alice.pair)
    for name, one_pass, good in (
        ("with 0 at its end", alice.one_pass(last=0), True),
        ("with 2 at its end", alice.one_pass(last=2), False),
        ("of version 3", old.one_pass(id_=alice.id), False),
        ("of a foreign fingerprint", alice.one_pass(id_=bytes.fromhex(eve.fingerprint)), False),
        ("with a key id", alice.one_pass(id_=alice.id), False),
        ("of another salt", alice.one_pass(salt=bytes(32)), False),
        ("of a shorter salt", alice.one_pass(salt=bytes(range(31))), False),
        ("without a salt", alice.one_pass(salt=b""), False),
        ("of another hash", alice.one_pass(hash_="sha256"), False),
        ("of another kind", alice.one_pass(kind=1), False),
        ("with a byte behind", packet(4, alice.one_pass()[6:] + b"\1"), False),
    ):
        yield vector(f"a one-pass signature {name}", alice, good=good, message=after(one_pass))
    yield vector("no one-pass signature", alice, good=False, message=literal(TEXT) + signed)
    yield vector("no signature", alice, good=False, message=alice.one_pass() + literal(TEXT))
    yield vector("two signatures", alice, good=False, message=after(alice.one_pass()) + signed)
    nested = alice.one_pass(last=0) + alice.one_pass() + literal(TEXT) + signed + signed
    yield vector("two signatures, nested", alice, good=False, message=nested)
    both = alice.one_pass(last=0) + old.one_pass() + literal(TEXT) + old.on_text(TEXT) + signed
    yield vector("two signatures of two versions", alice, good=False, message=both)
    good = after(alice.one_pass())
    yield vector("two texts", alice, good=False, message=good + literal(b"x"))
    for size in (0, 16, 31, 33, 255):
        one_pass = alice.one_pass(salt=bytes(size))
        message = one_pass + literal(TEXT) + alice.on_text(TEXT, salt=bytes(size))
        yield vector(f"a salt of {size} bytes", alice, good=False, message=message)
    other = bytes(reversed(range(32)))
    message = alice.one_pass(salt=other) + literal(TEXT) + alice.on_text(TEXT, salt=other)
    yield vector("a salt of its own", alice, good=True, message=message)
    at = signed.index(bytes(range(32)))
    turned = signed[:at] + b"\xff" + signed[at + 1 :]
    salted = alice.one_pass(salt=b"\xff" + bytes(range(1, 32)))
    yield vector("a salt that was changed", alice, good=False, message=salted + literal(TEXT) + turned)
    for number_ in (2, 3, 4, 5, 7):
        yield vector(f"a signature of version {number_}", alice, good=False, version=number_)
    name = subpacket(33, b"\x06" + bytes.fromhex(alice.fingerprint))
    by_id = subpacket(16, alice.id)
    for what, options, good in (
        ("signed", {"hashed": name, "unhashed": b""}, True),
        ("twice", {"hashed": name, "unhashed": name}, True),
        ("missing", {"unhashed": b""}, False),
        ("a key id", {"unhashed": by_id}, False),
        ("a key id too", {"unhashed": name + by_id}, False),
        ("a signed key id too", {"hashed": by_id}, False),
        ("of version 4", {"unhashed": subpacket(33, b"\x04" + bytes.fromhex(alice.fingerprint))}, False),
        (
            "of version 4, signed",
            {"hashed": subpacket(33, b"\x04" + bytes.fromhex(alice.fingerprint))},
            False,
        ),
        ("cut", {"unhashed": subpacket(33, b"\x06" + bytes.fromhex(alice.fingerprint)[:20])}, False),
        ("another", {"unhashed": eve.issuer}, False),
        ("another too", {"unhashed": name + eve.issuer}, False),
    ):
        yield vector(f"the issuer, {what}", alice, good=good, **options)  # type: ignore[arg-type]
    note = b"\x80\x00\x00\x00" + number(3, 2) + number(5, 2) + b"a@bhello"
    yield vector("a notation", alice, good=True, hashed=subpacket(20, note))
    yield vector("a critical notation", alice, good=False, hashed=subpacket(20, note, critical=True))
    yield vector("for somebody", alice, good=True, hashed=subpacket(35, b"\x06" + bytes(32)))
    yield vector("an unknown critical subpacket", alice, good=False, hashed=subpacket(99, b"", critical=True))
    yield vector("a signature that will expire", alice, good=True, hashed=subpacket(3, number(DAY)))
    yield vector("expired", alice, good=False, created=NOW - 100, hashed=subpacket(3, number(50)))
    yield vector("in the future", alice, good=False, created=NOW + 3600)
    yield vector("as a text", alice, good=True, kind=1)
    yield vector("of another kind", alice, good=False, kind=0x10)
    yield vector("eve's", eve, good=False, key=alice.certificate())
    renamed = replace_issuer(eve, alice)
    yield vector("eve's in alice's name", alice, good=False, message=renamed)
    # One pair of numbers, in two versions: what one signs is not the other's.
    yield vector("of version 4 by the key of version 6", old, good=False, key=alice.certificate())
    yield vector("of version 6 by the key of version 4", alice, good=False, key=old.certificate())
    mixed = old.signature(0, TEXT, created=NOW, version=6)
    yield vector(
        "version 6 in the name of version 4", old, good=False, message=old.one_pass() + literal(TEXT) + mixed
    )
    mixed = alice.signature(0, TEXT, created=NOW, version=4)
    yield vector(
        "version 4 in the name of version 6",
        alice,
        good=False,
        message=alice.one_pass() + literal(TEXT) + mixed,
    )
    tail = b"\x06" + bytes.fromhex(alice.fingerprint)
    odd = alice.signature(0, TEXT, created=NOW, version=4, unhashed=subpacket(33, tail))
    yield vector(
        "version 4 by a fingerprint of version 6",
        alice,
        good=False,
        message=old.one_pass(id_=alice.id) + literal(TEXT) + odd,
    )


def replace_issuer(by: Author, as_: Author) -> bytes:
    """What one signs, said to be by another."""
    return as_.one_pass() + literal(TEXT) + by.on_text(TEXT, unhashed=as_.issuer)


def _keys(alice: Author, eve: Author) -> Iterator[Vector]:
    direct, later = alice.on_self(DIRECT, hashed=MAY), {"created": NOW - 600}
    own = alice.primary + direct
    reason = subpacket(29, b"\x00")
    both = alice.issuer + subpacket(16, alice.id)
    name_at = alice.hashed + b"\xb4" + number(len(NAME)) + NAME.encode()
    for what, key, good in (
        ("without a name", own, True),
        ("with a name that says nothing", alice.certificate(), True),
        ("with a name that says the same", own + alice.name(), True),
        ("with a name that says that it may not", own + alice.name(flags=1), False),
        ("with a name signed wrongly", own + alice.name(spoil=True), True),
        ("with somebody's certification", alice.certificate() + eve.on_name(NAME, 0x10), True),
        ("with a name of somebody else's", own + eve.name(), True),
        ("with a name only", alice.primary + alice.name(), False),
        ("with nothing", alice.primary, False),
        ("with a direct signature that says nothing", alice.primary + alice.on_self(DIRECT), False),
        (
            "with one that says nothing, and a name that does",
            alice.primary + alice.on_self(DIRECT) + alice.name(),
            False,
        ),
        ("that may not sign", alice.primary + alice.on_self(DIRECT, hashed=MAY_NOT), False),
        (
            "that may not sign, by name it may",
            alice.primary + alice.on_self(DIRECT, hashed=MAY_NOT) + alice.name(),
            False,
        ),
        ("with sha1", alice.primary + alice.on_self(DIRECT, hashed=MAY, hash_="sha1"), False),
        ("signed wrongly", alice.primary + alice.on_self(DIRECT, hashed=MAY, spoil=True), False),
        ("signed by another", alice.primary + eve.signature(DIRECT, alice.hashed, hashed=MAY), False),
        ("signed in version 4", alice.primary + alice.on_self(DIRECT, hashed=MAY, version=4), False),
        (
            "signed by its id",
            alice.primary + alice.on_self(DIRECT, hashed=MAY, unhashed=subpacket(16, alice.id)),
            False,
        ),
        ("with a short salt", alice.primary + alice.on_self(DIRECT, hashed=MAY, salt=bytes(31)), False),
        ("expired", alice.primary + alice.on_self(DIRECT, hashed=MAY + RAN_OUT), False),
        ("that will expire", alice.primary + alice.on_self(DIRECT, hashed=MAY + LASTING), True),
        (
            "prolonged",
            alice.primary
            + alice.on_self(DIRECT, hashed=MAY + RAN_OUT)
            + alice.on_self(DIRECT, hashed=MAY + LASTING, **later),
            True,
        ),
        ("forbidden since", own + alice.on_self(DIRECT, hashed=MAY_NOT, **later), False),
        (
            "allowed since",
            alice.primary
            + alice.on_self(DIRECT, hashed=MAY_NOT)
            + alice.on_self(DIRECT, hashed=MAY, **later),
            True,
        ),
        ("shortened", own + alice.on_self(DIRECT, hashed=MAY + RAN_OUT, **later), False),
        ("shortened wrongly", own + alice.on_self(DIRECT, hashed=MAY + RAN_OUT, spoil=True, **later), False),
        ("expired by name", own + alice.name(hashed=RAN_OUT), False),
        ("revoked", alice.primary + alice.on_self(REVOKE_KEY, hashed=reason) + direct, False),
        (
            "revoked in version 4",
            alice.primary
            + alice.on_self(REVOKE_KEY, hashed=reason, version=4, unhashed=subpacket(16, alice.id))
            + direct,
            False,
        ),
        (
            "revoked with sha1",
            alice.primary + alice.on_self(REVOKE_KEY, hashed=reason, hash_="sha1") + direct,
            False,
        ),
        (
            "revoked by somebody else",
            alice.primary + eve.signature(REVOKE_KEY, alice.hashed, hashed=reason) + direct,
            True,
        ),
        ("expired by name, signed by its id too", own + alice.name(hashed=RAN_OUT, unhashed=both), False),
        ("expired by name, signed by nobody", own + alice.name(hashed=RAN_OUT, unhashed=b""), False),
        (
            "expired by name, signed by two",
            own + alice.name(hashed=RAN_OUT, unhashed=alice.issuer + eve.issuer),
            False,
        ),
        ("with a name revoked", own + alice.name() + alice.signature(0x30, name_at, hashed=reason), True),
        ("with a direct signature behind the name", alice.primary + alice.name() + direct, False),
        ("for version 4's hash", packet(6, b"\x04" + alice.body[1:]) + direct, False),
        ("of version 5", packet(6, b"\x05" + alice.body[1:]) + direct, False),
        ("of version 7", packet(6, b"\x07" + alice.body[1:]) + direct, False),
        ("with a byte behind", packet(6, alice.body + b"\0") + direct, False),
        ("with a length too long", packet(6, alice.body[:6] + number(33) + alice.body[10:]) + direct, False),
        ("with a length too short", packet(6, alice.body[:6] + number(31) + alice.body[10:]) + direct, False),
        ("with a length of version 4", packet(6, alice.body[:6] + alice.body[10:]) + direct, False),
        ("and a second one", own + eve.certificate(), False),
        ("and one of version 4", own + Author(alice.pair).certificate(), False),
        ("and a trust packet", own + packet(12, b"\x00\x03"), False),
        ("and a marker", own + packet(10, b"PGP"), False),
        ("as a private one", packet(5, alice.body) + direct, False),
    ):
        yield vector(f"a key {what}", alice, good=good, key=key)
    then = own + alice.name(flags=1) + alice.on_name(NAME, 0x13, hashed=MAY, **later)
    yield vector("a key whose name allows it since", alice, good=True, key=then)
    yield vector("signed before its name allowed it", alice, good=False, key=then, created=NOW - 700)
    early = alice.primary + alice.on_self(DIRECT, hashed=MAY, **later)
    yield vector("signed before its direct signature", alice, good=False, key=early, created=NOW - 700)
    young = Author(alice.pair, NOW + 1000, version=6)
    key = young.primary + young.on_self(DIRECT, hashed=MAY, created=NOW + 1000)
    yield vector("a key from the future", young, good=False, key=key, created=NOW + 1000)


def _subkeys(alice: Author, sub: Author, eve: Author) -> Iterator[Vector]:
    own = alice.certificate()
    bound = own + alice.subkey(sub)
    only = alice.primary + alice.on_self(DIRECT, hashed=MAY_NOT) + alice.subkey(sub)
    reason = subpacket(29, b"\x00")
    old = Author(sub.pair)
    other = eve.signature(0x19, alice.hashed + sub.hashed)[6:]
    stolen = sub.signature(0x19, eve.hashed + sub.hashed)[6:]
    weak = sub.signature(0x19, alice.hashed + sub.hashed, hash_="sha1")[6:]
    of_4 = sub.signature(0x19, alice.hashed + sub.hashed, version=4, unhashed=subpacket(16, sub.id))[6:]
    unsigned = alice.signature(
        0x18,
        alice.hashed + sub.hashed,
        hashed=subpacket(27, b"\x02"),
        unhashed=alice.issuer + subpacket(32, sub.signature(0x19, alice.hashed + sub.hashed)[6:]),
    )
    for what, key, good in (
        ("bound", bound, True),
        ("of a key that may only certify", only, True),
        ("whose consent is not signed", own + packet(14, sub.body) + unsigned, True),
        ("that is not there", own, False),
        ("that nobody bound", own + packet(14, sub.body), False),
        ("that did not agree", own + alice.subkey(sub, back=b""), False),
        ("that agreed, another did", own + alice.subkey(sub, back=other), False),
        ("that agreed to another", own + alice.subkey(sub, back=stolen), False),
        ("that agreed with sha1", own + alice.subkey(sub, back=weak), False),
        ("that agreed in version 4", own + alice.subkey(sub, back=of_4), False),
        ("bound in version 4", own + alice.subkey(sub, version=4), False),
        ("bound wrongly", own + alice.subkey(sub, spoil=True), False),
        ("bound by another", own + alice.subkey(sub, by=eve), False),
        ("for encryption", own + alice.subkey(sub, flags=12), False),
        ("expired", own + alice.subkey(sub, hashed=RAN_OUT), False),
        ("revoked", bound + alice.on_subkey(sub, REVOKE_SUBKEY, hashed=reason), False),
        ("of a key without a direct signature", alice.primary + alice.name() + alice.subkey(sub), False),
    ):
        yield vector(f"by a subkey {what}", sub, good=good, key=key, of=alice)
    yield vector("beside a subkey", alice, good=True, key=bound)
    x25519 = packet(14, b"\x06" + number(NOW - DAY) + b"\x19" + number(32) + bytes(32))
    over = alice.hashed + b"\x9b" + number(len(x25519) - 6) + x25519[6:]
    encrypting = x25519 + alice.signature(0x18, over, hashed=subpacket(27, b"\x0c"))
    yield vector("beside an X25519 subkey", alice, good=True, key=own + encrypting)
    yield vector("beside a subkey of version 4", alice, good=True, key=own + alice.subkey(old))
    yield vector("by a subkey of version 4", old, good=False, key=own + alice.subkey(old), of=alice)
    rsa = Author(Rsa())
    mixed = rsa.certificate() + rsa.subkey(sub)
    yield vector("by a subkey of version 6 of an old key", sub, good=False, key=mixed, of=rsa)
    beside = vector("beside a subkey of version 6", rsa, good=True, key=mixed)
    yield replace(beside, is_new=False)  # the key that signs is an old one

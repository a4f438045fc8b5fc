"""What keys say of themselves, by hand: times, flags, several statements, subpackets, digests and curves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product

from crafted import BORN, DIRECT, NOW, REVOKE_KEY, REVOKE_NAME, Author, Rsa, armour, number, packet, subpacket
from crafted_curves import Ecdsa, Ed25519
from vectors_core import DAY, TEXT, Vector, key_armour

HOUR = 3600
NAME = "x <x@x.invalid>"
END = 1 << 32


def statements() -> Iterator[Vector]:
    alice, sub = Author(Rsa()), Author(Rsa())
    yield from _newest(alice, sub)
    yield from _places(alice, sub)
    yield from _validity(alice, sub)
    yield from _flags(alice, sub)
    yield from _subpackets(alice, sub)
    yield from _digests()
    yield from _subkeys_beside(alice)


def vector(
    name: str, by: Author, key: bytes, *, good: bool, of: Author | None = None, **signing: object
) -> Vector:
    """A message by one key with the certificate of another, or with its own."""
    message = armour(by.message(TEXT, **signing))  # type: ignore[arg-type]
    signer = (of or by).fingerprint if good else None
    return Vector(f"said: {name}", message, key_armour(key), TEXT if good else None, signer)


def _newest(alice: Author, sub: Author) -> Iterator[Vector]:
    """Of several statements on one thing, the newest counts; on several, each does."""
    ran_out, lasting = subpacket(9, number(DAY // 2)), subpacket(9, number(9 * DAY))
    may, may_not = subpacket(27, b"\x03"), subpacket(27, b"\x01")
    later = {"created": NOW - HOUR}
    old = alice.name(hashed=ran_out)

    def own(hashed: bytes, **options: object) -> bytes:
        return alice.on_name(NAME, 0x13, hashed=hashed, **(later | options))

    prolonged = alice.primary + old + own(may + lasting)
    yield vector("prolonged", alice, prolonged, good=True)
    turned = (
        alice.primary + packet(13, NAME.encode()) + own(may + lasting) + old[len(packet(13, NAME.encode())) :]
    )
    yield vector("prolonged, the newest first", alice, turned, good=True)
    yield vector("prolonged without an end", alice, alice.primary + old + own(may), good=True)
    yield vector("shortened", alice, alice.certificate() + own(may + ran_out), good=False)
    yield vector(
        "prolonged, then shortened", alice, prolonged + own(may + ran_out, created=NOW - 60), good=False
    )
    yield vector(
        "prolonged by a signature that does not hold",
        alice,
        alice.primary + old + own(may, spoil=True),
        good=False,
    )
    yield vector("prolonged with sha1", alice, alice.primary + old + own(may, hash_="sha1"), good=False)
    yield vector(
        "prolonged in the future", alice, alice.primary + old + own(may, created=NOW + DAY), good=False
    )
    yield vector("signed before it was prolonged", alice, prolonged, good=False, created=NOW - 2 * HOUR)
    both = alice.name(hashed=lasting)
    yield vector(
        "signed before it was renewed",
        alice,
        alice.primary + both + own(may),
        good=True,
        created=NOW - 2 * HOUR,
    )
    only = alice.primary + packet(13, NAME.encode()) + own(may)
    yield vector("signed before its only statement", alice, only, good=False, created=NOW - 2 * HOUR)
    yield vector("allowed since", alice, alice.primary + alice.name(flags=1) + own(may), good=True)
    yield vector("forbidden since", alice, alice.certificate() + own(may_not), good=False)
    yield vector(
        "allowed and forbidden in one second",
        alice,
        alice.certificate() + own(may) + own(may_not),
        good=False,
    )
    yield vector("prolonged, one name of two", alice, prolonged + alice.name("y", hashed=ran_out), good=False)
    other = prolonged + alice.name("y", flags=1) + alice.on_name("y", 0x13, hashed=may, **later)
    yield vector("allowed since, by another name", alice, other, good=True)
    old_name = alice.certificate() + alice.name("y", flags=1) + alice.on_name("y", 0x13, hashed=may, **later)
    yield vector("signed before another name allowed it", alice, old_name, good=False, created=NOW - 2 * HOUR)
    both_names = (
        prolonged + alice.name("y", hashed=ran_out) + alice.on_name("y", 0x13, hashed=may + lasting, **later)
    )
    yield vector("prolonged, both names", alice, both_names, good=True)
    gone = alice.on_name("y", REVOKE_NAME, hashed=subpacket(29, b"\x20"))
    yield vector(
        "prolonged, the other name revoked",
        alice,
        prolonged + alice.name("y", hashed=ran_out) + gone,
        good=True,
    )
    back = alice.on_name("y", 0x13, hashed=may, **later)
    yield vector(
        "a name certified after its revocation",
        alice,
        alice.primary + alice.name("y") + gone + back,
        good=False,
    )
    for kinds in product((0x10, 0x11, 0x12, 0x13), repeat=2):
        if kinds[0] != kinds[1]:
            over = [
                alice.on_name(NAME, kind, hashed=said, created=at)
                for kind, said, at in zip(kinds, (may_not, may), (BORN, NOW - HOUR), strict=True)
            ]
            key = alice.primary + packet(13, NAME.encode()) + b"".join(over)
            yield vector(f"certified as {kinds[0]:#x}, then {kinds[1]:#x}", alice, key, good=True)
    soft = alice.on_self(REVOKE_KEY, hashed=subpacket(29, b"\x03"), created=NOW - 2 * HOUR)
    yield vector(
        "prolonged after it was revoked",
        alice,
        alice.primary + soft + prolonged[len(alice.primary) :],
        good=False,
    )
    direct = alice.on_self(DIRECT, hashed=may + ran_out)
    newer = alice.on_self(DIRECT, hashed=may + lasting, **later)
    rest = prolonged[len(alice.primary) :]
    yield vector("prolonged, a direct statement ran out", alice, alice.primary + direct + rest, good=False)
    yield vector(
        "prolonged, and the direct statement too", alice, alice.primary + direct + newer + rest, good=True
    )
    bound = alice.certificate() + alice.subkey(sub, hashed=ran_out)
    again = alice.subkey(sub, hashed=lasting, **later)[len(packet(14, sub.body)) :]
    yield vector("a subkey prolonged", sub, bound + again, good=True, of=alice)
    yield vector(
        "a subkey shortened",
        sub,
        alice.certificate()
        + alice.subkey(sub)
        + alice.subkey(sub, hashed=ran_out, **later)[len(packet(14, sub.body)) :],
        good=False,
    )
    stale = alice.subkey(sub, hashed=lasting, back=b"", **later)[len(packet(14, sub.body)) :]
    yield vector("a subkey prolonged without its consent", sub, bound + stale, good=False)
    yield vector(
        "signed before the subkey was prolonged", sub, bound + again, good=False, created=NOW - 2 * HOUR
    )
    soon = int(time.time()) + 40
    young = Author(alice.pair, soon)
    yield vector(
        "made in 40 seconds", young, young.primary + young.name(created=soon), good=True, created=soon
    )


def _places(alice: Author, sub: Author) -> Iterator[Vector]:
    """Signatures that hold and stand where they say nothing."""
    own, bare = alice.certificate(), alice.certificate() + packet(14, sub.body)
    flags = subpacket(27, b"\x03")
    for kind in (0x10, 0x13, REVOKE_NAME):
        key = alice.primary + alice.on_self(kind, hashed=flags) + alice.name()
        yield vector(f"{kind:#x} behind the key", alice, key, good=False)
        yield vector(
            f"{kind:#x} behind a subkey", alice, bare + alice.on_subkey(sub, kind, hashed=flags), good=False
        )
    for kind in (0x18, DIRECT, 0x00, 0x50):
        yield vector(
            f"{kind:#x} behind a name", alice, own + alice.on_name(NAME, kind, hashed=flags), good=False
        )


def _validity(alice: Author, sub: Author) -> Iterator[Vector]:
    """gpg's clock ends in 2106, Sequoia's does not."""
    last = END - BORN
    for seconds, good in (
        (last - 1, True),
        (last, False),
        (last + 1, False),
        (END - 1, False),
        (1, False),
        (0, True),
    ):
        until = subpacket(9, number(seconds))
        yield vector(f"valid for {seconds} s", alice, alice.primary + alice.name(hashed=until), good=good)
        key = alice.certificate() + alice.subkey(sub, hashed=until)
        yield vector(f"a subkey valid for {seconds} s", sub, key, good=good, of=alice)
    for seconds, good in ((END - NOW - 1, True), (END - NOW, False), (END - 1, False), (0, True)):
        until = subpacket(3, number(seconds))
        yield vector(
            f"a signature valid for {seconds} s", alice, alice.certificate(), good=good, hashed=until
        )
    for value in (b"", b"\x00", bytes(3), bytes(5)):
        key = alice.primary + alice.name(hashed=subpacket(9, value))
        yield vector(f"a validity of {len(value)} bytes", alice, key, good=False)
    twice = subpacket(9, number(DAY // 2)) + subpacket(9, number(9 * DAY))
    yield vector("two validities", alice, alice.primary + alice.name(hashed=twice), good=False)


def _flags(alice: Author, sub: Author) -> Iterator[Vector]:
    for flags, good in {
        b"\x02": True,
        b"\x03": True,
        b"\x2f": True,
        b"\x02\x00": True,
        b"": False,
        b"\x00": False,
        b"\x01": False,
        b"\x0c": False,
        b"\x20": False,
        b"\x00\x02": False,
    }.items():
        said = subpacket(27, flags)
        yield vector(
            f"flags {flags.hex()}", alice, alice.primary + alice.name(flags=None, hashed=said), good=good
        )
        key = alice.certificate() + packet(14, sub.body)
        back = subpacket(32, sub.signature(0x19, alice.hashed + sub.hashed)[6:])
        binding = alice.on_subkey(sub, 0x18, hashed=said + back)
        yield vector(f"a subkey with flags {flags.hex()}", sub, key + binding, good=good, of=alice)
    silent = alice.name(flags=None)
    yield vector(
        "flags not signed",
        alice,
        alice.primary + alice.name(flags=None, unhashed=subpacket(16, alice.id) + subpacket(27, b"\x03")),
        good=False,
    )
    yield vector(
        "one name of two says that it may sign", alice, alice.primary + silent + alice.name("y"), good=True
    )
    yield from _directly(alice, sub)
    no = alice.on_self(DIRECT, hashed=subpacket(27, b"\x01"))
    yield vector(
        "the direct statement says that it may not", alice, alice.primary + no + alice.name(), good=False
    )


def _directly(alice: Author, sub: Author) -> Iterator[Vector]:
    """A direct signature says what no name does."""
    may, may_not = subpacket(27, b"\x03"), subpacket(27, b"\x01")
    ran_out, lasting = subpacket(9, number(DAY // 2)), subpacket(9, number(9 * DAY))
    silent, later = alice.name(flags=None), {"created": NOW - HOUR}
    direct = alice.on_self(DIRECT, hashed=may)
    mute, barred = (alice.on_self(DIRECT, hashed=may_not, created=at) for at in (BORN, NOW - HOUR))
    brief = alice.on_self(DIRECT, hashed=may + subpacket(3, number(60)))
    for what, key, good in (
        ("may sign", direct + silent, True),
        ("may sign, and two names are silent", direct + silent + alice.name("y", flags=None), True),
        ("may sign, and will expire", alice.on_self(DIRECT, hashed=may + lasting) + silent, True),
        ("may sign, and has expired", alice.on_self(DIRECT, hashed=may + ran_out) + silent, False),
        ("may sign, and the name has expired", direct + alice.name(flags=None, hashed=ran_out), False),
        ("may not sign", mute + silent, False),
        ("may not sign, then it may", mute + alice.on_self(DIRECT, hashed=may, **later) + silent, True),
        ("may sign, then it may not", direct + barred + silent, False),
        ("may sign, a name says that it may not", direct + alice.name(flags=1), False),
        ("may sign, one of two names says so", direct + silent + alice.name("y"), True),
        ("may sign, with sha1", alice.on_self(DIRECT, hashed=may, hash_="sha1") + silent, False),
        ("may sign, as nobody signed", alice.on_self(DIRECT, hashed=may, spoil=True) + silent, False),
        ("may sign, by another's word", sub.signature(DIRECT, alice.hashed, hashed=may) + silent, False),
        ("may sign, without a name", direct, False),
        ("may sign, a day ahead", alice.on_self(DIRECT, hashed=may, created=NOW + DAY) + silent, False),
        ("may sign, for a while", brief + silent, False),
        ("is silent, and so is the name", alice.on_self(DIRECT) + silent, False),
    ):  # fmt: skip
        yield vector(f"the key itself {what}", alice, alice.primary + key, good=good)
    early = alice.primary + alice.on_self(DIRECT, hashed=may, **later) + silent
    yield vector("the key itself may sign since", alice, early, good=False, created=NOW - 2 * HOUR)
    bound = alice.subkey(sub)
    yield vector(
        "by a subkey, the key itself may sign",
        sub,
        alice.primary + direct + silent + bound,
        good=True,
        of=alice,
    )
    yield vector(
        "by a subkey, the key itself may not", sub, alice.primary + mute + silent + bound, good=True, of=alice
    )


def _subpackets(alice: Author, sub: Author) -> Iterator[Vector]:
    """In a message and in a key: one that is as it should be, and some that are not."""
    note = b"\x80\x00\x00\x00" + number(3, 2) + number(5, 2) + b"a@bhello"
    forms = {
        4: (b"\x01", [b"", b"\x02", b"\x00\x00"]),
        5: (b"\x01\x78", [b"", b"\x01"]),
        6: (b"<[^>]+>\x00", [b"", b"x", b"a\x00b\x00"]),
        7: (b"\x01", [b"", b"\x02", b"\x00\x00"]),
        12: (b"\x80\x01" + bytes(20), [b"", b"\x00", b"\x80\x01" + bytes(19)]),
        20: (note, [b"", bytes(8), note[:-1], note + b"x"]),
        24: (b"https://keys.example.invalid", []),
        25: (b"\x01", [b"", b"\x02"]),
        26: (b"https://example.invalid", []),
        29: (b"\x00", [b""]),
        31: (b"\x01\x0a" + bytes(64), [b"", b"\x01"]),
        32: (None, [b"not a signature", sub.on_text(TEXT)[6:]]),
        33: (b"\x04" + bytes.fromhex(alice.fingerprint), [b"", b"\x04", b"\x06" + bytes(32)]),
        35: (b"\x04" + bytes(20), [b"", b"\x04"]),
        37: (b"", [b"\x00", bytes(32)]),
        38: (b"\x00" + sub.certificate(), [b"", b"\x00", b"\x01" + alice.certificate()]),
        39: (b"\x09\x02", [b"\x09"]),
        60: (b"anything", []),
        99: (b"", []),
    }  # fmt: skip
    for kind, (sound, broken) in forms.items():
        for value in [*([] if sound is None else [sound]), *broken]:
            good = sound is not None and value is sound
            said, how = (
                subpacket(kind, value),
                f"{kind}, {'sound' if good else f'{len(value)} bytes {value[:8].hex()}'}",
            )
            yield vector(f"subpacket {how}", alice, alice.certificate(), good=good, hashed=said)
            key = alice.primary + alice.name(hashed=said)
            yield vector(f"subpacket {how}, in a key", alice, key, good=good)
            yield vector(
                f"subpacket {how}, not signed",
                alice,
                alice.certificate(),
                good=kind != 33 or good,
                unhashed=subpacket(16, alice.id) + said,
            )
    for kind in (11, 21, 22, 25, 30):
        said = subpacket(kind, b"\x01", critical=True)
        yield vector(f"subpacket {kind}, critical", alice, alice.primary + alice.name(hashed=said), good=True)
    for kind in (5, 20, 23, 24, 26, 31, 34, 60):
        value = note if kind == 20 else b"\x01\x78"
        said = subpacket(kind, value, critical=True)
        yield vector(
            f"subpacket {kind}, critical", alice, alice.primary + alice.name(hashed=said), good=False
        )


def _digests() -> Iterator[Vector]:
    """A curve must not be longer than the digest: gpg asks for that, Sequoia does not."""
    bits = {"sha256": 256, "sha384": 384, "sha512": 512}
    curves = {"P-256": 256, "P-384": 384, "P-521": 512}
    for curve, needed in curves.items():
        author, helper = Author(Ecdsa(curve)), Author(Rsa())
        for hash_, length in bits.items():
            good = length >= needed
            yield vector(f"{curve}, {hash_}", author, author.certificate(), good=good, hash_=hash_)
            own = author.primary + author.name(hash_=hash_)
            yield vector(f"{curve}, self-signed with {hash_}", author, own, good=good)
            back = author.signature(0x19, helper.hashed + author.hashed, hash_=hash_)[6:]
            key = helper.certificate() + helper.subkey(author, back=back)
            yield vector(f"{curve} subkey, consent with {hash_}", author, key, good=good, of=helper)
        mixed = author.primary + author.name("y", hash_="sha256") + author.name()
        yield vector(f"{curve}, one name of two self-signed with sha256", author, mixed, good=True)
        yield vector(f"{curve}, spoiled", author, author.certificate(), good=False, spoil=True)
        yield vector(
            f"{curve}, self-signed and spoiled", author, author.primary + author.name(spoil=True), good=False
        )
    author = Author(Ed25519())
    for hash_ in bits:
        yield vector(f"Ed25519, {hash_}", author, author.certificate(), good=True, hash_=hash_)
    yield vector("Ed25519, sha1", author, author.certificate(), good=False, hash_="sha1")
    yield vector("Ed25519, spoiled", author, author.certificate(), good=False, spoil=True)


def _subkeys_beside(alice: Author) -> Iterator[Vector]:
    """A subkey that we do not know does not matter, unless it signs."""
    kinds = {
        "DSA": b"\x11" + number(1, 2) + b"\x01" * 6,
        "secp256k1": b"\x13\x05\x2b\x81\x04\x00\x0a" + number(7, 2) + b"\x40",
        "X25519": b"\x19" + bytes(32),
        "Ed448": b"\x1c" + bytes(57),
        "ML-KEM": b"\x23" + bytes(1216),
    }
    for name, material in kinds.items():
        body = b"\x04" + number(BORN) + material
        hashed = b"\x99" + number(len(body), 2) + body
        fake = bytes.fromhex("0419080100ff") + bytes(40)
        for flags, back in ((b"\x0c", b""), (b"\x02", subpacket(32, fake))):
            binding = alice.signature(
                0x18,
                alice.hashed + hashed,
                hashed=subpacket(27, flags),
                unhashed=subpacket(16, alice.id) + back,
            )
            key = alice.certificate() + packet(14, body) + binding
            yield vector(f"a {name} subkey beside, flags {flags.hex()}", alice, key, good=True)
    strange = Author(Ecdsa("secp256k1"))
    key = alice.certificate() + alice.subkey(strange)
    yield vector("beside a secp256k1 subkey that signs", alice, key, good=True)
    yield vector("by a secp256k1 subkey", strange, key, good=False)
    key = alice.certificate() + alice.subkey(Author(Ed25519(new=True)))
    yield vector("beside a subkey of new Ed25519", alice, key, good=True)

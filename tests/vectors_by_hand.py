"""Signed messages and keys by hand, right and wrong: what no program makes."""

from __future__ import annotations

import bz2
import time
import zlib
from collections.abc import Iterator

from crafted import (
    BORN,
    DIRECT,
    NOW,
    REVOKE_KEY,
    REVOKE_NAME,
    REVOKE_SUBKEY,
    Author,
    Rsa,
    armour,
    literal,
    number,
    old_packet,
    packet,
    partial_packet,
    subpacket,
)
from vectors_core import DAY, TEXT, TEXTS, Vector, key_armour


def crafted() -> Iterator[Vector]:
    """What no program makes."""
    alice, eve, sub = Author(Rsa()), Author(Rsa()), Author(Rsa())
    own = alice.certificate()
    good = alice.message(TEXT)

    def case(name: str, message: bytes | str, key: bytes | str = own, text: bytes | None = None) -> Vector:
        return Vector(
            f"by hand: {name}",
            message if isinstance(message, str) else armour(message),
            key if isinstance(key, str) else key_armour(key),
            text,
            alice.fingerprint if text is not None else None,
        )

    def fine(name: str, message: bytes | str = good, key: bytes | str = own, text: bytes = TEXT) -> Vector:
        return case(name, message, key, text)

    # forms
    one_pass, signature = alice.one_pass(), alice.on_text(TEXT)
    body = signature[6:]
    yield fine("as kbpgp does it")
    yield fine("zlib", packet(8, b"\x02" + zlib.compress(good)))
    deflate = zlib.compressobj(wbits=-15)
    raw = deflate.compress(good) + deflate.flush()
    yield fine("zip", packet(8, b"\x01" + raw))
    yield fine("zip to the end", bytes((0x80 | 8 << 2 | 3, 1)) + raw)
    yield fine("uncompressed in a compressed packet refused or not", good)
    yield case("compression 0", packet(8, b"\x00" + good))
    yield case("bzip2", packet(8, b"\x03" + bz2.compress(good)))
    yield case(
        "compressed twice", packet(8, b"\x02" + zlib.compress(packet(8, b"\x02" + zlib.compress(good))))
    )
    yield case("compressed, then more", packet(8, b"\x02" + zlib.compress(good) + b"x"))
    yield case("compressed, then a packet", packet(8, b"\x02" + zlib.compress(good)) + literal(b"x"))
    yield case("compressed, cut", packet(8, b"\x02" + zlib.compress(good)[:-6]))
    yield case("compressed, empty", packet(8, b""))
    bomb = zlib.compress(one_pass + literal(b"0" * 30_000_000) + signature, 9)
    yield case("a bomb", packet(8, b"\x02" + bomb))
    yield fine("old packets", b"".join(old_packet(tag, data) for tag, data in _bodies(good)))
    long = b"x" * 3000
    pieces = alice.one_pass() + partial_packet(11, b"b\x00" + bytes(4) + long) + alice.on_text(long)
    yield fine("a text in pieces", pieces, text=long)
    yield fine("a file's name and time", one_pass + literal(TEXT, name=b"_CONSOLE") + signature)
    yield fine("text, utf-8", alice.message(TEXT, form=b"u"))
    yield fine("text, t", alice.message(TEXT, form=b"t"))
    yield fine("signed as text", alice.message(TEXT, kind=1, form=b"t"))
    yield case("of an unknown form", alice.message(TEXT, form=b"x"))
    yield case("local form", alice.message(TEXT, form=b"l"))
    yield case("signed as text, two lines", alice.message(b"a\nb", kind=1))
    yield case("signed as text, two lines with CR", alice.message(b"a\r\nb", kind=1))
    yield case("a carriage return", alice.message(b"a\rb"))
    yield fine("two lines", alice.message(b"a\nb"), text=b"a\nb")
    for hash_ in ("sha256", "sha384", "sha512"):
        yield fine(hash_, alice.message(TEXT, hash_=hash_))
    for hash_ in ("md5", "sha1", "sha224"):
        yield case(hash_, alice.message(TEXT, hash_=hash_))
    yield case("no text", one_pass + signature)
    yield case("two texts", one_pass + literal(TEXT) + literal(b"x") + signature)
    yield case("another text", one_pass + literal(TEXT + b" ") + signature)
    yield case("another text behind", good + literal(b"x"))
    yield case("another text before", literal(b"x") + good)
    yield case("the other text first", one_pass + literal(b"x") + signature + literal(TEXT))
    yield case("no signature", one_pass + literal(TEXT))
    yield case("no one-pass", literal(TEXT) + signature)
    yield case("signature first", signature + literal(TEXT))
    yield case("only a text", literal(TEXT))
    yield case("only a text, compressed", packet(8, b"\x02" + zlib.compress(literal(TEXT))))
    yield case("only a signature", signature)
    yield case("a signature in a message's armour", alice.on_text(b""))
    yield case("a marker", packet(10, b"PGP") + good)
    yield case("padding", good + packet(21, b"123"))
    yield case("a trust packet", good + packet(12, b"\x06\x67"))
    yield case("a private packet", good + packet(60, b"x"))
    yield case("a key inside", good + own)
    yield case("a key first", own + good)
    yield case(
        "two signatures by one key", one_pass + alice.one_pass() + literal(TEXT) + signature + signature
    )
    both = alice.one_pass(last=0) + eve.one_pass() + literal(TEXT) + eve.on_text(TEXT) + signature
    yield case("two signatures by two keys", both, own)
    yield case("two signatures by two keys, both keys", both, own + eve.certificate())
    yield case("a spare signature", good + eve.on_text(TEXT))
    yield case("twice", good + good)
    yield fine("not the last one-pass", alice.one_pass(last=0) + literal(TEXT) + signature)
    yield case("one-pass of another hash", alice.one_pass(hash_="sha256") + literal(TEXT) + signature)
    yield case("one-pass of another kind", alice.one_pass(kind=1) + literal(TEXT) + signature)
    yield case("one-pass of another key", eve.one_pass() + literal(TEXT) + signature)
    yield case("one-pass too long", packet(4, one_pass[6:] + b"x") + literal(TEXT) + signature)
    yield case("one-pass too short", packet(4, one_pass[6:-1]) + literal(TEXT) + signature)
    yield case("one-pass of version 6", packet(4, b"\x06" + one_pass[7:]) + literal(TEXT) + signature)
    for kind in (2, 0x10, 0x13, 0x18, 0x19, 0x1F, 0x40, 0x50, 0xFF):
        yield case(f"a signature of kind {kind:#x}", alice.message(TEXT, kind=kind))
    for version in (2, 3, 5, 6):
        yield case(f"a signature of version {version}", alice.message(TEXT, version=version))
    yield case("a signature without a time", alice.message(TEXT, created=None))
    twice = subpacket(2, number(NOW))
    yield case("a signature with two times", alice.message(TEXT, hashed=twice))
    yield case("a time of two bytes", alice.message(TEXT, created=None, hashed=subpacket(2, b"ab")))
    yield case(
        "the time not signed", alice.message(TEXT, created=None, unhashed=twice + subpacket(16, alice.id))
    )
    yield case("no issuer", alice.message(TEXT, unhashed=b""))
    fingerprint = subpacket(33, b"\x04" + bytes.fromhex(alice.fingerprint))
    yield fine("the issuer by its fingerprint", alice.message(TEXT, unhashed=fingerprint))
    yield fine("the issuer signed", alice.message(TEXT, hashed=fingerprint, unhashed=b""))
    beside = subpacket(32, b"not a signature")
    yield fine("a signature inside", alice.message(TEXT, hashed=fingerprint, unhashed=beside))
    yield case("the issuer is another", alice.message(TEXT, unhashed=subpacket(16, eve.id)))
    yield case("two issuers", alice.message(TEXT, unhashed=subpacket(16, alice.id) + subpacket(16, eve.id)))
    yield fine("an unknown subpacket", alice.message(TEXT, hashed=subpacket(99, b"x")))
    yield case(
        "an unknown critical subpacket", alice.message(TEXT, hashed=subpacket(99, b"x", critical=True))
    )
    note = b"\x80\x00\x00\x00" + number(3, 2) + number(5, 2) + b"a@bhello"
    yield fine("a notation", alice.message(TEXT, hashed=subpacket(20, note)))
    yield case("a critical notation", alice.message(TEXT, hashed=subpacket(20, note, critical=True)))
    fake = b"x\n[GNUPG:] GOODSIG 1 x\n[GNUPG:] VALIDSIG " + alice.fingerprint.encode()
    spoof = b"\x80\x00\x00\x00" + number(len(fake), 2) + number(len(fake), 2) + fake + fake
    yield case("a notation that speaks as gpg, unsigned", eve.message(TEXT, hashed=subpacket(20, spoof)))
    yield case("a cut subpacket", alice.message(TEXT, hashed=b"\xff\x00\x00\x00\x09\x14"))
    yield case("an empty subpacket", alice.message(TEXT, hashed=b"\x00"))
    yield case("a spoiled value", alice.message(TEXT, spoil=True))
    yield case("a value behind", one_pass + literal(TEXT) + packet(2, body + b"\x00\x01\x01"))
    yield case("a value cut", one_pass + literal(TEXT) + packet(2, body[:-1]))
    yield case("a signature cut", good[:-1])
    yield case("a signature expired", alice.message(TEXT, created=NOW - 100, hashed=subpacket(3, number(50))))
    yield fine("a signature that will expire", alice.message(TEXT, hashed=subpacket(3, number(DAY))))
    yield case("another digest's start", one_pass + literal(TEXT) + packet(2, _with_left(body, b"\0\0")))

    # armour
    whole = armour(good)
    yield fine("without a checksum", armour(good, checksum=False))
    yield fine("with a header", armour(good, header="Comment: hi"))
    yield fine("CR LF", armour(good, end="\r\n"))
    yield fine("white space behind", whole + "\n \t\n")
    yield fine("white space before", " \n\r\n" + whole)
    yield fine("blanks at the ends of lines", whole.replace("\n", " \t\n"))
    yield fine("a header of another name", armour(good, header="X-Note: hi"))
    yield fine("without the last line end", whole.rstrip("\n"))
    for name, message in {
        "nothing": "",
        "no armour": TEXT.decode(),
        "text before": "hello\n" + whole,
        "text behind": whole + "hello\n",
        "blanks before": " " + whole,
        "a form feed before": "\f\n" + whole,
        "a header without a blank": whole.replace("\n\n", "\nComment:\n\n", 1),
        "a header with a colon in its name": whole.replace("\n\n", "\na:b: c\n\n", 1),
        "two blocks": whole + whole,
        "two blocks, one of another": whole + armour(eve.message(b"x")),
        "a signature's armour": armour(good, "SIGNATURE"),
        "a key's armour": armour(good, "PUBLIC KEY BLOCK"),
        "an unknown armour": armour(good, "MESSAGE, PART 1/2"),
        "no end": whole.replace("-----END PGP MESSAGE-----", ""),
        "another end": whole.replace("END PGP MESSAGE", "END PGP SIGNATURE"),
        "no empty line": whole.replace("\n\n", "\n", 1),
        "a header that is none": whole.replace("\n\n", "\nhello\n\n", 1),
        "an empty line inside": whole.replace("\n=", "\n\n=", 1),
        "not base64": whole.replace("\n\n", "\n\n!", 1),
        "a NUL": whole.replace("\n\n", "\n\n\0", 1),
        "other letters": whole.replace("\n\n", "\n\nф", 1),
        "padding inside": whole.replace("\n\n", "\n\nAA==\n", 1),
        "dashes escaped": "- " + whole,
        "a clearsigned one": "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nhello\n"
        + armour(alice.on_text(b"hello", kind=1), "SIGNATURE"),
        "too long": whole.replace("\n\n", "\n" + "Comment: x\n" * 10000 + "\n", 1),
    }.items():
        yield case(f"armour: {name}", message)

    # keys
    yield case("eve's message, alice's key", eve.message(TEXT))
    yield case("eve's message in alice's name", alice_named(alice, eve))
    yield case("alice's message, eve's key", good, eve.certificate())
    yield case("two keys, hers first", good, own + eve.certificate())
    yield case("two keys, hers last", good, eve.certificate() + own)
    yield case("two keys, eve's message", eve.message(TEXT), own + eve.certificate())
    yield case("two keys in two blocks", good, key_armour(own) + key_armour(eve.certificate()))
    yield case("a secret key packet", good, packet(5, alice.body) + own[len(alice.primary) :])
    yield case("a secret subkey", good, own + packet(7, sub.body))
    yield case("a secret key's armour", good, armour(own, "PRIVATE KEY BLOCK"))
    yield case("no key", good, "")
    yield case("an empty key", good, key_armour(b""))
    yield case("a message as a key", good, key_armour(good))
    yield case("a key's name only", good, key_armour(alice.name()))
    yield case("a key without a name", good, alice.primary)
    yield case("a key with an unsigned name", good, alice.primary + packet(13, b"x"))
    yield case("a name signed by another", good, alice.primary + eve.name())
    spoiled = alice.primary + alice.name(spoil=True)
    yield case("a name signed wrongly", good, spoiled)
    trust = packet(12, b"\x06\x67\x70\x67")
    ring_trust = packet(12, b"\x00\x03")
    yield case("a name signed wrongly, and a trust packet", good, spoiled + ring_trust)
    yield case("trust packets", good, alice.primary + trust + alice.name() + ring_trust)
    yield case("a marker in a key", good, packet(10, b"PGP") + own)
    yield case("a text in a key", good, own + literal(b"x"))
    yield fine("a photo", key=own + packet(17, b"\x02\x01x"))
    yield fine("somebody's certification", key=own + eve.on_name("x <x@x.invalid>", 0x10))
    yield fine(
        "somebody's broken certification", key=own + eve.on_name("x <x@x.invalid>", 0x10, hash_="sha1")
    )
    yield fine("two names", key=own + alice.name("y"))
    yield fine(
        "a direct statement",
        key=alice.primary + alice.on_self(DIRECT, hashed=subpacket(27, b"\x03")) + alice.name(),
    )
    yield fine("an unbound subkey beside", key=own + packet(14, sub.body))
    yield fine("an encrypting subkey beside", key=own + alice.subkey(sub, flags=12, back=b""))
    for hash_ in ("md5", "sha1", "sha224"):
        yield case(f"a name signed with {hash_}", good, alice.primary + alice.name(hash_=hash_))
    yield fine(
        "a name signed with sha1, then well", key=alice.primary + alice.name(hash_="sha1") + alice.name("y")
    )
    yield case("may not sign", good, alice.primary + alice.name(flags=1))
    yield case("says nothing of signing", good, alice.primary + alice.name(flags=None))
    yield case(
        "may not sign any more",
        good,
        own + alice.on_name("x <x@x.invalid>", 0x13, hashed=subpacket(27, b"\1"), created=NOW - 60),
    )
    expired, lasting = subpacket(9, number(DAY // 2)), subpacket(9, number(2 * DAY))
    yield case("expired", good, alice.primary + alice.name(hashed=expired))
    yield case(
        "expired by a direct statement",
        good,
        alice.primary + alice.on_self(DIRECT, hashed=expired) + alice.name(),
    )
    yield fine("will expire", key=alice.primary + alice.name(hashed=lasting))
    yield case(
        "expired, and said otherwise before", good, own + alice.name("y", hashed=expired, created=NOW - 60)
    )
    yield case(
        "the name's signature expired", good, alice.primary + alice.name(hashed=subpacket(3, number(60)))
    )
    reason = subpacket(29, b"\x00")
    revoked = alice.on_self(REVOKE_KEY, hashed=reason)
    yield case("revoked", good, alice.primary + revoked + alice.name())
    soft = alice.on_self(REVOKE_KEY, hashed=subpacket(29, b"\x03retired"), created=NOW - 60)
    yield case("retired before", good, alice.primary + soft + alice.name())
    later = alice.on_self(REVOKE_KEY, hashed=subpacket(29, b"\x03retired"), created=NOW)
    yield case("retired after", alice.message(TEXT, created=NOW - 100), alice.primary + later + alice.name())
    weak = alice.on_self(REVOKE_KEY, hashed=reason, hash_="sha1")
    yield case("revoked with sha1", good, alice.primary + weak + alice.name())
    unnamed = alice.on_self(REVOKE_KEY, hashed=reason, unhashed=b"")
    yield case("revoked by nobody by name", good, alice.primary + unnamed + alice.name())
    two = alice.on_self(REVOKE_KEY, hashed=reason, unhashed=subpacket(16, alice.id) + subpacket(16, eve.id))
    yield case("revoked by two", good, alice.primary + two + alice.name())
    by_eve = eve.signature(REVOKE_KEY, alice.hashed, hashed=reason)
    yield fine("revoked by somebody else", key=alice.primary + by_eve + alice.name())
    name_gone = alice.on_name("x <x@x.invalid>", REVOKE_NAME, hashed=subpacket(29, b"\x20"))
    yield case("its name revoked", good, own + name_gone)
    yield fine("one name of two revoked", key=own + name_gone + alice.name("y"))
    yield case("signed before the key was made", alice.message(TEXT, created=BORN - 10))
    young = Author(alice.pair, NOW + 1000)
    yield case("a key from the future", young.message(TEXT), young.primary + young.name(created=NOW + 1000))
    yield case("signed in the future", alice.message(TEXT, created=NOW + 3600))
    yield case("signed in 2030", alice.message(TEXT, created=1_900_000_000))
    yield fine("signed half a minute ahead", alice.message(TEXT, created=int(time.time()) + 30))
    yield fine("signed an hour ago", alice.message(TEXT, created=NOW - 3600))
    small = Author(Rsa(1024))
    yield case("1024 bits", small.message(TEXT), small.certificate())
    slow = Author(Rsa(2048, (1 << 64) + 13))
    yield case("a huge exponent", slow.message(TEXT), slow.certificate())
    yield case("version 3", good, packet(6, b"\x03" + number(BORN) + b"\0\0" + alice.body[5:]) + alice.name())
    yield case("version 6", good, packet(6, b"\x06" + alice.body[1:]) + alice.name())
    yield case("more behind the key", good, packet(6, alice.body + b"x") + alice.name())
    for algorithm in (2, 3, 16, 17, 18, 20, 22, 25, 27, 99):
        other = packet(6, alice.body[:5] + bytes((algorithm,)) + alice.body[6:])
        yield case(f"algorithm {algorithm}", good, other + alice.name())
    yield case(
        "too many names",
        good,
        own
        + b"".join(alice.on_name("x", 0x13, created=BORN + i) for i in range(30))
        + b"".join(alice.name(str(i)) for i in range(12)),
    )
    yield case("too long", good, own + packet(17, bytes(20000)))

    # subkeys
    by_sub = sub.message(TEXT)
    bound = own + alice.subkey(sub)
    yield fine("by a subkey", by_sub, bound)
    yield fine("by a subkey that will expire", by_sub, own + alice.subkey(sub, hashed=lasting))
    yield fine("by the key beside a subkey", good, bound)
    yield case("by a subkey that is not there", by_sub)
    yield case("by a subkey of eve's", by_sub, eve.certificate() + alice.subkey(sub))
    yield case("by an unbound subkey", by_sub, own + packet(14, sub.body))
    yield case("by a subkey that did not agree", by_sub, own + alice.subkey(sub, back=b""))
    other_back = eve.signature(0x19, alice.hashed + sub.hashed)[6:]
    yield case("by a subkey, another agreed", by_sub, own + alice.subkey(sub, back=other_back))
    stolen = sub.signature(0x19, eve.hashed + sub.hashed)[6:]
    yield case("by a subkey that agreed to another", by_sub, own + alice.subkey(sub, back=stolen))
    weak_back = sub.signature(0x19, alice.hashed + sub.hashed, hash_="sha1")[6:]
    yield case("by a subkey that agreed with sha1", by_sub, own + alice.subkey(sub, back=weak_back))
    yield case("by a grafted subkey", eve.message(TEXT), own + alice.subkey(eve, by=eve))
    yield case(
        "by a grafted subkey, trusted", eve.message(TEXT), own + alice.subkey(eve, by=eve) + ring_trust
    )
    yield case("by a subkey bound wrongly", by_sub, own + alice.subkey(sub, spoil=True))
    yield case("by a subkey bound with sha1", by_sub, own + alice.subkey(sub, hash_="sha1"))
    yield case("by a subkey for encryption", by_sub, own + alice.subkey(sub, flags=12))
    yield case("by a subkey for authentication", by_sub, own + alice.subkey(sub, flags=0x20))
    yield case("by an expired subkey", by_sub, own + alice.subkey(sub, hashed=expired))
    yield case(
        "by a subkey of an expired key",
        by_sub,
        alice.primary + alice.name(hashed=expired) + alice.subkey(sub),
    )
    yield case(
        "by a subkey of a revoked key", by_sub, alice.primary + revoked + alice.name() + alice.subkey(sub)
    )
    yield case("by a revoked subkey", by_sub, bound + alice.on_subkey(sub, REVOKE_SUBKEY, hashed=reason))
    yield case(
        "by a subkey revoked with sha1", by_sub, bound + alice.on_subkey(sub, REVOKE_SUBKEY, hash_="sha1")
    )
    yield fine(
        "by the key beside a revoked subkey", good, bound + alice.on_subkey(sub, REVOKE_SUBKEY, hashed=reason)
    )
    yield fine(
        "by a subkey, the key may only certify",
        by_sub,
        alice.primary + alice.name(flags=1) + alice.subkey(sub),
    )
    yield case(
        "by a key that may only certify", good, alice.primary + alice.name(flags=1) + alice.subkey(sub)
    )

    # texts
    for text in TEXTS:
        yield fine(f"the text {text[:20]!r}", alice.message(text), text=text)


def alice_named(alice: Author, eve: Author) -> bytes:
    """What eve signs, said to be by alice."""
    named = subpacket(16, alice.id)
    return alice.one_pass() + literal(TEXT) + eve.on_text(TEXT, unhashed=named)


def _bodies(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size = int.from_bytes(data[2:6], "big")
        yield data[0] & 0x3F, data[6 : 6 + size]
        data = data[6 + size :]


def _with_left(body: bytes, left: bytes) -> bytes:
    start = 6 + int.from_bytes(body[4:6], "big")
    start += 2 + int.from_bytes(body[start : start + 2], "big")
    assert body[start : start + 2] != left
    return body[:start] + left + body[start + 2 :]

"""Keys and messages by chance, for both engines: that they agree, and that nothing wrong is accepted.

    PYTHONPATH=. python tests/fuzz_openpgp.py --minutes 60

Two kinds. `cases` are whole: every signature in them is sound unless it is meant to be spoiled, and what they
say (times, flags, revocations, hashes, subpackets that nobody knows) is by chance. `rubbish` is sound bytes
with pieces changed, moved and cut, for our own reading.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from crafted import (
    BACK,
    BINDING,
    DIRECT,
    NOW,
    REVOKE_KEY,
    REVOKE_NAME,
    REVOKE_SUBKEY,
    Author,
    Rsa,
    armour,
    number,
    packet,
    subpacket,
)
from crafted_curves import Ed25519
from signal_server.openpgp.gnupg import GnupgEngine
from signal_server.openpgp.keyring import Engine
from signal_server.openpgp.sequoia import SequoiaEngine
from vectors import Vector, compare

HOUR, DAY = 3600, 86400
BORN = NOW - 3 * DAY

MOMENTS = st.sampled_from(
    [BORN, BORN + 1, NOW - DAY, NOW - HOUR, NOW - 30, NOW - 29, NOW, NOW + 20, NOW + DAY]
)
LAST = (1 << 32) - BORN
SPANS = st.sampled_from(
    [0, 1, HOUR, 3 * DAY - 1000, 3 * DAY + 1000, 400 * DAY, LAST - 1, LAST, LAST + 1, (1 << 32) - 1]
)
FLAGS = st.sampled_from([b"\x02", b"\x01", b"\x00", b"", b"\x03\x00", b"\x23", b"\x0c"])
HASHES = st.sampled_from(["sha256", "sha384", "sha1", "sha224"])
VERSIONS = st.sampled_from([4, 4, 6])
TEXTS = st.sampled_from([b"chess", b"", b"a\nb", b" x \t", "名".encode(), b"y" * 300])

T = TypeVar("T")


def mostly(draw: st.DrawFn, usual: T, seldom: st.SearchStrategy[T], *, one_in: int = 10) -> T:
    return draw(seldom) if draw(st.integers(1, one_in)) == one_in else usual


def rarely(draw: st.DrawFn) -> bool:
    return mostly(draw, False, st.just(True), one_in=30)


@st.composite
def strange(draw: st.DrawFn) -> bytes:
    """A subpacket of any type."""
    kind = draw(st.integers(0, 110).filter(lambda kind: kind not in (2, 16, 27, 33)))
    return subpacket(kind, draw(st.binary(max_size=24)), critical=rarely(draw))


def span(kind: int) -> st.SearchStrategy[bytes]:
    return st.builds(lambda seconds: subpacket(kind, number(seconds)), SPANS)


def terms(draw: st.DrawFn) -> bytes:
    """What a statement on a key may say beside its time."""
    said = mostly(draw, b"", span(9), one_in=4) + mostly(draw, b"", span(3)) + mostly(draw, b"", strange())
    count = mostly(draw, 1, st.sampled_from([0, 2]), one_in=15)
    flags = (mostly(draw, b"\x03", FLAGS) for _ in range(count))
    return said + b"".join(subpacket(27, each, critical=rarely(draw)) for each in flags)


@dataclass(frozen=True)
class People:
    alice: Author
    sub: Author
    other: Author


@cache
def people(version: int) -> People:
    """In version 4 with RSA, which both engines know; in version 6 with what came with it."""
    return People(*(Author(Ed25519(new=True) if version == 6 else Rsa(), BORN, version) for _ in range(3)))


def issuers(author: Author) -> st.SearchStrategy[bytes]:
    by_id, by_print = (
        subpacket(16, author.id),
        subpacket(33, bytes((author.version,)) + bytes.fromhex(author.fingerprint)),
    )
    more = by_print + by_id + subpacket(100, b"x")
    return st.sampled_from([by_print, by_id + by_print, more, b"", subpacket(16, bytes(8))])


def statement(
    draw: st.DrawFn, kind: int, over: bytes, author: Author, inside: bytes = b"", outside: bytes = b""
) -> bytes:
    return author.signature(
        kind,
        over,
        created=mostly(draw, BORN, MOMENTS, one_in=3),
        hash_=mostly(draw, "sha512", HASHES),
        hashed=terms(draw) + inside,
        unhashed=mostly(draw, author.issuer, issuers(author)) + outside,
        **odd_form(draw, author),
        spoil=rarely(draw),
    )


def odd_form(draw: st.DrawFn, author: Author) -> dict[str, Any]:
    """Seldom a signature of another version than its key, or with another salt."""
    found: dict[str, Any] = {}
    if rarely(draw):
        found["version"] = 10 - author.version
    if rarely(draw):
        found["salt"] = draw(st.binary(max_size=40))
    return found


def some(draw: st.DrawFn, kind: int, over: bytes, by: Author) -> bytes:
    count = mostly(draw, 1, st.sampled_from([2, 3]), one_in=3)
    return b"".join(statement(draw, kind, over, by) for _ in range(count))


def certificate(draw: st.DrawFn, who: People) -> bytes:
    alice, sub = who.alice, who.sub
    whole = alice.primary
    if draw(st.integers(0, 3)) == 0 or (alice.version == 6 and not rarely(draw)):
        whole += some(draw, DIRECT, alice.hashed, alice)
    if rarely(draw):
        whole += statement(draw, REVOKE_KEY, alice.hashed, draw(st.sampled_from([alice, who.other])))
    for place in range(mostly(draw, 1, st.sampled_from([2, 3, 0]), one_in=3)):
        text = f"name {place}".encode()
        over = alice.hashed + b"\xb4" + number(len(text)) + text
        whole += packet(13, text) + some(draw, draw(st.integers(0x10, 0x13)), over, alice)
        if rarely(draw):
            whole += statement(draw, REVOKE_NAME, over, alice)
        if rarely(draw):
            whole += statement(draw, 0x10, over, who.other)
    over = alice.hashed + sub.hashed
    whole += packet(14, sub.body)
    for _ in range(mostly(draw, 1, st.sampled_from([2, 3, 0]), one_in=4)):
        whole += binding(draw, over, who)
    if rarely(draw):
        whole += statement(draw, REVOKE_SUBKEY, over, alice)
    return whole


def binding(draw: st.DrawFn, over: bytes, who: People) -> bytes:
    backs = b""
    for _ in range(mostly(draw, 1, st.sampled_from([0, 2]), one_in=20)):
        back = who.sub.signature(
            mostly(draw, BACK, st.just(BINDING), one_in=20),
            mostly(draw, over, st.just(who.other.hashed), one_in=20),
            created=mostly(draw, BORN, MOMENTS),
            hash_=mostly(draw, "sha512", HASHES),
            hashed=mostly(draw, b"", span(3)) + mostly(draw, b"", strange()),
            spoil=rarely(draw),
        )
        backs += subpacket(32, back[6:])
    inside, outside = draw(st.sampled_from([(backs, b""), (b"", backs)]))
    return statement(draw, BINDING, over, who.alice, inside, outside)


@st.composite
def cases(draw: st.DrawFn) -> Vector:
    """A key and a message. `text` is what was signed, whether the two hold or not."""
    who = people(draw(VERSIONS))
    author, text = draw(st.sampled_from([who.alice, who.sub])), draw(TEXTS)
    message = author.message(
        text,
        kind=mostly(draw, 0, st.just(1)),
        form=draw(st.sampled_from([b"b", b"t", b"u"])),
        hash_=mostly(draw, "sha512", HASHES),
        created=mostly(draw, NOW, MOMENTS, one_in=3),
        hashed=mostly(draw, b"", span(3)) + mostly(draw, b"", strange(), one_in=3),
        unhashed=mostly(draw, author.issuer, issuers(author)),
        **odd_form(draw, author),
        spoil=rarely(draw),
    )
    return vector("by chance", message, certificate(draw, who), text, who)


def vector(name: str, message: bytes, key: bytes, text: bytes, who: People) -> Vector:
    blocks = armour(message), armour(key, "PUBLIC KEY BLOCK")
    alice = who.alice
    return Vector(name, *blocks, text, alice.fingerprint, is_flip=True, is_new=alice.version == 6)


@st.composite
def rubbish(draw: st.DrawFn) -> Vector:
    """A sound message or key, of which pieces were changed, moved or cut."""
    who = people(draw(VERSIONS))
    sub = draw(st.booleans())
    message = (who.sub if sub else who.alice).message(b"chess")
    key = who.alice.certificate() + who.alice.subkey(who.sub)
    is_key = draw(st.booleans())
    data = bytearray(key if is_key else message)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        what = draw(st.integers(0, 4))
        if what == 0:
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == 1:
            del data[place : place + draw(st.integers(1, 40))]
        elif what == 2:
            data[place:place] = draw(st.binary(min_size=1, max_size=12))
        elif what == 3:
            start = draw(st.integers(0, len(data)))
            data[place:place] = data[start : start + draw(st.integers(1, 80))]
        else:
            data[place : place + 4] = draw(
                st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\xff\x00\x00\x00"])
            )
    message, key = (message, bytes(data)) if is_key else (bytes(data), key)
    return vector("rubbish", message, key, b"chess", who)


def hunt(engines: dict[str, Engine], *, examples: int, start: int, counts: Counter[str]) -> None:
    """Try so many of each kind.

    Raises:
        AssertionError: the engines differ, or something wrong was accepted; the smallest such case is shown.
    """
    for strategy in (cases(), rubbish()):

        @seed(start)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def agree(vector: Vector) -> None:
            wrong, found = compare(engines, [vector])
            counts.update(found)
            assert not wrong, "\n".join([*wrong, vector.message, vector.key])

        agree()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    chosen = parser.parse_args()
    engines: dict[str, Engine] = {"gnupg": GnupgEngine(), "sequoia": SequoiaEngine()}
    counts, until, start = Counter[str](), time.monotonic() + 60 * chosen.minutes, chosen.seed
    try:
        while time.monotonic() < until:
            hunt(engines, examples=1000, start=start, counts=counts)
            start += 1
    finally:
        for engine in engines.values():
            engine.close()
        print(f"seeds {chosen.seed} to {start}: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Cases for tests/fuzz_framing.py: the bytes of one connection, cut into pieces.

A case is made from a seed alone. It has one to three requests, some of them bent by one to three *twists*:
each of these breaks or stretches one rule of HTTP. Sometimes single bytes are changed as well. Sentinels
follow. They are good requests, and tell where the server believes that the next request begins. Each request
carries an `X-Request-Id`, which the server sends back, so that a reply names its request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from framing_twists import NUL_AND_FRIENDS, TWISTS, Draft, sentinel


@dataclass
class Case:
    """What a client sends on one connection.

    Attributes:
        pieces: sent one after the other, with a pause between them.
        pause_ms: the pause; long ones try the server's patience.
        closes: the client half-closes after the last piece, in the middle of a request.
    """

    pieces: list[bytes]
    pause_ms: float = 4.0
    closes: bool = False

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)


def draft(random: Random, name: str) -> Draft:
    """A good request with a name of its own."""
    made = Draft()
    # Answered at once, since nobody waits in that namespace.
    asked: dict[str, object] = {
        "TYPE": "CONNECT",
        "SIGNAL": "answer",
        "NAMESPACE": f"{name}-none",
        "NONCE": "n" * 24,
    }
    if random.random() < 0.3:
        asked = {"TYPE": "LEAVE", "REQUEST": f"{name}-{random.getrandbits(96):024x}"}
    kind = random.random()
    if kind < 0.04:  # held until its time is over: nobody else is in its namespace
        asked = {"TYPE": "CONNECT", "SIGNAL": "offer", "NAMESPACE": f"{name}-{random.getrandbits(64):x}"}
    elif kind < 0.08:
        asked = {"TYPE": "CONNECT"}
    made.add(b"Host", b"localhost")
    if kind < 0.7:
        made.body = json.dumps(asked).encode()
        made.add(b"Content-Type", random.choice([b"application/json", b"text/plain;charset=UTF-8"]))
    else:
        made.body = "&".join(f"{key}={value}" for key, value in asked.items()).encode()
        made.add(b"Content-Type", b"application/x-www-form-urlencoded")
        if "SIGNAL" in asked:  # the name of a namespace that is cut short is a name, too
            made.body = json.dumps(asked).encode()
            made.set(b"Content-Type", b"application/json")
    if random.random() < 0.5:
        made.add(b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
        made.add(b"Accept", b"*/*")
        made.add(b"Accept-Encoding", b"gzip, deflate")
    if random.random() < 0.2:
        made.add(b"Origin", b"https://game.example")
    made.add(b"X-Request-Id", name.encode())
    random.shuffle(made.headers)
    return made


def scratched(random: Random, sent: bytes) -> bytes:
    """The same with one to four bytes changed, taken out, doubled or put in."""
    changed = bytearray(sent)
    for _ in range(random.randint(1, 4)):
        if not changed:
            break
        place = min(int(random.expovariate(1 / 120)), len(changed) - 1)
        what = random.choice([*NUL_AND_FRIENDS, b" ", b":", b"0", b"a", b"\t", b"\r\n", b","])
        kind = random.randrange(4)
        if kind == 0:
            changed[place : place + 1] = what
        elif kind == 1:
            del changed[place : place + random.choice([1, 1, 1, 2, 5])]
        elif kind == 2:
            changed[place:place] = what
        else:
            changed[place:place] = changed[place : place + random.choice([1, 2, 10, 40])]
    return bytes(changed)


def cut(random: Random, sent: bytes) -> list[bytes]:
    """The bytes in pieces, with cuts where parsers have their corners."""
    kind = random.random()
    if kind < 0.35 or len(sent) < 2:
        return [sent]
    places = set()
    if kind < 0.38:
        start = random.randrange(len(sent))
        places = set(range(start, min(len(sent), start + 40)))  # byte by byte
    for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
        near = sent.find(
            random.choice([b"\r\n\r\n", b"\r\n", b"\n", b": ", b"0\r\n", b"POST"]),
            random.randrange(len(sent)),
        )
        if random.random() < 0.7 and near >= 0:
            places.add(near + random.choice([0, 1, 2, 3, 4]))
        else:
            places.add(random.randrange(len(sent)))
    edges = [0, *sorted(place for place in places if 0 < place < len(sent)), len(sent)]
    return [sent[start:end] for start, end in pairwise(edges)]


def make(seed: str) -> Case:
    """The case of this seed."""
    random = Random(seed)
    sent = b""
    for number in range(random.choice([1, 1, 1, 2, 2, 3])):
        made = draft(random, f"r{number}")
        if random.random() < 0.85:
            for _ in range(random.choice([1, 1, 1, 1, 2, 2, 3])):
                weights = [weight for weight, _ in TWISTS]
                random.choices(TWISTS, weights)[0][1](random, made)
        each = made.bytes()
        sent += scratched(random, each) if random.random() < 0.12 else each
    if random.random() < 0.01:  # cut off, and the client says that no more will come
        return Case(cut(random, sent[: random.randrange(1, len(sent) + 1)]), closes=True)
    sent += sentinel(1, last=False) + sentinel(2, last=True)
    case = Case(cut(random, sent))
    if random.random() < 0.0005 and len(case.pieces) > 1:
        case.pause_ms = random.choice([1000.0, 2000.0, 3500.0, 5500.0])
    return case

"""Requests that chance writes, each with the statuses that it may get. See fuzz_input.py."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from urllib.parse import quote_plus

from crafted import armour
from signed_peer import SignedPeer

GOOD = frozenset({200, 298, 299})
BAD = frozenset({400})
EITHER = GOOD | {400, 403, 499}

MAX_BODY = 65536

TEXTS = (
    "", "a", "é", "😀", "\u2028", "\x00", "\x7f", "\ufeff",
    "\r\nX-Evil: 1", '"', "\\", "</script>", "%00", "A" * 256,
    "ﷺ" * 256, "../../etc/passwd", "{{7*7}}", "' OR 1=1 --", "\u202e", "e\u0301", "0", "null",
    "-1", "1e999",
)  # fmt: skip
NO_TEXTS = (
    "null", "true", "0", "-0", "1e308", "[]", "{}", '["a"]', '{"a":"b"}', "1" * 4000, "[" * 30 + "]" * 30
)  # fmt: skip
NO_NUMBERS = ("NaN", "-Infinity", "1e999", "01", ".5", "+1", "'a'")
NO_ESCAPES = (b"\\ud800", b"\\udfff\\ud800", b"\\x41", b"\\u12", b"\\")
JSON_SPACE = ("", " ", "\t", "\n", "\r\n", "  \n")
CODINGS = ("br", "deflate", "zstd", "compress", "gzip, gzip", "gzip,br", "aes128gcm", "*", "gz ip", "x-gzip2")
MEDIA = (
    "text/html",
    "application/xml",
    "multipart/form-data; boundary=x",
    "image/png",
    "json",
    "*/*",
    "a/b/c",
)
CHARSETS = ("latin1", "utf-16", "utf-7", "windows-1252", "utf-8-sig", "bogus", "")


@dataclass(frozen=True)
class Case:
    """A request, but for its framing.

    Attributes:
        kind: what is tried.
        chunks: sizes in which the body is sent, `Transfer-Encoding: chunked`; with none, it has a length.
        allowed: the statuses that it may get.
    """

    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    chunks: tuple[int, ...] = ()
    allowed: frozenset[int] = GOOD

    def written(self, number: str) -> bytes:
        """As it is sent."""
        lines = ["POST / HTTP/1.1", "Host: t", f"X-Request-Id: {number}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [
            "Transfer-Encoding: chunked" if self.chunks else f"Content-Length: {len(self.body)}",
            "",
            "",
        ]
        head = "\r\n".join(lines).encode("latin-1")
        if not self.chunks:
            return head + self.body
        pieces, at = [], 0
        for size in (*self.chunks, len(self.body)):
            piece = self.body[at : at + size]
            if piece:
                pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            at += size
        return head + b"".join(pieces) + b"0\r\n\r\n"


Rng = random.Random
Maker = Callable[[Rng], Case]


def make(seed: str, peer: SignedPeer) -> Case:
    """The case of this seed."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    case = signed(rng, peer) if kind is signed else kind(rng)  # type: ignore[call-arg]
    if not case.chunks and len(case.body) < 4000 and rng.random() < 0.1:
        chunks = tuple(rng.randint(1, 400) for _ in range(rng.randint(1, 40)))
        case = replace(case, chunks=chunks)
    return replace(case, allowed=frozenset({413})) if len(case.body) > MAX_BODY else case


def parameters(rng: Rng) -> dict[str, str]:
    """Good ones, of an open peer."""
    kind = rng.choice(("CONNECT", "CONNECT", "CONNECT", "BOUNCE", "LEAVE"))
    given = {"TYPE": kind, "REQUEST": token(rng)}
    if kind != "LEAVE":
        given["SIGNAL"] = rng.choice(("offer", "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n" * rng.randint(1, 30)))
        given["SIGNAL"] += rng.choice(TEXTS)
    if kind == "BOUNCE" or (kind == "CONNECT" and rng.random() < 0.3):
        given["NONCE"] = rng.choice((token(rng), "x", "😀"))
    for name in ("NAMESPACE", "FINGERPRINT"):
        if kind != "LEAVE" and rng.random() < 0.5:
            given[name] = rng.choice(TEXTS)
    if rng.random() < 0.2:
        given["REMATCH"] = rng.choice(("", "1"))
    if rng.random() < 0.2:
        given[rng.choice(("type", "X", "", "é", "__proto__"))] = rng.choice(TEXTS)
    return given


def token(rng: Rng) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "".join(rng.choices(letters, k=rng.randint(22, 64)))


def offered(rng: Rng) -> dict[str, str]:
    """Good ones, of a CONNECT."""
    return {"TYPE": "CONNECT", "SIGNAL": "offer", "FINGERPRINT": token(rng)}


def written(rng: Rng, given: dict[str, str], **raw: str) -> str:
    """As JSON, however it may be laid out; `raw` are members whose values stand as they are."""
    members = [
        json.dumps(name, ensure_ascii=rng.random() < 0.5)
        + f"{rng.choice(JSON_SPACE)}:{rng.choice(JSON_SPACE)}{value}"
        for name, value in [
            *((name, json.dumps(value, ensure_ascii=rng.random() < 0.5)) for name, value in given.items()),
            *raw.items(),
        ]
    ]
    rng.shuffle(members)
    return f"{{{rng.choice(JSON_SPACE)}{','.join(members)}{rng.choice(JSON_SPACE)}}}"


# --- what is tried -----------------------------------------------------------------------------------------


def good(rng: Rng) -> Case:
    text = written(rng, parameters(rng))
    mark = rng.choice(("", "", "", "\ufeff"))
    media = rng.choice(("application/json", "text/plain", 'application/json; charset="UTF-8"', "TEXT/PLAIN"))
    return Case("good", (mark + text).encode(), (("Content-Type", media),))


def wrong_type(rng: Rng) -> Case:
    """A parameter that is no text."""
    given = parameters(rng)
    name = rng.choice(
        ("TYPE", "SIGNAL", "NONCE", "NAMESPACE", "FINGERPRINT", "REMATCH", "REQUEST", "PUBLIC_KEY")
    )
    given.pop(name, None)
    return Case("wrong type", written(rng, given, **{name: rng.choice(NO_TEXTS)}).encode(), allowed=BAD)


def wrong_value(rng: Rng) -> Case:
    name, value = rng.choice(
        (
            ("TYPE", "connect"), ("TYPE", "ANSWER"), ("TYPE", "CONNECT "), ("REMATCH", "0"),
            ("REMATCH", "true"),
            ("REQUEST", "short"), ("REQUEST", "é" * 30), ("REQUEST", "a" * 65), ("REQUEST",
            "a" * 30 + "\n"),
            ("NAMESPACE", "n" * 257), ("FINGERPRINT", "😀" * 257), ("SIGNED_SIGNAL", "x"),
            ("PUBLIC_KEY", "x"),
        )
    )  # fmt: skip
    return Case("wrong value", written(rng, offered(rng) | {name: value}).encode(), allowed=BAD)


def missing(rng: Rng) -> Case:
    given = rng.choice(
        (
            {"TYPE": "CONNECT"}, {"SIGNAL": "x"}, {"TYPE": "", "SIGNAL": "x"},
            {"TYPE": "CONNECT", "SIGNAL": ""},
            {"TYPE": "BOUNCE", "SIGNAL": "x"}, {"TYPE": "LEAVE"}, {"TYPE": "CONNECT",
            "PUBLIC_KEY": "x"}, {},
        )
    )  # fmt: skip
    return Case("missing", written(rng, given).encode(), allowed=frozenset({499}))


def not_json(rng: Rng) -> Case:
    text = written(rng, offered(rng))
    raw = text.encode()
    body = rng.choice(
        (
            lambda: b"",
            lambda: raw[: rng.randrange(len(raw.rstrip()))],
            lambda: raw + rng.choice((b",", b"{}", b"\x00", b"]", raw)),
            lambda: "\ufeff\ufeff".encode() + raw,
            lambda: text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")))[1:],
            lambda: raw.replace(b"offer", bytes([rng.randint(0x80, 0xFF)])),
            lambda: raw.replace(b"offer", b"a\nb"),
            lambda: raw.replace(b"offer", rng.choice(NO_ESCAPES)),
            lambda: written(rng, offered(rng), x=rng.choice(NO_NUMBERS)).encode(),
            lambda: written(rng, offered(rng), x="1" * rng.randint(5000, 9000)).encode(),
            lambda: written(rng, offered(rng), TYPE='"CONNECT"').encode(),
            lambda: written(rng, {"x": "1"} | offered(rng), x='"2"').encode(),
            lambda: written(rng, offered(rng), x=nested(rng, rng.choice((33, 500, 5000, 20000)))).encode(),
            lambda: rng.choice((b"[]", b'"a"', b"1", b"null", b"true", b"[" * 60000, b'{"a":' * 9000)),
            lambda: rng.randbytes(rng.randint(1, 2000)).replace(b"{", b"}"),
        )
    )()  # fmt: skip
    return Case("not JSON", body, allowed=BAD)


def nested(rng: Rng, depth: int) -> str:
    open_, close = rng.choice((("[", "]"), ('{"a":', "}")))
    return open_ * depth + "1" + close * depth


def mutated(rng: Rng) -> Case:
    """Some bytes of a good text are others. It may still be good."""
    body = bytearray(written(rng, parameters(rng)).encode())
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(body))
        what = rng.random()
        if what < 0.4:
            body[at] = rng.randrange(256)
        elif what < 0.7:
            body[at:at] = rng.choice(
                (b'"', b"\\", b",", b"{", b"}", b"\x00", b"\\u0000", b"\xff", b":", b"9")
            )
        else:
            del body[at : at + rng.randint(1, 8)]
        if not body:
            break
    return Case("mutated", bytes(body), allowed=EITHER)


def form(rng: Rng) -> Case:
    media = (("Content-Type", "application/x-www-form-urlencoded"),)
    given = parameters(rng)
    body = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in given.items())
    if rng.random() < 0.4:
        return Case("good form", body.encode(), media)
    more, allowed = rng.choice(
        (
            ("&TYPE=CONNECT", BAD), ("&x=1&x=2", BAD), ("&x=%ff", BAD), ("&x=%c3", BAD),
            ("&REMATCH=2", BAD),
            ("&x=%zz", GOOD), ("&&&", GOOD), ("&x", GOOD), ("&=", GOOD), (";x=1", EITHER),
            ("&x=%00", GOOD),
            ("&" + "&".join(f"k{n}=v" for n in range(3000)), GOOD), ("&x=" + "%" * 3000, GOOD),
        )
    )  # fmt: skip
    if any(more.startswith(f"&{name}=") for name in given):
        allowed = BAD
    return Case("form", (body + more).encode(), media, allowed=allowed)


def coding(rng: Rng) -> Case:
    text = written(rng, offered(rng)).encode()
    packed = gzip.compress(text, rng.randint(0, 9), mtime=0)
    name = rng.choice(("gzip", "GZIP", "x-gzip", " gzip"))
    body, allowed = rng.choice(
        (
            lambda: (packed, GOOD),
            lambda: (gzip.compress(text[:9]) + gzip.compress(text[9:]), GOOD),
            lambda: (packed[: rng.randrange(len(packed))], BAD),
            lambda: (text, BAD),
            lambda: (zlib.compress(text), BAD),
            lambda: (packed + rng.randbytes(rng.randint(1, 9)), BAD),
            lambda: (gzip.compress(packed), BAD),
            lambda: (bomb(rng.choice((MAX_BODY + 1, 5 << 20, 50 << 20))), frozenset({413})),
            lambda: (gzip.compress(b"") * rng.randint(1, 1000), BAD),
            lambda: (flipped(rng, packed), EITHER | {413}),
        )
    )()  # fmt: skip
    return Case(
        "gzip", body, (("Content-Type", "application/json"), ("Content-Encoding", name)), allowed=allowed
    )


@cache
def bomb(size: int) -> bytes:
    return gzip.compress(bytes(size))


def flipped(rng: Rng, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def unsupported(rng: Rng) -> Case:
    headers = rng.choice(
        (
            (("Content-Type", "application/json"), ("Content-Encoding", rng.choice(CODINGS))),
            (("Content-Type", rng.choice(MEDIA)),),
            (("Content-Type", f"application/json; charset={rng.choice(CHARSETS)}"),),
            (),
        )
    )
    return Case("unsupported", written(rng, offered(rng)).encode(), headers, allowed=frozenset({415}))


def size(rng: Rng) -> Case:
    """Just below the bound, or above it."""
    given = offered(rng)
    bare = len(json.dumps(given | {"SIGNAL": ""}))
    length = rng.choice((MAX_BODY, MAX_BODY - 1, MAX_BODY + 1, MAX_BODY + 4096, 200_000))
    body = json.dumps(given | {"SIGNAL": "s" * (length - bare)}).encode()
    assert len(body) == length
    return Case("size", body)


def header(rng: Rng) -> Case:
    """Headers that we read, with values that no browser sends."""
    values = (
        "", "\xe9\xff",
        "\t", '"', "a" * 4000, "gzip;q=", "gzip;q=1.0000", "q=0,,;;", "*;q=0", "null", "http://", "-1",
        "99999999999999999999", "\xb2", "1e3", "1, 2, 3", "::1", "[::1]:80", "1.2.3.4:5555",
        "<script>", "0x7f.1", "%s%n",
        "::ffff:192.0.2.1", "fe80::1%eth0", "unknown", "_hidden", ",", ", ,", "1" * 400,
        "192.0.2.1" + ",192.0.2.1" * 200,
    )  # fmt: skip
    names = (
        "Origin", "X-Forwarded-For", "Accept-Encoding", "Accept", "Accept-Language",
        "User-Agent", "Referer", "Cookie",
        "X-Envoy-Expected-Rq-Timeout-Ms", "X-Forwarded-Prefix", "X-Forwarded-Host",
        "Authorization", "Range", "Forwarded",
        "If-None-Match", "X-HTTP-Method-Override", "Script-Name", "Path-Info", "X-Script-Name",
        "Content-Language",
    )  # fmt: skip
    chosen = rng.sample(names, rng.randint(1, 5))
    more = tuple((name, rng.choice(values)) for name in chosen)
    body = written(rng, offered(rng)).encode()
    return Case("header", body, (("Content-Type", "application/json"), *more), allowed=GOOD | {400, 431})


def chunked(rng: Rng) -> Case:
    """One byte a chunk, or all in one."""
    body = written(rng, parameters(rng)).encode()
    sizes = rng.choice(((1,) * len(body), (len(body),), tuple(rng.randint(1, 9) for _ in range(len(body)))))
    return Case("chunked", body, chunks=sizes)


def signed(rng: Rng, peer: SignedPeer) -> Case:
    """Parts of a signed request that are not as they were signed."""
    given = peer.request(rng.choice(("offer", "😀")))
    name = rng.choice(("SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"))
    text = given[name]
    given[name] = rng.choice(
        (
            lambda: text,
            lambda: flipped(rng, text.encode()).decode("latin-1"),
            lambda: text[: rng.randrange(len(text))],
            lambda: text + text,
            lambda: text.replace("MESSAGE", "SIGNATURE").replace("PUBLIC", "PRIVATE"),
            lambda: text.replace("\n\n", f"\n{rng.choice(('Comment: x', 'Hash: SHA1', ':', 'é'))}\n\n", 1),
            lambda: text.replace("\n", rng.choice(("\r\n", "\n\n", " \n", ""))),
            lambda: "x" + text,
            lambda: given[rng.choice(("SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"))],
            lambda: armour(rng.randbytes(rng.randint(1, 15000))),
        )
    )()  # fmt: skip
    given |= rng.choice(
        ({}, {}, {}, {"TYPE": "BOUNCE"}, {"NONCE": token(rng)}, {"NAMESPACE": "x"}, {"SIGNAL": "x"})
    )
    return Case("signed", json.dumps(given).encode(), allowed=EITHER | {413})


KINDS: tuple[Callable[..., Case], ...] = (
    good, wrong_type, wrong_value, missing, not_json, not_json, mutated, mutated, mutated, form, form,
    coding, coding, unsupported, size, header, header, chunked, signed,
)  # fmt: skip

"""Twists for tests/framing_cases.py: each breaks or stretches one rule of HTTP in a request that was good."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

NUL_AND_FRIENDS = [
    b"\0",
    b"\x01",
    b"\x0b",
    b"\x0c",
    b"\r",
    b"\n",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\xa0",
    b"\xff",
]
LINE_ENDS = [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b" \r\n", b"\0\r\n", b"\x0b\r\n"]
SPACES = [b"  ", b"\t", b"", b"\x0b", b" \t", b"\r", b"\xa0", b"\0"]


@dataclass
class Draft:
    """A request while it is being bent."""

    method: bytes = b"POST"
    target: bytes = b"/"
    version: bytes = b"HTTP/1.1"
    before: bytes = b""
    space: bytes = b" "
    second_space: bytes = b" "
    line_end: bytes = b"\r\n"
    head_end: bytes = b"\r\n"
    headers: list[list[bytes]] = field(default_factory=list)
    """Name, what is between, value, line's end."""
    body: bytes = b""
    after: bytes = b""
    length: bytes | None = b""
    """Of the body; empty: as it is, None: no such header."""

    def set(self, name: bytes, value: bytes) -> None:
        for header in self.headers:
            if header[0].lower() == name.lower():
                header[2] = value
                return
        self.add(name, value)

    def add(self, name: bytes, value: bytes, place: int | None = None) -> None:
        self.headers.insert(len(self.headers) if place is None else place, [name, b": ", value, b"\r\n"])

    def drop(self, name: bytes) -> None:
        self.headers = [header for header in self.headers if header[0].lower() != name.lower()]

    def bytes(self) -> bytes:
        headers = list(self.headers)
        if self.length is not None:
            headers.append([b"Content-Length", b": ", self.length or b"%d" % len(self.body), b"\r\n"])
        first = self.method + self.space + self.target + self.second_space + self.version + self.line_end
        return self.before + first + b"".join(map(b"".join, headers)) + self.head_end + self.body + self.after


def sentinel(number: int, *, last: bool) -> bytes:
    """A good request. The last one asks the server to close."""
    body = b'{"TYPE":"CONNECT","NAMESPACE":"nobody","NONCE":"sentinel-%022d","SIGNAL":"answer"}' % number
    head = (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: s%d\r\n"
        % number
    )
    return (
        head + (b"Connection: close\r\n" if last else b"") + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


# fmt: off
def method(random: Random, made: Draft) -> None:
    made.method = random.choice(
        [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"CONNECT", b"TRACE", b"PRI", b"post",
        b"Post",
         b"PO", b"POSTPOSTPOSTPOSTPOST", b"POSTPOSTPOSTPOSTPOSTP", b"PO#ST", b"PO ST", b"POST\t", b"-POST",
         b"",
         b"PO\0ST", b"P\xd6ST", b"POST:", b"\xefPOST", b"POS\xdf"]
    )


def target(random: Random, made: Draft) -> None:
    made.target = random.choice(
        [b"/?a=b", b"/?", b"//", b"/./", b"/../", b"/#x", b"/;x", b"/%2e", b"/%00", b"/%", b"/%2F", b"\\",
        b"",
         b"*", b"/health", b"/health?x", b"/nowhere", b"/ice", b"/ready/", b"localhost:80",
         b"http://localhost/",
         b"http://other.example/", b"HTTP://localhost/?q", b"http://", b"http:///", b"http://[::1/", b"://",
         b"x://",
         b"https://localhost:99999/", b"/ /", b"/\xff", b"/\x7f", b"/\0", b"/\t", b"/a b", b"/ HTTP/1.1 ",
         b"?", b"a/",
         b"/\xc3\xa9"]
    )
    if random.random() < 0.2:
        made.target = b"/?" + b"a" * random.choice([2030, 2031, 2032, 2033, 2034, 3000, 9000])


def version(random: Random, made: Draft) -> None:
    made.version = random.choice(
        [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/0.9",
        b"http/1.1",
         b"HTTP/1.10", b"HTTP/1.", b"HTTP/.1", b"HTTP/11", b"HTTP/01.1", b"HTTP/1.1x", b"HTTP/1.1 ",
         b" HTTP/1.1",
         b"HTTP/1.1\t", b"HTTP /1.1", b"", b"HTTP/1,1", b"HTTP/\xd9\xa1.1", b"HTTP/1.1 HTTP/1.1", b"XTTP/1.1"]
    )
    if made.version == b"HTTP/1.0" and random.random() < 0.5:
        made.add(b"Connection", random.choice([b"keep-alive", b"close", b"Keep-Alive", b"x"]))


def spaces(random: Random, made: Draft) -> None:
    if random.random() < 0.5:
        made.space = random.choice(SPACES)
    else:
        made.second_space = random.choice(SPACES)


def before(random: Random, made: Draft) -> None:
    made.before = random.choice(
        [
            b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\0", b"\xef\xbb\xbf", b"\r\n \r\n",
            b"0\r\n\r\n",
        ]
    )


def line_end(random: Random, made: Draft) -> None:
    end = random.choice(LINE_ENDS)
    which = random.randrange(4)
    if which == 0:
        made.line_end = end
    elif which == 1:
        made.head_end = random.choice(
            [b"\n", b"\r", b" \r\n", b"\r\r\n", b"\n\r\n", b"\0\r\n", b":\r\n", b"\r\n\r\n"]
        )
    elif which == 2:
        random.choice(made.headers)[3] = end
    else:
        made.line_end = made.head_end = b"\n"
        for header in made.headers:
            header[3] = b"\n"


def header_name(random: Random, made: Draft) -> None:
    header = random.choice(made.headers)
    bad = random.choice(
        [*NUL_AND_FRIENDS, b" ", b"\t", b":", b"_", b"(", b"/", b"@", b'"', b"\xdf", b"-", b"."]
    )
    place = random.choice([0, len(header[0]), random.randrange(len(header[0]) + 1)])
    header[0] = random.choice(
        [header[0][:place] + bad + header[0][place:], header[0].replace(b"-", b"_"), b"", header[0].upper()]
    )


def header_between(random: Random, made: Draft) -> None:
    random.choice(made.headers)[1] = random.choice(
        [
            b":", b" : ", b"\t:", b":\t", b":  \t ", b"", b" ", b"::", b":\r\n ", b":\n ", b": \0", b"=",
            b":\x0b",
        ]
    )


def header_value(random: Random, made: Draft) -> None:
    header = random.choice(made.headers)
    bad = random.choice(
        [*NUL_AND_FRIENDS, b"\t", b" ", b"  \t", b",", b";", b"\r\n\t", b"\r\n ", b"\n ", b'"']
    )
    place = random.choice([0, len(header[2]), random.randrange(len(header[2]) + 1)])
    header[2] = header[2][:place] + bad + header[2][place:]


def header_fold(random: Random, made: Draft) -> None:
    place = random.randrange(len(made.headers) + 1)
    made.headers.insert(
        place,
        [
            random.choice([b" ", b"\t", b"  x", b" X-A"]),
            random.choice([b": ", b"", b":"]),
            b"folded",
            b"\r\n",
        ],
    )


def header_twice(random: Random, made: Draft) -> None:
    name, between, value, end = random.choice(made.headers)
    value = random.choice([value, value, b"other", b""])
    made.headers.insert(
        random.randrange(len(made.headers) + 1),
        [random.choice([name, name.upper(), name.lower()]), between, value, end],
    )


def header_gone(random: Random, made: Draft) -> None:
    made.headers.remove(random.choice(made.headers))


def header_added(random: Random, made: Draft) -> None:
    name, values = random.choice([
        (b"Transfer-Encoding", [b"chunked", b"identity", b"x"]), (b"TE", [b"trailers", b"chunked"]),
        (b"Trailer", [b"X-A"]),
        (b"Expect", [b"100-continue", b"100-Continue", b"x", b"", b"100-continue, x", b"200-ok"]),
        (b"Upgrade", [b"h2c", b"websocket", b""]), (b"HTTP2-Settings", [b"AAMAAABkAARAAAAAAAIAAAAA"]),
        (b"Keep-Alive", [b"timeout=5", b"x"]), (b"Proxy-Connection", [b"close", b"keep-alive"]),
        (b"X-Forwarded-Proto", [b"https", b"http", b"ftp"]), (b"X-Forwarded-Protocol", [b"ssl", b"x"]),
        (b"X-Forwarded-Ssl", [b"on", b"off"]),
        (b"X-Forwarded-For", [b"192.0.2.1", b"x", b"", b"192.0.2.1, 192.0.2.2", b"::1", b"192.0.2.1\t",
        b"\xff"]),

        (b"Script-Name", [b"/x", b"/"]), (b"SCRIPT_NAME", [b"/x", b"", b"/"]), (b"PATH_INFO", [b"/health"]),
        (b"Path-Info", [b"/health"]),
        (b"REMOTE_USER", [b"x"]), (b"Proxy", [b"x"]), (b"Content_Length", [b"3"]), (b"X_A", [b"b"]),
        (b"X-Empty", [b""]),
        (b"X-Request-Id", [b"x" * 64, b"x" * 65, b"a b", b"", b"\xff"]), (b"Cookie", [b"a=b"]), (b"Date",
        [b"x"]),
        (b"Content-Length", [b"0", b"3", b""]), (b"Host", [b"other", b""]), (b"Origin", [b"null", b"", b"x"]),
        (b"X-Envoy-Expected-Rq-Timeout-Ms", [b"1", b"x", b"99999999999999999999", b"-1", b"1500"]),
        (b"Content-Encoding", [b"gzip", b"identity", b"br", b"", b"gzip, gzip"]), (b"Authorization",
        [b"Basic eA=="]),
        (b"Access-Control-Request-Method", [b"POST"]), (b"Range", [b"bytes=0-1"]), (b"If-None-Match", [b"*"]),
    ])
    made.add(name, random.choice(values), random.randrange(len(made.headers) + 1))


def many_headers(random: Random, made: Draft) -> None:
    own = len(made.headers) + (made.length is not None)
    for number in range(max(0, random.choice([62, 63, 64, 65, 66, 100]) - own)):
        made.add(b"X-%d" % number, b"y" * random.choice([0, 1, 100]), random.randrange(len(made.headers) + 1))


def long_header(random: Random, made: Draft) -> None:
    size = random.choice([1000, 4000, 7500, 8000, 8170, *range(8180, 8194), 9000, 20000])
    if random.random() < 0.7:
        made.add(b"X-Long", b"z" * size, random.randrange(len(made.headers) + 1))
    else:
        made.add(b"X" * size, b"z", random.randrange(len(made.headers) + 1))
    if random.random() < 0.2:
        for number in range(random.choice([2, 8, 40])):
            made.add(b"X-Long-%d" % number, b"z" * 8000)


def content_length(random: Random, made: Draft) -> None:
    n = len(made.body)
    made.length = random.choice(
        [b"%d" % max(0, n + random.choice([-20, -2, -1, 1, 2, 20, 200])), b"+%d" % n, b"-%d" % n, b"-1",
        b"%d " % n,
         b" %d" % n, b"\t%d\t" % n, b"0%d" % n, b"0000000000000000000000%d" % n, b"0x%x" % n, b"%d.0" % n,
         b"%de0" % n,
         b"%d,%d" % (n, n), b"%d, %d" % (n, n + 1), b"%d %d" % (n, n), b"%d;" % n, b"%d\0" % n,
         b"\x0b%d" % n, b"%d\x0c" % n,
         b"%d\xa0" % n, b"\xb2", b"\xb9%d" % n, b"%d\xb2" % n, b"1_0", b"\xd9\xa1", b'"%d"' % n,
         b"'%d'" % n, b"", b" ", b"0", b"00",
         b"9" * 20, b"9" * 400, b"18446744073709551616", b"65536", b"65537", b"70000", b"4294967296",
         b"NaN", b"%d\r\n " % n,
         b"%d\r" % n, b"%d\n" % n, b"\r\n %d" % n, None, None]
    )
    if made.length == b"":
        made.add(b"Content-Length", b"")
        made.length = None


def content_length_twice(random: Random, made: Draft) -> None:
    n = len(made.body)
    other = random.choice([b"%d" % n, b"%d" % n, b"0", b"%d" % (n + 1), b"%d, %d" % (n, n), b"x", b""])
    name = random.choice(
        [
            b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Content_Length", b"Content-Length ",
            b" Content-Length",
        ]
    )
    made.add(name, other, random.randrange(len(made.headers) + 1))


def chunked(random: Random, made: Draft) -> None:
    made.length = random.choice([None, None, None, None, b"", b"0", b"5"])
    value = random.choice(
        [b"chunked"] * 12
        + [b"Chunked", b"CHUNKED", b" chunked", b"chunked ", b"\tchunked\t", b"chunked\x0b", b"\x0bchunked",
        b"chunked\0",
           b"chunked, chunked", b"identity", b"identity, chunked", b"chunked, identity", b"gzip, chunked",
           b"chunked, gzip",
           b"gzip", b"xchunked", b"chunkedx", b"chunked;q=1", b"chunked,", b",chunked", b",", b"",
           b"x, chunked", b"\"chunked\"",
           b"chunk\xc3\xa9d", b"\xa0chunked", b"chunked\r\n ", b"\r\n chunked", b"c\0hunked"]
    )
    name = random.choice(
        [b"Transfer-Encoding"] * 8
        + [
            b"transfer-encoding", b"Transfer_Encoding", b"Transfer-Encoding ", b"Transfer-Encoding\t",
            b"Transfer-\xcbncoding", b"\0Transfer-Encoding",
        ]
    )
    made.add(name, value, random.randrange(len(made.headers) + 1))
    if random.random() < 0.1:
        made.add(
            b"Transfer-Encoding",
            random.choice([b"chunked", b"identity", b"gzip"]),
            random.randrange(len(made.headers) + 1),
        )
    if random.random() < 0.12:
        made.version = b"HTTP/1.0"
    made.body = chunks(random, made.body)


def chunks(random: Random, body: bytes) -> bytes:
    """The body in chunks, often with something wrong about one of them."""
    parts: list[bytes] = []
    while body:
        size = random.randint(1, len(body))
        parts.append(body[:size])
        body = body[size:]
    lines = []
    bent = random.randrange(len(parts) + 1) if parts and random.random() < 0.6 else -1
    for number, part in enumerate(parts):
        line = [b"%x" % len(part), b"\r\n", part, b"\r\n"]
        if number == bent:
            n = len(part)
            place = random.choice([0, 0, 0, 1, 3])
            line[place] = random.choice({
                0: [b"%X" % n, b"0%x" % n, b"000000000000000000000000%x" % n, b"0x%x" % n, b"+%x" % n,
                b"-%x" % n, b" %x" % n, b"%x " % n,

                    b"%x\t" % n, b"%x;" % n, b"%x;a" % n, b"%x;a=b" % n, b'%x;a="b"' % n, b'%x;a="b\r"' % n,
                    b"%x ; a = b" % n, b"%x;a=b\0" % n,
                    b"%x;a;b=c" % n, b'%x;a="\\""' % n, b"%x;=" % n, b"%x;a b" % n, b"%x,a" % n,
                    b"%x;\n" % n, b"", b"g", b"%x_0" % n, b"%d.0" % n,
                    b"%x" % (n + 1), b"%x" % max(1, n - 1), b"%x" % (n + 2), b"f" * 17, b"1" + b"0" * 16,
                    b"\xd9\xa1", b"%x;" % n + b"x" * 9000,
                    b"%x;x=" % n + b"y" * 8180],
                1: [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\n\r"],
                3: [b"\n", b"\r", b"", b"\r\n\r\n", b"xx", b"\r\r\n", b"\n\r", b"\r\0"],
            }[place])
        lines.append(b"".join(line))
    end = b"0\r\n\r\n"
    if random.random() < 0.4:
        forbidden = random.choice([b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: x",
        b"TE: x", b"Trailer: x"])
        end = random.choice([
            b"0\r\nX-A: b\r\n\r\n", b"0\r\nX-A: b\r\nX-B: c\r\n\r\n",
            *[b"0\r\n" + forbidden + b"\r\n\r\n"] * 4, b"0\r\nX-A\r\n\r\n", b"0\r\n: b\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nX-A: b\n\r\n", b"0\n\n", b"0\r\n\n", b"0\n\r\n",
            b"00\r\n\r\n", b"0;a=b\r\n\r\n", b"0 \r\n\r\n", b"0\r\n", b"0", b"", b"0\r\n\r",
            b"0\r\nX-A: \0\r\n\r\n", b"0\r\nX_A: b\r\n\r\n", b"-0\r\n\r\n",
            b"0\r\nExpect: x\r\n\r\n", b"0\r\nX-Forwarded-Proto: https\r\n\r\n",
            b"0\r\nX-A: " + b"b" * 8190 + b"\r\n\r\n",
            b"0\r\n" + b"X-A: b\r\n" * 70 + b"\r\n", b"0x0\r\n\r\n", b"0\r\n\r\n\r\n",
        ])
    return b"".join(lines) + end


def connection(random: Random, made: Draft) -> None:
    made.add(
        b"Connection",
        random.choice([b"close", b"keep-alive", b"Close", b"KEEP-ALIVE", b"close, keep-alive",
        b"keep-alive, close", b"upgrade", b"x", b"", b" close ", b"close,", b"close\t", b"closed",
        b"te, close", b"\x0bclose"]),
        random.randrange(len(made.headers) + 1),
    )
    if random.random() < 0.2:
        made.add(
            b"Connection", random.choice([b"close", b"keep-alive"]), random.randrange(len(made.headers) + 1)
        )


def host(random: Random, made: Draft) -> None:
    if random.random() < 0.2:
        made.drop(b"Host")
    else:
        made.set(
            b"Host",
            random.choice(
                [
                    b"", b" ", b"a b", b"a,b", b"a/b", b"a@b", b"[::1]", b"[::1", b"a:x", b"a:99999",
                    b"\xff", b"a\0", b"a?b", b"a#b", b"*", b'"a"', b"A.EXAMPLE:80",
                ]
            ),
        )


def upgrade(random: Random, made: Draft) -> None:
    made.add(b"Upgrade", random.choice([b"h2c", b"websocket", b"h2c, websocket"]))
    made.add(b"Connection", random.choice([b"Upgrade", b"Upgrade, HTTP2-Settings", b"keep-alive, Upgrade"]))
    if random.random() < 0.6:
        made.add(b"HTTP2-Settings", random.choice([b"AAMAAABkAARAAAAAAAIAAAAA", b"", b"!"]))


def schemes(random: Random, made: Draft) -> None:
    """Headers of a proxy that may contradict each other."""
    names = [(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Protocol", b"ssl"), (b"X-Forwarded-Ssl", b"on")]
    for name, value in random.sample(names, random.choice([2, 2, 3])):
        place = random.randrange(len(made.headers) + 1)
        made.add(name, random.choice([value, value, b"http", b"off"]), place)


def preface(random: Random, made: Draft) -> None:
    made.before = random.choice(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", b"\x16\x03\x01\x02\0\x01\0",
        ]
    )


def content_type(random: Random, made: Draft) -> None:
    made.set(
        b"Content-Type",
        random.choice([b"application/json; charset=utf-8", b"application/json;charset=latin1",
        b"APPLICATION/JSON", b"application/json;", b"application/json ; x", b"text/plain",
        b"application/xml", b"multipart/form-data; boundary=x", b"multipart/form-data", b"",
        b"application/json, text/plain", b"application/jsonx", b"text/plain; charset=\"utf-8\"",
        b"text/plain;charset=utf-8;charset=x", b"\xff", b"application/x-www-form-urlencoded; charset=UTF8"]),
    )


def gzipped(random: Random, made: Draft) -> None:
    made.add(
        b"Content-Encoding",
        random.choice(
            [
                b"gzip", b"gzip", b"gzip", b"x-gzip", b"GZIP", b" gzip ", b"identity", b"gzip, identity",
                b"deflate", b"gzip\t",
            ]
        ),
    )
    packed = gzip.compress(made.body, mtime=0)
    made.body = random.choice([
        packed, packed, packed[:-1], packed[:-9], packed + b"x", packed + packed, made.body, b"", packed[:10],
        gzip.compress(made.body + b" " * 65536, mtime=0),
        gzip.compress(made.body + b" " * (65536 - len(made.body)), mtime=0),
        packed + gzip.compress(b"  ", mtime=0), packed + b"\0" * 8,
    ])


def body(random: Random, made: Draft) -> None:
    size = random.choice([65535, 65536, 65537, 70000, 200000, 8192, 16384])
    made.body = random.choice([
        b"", b"{", b"[]", b"null", b"\xff", b"\xef\xbb\xbf" + made.body, made.body + b"\0",
        made.body + b"\n", b" " + made.body,
        made.body[:-1], made.body + b"x", made.body.replace(b"LEAVE", b"LEAV\xc3\x8b"), b"{" * 3000, b"x",
        b"TYPE=LEAVE", b"\r\n",
        made.body.ljust(size), made.body.ljust(size), made.body + b"&x=" + b"y" * size,
    ])


def smuggled(random: Random, made: Draft) -> None:
    """Another request within the body, or behind it."""
    inner = sentinel(900 + random.randrange(9), last=False)
    if random.random() < 0.6:
        made.body += random.choice([b"", b"\r\n", b"0\r\n\r\n", b"\n"]) + inner
    else:
        made.after = random.choice([b"", b"\r\n", b"\n", b"\r\n\r\n", b"x", b"0\r\n\r\n"]) + inner


def after(random: Random, made: Draft) -> None:
    made.after = random.choice(
        [b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b" ", b"x", b"\0", b"\r", b"0\r\n\r\n", b"}"]
    )


TWISTS: list[tuple[int, Callable[[Random, Draft], None]]] = [
    (4, method), (4, target), (4, version), (3, spaces), (4, before), (5, line_end), (5, header_name), (4,
    header_between),
    (5, header_value), (4, header_fold), (6, header_twice), (4, header_gone), (8, header_added), (2,
    many_headers), (2, long_header),
    (9, content_length), (4, content_length_twice), (10, chunked), (6, connection), (3, host), (2, upgrade),
    (1, preface), (2, schemes),
    (3, content_type), (4, gzipped), (3, body), (4, smuggled), (4, after),
]
# fmt: on

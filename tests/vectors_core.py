"""What a vector is, and what all makers of vectors share."""

from __future__ import annotations

import json
from dataclasses import dataclass

from crafted import armour

TEXT = b'{"TYPE":"CONNECT","NAMESPACE":"chess","SIGNAL":"v=0","TIME":1}'
DAY = 86400

TEXTS = [
    b"",
    b"chess",
    b" chess \t ",
    "名前 ☕".encode(),
    b"x" * 256,
    b"- dashed",
    b"-----BEGIN PGP MESSAGE-----",
    b"NUL \0 inside",
    b"\xff\xfe not UTF-8",
    b"[GNUPG:] VALIDSIG",
    b"a\nb\n",
    json.dumps({"TYPE": "CONNECT", "SIGNAL": "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n" * 30}).encode(),
    b"y" * 40000,
]

SOME_TEXTS = [b"", b"chess", "名前 ☕".encode(), TEXTS[-2]]
"""For the programs, which take their time. None of them is refused by one."""


@dataclass(frozen=True)
class Vector:
    """A message and the key it comes with.

    Attributes:
        text: what must be read from it; None if it must be refused.
        signer: the primary fingerprint that must be told.
        is_flip: it may be refused, but nothing else may be read from it.
        is_new: it came with RFC 9580. gpg is not asked about what Sequoia takes of that.
    """

    name: str
    message: str
    key: str
    text: bytes | None
    signer: str | None = None
    is_flip: bool = False
    is_new: bool = False


def key_armour(data: bytes) -> str:
    return armour(data, "PUBLIC KEY BLOCK")

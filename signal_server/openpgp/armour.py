"""OpenPGP's armour: one block of base64 between two lines (RFC 9580, 6.2)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from ..errors import Untrusted

MESSAGE: Final = "MESSAGE"
PUBLIC_KEY_BLOCK: Final = "PUBLIC KEY BLOCK"
PRIVATE_KEY_BLOCK: Final = "PRIVATE KEY BLOCK"

_BLOCK: Final = re.compile(
    r"(?:[ \t]*\r?\n)*"
    r"-----BEGIN PGP (?P<kind>MESSAGE|PUBLIC KEY BLOCK|PRIVATE KEY BLOCK)-----[ \t]*\r?\n"
    r"(?:[!-9;-~]+: [^\r\n]*\r?\n)*"
    r"[ \t]*\r?\n"
    r"(?P<body>(?:[A-Za-z0-9+/]+={0,2}[ \t]*\r?\n)+)"
    r"(?:=[A-Za-z0-9+/]{4}[ \t]*\r?\n)?"
    r"-----END PGP (?P=kind)-----\s*"
)

_PLAIN: Final = {
    kind: (
        f"-----BEGIN PGP {kind}-----\n\n",
        re.compile(rf"(?:\n=[A-Za-z0-9+/]{{4}})?\n-----END PGP {kind}-----\n?\Z"),
    )
    for kind in (MESSAGE, PUBLIC_KEY_BLOCK, PRIVATE_KEY_BLOCK)
}
"""How a block without headers begins and ends as most programs write it. `_BLOCK` takes it, too, but looks at
each character, and that takes longer than all the rest of the armour."""

_CRC_START: Final = 0xB704CE
_CRC_POLYNOMIAL: Final = 0x1864CFB


def dearmour(text: str, kind: str) -> bytes:
    """The bytes of exactly one armoured block, with nothing around it but white space.

    The checksum is not looked at (RFC 9580, 6.1: it "MUST NOT" be relied on): the signature is the check.

    Args:
        text: as it came.
        kind: `MESSAGE`, `PUBLIC_KEY_BLOCK` or `PRIVATE_KEY_BLOCK`.

    Raises:
        Untrusted: it is anything else: clearsigned, detached, two of them, of another kind, no armour at all.
    """
    data = _dearmour_plain(text, kind)
    if data is not None:
        return data
    match = _BLOCK.fullmatch(text)
    if match is None or match["kind"] != kind:
        raise Untrusted("armour")
    try:
        return binascii.a2b_base64("".join(match["body"].split()), strict_mode=True)
    except binascii.Error:
        raise Untrusted("base64") from None


def _dearmour_plain(text: str, kind: str) -> bytes | None:
    """The same of a block as most programs write it; None: it is of another form, or none at all."""
    begin, end = _PLAIN[kind]
    match = end.search(text, max(0, len(text) - 48))
    if match is None or not text.startswith(begin):
        return None
    lines = text[len(begin) : match.start()].split("\n")
    if "" in lines or lines[-1][0] == "=":
        return None
    try:
        return binascii.a2b_base64("".join(lines), strict_mode=True)
    except ValueError:
        return None


def armour(data: bytes, kind: str) -> str:
    """One block, with its checksum: without it, gpg 2.2 misreads every third length."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    checksum = "=" + base64.b64encode(_crc24(data)).decode("ascii")
    return "\n".join([f"-----BEGIN PGP {kind}-----", "", *lines, checksum, f"-----END PGP {kind}-----", ""])


def _crc24(data: bytes) -> bytes:
    crc = _CRC_START
    for byte in data:
        crc = (crc << 8 ^ _CRC_TABLE[crc >> 16 ^ byte]) & 0xFFFFFF
    return crc.to_bytes(3, "big")


def _crc_of_byte(byte: int) -> int:
    crc = byte << 16
    for _ in range(8):
        crc <<= 1
        crc ^= _CRC_POLYNOMIAL if crc & 0x1000000 else 0
    return crc


_CRC_TABLE: Final = [_crc_of_byte(byte) for byte in range(256)]

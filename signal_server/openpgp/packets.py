"""OpenPGP's packets, read strictly. `key_packet` and `signature_packet` read what stands in two of them.

What we accept is a small part of RFC 9580, and anything else is refused here, before an engine sees it. The
engines then get what we read, written anew in one plain form: two programs that would read the same odd bytes
in two ways never get them. No cryptography happens in these files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ..errors import Untrusted

SIGNATURE: Final = 2
ONE_PASS: Final = 4
PUBLIC_KEY: Final = 6
COMPRESSED: Final = 8
LITERAL: Final = 11
USER_ID: Final = 13
PUBLIC_SUBKEY: Final = 14
USER_ATTRIBUTE: Final = 17


class Packet(NamedTuple):
    tag: int
    body: bytes

    def __bytes__(self) -> bytes:
        """In the one form that we hand on: the new format, with its whole length in five bytes."""
        return bytes((0xC0 | self.tag, 0xFF)) + len(self.body).to_bytes(4, "big") + self.body


class Reader:
    """Takes bytes from the front.

    Raises, everywhere:
        Untrusted: there are fewer.
    """

    __slots__ = ("_data", "_place")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __bool__(self) -> bool:
        return self._place < len(self._data)

    def take(self, count: int) -> bytes:
        start = self._place
        end = start + count
        if end > len(self._data):
            raise Untrusted("truncated")
        self._place = end
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def byte(self) -> int:
        """The next byte: a reader does little else."""
        place = self._place
        if place >= len(self._data):
            raise Untrusted("truncated")
        self._place = place + 1
        return self._data[place]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._place)

    def mpi(self) -> bytes:
        """A multiprecision integer (RFC 9580, 3.2), without leading zeros, with its true length."""
        value = int.from_bytes(self.take((self.number(2) + 7) // 8), "big")
        bits = value.bit_length()
        return bits.to_bytes(2, "big") + value.to_bytes((bits + 7) // 8, "big")


def read_packets(data: bytes) -> Iterator[Packet]:
    """All packets of `data`, one after the other."""
    reader = Reader(data)
    while reader:
        header = reader.byte()
        if header & 0xC0 == 0xC0:
            yield Packet(header & 0x3F, _new_body(reader))
        elif header & 0x80:
            yield Packet(header >> 2 & 0x0F, _old_body(reader, header & 3))
        else:
            raise Untrusted("packet")


def _new_body(reader: Reader) -> bytes:
    pieces = []
    while True:
        first = reader.byte()
        if 224 <= first < 255:  # one piece of several
            pieces.append(reader.take(1 << (first & 0x1F)))
            continue
        pieces.append(reader.take(length_of(reader, first)))
        return b"".join(pieces)


def _old_body(reader: Reader, length_type: int) -> bytes:
    if length_type == 3:  # to the end
        return reader.rest()
    return reader.take(reader.number(1 << length_type))


def length_of(reader: Reader, first: int) -> int:
    """A length whose first byte was read."""
    if first < 192:
        return first
    if first < 255:
        return (first - 192 << 8) + reader.byte() + 192
    return reader.number(4)

"""One signed message in kbpgp's form: attached, one text, one signature."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from ..errors import Untrusted
from .armour import MESSAGE, dearmour
from .key_packet import Key
from .packets import COMPRESSED, LITERAL, ONE_PASS, SIGNATURE, Packet, Reader, read_packets
from .signature_packet import HASHES, Signature, read_signature

MAX_BYTES: Final = 96 * 1024
"""Of a message, in armour and unpacked."""

BINARY: Final = 0
TEXT: Final = 1

WINDOW_BITS: Final = {1: -15, 2: 15}
"""zlib's name for OpenPGP's ZIP and ZLIB."""


@dataclass(frozen=True, slots=True)
class Message:
    """A text and what claims to be its signature. Nothing is verified yet."""

    text: bytes
    signature: Signature

    def plain(self, key: Key) -> bytes:
        """The same message without armour, compression, or anything that is not signed."""
        name = key.fingerprint if key.version == 6 else key.id
        literal = b"b\0" + bytes(4) + self.text
        packets = (
            Packet(ONE_PASS, _announced(self.signature) + bytes.fromhex(name) + b"\1"),
            Packet(LITERAL, literal),
        )
        return b"".join(map(bytes, packets)) + self.detached(key)

    def detached(self, key: Key) -> bytes:
        """The signature by itself."""
        return bytes(Packet(SIGNATURE, self.signature.plain(key)))


def read_message(armoured: str) -> Message:
    """Read a message of exactly the form that the protocol asks for.

    Raises:
        Untrusted: it is of another: clearsigned, detached, glued, encrypted, doubly signed, unsigned.
    """
    if len(armoured) > MAX_BYTES:
        raise Untrusted("message size")
    packets = list(read_packets(dearmour(armoured, MESSAGE)))
    if len(packets) == 1 and packets[0].tag == COMPRESSED:
        packets = list(read_packets(_unpacked(packets[0].body)))
    tags = [each.tag for each in packets]
    if tags != [ONE_PASS, LITERAL, SIGNATURE]:
        raise Untrusted("several signatures" if tags.count(SIGNATURE) > 1 else "message form")
    one_pass, literal, signature = packets
    text = _text(literal.body)
    read = _signature(signature.body)
    _check_one_pass(one_pass.body, read)
    # The two kinds hash line ends differently, and programs differ in how.
    if b"\r" in text or (read.kind == TEXT and b"\n" in text):
        raise Untrusted("line ends")
    if not read.fits(text):
        raise Untrusted("digest")
    return Message(text, read)


def _unpacked(body: bytes) -> bytes:
    window_bits = WINDOW_BITS.get(body[0] if body else 0)
    if window_bits is None:
        raise Untrusted("compression")
    unpacker = zlib.decompressobj(window_bits)
    try:
        data = unpacker.decompress(body[1:], MAX_BYTES)
    except zlib.error:
        raise Untrusted("compression") from None
    if not unpacker.eof or unpacker.unused_data:
        raise Untrusted("compression")
    return data


def _text(body: bytes) -> bytes:
    reader = Reader(body)
    if reader.take(1) not in (b"b", b"t", b"u"):
        raise Untrusted("text form")
    reader.take(reader.byte())  # a file's name
    reader.take(4)  # its time
    return reader.rest()


def _signature(body: bytes) -> Signature:
    read = read_signature(body)
    if read.kind not in (BINARY, TEXT):
        raise Untrusted("signature kind")
    if read.hash not in HASHES:
        raise Untrusted("hash")
    read.check(read.algorithm)
    return read._replace(backsigs=()) if read.backsigs else read


def _announced(signature: Signature) -> bytes:
    """How a one-pass signature packet begins (RFC 9580, 5.4): then come the signer and one more byte."""
    said = bytes((signature.kind, signature.hash, signature.algorithm))
    if signature.version == 6:
        return b"\6" + said + bytes((len(signature.salt),)) + signature.salt
    return b"\3" + said


def _check_one_pass(body: bytes, signature: Signature) -> None:
    """Raise what does not say the same before the text as the signature behind it.

    Its last byte tells whether another one follows. PGPy always says so; that none does, we see.
    """
    said = _announced(signature)
    reader = Reader(body)
    if reader.take(len(said)) != said:
        raise Untrusted("one-pass signature")
    issuer = reader.take(32 if signature.version == 6 else 8).hex().upper()
    if reader.rest() not in (b"\0", b"\1") or not any(each.endswith(issuer) for each in signature.issuers):
        raise Untrusted("one-pass signature")

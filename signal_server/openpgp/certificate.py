"""One public key with its names and subkeys, cut down to what one signature needs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..errors import Untrusted
from .packets import (
    EMBEDDED,
    EXPIRES,
    KEY_EXPIRES,
    KEY_FLAGS,
    PUBLIC_KEY,
    PUBLIC_SUBKEY,
    SIGNATURE,
    USER_ATTRIBUTE,
    USER_ID,
    Key,
    Packet,
    Signature,
    Subpacket,
    algorithm_of,
    armour,
    dearmour,
    read_key,
    read_packets,
    read_signature,
)

MAX_ARMOURED: Final = 16 * 1024
"""Of a `PUBLIC_KEY`, in characters."""

KEPT: Final = 256
"""Keys that were read, for when they come again: it takes longer than to verify with one."""

MAX_SIGNATURES: Final = 32
"""Of its own, in a key that is used: an engine checks every one of them."""

CERTIFICATIONS: Final = range(0x10, 0x14)
SUBKEY_BINDING: Final = 0x18
BACKSIG: Final = 0x19
DIRECT: Final = 0x1F
KEY_REVOCATION: Final = 0x20
SUBKEY_REVOCATION: Final = 0x28
NAME_REVOCATION: Final = 0x30
REVOCATIONS: Final = (KEY_REVOCATION, SUBKEY_REVOCATION, NAME_REVOCATION)

MAY_SIGN: Final = 0x02


@dataclass(frozen=True, slots=True)
class Component:
    """A packet (the primary key, a name, a subkey) and the primary key's own signatures of it."""

    packet: Packet
    signatures: tuple[Signature, ...]

    def of_kind(self, *kinds: int) -> list[Signature]:
        return [each for each in self.signatures if each.kind in kinds]

    def plain(self, primary: Key) -> bytes:
        packets = [self.packet, *(Packet(SIGNATURE, each.plain(primary)) for each in self.signatures)]
        return b"".join(map(bytes, packets))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A public key as we understand it. Its signatures are not verified yet; an engine does that.

    What other people certified is left out, and so is what was signed with a broken hash. Where one of the
    key's own statements forbids (it has expired, was revoked, may not sign), it does not help that an earlier
    one allows: we know of no order that all programs agree on.
    """

    primary: Key
    components: tuple[Component, ...]

    @property
    def fingerprint(self) -> str:
        return self.primary.fingerprint

    @property
    def name(self) -> str:
        """Its first name, for a person to read; nothing depends on it."""
        names = [each.packet.body for each in self.components if each.packet.tag == USER_ID]
        text = names[0].decode("utf-8", "replace") if names else ""
        return "".join(each if each.isprintable() else "?" for each in text)

    @property
    def keys(self) -> list[Key]:
        """The primary key and its subkeys."""
        heads = [each.packet for each in self.components if each.packet.tag in (PUBLIC_KEY, PUBLIC_SUBKEY)]
        return [read_key(head) for head in heads]

    def armoured(self) -> str:
        return armour(self.whole, "PUBLIC KEY BLOCK")

    @property
    def whole(self) -> bytes:
        """The key with all its subkeys."""
        return b"".join(each.plain(self.primary) for each in self.components)

    def signer_of(self, signature: Signature) -> Key:
        """The key that made a signature, if it was allowed to when it did.

        Raises:
            Untrusted: there is none.
        """
        for key in self.keys:
            if signature.is_by(key):
                if algorithm_of(key) != signature.algorithm or signature.created < key.created:
                    raise Untrusted("signer")
                return key
        raise Untrusted("not by this key")

    def check(self, signer: Key, *, now: float) -> None:
        """Do the key and its signing key allow a signature now (seconds since 1970)?

        Raises:
            Untrusted: one of them was revoked, has expired, or is not for signing.
        """
        own = self.components[0]
        names = [each for each in self.components if each.packet.tag == USER_ID]
        statements = own.of_kind(DIRECT) + [each for name in names for each in name.of_kind(*CERTIFICATIONS)]
        if not names:
            raise Untrusted("key without a name")
        _check_statements(self.primary, statements, now)
        if signer != self.primary:
            (component,) = (each for each in self.components if each.packet == signer.packet)
            bindings = component.of_kind(SUBKEY_BINDING)
            if component.of_kind(SUBKEY_REVOCATION):
                raise Untrusted("signing key revoked")
            if not bindings:
                raise Untrusted("signing key not bound")
            _check_statements(signer, bindings, now)
            statements = bindings
        if own.of_kind(KEY_REVOCATION):
            raise Untrusted("key revoked")
        flags = [value for each in statements for value in each.values_of(KEY_FLAGS)]
        if not flags or not all(each and each[0] & MAY_SIGN for each in flags):
            raise Untrusted("key not for signing")

    def plain(self, signer: Key) -> bytes:
        """The key with its names and the one subkey that is needed: nothing else reaches an engine."""
        kept = [
            each
            for each in self.components
            if each.packet.tag != PUBLIC_SUBKEY or each.packet == signer.packet
        ]
        if sum(len(each.signatures) for each in kept) > MAX_SIGNATURES:
            raise Untrusted("key with too many signatures")
        return b"".join(each.plain(self.primary) for each in kept)


def _check_statements(key: Key, statements: Iterable[Signature], now: float) -> None:
    for each in statements:
        for kind, since in ((KEY_EXPIRES, key.created), (EXPIRES, each.created)):
            for value in each.values_of(kind):
                seconds = int.from_bytes(value, "big")
                if seconds and since + seconds <= now:
                    raise Untrusted("key expired")


@functools.lru_cache(maxsize=KEPT)
def read_public_key(armoured: str) -> Certificate:
    """Read a `PUBLIC_KEY`: one primary key in armour, and no secret. A client sends its own again and again.

    Raises:
        Untrusted: it is anything else.
    """
    if len(armoured) > MAX_ARMOURED:
        raise Untrusted("key size")
    return read_certificate(dearmour(armoured, "PUBLIC KEY BLOCK"))


def read_certificate(data: bytes) -> Certificate:
    """Read one public key without armour.

    Raises:
        Untrusted: it holds two, or a secret, or what belongs in no public key. Trust packets are of that
            kind: gpg believes them and skips the signatures that they speak of.
    """
    packets = list(read_packets(data))
    allowed = (SIGNATURE, USER_ID, PUBLIC_SUBKEY, USER_ATTRIBUTE)
    if not packets or packets[0].tag != PUBLIC_KEY or any(each.tag not in allowed for each in packets[1:]):
        raise Untrusted("key form")
    primary = read_key(packets[0])
    algorithm_of(primary)
    return Certificate(primary, tuple(_components(primary, packets)))


def split_certificates(data: bytes) -> list[bytes]:
    """The public keys that stand one after the other, each by itself."""
    certificates: list[bytes] = []
    for packet in read_packets(data):
        if packet.tag == PUBLIC_KEY or not certificates:
            certificates.append(b"")
        certificates[-1] += bytes(packet)
    return certificates


def _components(primary: Key, packets: list[Packet]) -> Iterator[Component]:
    """The packets with the signatures behind each, cut down to what `primary` says itself."""
    starts = [place for place, packet in enumerate(packets) if packet.tag != SIGNATURE]
    for start, end in zip(starts, [*starts[1:], len(packets)], strict=True):
        head = packets[start]
        if head.tag == USER_ATTRIBUTE:
            continue
        if head.tag == PUBLIC_SUBKEY and packets[start].body[:1] != b"\x04":
            continue
        signatures = _own(primary, head, packets[start + 1 : end])
        component = Component(head, tuple(_with_backsig(primary, head, each) for each in signatures))
        if head.tag != USER_ID or _is_name(component):
            yield component


def _own(primary: Key, head: Packet, packets: list[Packet]) -> Iterator[Signature]:
    """What the primary key itself says of `head`, as far as it counts."""
    for packet in packets:
        if packet.body[:1] == b"\x03" and int.from_bytes(packet.body[2:3], "big") not in REVOCATIONS:
            continue  # of other people, from last century
        read = read_signature(packet.body)
        names = (primary.id, primary.fingerprint)
        if read.issuers and read.issuers.isdisjoint(names):
            continue
        is_sound = read.is_by(primary) and read.is_strong and read.fits(_signed(primary, head))
        if is_sound:
            read.check(algorithm_of(primary))
            yield read
        elif read.kind in REVOCATIONS:
            # It counts in the form in which it stands, or the key does not.
            raise Untrusted("odd revocation")


def _signed(primary: Key, head: Packet) -> bytes:
    """What the primary key's signatures of `head` are made over (RFC 9580, 5.2.4)."""
    if head.tag == USER_ID:
        return primary.hashed + b"\xb4" + len(head.body).to_bytes(4, "big") + head.body
    if head.tag == PUBLIC_SUBKEY:
        return primary.hashed + read_key(head).hashed
    return primary.hashed


def _with_backsig(primary: Key, head: Packet, binding: Signature) -> Signature:
    """A binding with the subkey's consent, if that is not signed itself, in its plain form or not at all."""
    if not binding.backsigs:
        return binding
    subkey = read_key(head) if head.tag == PUBLIC_SUBKEY else primary
    back = read_signature(binding.backsigs[0].value)
    if len(binding.backsigs) > 1 or back.kind != BACKSIG or not back.is_by(subkey) or not back.is_strong:
        return replace(binding, backsigs=())
    back.check(algorithm_of(subkey))
    if not back.fits(_signed(primary, head)):
        return replace(binding, backsigs=())
    return replace(binding, backsigs=(Subpacket(EMBEDDED, back.plain(subkey)),))


def _is_name(component: Component) -> bool:
    return bool(component.of_kind(*CERTIFICATIONS)) and not component.of_kind(NAME_REVOCATION)

"""Reads public keys: what in them is the key's own and holds together, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ..errors import Untrusted
from .armour import PUBLIC_KEY_BLOCK, dearmour
from .certificate import (
    CERTIFICATIONS,
    KEY_REVOCATION,
    SUBKEY_REVOCATION,
    Certificate,
    Component,
    is_consent,
    signed_over,
)
from .key_packet import Key, Scheme, read_key, scheme_of
from .packets import PUBLIC_KEY, PUBLIC_SUBKEY, SIGNATURE, USER_ATTRIBUTE, USER_ID, Packet, read_packets
from .signature_packet import EMBEDDED, Signature, Subpacket, read_signature

MAX_ARMOURED: Final = 16 * 1024
"""Of a `PUBLIC_KEY`, in characters."""

KEPT: Final = 256
"""Keys that were read, for when they come again: it takes longer than to verify with one."""

NAME_REVOCATION: Final = 0x30
ON_NAMES: Final = (*CERTIFICATIONS, 0x16, NAME_REVOCATION)
"""Signatures that stand behind a name, and others do not. 0x16: whose certifications are welcome."""

REVOCATIONS: Final = (KEY_REVOCATION, SUBKEY_REVOCATION, NAME_REVOCATION)


@functools.lru_cache(maxsize=KEPT)
def read_public_key(armoured: str) -> Certificate:
    """Read a `PUBLIC_KEY`: one primary key in armour, and no secret. A client sends its own again and again.

    Raises:
        Untrusted: it is anything else.
    """
    if len(armoured) > MAX_ARMOURED:
        raise Untrusted("key size")
    return read_certificate(dearmour(armoured, PUBLIC_KEY_BLOCK))


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
    scheme = scheme_of(primary)
    found = [
        _component(primary, scheme, head, behind)
        for head, behind in _grouped(packets)
        if _is_known(primary, head)
    ]
    components = [each for each, _ in found if each.packet.tag != USER_ID or _is_name(each)]
    return Certificate(primary, tuple(components), has_weak=any(weak for _, weak in found))


def split_certificates(data: bytes) -> list[bytes]:
    """The public keys that stand one after the other, each by itself."""
    certificates: list[bytes] = []
    for packet in read_packets(data):
        if packet.tag == PUBLIC_KEY or not certificates:
            certificates.append(b"")
        certificates[-1] += bytes(packet)
    return certificates


def _grouped(packets: list[Packet]) -> Iterator[tuple[Packet, list[Packet]]]:
    """Each packet that is no signature, with the signatures behind it."""
    starts = [place for place, packet in enumerate(packets) if packet.tag != SIGNATURE]
    for start, end in zip(starts, [*starts[1:], len(packets)], strict=True):
        yield packets[start], packets[start + 1 : end]


def _is_known(primary: Key, head: Packet) -> bool:
    """Is it something that may count? A subkey is of its primary key's version (RFC 9580, 10.1)."""
    if head.tag == PUBLIC_SUBKEY:
        return head.body[:1] == primary.packet.body[:1]
    return head.tag != USER_ATTRIBUTE


def _component(primary: Key, scheme: Scheme, head: Packet, packets: list[Packet]) -> tuple[Component, bool]:
    """A packet and what the primary key itself says of it, as far as it counts; and whether some does not,
    because of its hash."""
    key = None if head.tag == USER_ID else read_key(head)
    kept, has_weak = [], False
    for packet in packets:
        if packet.body[:1] == b"\x03" and int.from_bytes(packet.body[2:3], "big") not in REVOCATIONS:
            continue  # of other people, from last century
        read = read_signature(packet.body)
        if read.issuers and read.issuers.isdisjoint((primary.id, primary.fingerprint)):
            continue
        if read.is_by(primary) and read.is_strong(scheme) and read.fits(signed_over(primary, head)):
            read.check(scheme.algorithm)
            if (head.tag == USER_ID) != (read.kind in ON_NAMES):
                raise Untrusted("signature out of place")  # kbpgp, which peers have, would end its process
            kept.append(_with_backsig(primary, head, key, read))
        elif read.kind in REVOCATIONS:
            # It counts in the form in which it stands, or the key does not.
            raise Untrusted("odd revocation")
        else:
            has_weak = has_weak or not read.is_strong(scheme)
    return Component(head, tuple(kept), key), has_weak


def _with_backsig(primary: Key, head: Packet, subkey: Key | None, binding: Signature) -> Signature:
    """A binding with the subkey's consent, if that is not signed itself, in its plain form or not at all."""
    if not binding.backsigs:
        return binding
    kept: tuple[Subpacket, ...] = ()
    # Of a subkey that is for something else, or of a kind that we do not know, it does not matter.
    with suppress(Untrusted):
        back = read_signature(binding.backsigs[0].value)
        if subkey is not None and len(binding.backsigs) == 1 and is_consent(primary, head, subkey, back):
            kept = (Subpacket(EMBEDDED, back.plain(subkey)),)
    return binding._replace(backsigs=kept)


def _is_name(component: Component) -> bool:
    return bool(component.of_kind(*CERTIFICATIONS)) and not component.of_kind(NAME_REVOCATION)

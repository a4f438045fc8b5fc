"""One public key with its names and subkeys, cut down to what one signature needs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final, NamedTuple

from ..errors import Untrusted
from .armour import PUBLIC_KEY_BLOCK, armour, dearmour
from .packets import (
    EMBEDDED,
    END_OF_TIME,
    EXPIRES,
    KEY_EXPIRES,
    KEY_FLAGS,
    PRIMARY_NAME,
    PUBLIC_KEY,
    PUBLIC_SUBKEY,
    SIGNATURE,
    SUBKEY_BINDING,
    USER_ATTRIBUTE,
    USER_ID,
    Key,
    Packet,
    Signature,
    Subpacket,
    read_key,
    read_packets,
    read_signature,
    scheme_of,
)

MAX_ARMOURED: Final = 16 * 1024
"""Of a `PUBLIC_KEY`, in characters."""

KEPT: Final = 256
"""Keys that were read, for when they come again: it takes longer than to verify with one."""

CLOCK_SECONDS: Final = 60
"""How far a signer's clock may be ahead of ours."""

CERTIFICATIONS: Final = range(0x10, 0x14)
BACKSIG: Final = 0x19
DIRECT: Final = 0x1F
KEY_REVOCATION: Final = 0x20
SUBKEY_REVOCATION: Final = 0x28
NAME_REVOCATION: Final = 0x30
ON_NAMES: Final = (*CERTIFICATIONS, 0x16, NAME_REVOCATION)
"""Signatures that stand behind a name, and others do not. 0x16: whose certifications are welcome."""

REVOCATIONS: Final = (KEY_REVOCATION, SUBKEY_REVOCATION, NAME_REVOCATION)

MAY_SIGN: Final = 0x02


@dataclass(frozen=True, slots=True)
class Component:
    """A packet (the primary key, a name, a subkey) and the primary key's own signatures of it.

    Attributes:
        key: what the packet holds, if it is a key.
    """

    packet: Packet
    signatures: tuple[Signature, ...] = ()
    key: Key | None = None

    def of_kind(self, *kinds: int) -> list[Signature]:
        return [each for each in self.signatures if each.kind in kinds]

    def newest(self, *kinds: int, until: float = END_OF_TIME) -> list[Signature]:
        """The newest signature of these kinds, of those made until a time; all, if several share a second."""
        found = [each for each in self.of_kind(*kinds) if each.created <= until]
        last = max((each.created for each in found), default=0)
        return [each for each in found if each.created == last]

    def plain(self, primary: Key) -> bytes:
        packets = [self.packet, *(Packet(SIGNATURE, each.plain(primary)) for each in self.signatures)]
        return b"".join(map(bytes, packets))


class Cut(NamedTuple):
    """What an engine needs of a certificate, for signatures from `since` on, until a statement ends."""

    plain: bytes
    since: int
    until: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """A public key as we understand it. Its signatures are not verified yet; an engine does that.

    What other people certified is left out, and so is what was signed with a broken hash. Of what the key
    says of one name or one subkey the newest counts, as for all programs. A revocation stays for good.
    But every name is heard, and the key itself: where one forbids (it has expired, it may not sign), it does
    not help that another allows, because programs differ in which of them they ask.

    Attributes:
        components: the primary key, and its names and subkeys.
        has_weak: a signature of its own was left out for its hash.
        cuts: what was cut down before, by the signer's fingerprint: most keys come again unchanged.
    """

    primary: Key
    components: tuple[Component, ...]
    has_weak: bool = False
    cuts: dict[str, Cut] = field(default_factory=dict, compare=False, repr=False)

    @property
    def fingerprint(self) -> str:
        return self.primary.fingerprint

    @property
    def name(self) -> str:
        """The name for a person to read: the one marked as the first, or the newest."""

        def rank(name: Component) -> tuple[bool, int, bytes]:
            statement = name.newest(*CERTIFICATIONS)[0]
            return not any(statement.values_of(PRIMARY_NAME)), -statement.created, name.packet.body

        body = min(self._names, key=rank).packet.body if self._names else b""
        return "".join(each if each.isprintable() else "?" for each in body.decode("utf-8", "replace"))

    @property
    def keys(self) -> list[Key]:
        """The primary key and its subkeys."""
        return [each.key for each in self.components if each.key is not None]

    def armoured(self) -> str:
        return armour(self.whole, PUBLIC_KEY_BLOCK)

    @property
    def whole(self) -> bytes:
        """The key with all its names and subkeys."""
        return b"".join(each.plain(self.primary) for each in self.components)

    def signer_of(self, signature: Signature) -> Key:
        """The key that made a signature, if it can have made it.

        Raises:
            Untrusted: there is none.
        """
        for key in self.keys:
            if signature.is_by(key):
                scheme = scheme_of(key)
                if scheme.algorithm != signature.algorithm:
                    raise Untrusted("signature algorithm")
                if not signature.is_strong(scheme):
                    raise Untrusted("hash too short for the curve")
                if signature.created < key.created:
                    raise Untrusted("signed before the key was made")
                return key
        raise Untrusted("not by this key")

    def cut(self, signer: Key, *, signed_at: float, now: float) -> bytes:
        """What the verification of one signature needs, if the certificate allows that signature.

        It is one name with one statement and, if a subkey signs, that subkey with one: of several, each
        engine would choose by a rule of its own.

        Args:
            signer: the one of its keys that signs.
            signed_at: seconds since 1970, by the signature.
            now: seconds since 1970, by our clock.

        Raises:
            Untrusted: the certificate or the signing key was revoked, has expired, or is not for signing.
        """
        known = self.cuts.get(signer.fingerprint)
        if known is not None and known.since <= signed_at and now < known.until:
            return known.plain
        plain, consent = self._cut(signer, signed_at=signed_at, now=now)
        said = [(each, (part.key or self.primary)) for part in self.components for each in part.signatures]
        said += [(consent, signer)] if consent is not None else []
        since = max(each.created for each, _ in said)
        if since <= signed_at:  # so the newest statements are the ones that counted
            ends = [end for each, key in said for end in each.ends(key)]
            until = min((end for end in ends if end > now), default=inf)
            self.cuts[signer.fingerprint] = Cut(plain, since, until)
        return plain

    def _cut(self, signer: Key, *, signed_at: float, now: float) -> tuple[bytes, Signature | None]:
        """And the signing subkey's consent, if a subkey signs."""
        scheme_of(signer)
        own = self.components[0]
        if own.of_kind(KEY_REVOCATION):
            raise Untrusted("key revoked")
        if self.primary.created > now + CLOCK_SECONDS:
            raise Untrusted("key from the future")
        if not self._names:
            raise Untrusted("hash of the self-signature" if self.has_weak else "key without a name")
        chosen, statement = self._name_of(signed_at)
        heard = [*own.newest(DIRECT), statement, *chosen.newest(*CERTIFICATIONS, until=signed_at)]
        heard += [each for name in self._names for each in name.newest(*CERTIFICATIONS)]
        _check_times(self.primary, heard, now)
        kept = [replace(own, signatures=()), replace(chosen, signatures=(statement,))]
        consent = None
        if signer != self.primary:
            subkey, statement, heard = self._binding_of(signer, signed_at)
            _check_times(signer, heard, now)
            consent = _consent(self.primary, subkey, statement, signed_at=signed_at, now=now)
            kept.append(replace(subkey, signatures=(statement,)))
        flags = [value for each in heard for value in each.values_of(KEY_FLAGS)]
        if not statement.values_of(KEY_FLAGS) or not all(each and each[0] & MAY_SIGN for each in flags):
            raise Untrusted("key not for signing")
        return b"".join(each.plain(self.primary) for each in kept), consent

    def state(self, now: float) -> str:
        """`good`: one of its keys may sign now, in seconds since 1970. Or why the first of them may not."""
        reasons = []
        for signer in self.keys:
            try:
                self.cut(signer, signed_at=now, now=now)
            except Untrusted as refusal:
                reasons.append(refusal.reason)
            else:
                return "good"
        return reasons[0]

    @property
    def _names(self) -> list[Component]:
        return [each for each in self.components if each.packet.tag == USER_ID]

    def _name_of(self, signed_at: float) -> tuple[Component, Signature]:
        """A name that the key bore when it signed, one that says what the key is for if there is any."""
        found = [
            (bool(statement.values_of(KEY_FLAGS)), statement.created, name.packet.body, name, statement)
            for name in self._names
            for statement in name.newest(*CERTIFICATIONS, until=signed_at)
        ]
        if not found:
            raise Untrusted("signed before the self-signature")
        *_, name, statement = max(found, key=lambda each: each[:3])
        return name, statement

    def _binding_of(self, signer: Key, signed_at: float) -> tuple[Component, Signature, list[Signature]]:
        """A subkey, its binding when it signed, and what is said of it now too."""
        (subkey,) = (each for each in self.components if each.key == signer)
        if subkey.of_kind(SUBKEY_REVOCATION):
            raise Untrusted("signing key revoked")
        if not subkey.of_kind(SUBKEY_BINDING):
            raise Untrusted("signing key not bound")
        found = subkey.newest(SUBKEY_BINDING, until=signed_at)
        if not found:
            raise Untrusted("signed before the self-signature")
        return subkey, found[-1], found + subkey.newest(SUBKEY_BINDING)


def _check_times(key: Key, statements: Iterable[Signature], now: float) -> None:
    for each in statements:
        each.check_end(EXPIRES, each.created, now, "self-signature expired")
        each.check_end(KEY_EXPIRES, key.created, now, "key expired")


def _consent(
    primary: Key, subkey: Component, binding: Signature, *, signed_at: float, now: float
) -> Signature:
    """The subkey's own signature that it belongs to the primary key. An engine verifies it.

    Raises:
        Untrusted: there is none, or it has ended.
    """
    found = [*binding.values_of(EMBEDDED), *(each.value for each in binding.backsigs)]
    if len(found) != 1 or subkey.key is None:
        raise Untrusted("signing key without consent")
    back = read_signature(found[0])
    if not _is_consent(primary, subkey.packet, subkey.key, back) or back.created > signed_at:
        raise Untrusted("signing key without consent")
    back.check_end(EXPIRES, back.created, now, "self-signature expired")
    return back


def _is_consent(primary: Key, head: Packet, subkey: Key, back: Signature) -> bool:
    scheme = scheme_of(subkey)
    # go-crypto calls it the primary key's in one place and the subkey's in another.
    if back.kind != BACKSIG or not back.is_by(subkey, primary) or not back.is_strong(scheme):
        return False
    back.check(scheme.algorithm)
    return back.fits(_signed(primary, head))


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
    scheme_of(primary)
    found = [_component(primary, head, behind) for head, behind in _grouped(packets) if _is_known(head)]
    components = [each for each, _ in found if each.packet.tag != USER_ID or _is_name(each)]
    return Certificate(primary, tuple(components), has_weak=any(weak for _, weak in found))


def has_name(data: bytes) -> bool:
    """Has a public key a name of its own?"""
    return any(each.packet.tag == USER_ID for each in read_certificate(data).components)


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


def _is_known(head: Packet) -> bool:
    return head.tag != USER_ATTRIBUTE and (head.tag != PUBLIC_SUBKEY or head.body[:1] == b"\x04")


def _component(primary: Key, head: Packet, packets: list[Packet]) -> tuple[Component, bool]:
    """A packet and what the primary key itself says of it, as far as it counts; and whether some does not,
    because of its hash."""
    scheme, key, kept, has_weak = scheme_of(primary), None, [], False
    if head.tag != USER_ID:
        key = read_key(head)
    for packet in packets:
        if packet.body[:1] == b"\x03" and int.from_bytes(packet.body[2:3], "big") not in REVOCATIONS:
            continue  # of other people, from last century
        read = read_signature(packet.body)
        if read.issuers and read.issuers.isdisjoint((primary.id, primary.fingerprint)):
            continue
        if read.is_by(primary) and read.is_strong(scheme) and read.fits(_signed(primary, head)):
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


def _signed(primary: Key, head: Packet) -> bytes:
    """What the primary key's signatures of `head` are made over (RFC 9580, 5.2.4)."""
    if head.tag == USER_ID:
        return primary.hashed + b"\xb4" + len(head.body).to_bytes(4, "big") + head.body
    if head.tag == PUBLIC_SUBKEY:
        return primary.hashed + read_key(head).hashed
    return primary.hashed


def _with_backsig(primary: Key, head: Packet, subkey: Key | None, binding: Signature) -> Signature:
    """A binding with the subkey's consent, if that is not signed itself, in its plain form or not at all."""
    if not binding.backsigs:
        return binding
    kept: tuple[Subpacket, ...] = ()
    # Of a subkey that is for something else, or of a kind that we do not know, it does not matter.
    with suppress(Untrusted):
        back = read_signature(binding.backsigs[0].value)
        if subkey is not None and len(binding.backsigs) == 1 and _is_consent(primary, head, subkey, back):
            kept = (Subpacket(EMBEDDED, back.plain(subkey)),)
    return replace(binding, backsigs=kept)


def _is_name(component: Component) -> bool:
    return bool(component.of_kind(*CERTIFICATIONS)) and not component.of_kind(NAME_REVOCATION)

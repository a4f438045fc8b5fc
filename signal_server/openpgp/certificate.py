"""One public key with its names and subkeys, and what it allows: cut down to what one signature needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from ..errors import Untrusted
from .armour import PUBLIC_KEY_BLOCK, armour
from .key_packet import Key, hashed, scheme_of
from .packets import PUBLIC_SUBKEY, SIGNATURE, USER_ID, Packet
from .signature_packet import (
    EMBEDDED,
    END_OF_TIME,
    EXPIRES,
    KEY_EXPIRES,
    KEY_FLAGS,
    PRIMARY_NAME,
    SUBKEY_BINDING,
    Signature,
    read_signature,
)

CLOCK_SECONDS: Final = 60
"""How far a signer's clock may be ahead of ours."""

CERTIFICATIONS: Final = range(0x10, 0x14)
BACKSIG: Final = 0x19
DIRECT: Final = 0x1F
KEY_REVOCATION: Final = 0x20
SUBKEY_REVOCATION: Final = 0x28

MAY_SIGN: Final = 0x02

NEEDS_SEQUOIA: Final = "needs sequoia"
"""Why gpg is not asked about what came with RFC 9580."""


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

    def saying(self, *signatures: Signature) -> Component:
        """The same with these signatures alone."""
        return Component(self.packet, signatures, self.key)

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
    not help that another allows, because programs differ in which of them they ask. A key of version 4 speaks
    by a name, and by a direct signature if no name says what it is for; one of version 6 by a direct
    signature alone, as RFC 9580, 10.1.1, has it.

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

        It is one name with one statement, or one direct signature; and, if a subkey signs, that subkey with
        one. Of several, each engine would choose by a rule of its own.

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
        if not self.is_stated:
            if self.has_weak:
                raise Untrusted("hash of the self-signature")
            is_named = self.primary.version == 4
            raise Untrusted("key without a name" if is_named else "key without a direct signature")
        kept, statement, heard = self._own_of(signed_at)
        _check_times(self.primary, heard, now)
        consent = None
        if signer != self.primary:
            subkey, statement, heard = self._binding_of(signer, signed_at)
            _check_times(signer, heard, now)
            consent = _consent(self.primary, subkey, statement, signed_at=signed_at, now=now)
            kept.append(subkey.saying(statement))
        flags = [value for each in heard for value in each.values_of(KEY_FLAGS)]
        if not statement.values_of(KEY_FLAGS) or not all(each and each[0] & MAY_SIGN for each in flags):
            raise Untrusted("key not for signing")
        return b"".join(each.plain(self.primary) for each in kept), consent

    def state(self, now: float, *, with_new: bool) -> str:
        """`good`: one of its keys may sign now, in seconds since 1970. Or why the first of them may not.

        with_new: the engine takes keys of RFC 9580's new kinds.
        """
        reasons = []
        for signer in self.keys:
            try:
                if signer.is_new and not with_new:
                    raise Untrusted(NEEDS_SEQUOIA)
                self.cut(signer, signed_at=now, now=now)
            except Untrusted as refusal:
                reasons.append(refusal.reason)
            else:
                return "good"
        return NEEDS_SEQUOIA if NEEDS_SEQUOIA in reasons else reasons[0]

    @property
    def is_stated(self) -> bool:
        """Does it say anything of itself, in the place where its version says it?"""
        return bool(self.components[0].of_kind(DIRECT) if self.primary.version == 6 else self._names)

    @property
    def _names(self) -> list[Component]:
        return [each for each in self.components if each.packet.tag == USER_ID]

    def _own_of(self, signed_at: float) -> tuple[list[Component], Signature, list[Signature]]:
        """What an engine sees of the primary key, the statement that says what it is for, and all of them."""
        own = self.components[0]
        direct = own.newest(DIRECT, until=signed_at)
        heard = [*direct, *own.newest(DIRECT)]
        for name in self._names:
            heard += name.newest(*CERTIFICATIONS, until=signed_at) + name.newest(*CERTIFICATIONS)
        if self.primary.version == 6:
            if not direct:
                raise Untrusted("signed before the self-signature")
        else:
            name, statement = self._name_of(signed_at)
            if statement.values_of(KEY_FLAGS) or not direct:
                return [own.saying(), name.saying(statement)], statement, heard
        # Alone: beside a name gpg would not mind whether it holds.
        return [own.saying(direct[-1])], direct[-1], heard

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
    if not is_consent(primary, subkey.packet, subkey.key, back) or back.created > signed_at:
        raise Untrusted("signing key without consent")
    back.check_end(EXPIRES, back.created, now, "self-signature expired")
    return back


def is_consent(primary: Key, head: Packet, subkey: Key, back: Signature) -> bool:
    """Is a signature that stands in a binding the subkey's, and strong?"""
    scheme = scheme_of(subkey)
    # go-crypto calls it the primary key's in one place and the subkey's in another.
    if back.kind != BACKSIG or not back.is_by(subkey, primary) or not back.is_strong(scheme):
        return False
    back.check(scheme.algorithm)
    return back.fits(signed_over(primary, head))


def signed_over(primary: Key, head: Packet) -> bytes:
    """What the primary key's signatures of `head` are made over (RFC 9580, 5.2.4)."""
    if head.tag == USER_ID:
        return primary.hashed + b"\xb4" + len(head.body).to_bytes(4, "big") + head.body
    if head.tag == PUBLIC_SUBKEY:
        return primary.hashed + hashed(head.body)
    return primary.hashed

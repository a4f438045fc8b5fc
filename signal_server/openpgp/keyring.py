"""The seam between the server and an OpenPGP engine, and what is the same for every engine.

    PUBLIC_KEY, message ─ read strictly ─ trusted? ─ allowed now? ─ engine: one key, one message ─ Signed

An engine gets one message and the one key that must have made it, both written anew in their plainest form,
and does the arithmetic. It has no ring of keys in which it could find another, and nothing to remember.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, NamedTuple

from ..errors import Untrusted
from .certificate import CLOCK_SECONDS, NEEDS_SEQUOIA, Certificate
from .certificate_reader import read_public_key
from .key_packet import Key
from .message import Message, read_message
from .signature_packet import EXPIRES, Signature
from .turns import Turns

MAX_QUEUE: Final = 128
"""Verifications that wait for their turn. An address may have a quarter: a classroom behind one, each of whom
has two."""

TURN_SECONDS: Final = 4.0
"""How long one waits, a second more than a program of the engine's may hang."""


class Signed(NamedTuple):
    """What somebody signed.

    Attributes:
        text: as it was signed.
        fingerprint: of the signer's primary key, in upper-case hex.
        signed_at: seconds since 1970, by the signature itself.
    """

    text: bytes
    fingerprint: str
    signed_at: int


class Engine(ABC):
    """The arithmetic of OpenPGP.

    Attributes:
        at_once: so many verifications at the same time; None: it does each at once.

    Raises, each method:
        Unavailable: it cannot work.
    """

    at_once: ClassVar[int | None] = None
    takes_new: ClassVar[bool]
    """Does it know what came with RFC 9580: version 6, and Ed25519 and Ed448 as algorithms of their own?"""

    @abstractmethod
    def verify(self, message: Message, signer: Key, key: bytes) -> Signed:
        """Verify one message with one key, both in the plain form of `message` and `certificate`.

        Args:
            signer: who must have made it: the key itself, or its subkey.

        Raises:
            Untrusted: it is not one good signature by that key, in force now.
        """

    @abstractmethod
    def tidy(self, keys: bytes) -> bytes:
        """Public keys, one after the other, without those that are not signed by themselves."""

    @abstractmethod
    def sign(self, text: str, *, at: int | None = None) -> str:
        """Sign with the private key: armoured, in the form of `message`.

        Args:
            at: seconds since 1970, the time that the signature claims; None: this machine's. Sequoia knows no
                other than that.
        """

    @property
    @abstractmethod
    def public_key(self) -> str | None:
        """The armoured public half of the private key, if there is one."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Can it work now?"""

    @abstractmethod
    def close(self) -> None:
        """End what it started, and leave nothing behind."""


class Keyring:
    """Verifies what peers signed, and signs the server's replies.

    Args:
        engine: does the arithmetic.
        trusted: the only keys that count, by their fingerprints; None: each key speaks for itself.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        engine: Engine,
        trusted: Mapping[str, Certificate] | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._trusted = trusted
        self._clock = clock
        self._is_own_clock = True
        self._turns = None if engine.at_once is None else Turns(engine.at_once, MAX_QUEUE, TURN_SECONDS)

    def set_clock(self, clock: Callable[[], float]) -> None:
        """Sign and verify by another clock than this machine's, in seconds since 1970."""
        self._clock = clock
        self._is_own_clock = False

    @property
    def blocks(self) -> bool:
        """May a call wait for another process?"""
        return self._engine.at_once is not None

    @property
    def trusted(self) -> Mapping[str, Certificate] | None:
        return self._trusted

    def verify(self, message: str, public_key: str, who: bytes = b"") -> Signed:
        """Verify a message, with the trusted copy of the key that `public_key` names, or with itself.

        Args:
            who: the address that it comes from, if there are several; see `turns`.

        Raises:
            Untrusted: it does not hold; the reason is for the log.
            Unavailable: there is too much to verify just now.
        """
        if self._turns is not None:
            self._turns.check(who)  # before any work is done for it
        read = read_message(message)
        if read.signature.is_new and not self._engine.takes_new:
            raise Untrusted(NEEDS_SEQUOIA)
        certificate = self._certificate(public_key)
        signer, key = self._signer(read.signature, certificate)
        if self._turns is None:
            signed = self._engine.verify(read, signer, key)
        else:
            with self._turns.turn(who):
                signed = self._engine.verify(read, signer, key)
        if signed != Signed(read.text, certificate.fingerprint, read.signature.created):
            raise Untrusted("the engine read something else")
        return signed

    def state(self, certificate: Certificate) -> str:
        """`good`: one of its keys may sign now. Or why none may, in a word for the operator."""
        return certificate.state(self._clock(), with_new=self._engine.takes_new)

    def sign(self, text: str) -> str:
        return self._engine.sign(text, at=None if self._is_own_clock else int(self._clock()))

    def public_key(self) -> str | None:
        """What `GET /key` answers; None without a private key."""
        return self._engine.public_key

    def is_ready(self) -> bool:
        return self._engine.is_ready()

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Keyring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _certificate(self, public_key: str) -> Certificate:
        shown = read_public_key(public_key)
        if self._trusted is None:
            return shown
        if shown.fingerprint not in self._trusted:
            raise Untrusted("not a trusted key")
        return self._trusted[shown.fingerprint]

    def _signer(self, signature: Signature, certificate: Certificate) -> tuple[Key, bytes]:
        """The key that must have signed, if it was allowed to, and what an engine needs to see."""
        now = self._clock()
        if signature.created > now + CLOCK_SECONDS:
            raise Untrusted("signed in the future")
        signature.check_end(EXPIRES, signature.created, now, "signature expired")
        signer = certificate.signer_of(signature)
        return signer, certificate.cut(signer, signed_at=signature.created, now=now)

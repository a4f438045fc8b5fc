"""How a message becomes the parameters of a request, and a reply a signal: open or signed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .errors import CLOCK_OFF_SECONDS, BadSignal, SpaceriftError, untrusted

NAMESPACE_SECONDS: Final = 50 * 60
"""How long a SIGNED_NAMESPACE is used. The server takes it for an hour, and clocks differ."""

SERVER_CLOCK_MS: Final = 60_000

PEER_CLOCK_MS: Final = 5 * 60_000
"""Two clocks, each a minute off the server's, and the time the offer was held."""

Reply = Mapping[str, Any]
Work = Callable[..., Awaitable[Any]]
"""Calls a function that takes its time."""


@dataclass(frozen=True, slots=True)
class Message:
    """What we tell the server: `CONNECT` or `BOUNCE`, with an offer, or an answer if there is a `nonce`."""

    type: str
    signal: str
    nonce: str | None = None

    @property
    def is_answer(self) -> bool:
        return self.type == "CONNECT" and self.nonce is not None


class Verified(Protocol):
    """What a signed message says, and the primary fingerprint of the key that signed it."""

    @property
    def text(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Signer(Protocol):
    """A private key and the trust in others', as `signal_server.openpgp.signer` has them. Keys are armored.

    A signer that can sign at another time than its clock's has `set_clock(ahead_ms)`, too: it is told once
    how far the server's clock is ahead, if that is why a signature was refused.
    """

    @property
    def fingerprint(self) -> str: ...
    def public_key(self) -> str: ...
    def sign(self, text: str) -> str: ...
    def verify(self, message: str, public_key: str, *, pinned: bool = False) -> Verified:
        """Raise what does not hold; `pinned`: with exactly this key, whomever else we trust."""


class Codec(Protocol):
    async def write(self, message: Message) -> dict[str, str]:
        """The parameters of a request."""

    async def check(self, reply: Reply, message: Message) -> None:
        """Refuse a reply of status 200 that is not the server's."""

    async def read(self, reply: Reply) -> tuple[str, str | None]:
        """The other peer's signal, and its key's fingerprint. Raises BadSignal."""

    def set_clock(self, server_ms: object) -> bool:
        """Go by the server's clock from now on. True if that may mend a refusal; it does so once."""


class OpenCodec:
    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    async def write(self, message: Message) -> dict[str, str]:
        return _given(
            TYPE=message.type, NONCE=message.nonce, NAMESPACE=self._namespace, SIGNAL=message.signal
        )

    async def check(self, reply: Reply, message: Message) -> None:
        pass

    async def read(self, reply: Reply) -> tuple[str, str | None]:
        return _signal(reply.get("SIGNAL")), None

    def set_clock(self, server_ms: object) -> bool:
        return False


@dataclass(slots=True)
class SignedCodec:
    namespace: str
    signer: Signer
    server_key: str | None
    work: Work
    _signed_namespace: str = ""
    _signed_at: float = float("-inf")
    _sent: list[tuple[str, str]] = field(default_factory=list)
    """Signals and what they were signed as: more than once, where an answer was repeated."""
    _ahead_ms: int = 0
    """How far the server's clock is ahead of ours, once it has said so."""

    async def write(self, message: Message) -> dict[str, str]:
        text = {"TYPE": message.type, "NAMESPACE": self.namespace, "NONCE": message.nonce}
        if message.nonce is None:
            del text["NONCE"]
        # One line of ASCII, the only text that every OpenPGP program leaves as it is.
        line = json.dumps({**text, "SIGNAL": message.signal, "TIME": self._now_ms()})
        signed = await self.work(self.signer.sign, line)
        self._sent = [each for each in self._sent if each[0] == message.signal] + [(message.signal, signed)]
        return _given(
            TYPE=message.type,
            NONCE=message.nonce,
            SIGNED_NAMESPACE=await self._namespace(),
            SIGNED_SIGNAL=signed,
            PUBLIC_KEY=self.signer.public_key(),
        )

    async def check(self, reply: Reply, message: Message) -> None:
        """Refuse what the pinned server key has not signed, for us, now, and about this very signal."""
        if self.server_key is None:
            return
        text, _ = await self._verify(reply.get("SIGNED_REPLY"), self.server_key, pinned=True)
        signed = _object(text)
        delivered = reply["TYPE"] == "DELIVERED"
        about = [signed for _, signed in self._sent] if delivered else [str(reply.get("SIGNED_SIGNAL"))]
        hashes = [hashlib.sha256(each.encode()).hexdigest() for each in about]
        nonces = {"DEMOTE": [reply.get("NONCE")], "DELIVERED": [message.nonce, None]}
        nonce = signed.get("NONCE")
        _trust(signed.get("TYPE") == reply["TYPE"], "the server's reply is of another type")
        _trust(nonce in nonces.get(reply["TYPE"], [nonce]), "the server's reply has another nonce")
        _trust(str(signed.get("SHA256")).lower() in hashes, "the server's reply is about another signal")
        _trust(_same_key(signed.get("TO"), self.signer.fingerprint), "the server's reply is for someone else")
        _trust(self._near(signed.get("TIME"), SERVER_CLOCK_MS), "the server's reply is not of now")

    async def read(self, reply: Reply) -> tuple[str, str | None]:
        try:
            return await self._read(reply)
        except SpaceriftError as error:
            raise BadSignal(str(error)) from error

    async def _read(self, reply: Reply) -> tuple[str, str]:
        key = reply.get("PUBLIC_KEY")
        namespace, owner = await self._verify(reply.get("SIGNED_NAMESPACE"), key)
        text, fingerprint = await self._verify(reply.get("SIGNED_SIGNAL"), key)
        signed = _object(text)
        _trust(_same_key(owner, fingerprint), "two keys signed it")
        _trust(namespace == signed.get("NAMESPACE") == self.namespace, "it is of another namespace")
        _trust(self._near(signed.get("TIME"), PEER_CLOCK_MS), "it is not of now")
        # An answer and a bounce name an offer, which one is the server's to know; a first offer names none.
        kind, is_answer = signed.get("TYPE"), reply["TYPE"] == "ANSWER"
        _trust(kind == "CONNECT" or (kind == "BOUNCE" and not is_answer), "it is of another type")
        _trust(bool(signed.get("NONCE")) == (is_answer or kind == "BOUNCE"), "its nonce does not fit")
        return _signal(signed.get("SIGNAL")), fingerprint

    async def _verify(self, message: object, key: object, *, pinned: bool = False) -> tuple[str, str]:
        if not (isinstance(message, str) and isinstance(key, str)):
            raise untrusted("a signature or its key is missing")
        try:
            verified = await self.work(self.signer.verify, message, key, pinned=pinned)
        except Exception as error:  # a signer's own
            raise untrusted("a signature does not hold") from error
        return verified.text, verified.fingerprint

    def set_clock(self, server_ms: object) -> bool:
        if self._ahead_ms or not isinstance(server_ms, int) or isinstance(server_ms, bool):
            return False
        ahead_ms = server_ms - self._now_ms()
        if abs(ahead_ms) <= CLOCK_OFF_SECONDS * 1000:
            return False
        self._ahead_ms = ahead_ms
        self._signed_at = float("-inf")
        set_clock = getattr(self.signer, "set_clock", None)
        if set_clock is not None:
            set_clock(ahead_ms)
        return True

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def _near(self, time_ms: object, most: int) -> bool:
        return isinstance(time_ms, int | float) and abs(self._now_ms() - time_ms) <= most

    async def _namespace(self) -> str:
        if time.monotonic() - self._signed_at > NAMESPACE_SECONDS:
            self._signed_namespace = await self.work(self.signer.sign, self.namespace)
            self._signed_at = time.monotonic()
        return self._signed_namespace


def _given(**parameters: str | None) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def _signal(value: object) -> str:
    if not isinstance(value, str):
        raise BadSignal
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise untrusted("what was signed is no JSON object")
    return value


def _trust(holds: bool, why: str) -> None:
    if not holds:
        raise untrusted(why)


def _same_key(one: object, other: object) -> bool:
    return str(one).lower() == str(other).lower()

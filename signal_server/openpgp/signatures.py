"""What a signed request must say, and what we sign ourselves.

    SIGNED_NAMESPACE ─┐                ┌─ one signer? ─┐
    SIGNED_SIGNAL ────┼─ keyring: who, ─┼─ of now? ─────┼─ said in clear too? ─ seen before? ─ Request
    PUBLIC_KEY ───────┘   what, when   └───────────────┘

Whatever does not hold is the same `Untrusted`; its reason is for the log. What a request must say is decided
by functions of their arguments alone, the time among them.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final, NamedTuple, Protocol

from ..errors import BadRequest, Unavailable, Untrusted
from ..messages import (
    ANSWER,
    DELIVERED,
    DEMOTE,
    MAX_NAME_LENGTH,
    Admitted,
    Reply,
    Request,
    Sealed,
    digest_of,
    json_object,
    pool_of,
)
from .keyring import Keyring, Signed

WINDOW_SECONDS: Final = 60
"""How far a statement's times may be from our clock."""

NAMESPACE_SECONDS: Final = 3600
"""How long a SIGNED_NAMESPACE is good after it was signed."""

MAX_KNOWN: Final = 1024
"""SIGNED_NAMESPACEs whose verdict is kept: a client signs one and sends it with each request."""


class Statement(NamedTuple):
    """The text of a SIGNED_SIGNAL. `time_ms` is the signer's, since 1970."""

    type: str
    namespace: str
    nonce: str | None
    signal: str
    time_ms: float


def read_statement(text: bytes) -> Statement:
    """Read the text of a SIGNED_SIGNAL: one line of ASCII JSON.

    Raises:
        Untrusted: it is anything else.
    """
    try:
        line = text.decode("ascii")
        fields = json_object(line)
    except (UnicodeDecodeError, BadRequest):
        raise Untrusted("statement") from None
    kind, namespace, signal = (fields.get(name) for name in ("TYPE", "NAMESPACE", "SIGNAL"))
    nonce, moment = fields.get("NONCE"), fields.get("TIME")
    if not (isinstance(kind, str) and isinstance(namespace, str) and isinstance(signal, str) and signal):
        raise Untrusted("statement")
    if not isinstance(moment, int | float) or isinstance(moment, bool):
        raise Untrusted("statement")
    if not (nonce is None or isinstance(nonce, str)):
        raise Untrusted("statement")
    if "\n" in line:
        raise Untrusted("line ends")
    return Statement(kind, namespace, nonce or None, signal, moment)


def read_namespace(text: bytes) -> str:
    """Read the text of a SIGNED_NAMESPACE: the namespace itself.

    Raises:
        Untrusted: it is not UTF-8, or too long.
    """
    try:
        namespace = text.decode("utf-8")
    except UnicodeDecodeError:
        raise Untrusted("namespace") from None
    if len(namespace) > MAX_NAME_LENGTH:
        raise Untrusted("namespace")
    return namespace


def agree(asked: Request, namespace: Signed, signal: Signed, *, now_ms: int) -> tuple[Admitted, float]:
    """The request that both messages and the parameters in clear agree on.

    Returns:
        The request, and for how many ms its text could come again.

    Raises:
        Untrusted: they do not agree, or are not of now.
    """
    statement, name = read_statement(signal.text), read_namespace(namespace.text)
    now = now_ms // 1000
    if namespace.fingerprint != signal.fingerprint:
        raise Untrusted("two signers")
    if name == statement.namespace + "\n":
        raise Untrusted("line ends")  # `echo` added it
    if (statement.type, statement.namespace, statement.nonce) != (asked.type, name, asked.nonce):
        raise Untrusted("said otherwise in clear")
    if max(abs(statement.time_ms - now_ms), 1000 * abs(signal.signed_at - now)) > 1000 * WINDOW_SECONDS:
        raise Untrusted("not of now")
    if not -WINDOW_SECONDS <= now - namespace.signed_at <= NAMESPACE_SECONDS:
        raise Untrusted("namespace not of now")
    assert asked.sealed is not None
    agreed = Admitted(
        asked,
        pool_of(name or None, signed=True),
        asked.sealed.payload(),
        digest_of(statement.signal) if asked.nonce is not None else b"",
        signal.fingerprint,
    )
    return agreed, statement.time_ms + WINDOW_SECONDS * 1000 - now_ms


Timed = Callable[[str], AbstractContextManager[object]]
"""Takes the time of an operation: `verify` or `sign`."""


class OnceMemory(Protocol):
    """What was seen, by all processes that share it; a `Store` is one."""

    def remember_once(self, key: str, *, seconds: float) -> bool: ...

    def forget_once(self, key: str) -> None: ...


class Signatures:
    """Lets signed requests in, and signs the replies to them.

    Args:
        keyring: verifies and signs.
        memory: of what was seen.
        timed: takes the time of what is done.
        clock: seconds since 1970.
    """

    def __init__(
        self, keyring: Keyring, memory: OnceMemory, timed: Timed, clock: Callable[[], float] = time.time
    ) -> None:
        self.keyring = keyring
        self._memory = memory
        self._timed = timed
        self._clock = clock
        self._known: OrderedDict[bytes, Signed] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, asked: Request, who: bytes = b"") -> Admitted:
        """Verify a signed request, which comes from the address `who`.

        A text that was seen before is a replay. But the repeat of an answer, by a client that did not hear
        what became of it, may be the same to the byte: that is for the store to know (see `Matcher`).

        Raises:
            Untrusted: it does not hold.
            Unavailable: there is too much to verify, or the store is away.
        """
        sealed = asked.sealed
        assert sealed is not None
        with self._timed("verify"):
            signal = self.keyring.verify(sealed.signal, sealed.public_key, who)
        namespace = self._namespace(sealed, who)
        agreed, again_ms = agree(asked, namespace, signal, now_ms=round(self._clock() * 1000))
        once = f"{signal.fingerprint}:{hashlib.sha256(signal.text).hexdigest()}"
        is_replay = self._memory.remember_once(once, seconds=again_ms / 1000 + 1)
        if is_replay and not asked.is_answer:
            raise Untrusted("replay")
        agreed.once, agreed.is_replay = once, is_replay
        return agreed

    def refused(self, admitted: Admitted) -> None:
        """Nothing was done of what this request asks, so it may come again as it is."""
        if admitted.once and not admitted.is_replay:
            with suppress(Unavailable):
                self._memory.forget_once(admitted.once)

    def reply(self, admitted: Admitted, reply: Reply) -> str | None:
        """The SIGNED_REPLY for a reply to a signed request, if we have a key and there is one.

        Raises:
            Unavailable: it could not be signed.
        """
        asked = admitted.request
        if asked.sealed is None or self.public_key is None or reply.type not in (DEMOTE, ANSWER, DELIVERED):
            return None
        is_delivered = reply.type == DELIVERED
        about = asked.sealed.signal if is_delivered else Sealed.of_payload(reply.signal).signal
        text = {
            "TYPE": reply.type,
            "NONCE": asked.nonce if is_delivered else reply.nonce,
            "SHA256": hashlib.sha256(about.encode("utf-8")).hexdigest(),
            "TO": admitted.signer,
            "TIME": round(self._clock() * 1000),
        }
        with self._timed("sign"):
            return self.keyring.sign(json.dumps(text, separators=(",", ":")))

    @property
    def public_key(self) -> str | None:
        """What `GET /key` answers."""
        return self.keyring.public_key()

    @property
    def blocks(self) -> bool:
        """May a call wait for another process?"""
        return self.keyring.blocks

    def is_ready(self) -> bool:
        return self.keyring.is_ready()

    def close(self) -> None:
        self.keyring.close()

    def _namespace(self, sealed: Sealed, who: bytes) -> Signed:
        """Verify a SIGNED_NAMESPACE, or remember that it was verified.

        A key that was revoked or has expired since is still noticed, for it signs the signal too.
        """
        name = hashlib.sha256(f"{sealed.namespace}\0{sealed.public_key}".encode()).digest()
        known = self._known.get(name)
        if known is None:
            with self._timed("verify"):
                known = self.keyring.verify(sealed.namespace, sealed.public_key, who)
            read_namespace(known.text)  # before it is kept: it bounds what is
        with self._lock:
            self._known[name] = known
            self._known.move_to_end(name)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return known

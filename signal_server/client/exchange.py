"""The way from a URL to another peer's signal, without a socket: a `Transport` does all the waiting.

    CONNECT offer -> ANSWER                                  -> initiator
    CONNECT offer -> DEMOTE -> CONNECT answer -> DELIVERED   -> responder
                        └----> BOUNCE new offer (its peer is not wanted, or its offer cannot be read)

Each request has a name, and a LEAVE with it follows where the request ends without a reply.
Whatever else happens is an error that passes (try again, later) or one that does not (raise).
"""

from __future__ import annotations

import functools
import inspect
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlencode

from .codecs import Codec, Message, Reply
from .errors import BadSignal, LinkLost, SpaceriftError, refusal
from .transport import Transport

HOLD_SECONDS: Final = 65.0
"""Above any sensible REQUEST_TIMEOUT; it ends requests over a line that died silently."""

RESUME_HOLD_SECONDS: Final = 5.0
"""A request that waits over a path that broke does not notice that there is another now."""

DELIVER_SECONDS: Final = 10.0
"""The server answers an answer within 3 s."""

ANSWER_SECONDS: Final = 5.0
"""The protocol's default ANSWER_TIMEOUT, for a DEMOTE that does not say how long the server waits."""

REPEATS: Final = 3
"""Of an answer whose reply was lost, or that was not taken. The server knows a repeated one."""

SOON_SECONDS: Final = 2.0
"""By then an answer that was not taken may be taken still: it has an ANSWER_TIMEOUT of 5 s."""

BRISK_SECONDS: Final = 1.0
"""A reply sooner than this means that nobody was waited for."""

BACKOFF_SECONDS: Final = 0.5
"""Doubles with every failure in a row ..."""

BACKOFF_MOST_SECONDS: Final = 60.0
"""... up to this. A program has time."""

RESUME_BACKOFF_MOST_SECONDS: Final = 2.0
"""... or this, where a lost link is to come back within seconds of its path."""

Offer = Callable[[], Any]
Answer = Callable[..., Any]
Open = Callable[["Exchange"], Any]
Watch = Callable[[str, SpaceriftError | None], object]


class OnePeer(Protocol):
    """The only peer that is wanted, such as the other end of a lost link."""

    def check_own(self, signal: str) -> None: ...
    def is_other(self, signal: str, key: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """An offer and its answer, one of them ours.

    Attributes:
        role: which one: an initiator's is the offer.
        remote_key: the verified fingerprint of the other peer's key, in a signed pool.
    """

    role: Literal["initiator", "responder"]
    offer: str
    answer: str
    remote_key: str | None = None


class Search:
    """Asks the server for a peer until there is one.

    Args:
        fingerprint: None: the process's own random one, which is made anew when a link does not open. The
            server remembers the pair then, and so the two may try once more.
        rematch: we may meet again a peer that we were linked with.
        only: meet nobody else, and soon.
    """

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        *,
        offer: Offer,
        answer: Answer,
        link: Open | None,
        fingerprint: str | None,
        rematch: bool,
        retry: bool,
        on_state: Watch | None,
        only: OnePeer | None = None,
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._offer = offer
        self._answer = answer
        self._answer_takes_within = _takes(answer, "within")
        self._link = link
        self._given_fingerprint = fingerprint
        self._fingerprint = ""
        self._rematch = rematch
        self._retry = retry
        self._watch = on_state
        self._only = only
        self._failures = 0  # in a row

    async def run(self) -> Exchange:
        while True:
            started = time.monotonic()
            try:
                return await self._attempt()
            except SpaceriftError as error:
                if not (self._retry and error.passes):
                    raise
                await self._pause(error, took=time.monotonic() - started)

    async def _attempt(self) -> Exchange:
        """Both sides begin as initiators; the server demotes one."""
        given = self._given_fingerprint
        # The same for all requests of an attempt: a NONCE is good with the fingerprint that it was given to.
        self._fingerprint = _process_fingerprint() if given is None else given
        outcome = await self._initiate()
        while not isinstance(outcome, Exchange):
            outcome = await self._respond(outcome)
        try:
            await self._open(outcome)
        except (BadSignal, LinkLost):
            if given is None:
                _process_fingerprint.cache_clear()
            raise
        return outcome

    async def _open(self, exchange: Exchange) -> None:
        if exchange.role == "initiator" and not self._wanted(exchange.answer, exchange.remote_key):
            raise BadSignal("another peer answered than the one of the lost link")
        if self._link is not None:
            await self._transport.call(self._link, exchange)

    def _checked(self, given: object, name: str) -> str:
        signal = _text(given, name)
        if self._only is not None:
            self._only.check_own(signal)
        return signal

    def _wanted(self, signal: str, key: str | None) -> bool:
        return self._only is None or self._only.is_other(signal, key)

    async def _initiate(self, bounced: str | None = None) -> Exchange | Reply:
        """Offer a link, and wait in the pool for the answer.

        Args:
            bounced: the nonce of an offer that we do not want.

        Returns:
            The DEMOTE that may come in its place.
        """
        self._tell("gathering")
        offer = self._checked(await self._transport.call(self._offer), "offer")
        self._tell("waiting")
        hold = HOLD_SECONDS if self._only is None else RESUME_HOLD_SECONDS * random.uniform(0.8, 1.2)
        reply = await self._post(Message("BOUNCE" if bounced else "CONNECT", offer, bounced), hold)
        if reply["TYPE"] == "ANSWER":
            answer, key = await self._codec.read(reply)
            return Exchange("initiator", offer, answer, key)
        return _demote(reply)

    async def _respond(self, demote: Reply) -> Exchange | Reply:
        """Answer the offer of a DEMOTE, or bounce it.

        Returns:
            Another DEMOTE, where that peer had gone or was bounced.
        """
        self._tell("answering")
        try:
            offer, key = await self._codec.read(demote)
            given = await self._answer_to(offer, demote) if self._wanted(offer, key) else None
        except BadSignal:
            given = None
        if given is None:
            return await self._initiate(bounced=demote["NONCE"])
        answer = self._checked(given, "answer")
        reply = await self._deliver(Message("CONNECT", answer, demote["NONCE"]))
        if reply["TYPE"] == "DELIVERED":
            return Exchange("responder", offer, answer, key)
        return _demote(reply)

    async def _answer_to(self, offer: str, demote: Reply) -> Any:
        """The caller's answer, in the time that the server waits for it.

        Raises:
            SpaceriftError: it came too late. The server has given the offer back, and nobody has it.
        """
        within = _seconds(demote.get("ANSWER_WITHIN"), ANSWER_SECONDS)
        started = time.monotonic()
        named = {"within": within} if self._answer_takes_within else {}
        try:
            given = await self._transport.call(self._answer, offer, cut=within, **named)
        except TimeoutError:
            if time.monotonic() - started < within:
                raise  # the caller's own
            given = None
        took = time.monotonic() - started
        if took < within:
            return given
        raise SpaceriftError(
            "ANSWER_LATE", f"the answer took {took:.1f} s, and the server waits {within:g} s for it"
        )

    async def _deliver(self, answer: Message) -> Reply:
        """Post an answer, again if no reply comes or if it is told to ask again soon."""
        repeat = 0
        while True:
            try:
                return await self._post(answer, DELIVER_SECONDS)
            except SpaceriftError as error:
                again_after = _same_answer_after(error)
                if again_after is None or repeat >= REPEATS:
                    raise
            await self._transport.pause(again_after + random.uniform(0, BACKOFF_SECONDS * 2**repeat))
            repeat += 1

    async def _post(self, message: Message, seconds: float) -> Reply:
        """One request, and its reply of status 200."""
        name = secrets.token_urlsafe(16)
        ours = {"REQUEST": name, **({"FINGERPRINT": self._fingerprint} if self._fingerprint else {})}
        form = {**await self._codec.write(message), **ours, **({"REMATCH": "1"} if self._rematch else {})}
        leave = None if message.is_answer else _encoded({"TYPE": "LEAVE", **ours})
        status, body, location = await self._transport.post(_encoded(form), seconds, leave=leave)
        reply = _object(body)
        if status == 403 and self._codec.set_clock(reply.get("TIME")):
            return await self._post(message, seconds)
        if status != 200:
            raise refusal(status, reply, location)
        if not isinstance(reply.get("TYPE"), str):
            raise _bad_reply(reply)
        await self._codec.check(reply, message)
        return reply

    async def _pause(self, error: SpaceriftError, *, took: float) -> None:
        """Wait as long as the server says, and a random part of a window.

        It doubles with every failure in a row: peers that lost the same server must not come back as one.
        """
        patient = error.status in (298, 299) and took >= BRISK_SECONDS
        self._failures = 0 if patient else self._failures + 1
        most = BACKOFF_MOST_SECONDS if self._only is None else RESUME_BACKOFF_MOST_SECONDS
        window = min(most, BACKOFF_SECONDS * 2.0 ** (self._failures - 1)) if self._failures else 0
        error.retry_after = (error.retry_after or 0) + random.uniform(0, window)
        self._tell("paused", error)
        await self._transport.pause(error.retry_after)

    def _tell(self, state: str, why: SpaceriftError | None = None) -> None:
        if self._watch is not None:
            self._watch(state, why)


@functools.cache
def _process_fingerprint() -> str:
    return secrets.token_urlsafe(16)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must give a string, not {type(value).__name__}; coroutines need connect_async"
        )
    return value


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # one that is not written in Python
        return False


def _seconds(value: object, otherwise: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9
    return float(value) if is_number else otherwise  # type: ignore[arg-type]


def _encoded(form: Mapping[str, str]) -> bytes:
    return urlencode(form).encode("ascii")


def _same_answer_after(error: SpaceriftError) -> float | None:
    """Seconds after which the same answer may still be taken."""
    if error.type == "NETWORK":
        return 0.0
    seconds = error.retry_after or 0.0
    return seconds if error.status in (297, 503) and seconds <= SOON_SECONDS else None


def _demote(reply: Reply) -> Reply:
    if reply["TYPE"] != "DEMOTE" or not isinstance(reply.get("NONCE"), str):
        raise _bad_reply(reply)
    return reply


def _bad_reply(reply: Mapping[str, Any]) -> SpaceriftError:
    return SpaceriftError("BAD_REPLY", f"no reply of a Spacerift server: {reply.get('TYPE')!r}", status=200)


def _object(body: bytes) -> Reply:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}

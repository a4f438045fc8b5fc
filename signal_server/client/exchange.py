"""The way from a URL to another peer's signal, without a socket: a `Transport` does all the waiting.

    CONNECT offer -> ANSWER                                  -> initiator
    CONNECT offer -> DEMOTE -> CONNECT answer -> DELIVERED   -> responder
                        └----> BOUNCE new offer (its peer is not wanted, or its offer cannot be read)

Whatever else happens is an error that passes (try again, later) or one that does not (raise).
"""

from __future__ import annotations

import functools
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlencode

from .errors import BadSignal, SpaceriftError, refusal
from .pools import Message, Pool, Reply
from .transport import Transport

HOLD_SECONDS: Final = 65.0
"""Above any sensible REQUEST_TIMEOUT; it ends requests over a line that died silently."""

DELIVER_SECONDS: Final = 10.0
"""The server answers an answer within 3 s."""

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

Offer = Callable[[], Any]
Answer = Callable[[str], Any]
Open = Callable[["Exchange"], Any]
Watch = Callable[[str, SpaceriftError | None], object]


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
    """Asks the server for a peer until there is one."""

    def __init__(
        self,
        transport: Transport,
        pool: Pool,
        offer: Offer,
        answer: Answer,
        link: Open | None,
        fingerprint: str | None,
        *,
        retry: bool,
        on_state: Watch | None,
    ) -> None:
        self._transport = transport
        self._pool = pool
        self._offer = offer
        self._answer = answer
        self._link = link
        self._fingerprint = _process_fingerprint() if fingerprint is None else fingerprint
        self._retry = retry
        self._watch = on_state
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
        outcome = await self._initiate()
        while not isinstance(outcome, Exchange):
            outcome = await self._respond(outcome)
        if self._link is not None:
            await self._transport.call(self._link, outcome)
        return outcome

    async def _initiate(self, bounced: str | None = None) -> Exchange | Reply:
        """Offer a link, and wait in the pool for the answer.

        Args:
            bounced: the nonce of an offer that we do not want.

        Returns:
            The DEMOTE that may come in its place.
        """
        self._tell("gathering")
        offer = _text(await self._transport.call(self._offer), "offer")
        self._tell("waiting")
        reply = await self._post(Message("BOUNCE" if bounced else "CONNECT", offer, bounced), HOLD_SECONDS)
        if reply["TYPE"] == "ANSWER":
            answer, key = await self._pool.read(reply)
            return Exchange("initiator", offer, answer, key)
        return _demote(reply)

    async def _respond(self, demote: Reply) -> Exchange | Reply:
        """Answer the offer of a DEMOTE, or bounce it.

        Returns:
            Another DEMOTE, where that peer had gone or was bounced.
        """
        self._tell("answering")
        try:
            offer, key = await self._pool.read(demote)
            given = await self._transport.call(self._answer, offer)
        except BadSignal:
            given = None
        if given is None:
            return await self._initiate(bounced=demote["NONCE"])
        answer = _text(given, "answer")
        reply = await self._deliver(Message("CONNECT", answer, demote["NONCE"]))
        if reply["TYPE"] == "DELIVERED":
            return Exchange("responder", offer, answer, key)
        return _demote(reply)

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
        parameters = await self._pool.write(message)
        if self._fingerprint:
            parameters["FINGERPRINT"] = self._fingerprint
        status, body = await self._transport.post(urlencode(parameters).encode("ascii"), seconds)
        reply = _object(body)
        if status != 200:
            raise refusal(status, reply)
        if not isinstance(reply.get("TYPE"), str):
            raise _bad_reply(reply)
        await self._pool.check(reply, message)
        return reply

    async def _pause(self, error: SpaceriftError, *, took: float) -> None:
        """Wait as long as the server says, and a random part of a window.

        It doubles with every failure in a row: peers that lost the same server must not come back as one.
        """
        patient = error.status in (298, 299) and took >= BRISK_SECONDS
        self._failures = 0 if patient else self._failures + 1
        window = (
            min(BACKOFF_MOST_SECONDS, BACKOFF_SECONDS * 2.0 ** (self._failures - 1)) if self._failures else 0
        )
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

"""The client for bots, tests and other servers: the exchange of an offer and an answer, and all its detours.

    from signal_server.client import connect

    exchange = connect("https://rift.example.com/", offer=make_offer, answer=make_answer, namespace="chess")
    exchange.role     # "initiator" or "responder"
    exchange.answer   # the other peer's answer, for an initiator to apply

`connect_async` is the same for asyncio, and the option `resume` finds the peer of a lost link again. Signals
are opaque strings here; peers in browsers send and expect `json.dumps({"type": …, "sdp": …, "id": …})`. The
folder needs nothing but Python: it may be copied.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Coroutine
from typing import Any, TypeVar

from .codecs import Codec, OpenCodec, SignedCodec, Signer
from .errors import BadSignal, Cancelled, LinkLost, SpaceriftError
from .exchange import Answer, Exchange, Offer, Open, Search, Watch
from .ice import ice_servers
from .resume import Former, dtls_fingerprint
from .transport import Asyncio, Blocking, Cancel, Transport

__all__ = [
    "BadSignal",
    "Cancel",
    "Cancelled",
    "Exchange",
    "LinkLost",
    "Signer",
    "SpaceriftError",
    "connect",
    "connect_async",
    "dtls_fingerprint",
    "ice_servers",
]

T = TypeVar("T")


def connect(
    url: str,
    *,
    offer: Offer,
    answer: Answer,
    link: Open | None = None,
    namespace: str | None = None,
    rematch: bool | None = None,
    resume: Exchange | None = None,
    fingerprint: str | None = None,
    signer: Signer | None = None,
    server_key: str | None = None,
    retry: bool = True,
    on_state: Watch | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float | None = None,
    cancel: Cancel | None = None,
) -> Exchange:
    """Exchange signals with another peer, and block until that is done.

    Args:
        url: where the server is mounted.
        offer: gives an offer; asked again for every new one.
        answer: gives the answer to the other peer's offer. None, or raising `BadSignal`, bounces it: it
            cannot be read, or that peer is linked with already. If it has a parameter `within`, it is told
            the seconds that the server waits for the answer; one that comes later is of no use.
        link: called with the exchange, to apply the answer and to wait until the link is open. Raising
            `BadSignal` or `LinkLost` begins anew; without it, that is the caller's to do.
        namespace: the pool to meet in; by default, the server's default pool.
        rematch: where nobody new waits, meet again a peer that we were linked with, if it wants to, too. By
            default true with a namespace, and false without.
        resume: a link that was lost: meet nobody but its other end, in a room that only the two can name. Use
            the DTLS certificate that it had, and give a `timeout`: the other side gives up after 60 s.
        fingerprint: tells peers behind one address apart; by default random, one for the process, until a
            link does not open. Requests of one fingerprint never meet each other.
        signer: signs what goes out and verifies what comes in; meets signed peers only.
        server_key: armored; replies that this key has not signed are refused. Needs a `signer`.
        retry: go on after whatever may pass: nobody came, too fast, unavailable, a lost reply.
        on_state: told "gathering", "waiting", "answering", and "paused" with the reason, a `SpaceriftError`
            whose `retry_after` is the seconds until it goes on.
        tls: for `https:`; by default, the system's certificates.
        timeout: seconds for all of it.
        cancel: ends it from another thread; Ctrl-C and a killed greenlet do so without.

    Raises:
        SpaceriftError: it will not pass by itself, or `retry` is off.
        TimeoutError: `timeout` is over.
        Cancelled: `cancel` was called.
        ValueError: the URL or the namespace cannot be used.
    """
    with Blocking(url, tls=tls, timeout=timeout, cancel=cancel) as transport:
        search = _search(
            transport,
            offer=offer,
            answer=answer,
            link=link,
            namespace=namespace,
            rematch=rematch,
            resume=resume,
            fingerprint=fingerprint,
            signer=signer,
            server_key=server_key,
            retry=retry,
            on_state=on_state,
        )
        return _finish(search.run())


async def connect_async(
    url: str,
    *,
    offer: Offer,
    answer: Answer,
    link: Open | None = None,
    namespace: str | None = None,
    rematch: bool | None = None,
    resume: Exchange | None = None,
    fingerprint: str | None = None,
    signer: Signer | None = None,
    server_key: str | None = None,
    retry: bool = True,
    on_state: Watch | None = None,
    tls: ssl.SSLContext | None = None,
) -> Exchange:
    """`connect` for asyncio. `offer`, `answer` and `link` may be coroutine functions or plain ones.

    Cancelling the task (`asyncio.timeout`, `task.cancel()`) ends the request at once.
    """
    with Asyncio(url, tls=tls) as transport:
        search = _search(
            transport,
            offer=offer,
            answer=answer,
            link=link,
            namespace=namespace,
            rematch=rematch,
            resume=resume,
            fingerprint=fingerprint,
            signer=signer,
            server_key=server_key,
            retry=retry,
            on_state=on_state,
        )
        return await search.run()


def _search(
    transport: Transport,
    *,
    namespace: str | None,
    rematch: bool | None,
    resume: Exchange | None,
    fingerprint: str | None,
    signer: Signer | None,
    server_key: str | None,
    **others: Any,
) -> Search:
    if namespace == "":
        raise ValueError("the namespace is empty: name one, or leave it out for the default pool")
    only = None
    if resume is not None:
        if namespace is not None:
            raise ValueError("resume has a namespace of its own")
        only = Former(resume)
        namespace = only.room
        rematch, fingerprint = True, fingerprint or secrets.token_urlsafe(16)
    if rematch is None:
        rematch = namespace is not None
    codec = _codec(transport, namespace or "", signer, server_key)
    return Search(transport, codec, rematch=rematch, fingerprint=fingerprint, only=only, **others)


def _codec(transport: Transport, namespace: str, signer: Signer | None, server_key: str | None) -> Codec:
    if signer is not None:
        return SignedCodec(namespace, signer, server_key, transport.work)
    if server_key is not None:
        raise TypeError("server_key needs a signer, which verifies with it")
    return OpenCodec(namespace)


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, for a blocking transport has done the waiting inside of it."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise RuntimeError("a blocking transport never suspends")

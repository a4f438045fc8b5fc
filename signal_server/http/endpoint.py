"""`POST /`, from a request's head and body to the reply that is written. What to answer is decided elsewhere.

    open: address limit¹, origin ─► start: parse, LEAVE?, signature, decide ─► (it waits) ─► take ─► finish

Two drivers carry it: WSGI, whose thread or greenlet sleeps while the request waits, and the worker's
callbacks. Both take these steps in this order.

¹ With one Redis it may be counted with the decision, if the body is there. It is refused first all the same.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from .. import messages
from ..errors import Full, HungUp, RateLimited, SignalError, UnsupportedMediaType, Untrusted, bare
from ..matching.exchange import Exchange
from ..matching.identity import Identity, is_address
from ..matching.limits import Limits
from ..matching.tickets import Ticket
from ..messages import ANSWER, BOUNCE, DEMOTE, LEAVE, LEFT, NO_PEER, Admitted, Reply, Request
from ..openpgp.signatures import Signatures
from ..settings import Settings
from ..telemetry.request_log import RequestLog
from ..telemetry.signs import ProxySigns
from .connection import gunzip
from .head import Head, Header, Heads

WORTH_COMPRESSING: Final = 1024
"""Bytes. What fits into one packet anyway arrives no sooner for being smaller."""

HEADERS: Final = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
]


class Transaction(Ticket):
    """One request and its reply; what the log tells of, too.

    Attributes:
        id: names it in the log and to the client.
        received: when it came in, by the monotonic clock.
        head: of the request.
        asks: what it asks for, once that is known; see `Request.asks`.
        is_sealed: it is signed.
        admitted: a signed request, once it was let in.
    """

    __slots__ = ("admitted", "asks", "head", "id", "is_sealed", "received")

    def __init__(self, id: str, received: float, head: Head, address: bytes) -> None:
        Ticket.__init__(self, address)
        self.id = id
        self.received = received
        self.head = head
        self.asks = "-"
        self.is_sealed = False
        self.admitted: Admitted | None = None


class Response(NamedTuple):
    """What is written.

    Attributes:
        status: the status line's code and reason.
        headers: beside `HEADERS`, the request's id and CORS.
        payload: the body.
        reply: if it hands something over, so that `Endpoint.finish` must be told whether it was written.
    """

    status: str
    headers: tuple[Header, ...]
    payload: bytes
    reply: Reply | None = None


class Endpoint:
    """Takes a request from its bytes to its reply."""

    def __init__(
        self,
        *,
        settings: Settings,
        identity: Identity,
        limits: Limits,
        exchange: Exchange,
        request_log: RequestLog,
        signatures: Signatures | None,
        signs: ProxySigns,
    ) -> None:
        self.exchange = exchange
        self.heads = Heads(settings, identity)
        self._identity = identity
        self._limits = limits
        self._request_log = request_log
        self._signatures = signatures
        self._signs = signs
        self._max_body = settings.max_body
        self._trusted_proxies = settings.trusted_proxies
        self._mode = settings.signatures
        self._takes_ordinary = self._mode != "required"
        self._answer_within = f"{settings.answer_timeout:.15g}"

    # --- the steps -----------------------------------------------------------------------------------------

    def open(
        self, head: Head, remote: str, forwarded: str, given_id: str, *, is_whole: bool = False
    ) -> Transaction:
        """Begin with a request that has just come in.

        Args:
            remote: the address that the connection comes from.
            forwarded: `X-Forwarded-For`.
            given_id: `X-Request-Id`.
            is_whole: its body is there, too, and `start` follows at once.

        Returns:
            The transaction. If it has a result already, the body need not be read.
        """
        address = self.address(remote, forwarded) if self._trusted_proxies else self._identity.address(remote)
        transaction = Transaction(self._request_log.id(given_id), time.monotonic(), head, address)
        try:
            is_wrong = head.is_refused or head.unsupported
            self._limits.count_address(transaction, may_be_later=is_whole and not is_wrong)
            if head.is_refused:
                raise Untrusted("origin")
            if head.unsupported:
                raise UnsupportedMediaType(head.unsupported)
        except SignalError as refusal:
            transaction.result = bare(refusal)
        return transaction

    def start(self, transaction: Transaction, body: bytes) -> None:
        """Take all steps up to the decision. The transaction has a result then, or waits for one."""
        try:
            self._start(transaction, body)
        except SignalError as refusal:
            transaction.result = bare(refusal)
        if transaction.counts:  # it did not come so far as to be counted
            try:
                self._limits.count_now(transaction)
            except RateLimited as refusal:
                transaction.result = bare(refusal)

    def take(self, transaction: Transaction, *, is_open: Callable[[], bool]) -> Response:
        """What to write, once the ticket has its result, or there is none.

        Args:
            is_open: tells whether the client's connection is, as of now.

        Raises:
            HungUp: the client has left; there is nothing to write.
        """
        try:
            signed = None if self._signatures is None else self._sign(transaction, self._signatures)
            reply = self.exchange.begin(transaction, is_open)
            return self._replied(transaction, reply, signed if reply is transaction.result else None)
        except SignalError as refusal:
            return self._refused(transaction, bare(refusal))
        except HungUp as gone:
            bare(gone)
            self._request_log.hung_up(transaction)
            raise HungUp from None

    def finish(self, transaction: Transaction, response: Response, *, written: bool) -> None:
        """Say whether the response was written. Once for each that `take` gave."""
        reply = response.reply
        if reply is not None:
            self.exchange.finish(reply, written=written)
            self._request_log.replied(transaction, reply.type, response.status, written=written)

    # --- the parts of the steps ----------------------------------------------------------------------------

    def _start(self, transaction: Transaction, body: bytes) -> None:
        head, request = transaction.head, None
        if self._takes_ordinary and head.is_json and not head.is_gzip:
            request = messages.parse_ordinary(body)
        if request is None:
            request = self._parse(head, body)
        transaction.asks = request.asks
        if request.type == LEAVE:
            self._limits.count_now(transaction)
            self._leave(request)
            transaction.result = Reply(LEFT)
            return
        if request.sealed is not None:
            self._limits.count_now(transaction)  # before a signature is looked at
        self._fill(transaction, request)
        self.exchange.start(transaction, transaction.received, head.hold_seconds)

    def address(self, remote: str, forwarded: str) -> bytes:
        """The client's address, hashed. A proxy's header that holds no address is not believed.

        Read here and not by Werkzeug's `ProxyFix`, which would change what the rest of an application sees.
        """
        hops = self._trusted_proxies
        if hops:
            named = forwarded.split(",")
            if len(named) >= hops and is_address(named[-hops].strip()):
                remote = named[-hops].strip()
            elif len(named) < hops or not forwarded.strip():
                self._signs.unnamed()
        return self._identity.address(remote)

    def _parse(self, head: Head, body: bytes) -> Request:
        if head.is_gzip:
            body = gunzip(body, self._max_body)
        return messages.parse(messages.decode(body, is_json=head.is_json), signatures=self._mode)

    def _leave(self, request: Request) -> None:
        assert request.name is not None
        leaver = self._identity.leaver(request.fingerprint)
        self.exchange.leave(self._identity.request_name(request.name), leaver)

    def _fill(self, ticket: Transaction, request: Request) -> None:
        """What matching gets to know of a request."""
        identity, fingerprint = self._identity, request.fingerprint
        ticket.nonce = request.nonce
        ticket.is_bounce = request.type == BOUNCE
        ticket.rematch = request.rematch
        if request.name is not None:
            ticket.name, ticket.leaver = identity.request_name(request.name), identity.leaver(fingerprint)
        if request.sealed is not None and self._signatures is not None:
            ticket.is_sealed = True
            admitted = ticket.admitted = self._signatures.admit(request, ticket.address)
            ticket.peer, ticket.bearer = identity.signed_caller(admitted.signer, fingerprint)
            ticket.pool, ticket.signal, ticket.digest = admitted.pool, admitted.payload, admitted.digest
            ticket.is_replay = admitted.is_replay
            return
        ticket.peer, ticket.bearer = identity.caller(ticket.head.peer, ticket.address, fingerprint)
        ticket.pool = "open:" + request.namespace if request.namespace else "open:"
        ticket.signal = '"SIGNAL":' + (request.literal or messages.encode_text(request.signal))
        if request.nonce is not None:
            ticket.digest = messages.digest_of(request.signal)

    def _sign(self, transaction: Transaction, signatures: Signatures) -> str | None:
        """The SIGNED_REPLY, where there is one. A reply that should have one and has none is not sent."""
        admitted, reply = transaction.admitted, transaction.result
        if admitted is None or not isinstance(reply, Reply):
            return None
        try:
            return signatures.reply(admitted, reply)
        except SignalError:
            self.exchange.finish(reply, written=False)
            raise

    def _replied(self, transaction: Transaction, reply: Reply, signed: str | None = None) -> Response:
        status, payload = messages.render(
            reply, transaction.pool, answer_within=self._answer_within, signed=signed
        )
        headers: tuple[Header, ...] = ()
        if len(payload) >= WORTH_COMPRESSING:
            headers, payload = _compressed(payload, transaction.head)
        if reply.type in (DEMOTE, ANSWER):
            return Response(status, headers, payload, reply)
        shown = "NO_NAMESPACE_PEER" if reply.type == NO_PEER and status[:3] == "298" else reply.type
        self._request_log.replied(transaction, shown, status)
        return Response(status, headers, payload)

    def _refused(self, transaction: Transaction, refusal: SignalError) -> Response:
        admitted = transaction.admitted
        if isinstance(refusal, (Full, RateLimited)) and admitted is not None and self._signatures is not None:
            self._signatures.refused(admitted)  # nothing was done, so it is no replay when it comes again
        may_be_signed = transaction.asks == "-" or transaction.is_sealed
        if isinstance(refusal, Untrusted) and self._signatures is not None and may_be_signed:
            refusal.time_ms = round(time.time() * 1000)
        self._request_log.refused(transaction, refusal)
        return refused(refusal)


def refused(refusal: SignalError) -> Response:
    """The response of a refusal."""
    headers: tuple[Header, ...] = ()
    if refusal.retry_after is not None:
        headers = (("Retry-After", str(refusal.retry_after)),)
    return Response(refusal.status, headers, messages.encode(refusal.fields()))


def _compressed(payload: bytes, head: Head) -> tuple[tuple[Header, ...], bytes]:
    """The headers that a long body needs, and the body as the client takes it."""
    if not head.accepts_gzip:
        return (("Vary", "Accept-Encoding"),), payload
    return (
        (("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip")),
        gzip.compress(payload, 1, mtime=0),
    )

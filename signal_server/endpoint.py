"""The blueprint: HTTP in, HTTP out. What to answer is decided elsewhere."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, request, send_from_directory

from . import messages
from .alarms import Alarms
from .errors import HungUp, SignalError, Unavailable, Untrusted
from .ice import ice_servers
from .identity import Caller, Identity, is_address
from .limits import Limits
from .matcher import Matcher
from .messages import NO_PEER, Reply, Request
from .settings import Settings
from .wire import WRITE_SECONDS, Connection, Environ, HangupWatch

STATIC: Final = Path(__file__).parent / "static"

SHARED_FILES: Final = ("spacerift.js", "signers.js", "fingerprints.js")
"""The modules that pages of other origins may import."""

PAGE_FILES: Final = ("demo.js", "demo.css")

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

WORTH_COMPRESSING: Final = 1024
"""Bytes. What fits into one packet anyway arrives no sooner for being smaller."""

PREFLIGHT_SECONDS: Final = 86400

HEADERS: Final = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
]

Finish = Callable[[bool], None]
StartResponse = Callable[..., Any]


class Endpoint:
    """What the routes need, and the routes."""

    def __init__(
        self,
        *,
        settings: Settings,
        identity: Identity,
        limits: Limits,
        matcher: Matcher,
        alarms: Alarms,
        hangups: HangupWatch,
        is_ready: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._limits = limits
        self._matcher = matcher
        self._alarms = alarms
        self._hangups = hangups
        self._is_ready = is_ready

    def blueprint(self) -> Blueprint:
        routes = Blueprint("spacerift", __name__)
        root: dict[str, Any] = {"strict_slashes": False, "provide_automatic_options": False}
        routes.add_url_rule("/", "signal", self.signal, methods=["POST"], **root)
        routes.add_url_rule("/", "preflight", self.preflight, methods=["OPTIONS"], **root)
        routes.add_url_rule("/", "page", self.page, methods=["GET"], **root)
        for name in (*SHARED_FILES, *PAGE_FILES):
            routes.add_url_rule(f"/{name}", "file", self.file, defaults={"name": name})
        routes.add_url_rule("/ice", "ice", self.ice)
        routes.add_url_rule("/health", "health", self.health)
        routes.add_url_rule("/ready", "ready", self.ready)
        return routes

    # --- the protocol --------------------------------------------------------------------------------------

    def signal(self) -> Response:
        """`POST /`: one request of the protocol."""
        received = time.monotonic()
        connection = Connection(request.environ, self._alarms, self._hangups)
        cors: list[tuple[str, str]] = []
        try:
            address = self._address(request.environ)
            self._limits.count_address(address)
            cors = self._cors(request.environ)
            asked = self._parse(request.environ, connection)
            caller = self._caller(asked, address, request.environ)
            waited = time.monotonic() - received
            reply = self._matcher.exchange(asked, caller, connection, waited=waited)
        except SignalError as refusal:
            return Refusal(refusal, connection, cors)
        except HungUp:
            return Refusal(Unavailable("nobody is there"), connection, cors)
        return Held(reply, asked, caller, connection, self._matcher, self._alarms, cors)

    def preflight(self) -> Response:
        """`OPTIONS /`: asked by a browser before a cross-origin request that is not simple, once a day."""
        try:
            headers = self._cors(request.environ)
        except Untrusted as refusal:
            return Refusal(refusal, None, [])
        headers += [
            ("Access-Control-Allow-Methods", "POST, GET, OPTIONS"),
            ("Access-Control-Allow-Headers", "Content-Type, Content-Encoding"),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
            ("Allow", "POST, GET, HEAD, OPTIONS"),
        ]
        return Response(status=204, headers=headers)

    def _parse(self, environ: Environ, connection: Connection) -> Request:
        body = connection.body(self._settings.max_body)
        return messages.parse(messages.decode(environ.get("CONTENT_TYPE", ""), body))

    def _address(self, environ: Environ) -> str:
        """The client's address, hashed. A proxy's header that holds no address is not believed."""
        address = environ.get("REMOTE_ADDR", "")
        if not is_address(address):
            address = environ.get("werkzeug.proxy_fix.orig", {}).get("REMOTE_ADDR", address)
        return self._identity.address(address)

    def _caller(self, asked: Request, address: str, environ: Environ) -> Caller:
        seen = ("HTTP_USER_AGENT", "HTTP_ACCEPT", "HTTP_ACCEPT_LANGUAGE")
        return self._identity.caller(
            address=address,
            fingerprint=asked.fingerprint,
            headers=tuple(environ.get(name, "") for name in seen),
            signer=asked.signer,
        )

    def _cors(self, environ: Environ) -> list[tuple[str, str]]:
        """The headers that let a page read the reply.

        Raises:
            Untrusted: the page's origin is not listed.
        """
        allowed = self._settings.cors_origins
        if "*" in allowed:
            return [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", "Retry-After")]
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return [("Vary", "Origin")]
        for each in allowed:  # ours is written, not the client's, though they are equal
            if each == origin:
                return [
                    ("Access-Control-Allow-Origin", each),
                    ("Access-Control-Expose-Headers", "Retry-After"),
                    ("Vary", "Origin"),
                ]
        raise Untrusted("origin")

    # --- the page and its files ----------------------------------------------------------------------------

    def page(self) -> Response:
        """`GET /`: the demo."""
        text = (STATIC / "index.html").read_text("utf-8")
        text = text.replace("{{REQUEST_TIMEOUT}}", f"{self._settings.request_timeout:g}")
        response = Response(text, mimetype="text/html")
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return _plain(response)

    def file(self, name: str) -> Response:
        response = send_from_directory(STATIC, name)
        if name in SHARED_FILES:
            self._share(response)
        return _plain(response)

    def ice(self) -> Response:
        """`GET /ice`: what a peer's `RTCPeerConnection` is given."""
        response = _json({"iceServers": ice_servers(self._settings, time.time())})
        self._share(response)
        return response

    def health(self) -> Response:
        """`GET /health`: the process answers."""
        return _plain(_json({"TYPE": "HEALTHY"}))

    def ready(self) -> Response:
        """`GET /ready`: it can pair."""
        if self._is_ready():
            return _plain(_json({"TYPE": "READY"}))
        return Refusal(Unavailable("not ready"), None, [])

    def _share(self, response: Response) -> None:
        """Let pages of the allowed origins read this."""
        try:
            response.headers.extend(self._cors(request.environ))
        except Untrusted:
            response.headers["Vary"] = "Origin"


# --- responses ---------------------------------------------------------------------------------------------


class Refusal(Response):
    """A refused request. What the client still sends is read away after the reply, within bounds."""

    def __init__(
        self, refusal: SignalError, connection: Connection | None, headers: list[tuple[str, str]]
    ) -> None:
        super().__init__(_encode(refusal.fields()), refusal.status, HEADERS + headers)
        if refusal.retry_after is not None:
            self.headers["Retry-After"] = str(refusal.retry_after)
        self._connection = connection

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = super().__call__(environ, start_response)
        return body if self._connection is None else self._then_drain(body, self._connection)

    @staticmethod
    def _then_drain(body: Iterable[bytes], connection: Connection) -> Iterator[bytes]:
        yield from body
        connection.drain()


class Held(Response):
    """The reply to a request that was matched or held.

    It is made final in the moment in which it is written, for only then is it known whether the client is
    still there; see `Matcher.begin`.
    """

    def __init__(
        self,
        reply: Reply,
        asked: Request,
        caller: Caller,
        connection: Connection,
        matcher: Matcher,
        alarms: Alarms,
        headers: list[tuple[str, str]],
    ) -> None:
        super().__init__(headers=HEADERS + headers)
        self._reply = reply
        self._pool = asked.pool
        self._caller = caller
        self._connection = connection
        self._matcher = matcher
        self._alarms = alarms

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            reply = self._matcher.begin(self._reply, self._caller, self._connection)
        except SignalError as refusal:  # the store went away meanwhile
            return Refusal(refusal, None, [])(environ, start_response)
        status, fields = messages.render(reply, self._pool)
        payload = _encode(fields)
        headers = self.headers.to_wsgi_list()
        if len(payload) >= WORTH_COMPRESSING:
            headers.append(("Vary", "Accept-Encoding"))
            if _accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
                payload = gzip.compress(payload, 1, mtime=0)
                headers.append(("Content-Encoding", "gzip"))
        headers.append(("Content-Length", str(len(payload))))
        start_response(status, headers)
        if reply.type in (messages.DELIVERED, NO_PEER):
            return [payload]
        alarm = self._alarms.after(WRITE_SECONDS, self._connection.cut)

        def finish(written: bool) -> None:
            alarm.cancel()
            self._matcher.finish(reply, written=written and not alarm.rang)

        return Watched(payload, finish)


class Watched:
    """A body of one piece that tells whether it was written.

    A WSGI server asks for the next piece once it has written the last one, and closes the body in any case.
    """

    __slots__ = ("_finish", "_pieces")

    def __init__(self, payload: bytes, finish: Finish) -> None:
        self._pieces = [payload]
        self._finish: Finish | None = finish

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        self._end(written=True)
        raise StopIteration

    def close(self) -> None:
        self._end(written=False)

    def _end(self, *, written: bool) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(written)


def _encode(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _json(fields: dict[str, object]) -> Response:
    return Response(_encode(fields), headers=HEADERS)


def _plain(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _accepts_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False

"""The blueprint: HTTP in, HTTP out. What to answer is decided elsewhere."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial, update_wrapper, wraps
from pathlib import Path
from typing import Final

from flask import Blueprint, Flask, Response, current_app, request, send_from_directory
from flask_limiter import Limiter, RateLimitExceeded
from prometheus_client import CONTENT_TYPE_LATEST

from . import messages
from .alarms import Alarms
from .errors import (
    BadRequest,
    HungUp,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    SignalError,
    Unavailable,
    Untrusted,
)
from .ice import ice_servers
from .identity import Caller, Identity, is_address
from .journal import Entry, Journal
from .limits import Limits
from .matcher import Matcher
from .messages import NO_PEER, Reply, Request
from .metrics import exposition
from .passes import is_good_pass
from .settings import Settings
from .signatures import Signatures
from .stores.base import Store
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

EXPOSED: Final = ("Access-Control-Expose-Headers", "Retry-After")

HEADERS: Final = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
]

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")  # and HEAD, with GET

Header = tuple[str, str]
Served = tuple[str, list[Header], Iterable[bytes]]
"""A response in the terms of WSGI: status line, headers, body."""

Finish = Callable[[bool], None]
View = Callable[..., Response]


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
        journal: Journal,
        store: Store,
        signatures: Signatures | None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._limits = limits
        self._matcher = matcher
        self._alarms = alarms
        self._hangups = hangups
        self._journal = journal
        self._store = store
        self._signatures = signatures

    def blueprint(self) -> Blueprint:
        routes = Blueprint("spacerift", __name__)
        limited = self._limits_gets()
        views: list[tuple[str, str, str, View]] = [
            ("/", "POST", "signal", self.signal),
            ("/", "OPTIONS", "preflight", self.preflight),
            ("/", "GET", "page", self.page),
            ("/ice", "GET", "ice", limited(self.ice)),
            ("/key", "GET", "key", limited(self.key)),
            ("/health", "GET", "health", self.health),
            ("/ready", "GET", "ready", self.ready),
            ("/metrics", "GET", "metrics", self.metrics),
            ("/pools", "GET", "pools", self.pools),
        ]
        for name in (*SHARED_FILES, *PAGE_FILES):
            views.append((f"/{name}", "GET", name.replace(".", "_"), partial(self.file, name)))
        left = {path: list(METHODS) for path, _, _, _ in views}
        for path, method, name, view in views:
            # A client may leave the last slash out, but not a browser, for the page's links are relative.
            _add(routes, path, name, view, [method], strict_slashes=method == "GET")
            left[path].remove(method)
        # A 405 or 404 of Flask's routing belongs to no blueprint, so an application would answer it in its
        # own way. But at the application's root, what is not ours is not ours to refuse.
        for number, (path, methods) in enumerate(left.items()):
            allowed = ", ".join(["HEAD", *(each for each in METHODS if each not in methods)])
            refuse = partial(_refusal, MethodNotAllowed("method not allowed"), headers=[("Allow", allowed)])
            _add(routes, path, f"refuse_{number}", refuse, methods)
        if self._settings.url_prefix:
            _add(routes, "/<path:path>", "unknown", lambda path: _refusal(NotFound("not found")), METHODS)
        return routes

    def _limits_gets(self) -> Callable[[View], View]:
        """A decorator for the views that make something for each who asks: `ADDRESS_LIMIT`, counted apart."""
        rate = self._settings.address_limit
        if rate is None:
            return lambda view: view
        limiter = self._limiter = Limiter(
            lambda: self._address(request.environ), storage_uri="spacerift+memory://"
        )
        # An application of its own: in ours, its hooks would cost each request as much as an empty view does,
        # and it would take the RATELIMIT_ settings of another Limiter for its own.
        limiter.init_app(Flask("spacerift.limiter"))

        def decorate(view: View) -> View:
            counted = limiter.limit(str(rate))(view)

            @wraps(view)
            def limited() -> Response:
                try:
                    return counted()
                except RateLimitExceeded:
                    self._journal.metrics.limit_hit("get").inc()
                    return _refusal(RateLimited(rate.get_expiry()), self._cors(request.environ))

            return limited

        return decorate

    # --- the protocol --------------------------------------------------------------------------------------

    def signal(self) -> Response:
        """`POST /`: one request of the protocol."""
        status, headers, body = self.serve(request.environ)
        # Passed through as it is, for whoever looked into a watched body before it is written would end it.
        watched = isinstance(body, Watched)
        return current_app.response_class(body, status, headers, direct_passthrough=watched)

    def serve(self, environ: Environ) -> Served:
        """The same in the terms of WSGI; see `app.PastFlask`."""
        entry = self._journal.open(environ.get("HTTP_X_REQUEST_ID"))
        headers = [*HEADERS, ("X-Request-Id", entry.id), *self._cors(environ)]
        connection = Connection(environ, self._alarms, self._hangups)
        refusal: SignalError
        try:
            address = self._address(environ)
            self._limits.count_address(address)
            self._check_origin(environ)
            asked = entry.asked = self._parse(environ, connection)
            if self._signatures is not None:
                asked = entry.asked = self._signatures.admit(asked)
            caller = self._caller(asked, address, environ)
            waited = time.monotonic() - entry.received
            reply = self._matcher.exchange(asked, caller, connection, waited=waited)
            signed = self._sign(asked, reply)
            reply = self._matcher.begin(reply, caller, connection)
        except SignalError as error:
            refusal = error
            entry.refused(error)
        except HungUp:
            refusal = Unavailable("nobody is there")
            entry.hung_up()
        else:
            status, fields = messages.render(reply, asked.pool, signed)
            payload = _compressed(_encode(fields), headers, environ)
            if reply.type in (messages.DELIVERED, NO_PEER):
                entry.replied(str(fields["TYPE"]), status)
                return status, headers, [payload]
            return status, headers, self._watched(payload, reply, status, connection, entry)
        payload = _refused(refusal, headers)
        return refusal.status, headers, Watched(payload, lambda _: connection.drain())

    def _watched(
        self, payload: bytes, reply: Reply, status: str, connection: Connection, entry: Entry
    ) -> Watched:
        """The body of a reply that was begun, and that is finished when it is written, or is not."""
        alarm = self._alarms.after(WRITE_SECONDS, connection.cut)

        def finish(written: bool) -> None:
            alarm.cancel()
            written = written and not alarm.rang
            self._matcher.finish(reply, written=written)
            entry.replied(reply.type, status, written=written)

        return Watched(payload, finish)

    def preflight(self) -> Response:
        """`OPTIONS /`: asked by a browser before a cross-origin request that is not simple, once a day."""
        try:
            self._check_origin(request.environ)
        except Untrusted as refusal:
            return _refusal(refusal, [("Vary", "Origin")])
        headers = [
            *self._cors(request.environ),
            ("Access-Control-Allow-Methods", "POST, GET, OPTIONS"),
            ("Access-Control-Allow-Headers", "Content-Type, Content-Encoding"),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
            ("Allow", "POST, GET, HEAD, OPTIONS"),
        ]
        return current_app.response_class(status=204, headers=headers)

    def _parse(self, environ: Environ, connection: Connection) -> Request:
        try:
            body = connection.body(self._settings.max_body)
        except BadRequest:
            self._matcher.check_open()  # else it is we who cut the body short
            raise
        parameters = messages.decode(environ.get("CONTENT_TYPE", ""), body)
        return messages.parse(parameters, signatures=self._settings.signatures)

    def _sign(self, asked: Request, reply: Reply) -> str | None:
        """The SIGNED_REPLY, where there is one. A reply that should have one and has none is not sent."""
        if self._signatures is None:
            return None
        try:
            return self._signatures.reply(asked, reply)
        except SignalError:
            self._matcher.finish(reply, written=False)
            raise

    def _address(self, environ: Environ) -> str:
        """The client's address, hashed. A proxy's header that holds no address is not believed.

        Read here and not by Werkzeug's `ProxyFix`, which would change what the rest of an application sees.
        """
        address: str = environ.get("REMOTE_ADDR", "")
        hops = self._settings.trusted_proxies
        if hops:
            named = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            if len(named) >= hops and is_address(named[-hops].strip()):
                address = named[-hops].strip()
        return self._identity.address(address)

    def _caller(self, asked: Request, address: str, environ: Environ) -> Caller:
        seen = ("HTTP_USER_AGENT", "HTTP_ACCEPT", "HTTP_ACCEPT_LANGUAGE")
        return self._identity.caller(
            address=address,
            fingerprint=asked.fingerprint,
            headers=tuple(environ.get(name, "") for name in seen),
            signer=asked.signer,
        )

    def _check_origin(self, environ: Environ) -> None:
        """Raise Untrusted if a page asks whose origin is not listed."""
        allowed = self._settings.cors_origins
        if "*" not in allowed and environ.get("HTTP_ORIGIN") not in (None, *allowed):
            raise Untrusted("origin")

    def _cors(self, environ: Environ) -> list[Header]:
        """The headers that let a page of a listed origin read the reply."""
        allowed = self._settings.cors_origins
        if "*" in allowed:
            return [("Access-Control-Allow-Origin", "*"), EXPOSED]
        for each in allowed:  # ours is written, not the client's, though they are equal
            if each == environ.get("HTTP_ORIGIN"):
                return [("Access-Control-Allow-Origin", each), EXPOSED, ("Vary", "Origin")]
        return [("Vary", "Origin")]

    # --- the page and its files ----------------------------------------------------------------------------

    def page(self) -> Response:
        """`GET /`: the demo."""
        text = (STATIC / "index.html").read_text("utf-8")
        text = text.replace("{{REQUEST_TIMEOUT}}", f"{self._settings.request_timeout:g}")
        response = current_app.response_class(text, mimetype="text/html")
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

    def key(self) -> Response:
        """`GET /key`: the server's public key, for a client to pin."""
        public_key = self._signatures and self._signatures.public_key
        if not public_key:
            return _refusal(NotFound("this server signs nothing"), self._cors(request.environ))
        response = _plain(current_app.response_class(public_key, mimetype="application/pgp-keys"))
        self._share(response)
        return response

    def health(self) -> Response:
        """`GET /health`: the process answers."""
        return _plain(_json({"TYPE": "HEALTHY"}))

    def ready(self) -> Response:
        """`GET /ready`: it can pair."""
        if self._store.is_ready() and (self._signatures is None or self._signatures.is_ready()):
            return _plain(_json({"TYPE": "READY"}))
        return _refusal(Unavailable("not ready"))

    def metrics(self) -> Response:
        """`GET /metrics`: for Prometheus."""
        text = exposition(self._journal.metrics, self._store.statistics)
        return _plain(current_app.response_class(text, headers=[("Content-Type", CONTENT_TYPE_LATEST)]))

    def pools(self) -> Response:
        """`GET /pools`: counts of each pool, for `flask spacerift pools`, which knows the same secret."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not is_good_pass(self._settings.secret_key, given):
            return _refusal(NotFound("not found"))
        return _plain(_json({"pools": [asdict(each) for each in self._store.pools()]}))

    def _share(self, response: Response) -> None:
        """Let pages of the allowed origins read this."""
        response.headers.extend(self._cors(request.environ))


# --- responses ---------------------------------------------------------------------------------------------


def _refusal(refusal: SignalError, headers: Sequence[Header] = ()) -> Response:
    ours = [*HEADERS, *headers]
    return current_app.response_class(_refused(refusal, ours), refusal.status, ours)


def _refused(refusal: SignalError, headers: list[Header]) -> bytes:
    """The body of a refusal; what belongs to it is added to the headers."""
    if refusal.retry_after is not None:
        headers.append(("Retry-After", str(refusal.retry_after)))
    payload = _encode(refusal.fields())
    headers.append(("Content-Length", str(len(payload))))
    return payload


def _compressed(payload: bytes, headers: list[Header], environ: Environ) -> bytes:
    """The body as the client takes it; what belongs to it is added to the headers."""
    if len(payload) >= WORTH_COMPRESSING:
        headers.append(("Vary", "Accept-Encoding"))
        if _accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            payload = gzip.compress(payload, 1, mtime=0)
            headers.append(("Content-Encoding", "gzip"))
    headers.append(("Content-Length", str(len(payload))))
    return payload


def _add(
    routes: Blueprint,
    path: str,
    name: str,
    view: View,
    methods: Sequence[str],
    *,
    strict_slashes: bool = False,
) -> None:
    if isinstance(view, partial):  # an application's other extensions expect a view to have a name
        view = update_wrapper(view, view.func)
    routes.add_url_rule(
        path, name, view, methods=methods, strict_slashes=strict_slashes, provide_automatic_options=False
    )


class Watched:
    """A body of one piece that tells whether it was written.

    A WSGI server asks for the next piece once it has written the last one, and closes the body in any case.
    A response that the application dropped, by an error of its own, was not written either.
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

    __del__ = close

    def _end(self, *, written: bool) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(written)


def _encode(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _json(fields: dict[str, object]) -> Response:
    return current_app.response_class(_encode(fields), headers=HEADERS)


def _plain(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _accepts_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False

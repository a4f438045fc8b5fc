"""The blueprint: the endpoint, the demo page and what else the server tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial, update_wrapper, wraps
from html import escape
from pathlib import Path
from typing import Final

from flask import Blueprint, Flask, Response, current_app, request, send_from_directory
from flask_limiter import Limiter, RateLimitExceeded
from prometheus_client import CONTENT_TYPE_LATEST

from .. import messages
from ..errors import MethodNotAllowed, NotFound, RateLimited, SignalError, Unavailable, Untrusted
from ..matching.stores.base import Store
from ..openpgp.signatures import Signatures
from ..readers import is_path
from ..settings import Settings
from ..telemetry.metrics import exposition
from ..telemetry.request_log import RequestLog
from .endpoint import HEADERS, Endpoint, refused
from .head import Header
from .hosting import Hosting
from .ice import ice_servers
from .passes import is_good_pass
from .wsgi import Watched, WsgiDriver

STATIC: Final = Path(__file__).parent.parent / "static"

SHARED_FILES: Final = ("spacerift.js", "signers.js", "claims.js", "fingerprints.js")
"""The modules that pages of other origins may import."""

PAGE_FILES: Final = ("demo.js", "demo.css")

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PREFLIGHT_SECONDS: Final = 86400

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")  # and HEAD, with GET

View = Callable[..., Response]


class Routes:
    """The views, and what they need."""

    def __init__(
        self,
        endpoint: Endpoint,
        driver: WsgiDriver,
        hosting: Hosting,
        *,
        settings: Settings,
        request_log: RequestLog,
        store: Store,
        signatures: Signatures | None,
    ) -> None:
        self._endpoint = endpoint
        self._origins = endpoint.heads.origins
        self._driver = driver
        self._hosting = hosting
        self._settings = settings
        self._request_log = request_log
        self._store = store
        self._signatures = signatures

    def blueprint(self) -> Blueprint:
        routes = Blueprint("spacerift", __name__)
        limited = self._limits_gets()
        views: list[tuple[str, str, str, View]] = [
            ("/", "POST", "signal", self.signal),
            ("/", "OPTIONS", "preflight", self.preflight),
            ("/", "GET", "page", limited(self.page)),
            ("/ice", "GET", "ice", limited(self.ice)),
            ("/key", "GET", "key", limited(self.key)),
            ("/health", "GET", "health", self.health),
            ("/ready", "GET", "ready", self.ready),
            ("/metrics", "GET", "metrics", self.metrics),
            ("/pools", "GET", "pools", self.pools),
            ("/seen", "GET", "seen", self.seen),
        ]
        for name in (*SHARED_FILES, *PAGE_FILES):
            file_view: View = update_wrapper(partial(self.file, name), self.file)
            views.append((f"/{name}", "GET", name.replace(".", "_"), limited(file_view)))
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
            _add(routes, path, f"refuse_{number}", refuse, methods, strict_slashes=path != "/")
        if self._settings.url_prefix:
            _add(routes, "", "no_slash", self.no_slash, ["GET"])
            _add(routes, "/<path:path>", "unknown", lambda path: _refusal(NotFound("not found")), METHODS)
        return routes

    def _limits_gets(self) -> Callable[[View], View]:
        """A decorator for the views that make something for each who asks: `ADDRESS_LIMIT`, counted apart."""
        rate = self._settings.address_limit
        if rate is None:
            return lambda view: view

        @cache
        def limiter() -> Limiter:
            # Not before the first of these requests: it starts a thread. Of one that is there when a server
            # forks, a worker of uWSGI waits for the end, when it ends itself, and there is none.
            made = Limiter(self._address, storage_uri="memory://")
            # An application of its own: in ours, its hooks would cost each request as much as an empty view
            # does, and it would take the RATELIMIT_ settings of another Limiter for its own.
            made.init_app(Flask("spacerift.limiter"))
            return made

        def decorate(view: View) -> View:
            @cache
            def counted() -> View:
                limits: Callable[[View], View] = limiter().limit(str(rate))
                return limits(view)

            @wraps(view)
            def limited() -> Response:
                try:
                    return counted()()
                except RateLimitExceeded:
                    self._request_log.metrics.limit_hit("get")
                    return _refusal(RateLimited(rate.get_expiry()), self._cors())

            return limited

        return decorate

    # --- the protocol --------------------------------------------------------------------------------------

    def signal(self) -> Response:
        """`POST /`: one request of the protocol."""
        status, headers, body = self._driver.serve(request.environ)
        # Passed through as it is, for whoever looked into a watched body before it is written would end it.
        watched = isinstance(body, Watched)
        return current_app.response_class(body, status, headers, direct_passthrough=watched)

    def preflight(self) -> Response:
        """`OPTIONS /`: asked by a browser before a cross-origin request that is not simple, once a day."""
        origin = request.headers.get("Origin", "")
        if origin and not self._origins.allows(origin):
            return _refusal(Untrusted("origin"), [("Vary", "Origin")])
        headers = [
            *self._cors(),
            ("Access-Control-Allow-Methods", "POST, GET, OPTIONS"),
            ("Access-Control-Allow-Headers", "Content-Type, Content-Encoding"),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
            ("Allow", "POST, GET, HEAD, OPTIONS"),
        ]
        return current_app.response_class(status=204, headers=headers)

    # --- the page and its files ----------------------------------------------------------------------------

    def page(self) -> Response:
        """`GET /`: the demo."""
        text = (STATIC / "index.html").read_text("utf-8")
        text = text.replace("{{REQUEST_TIMEOUT}}", f"{self._settings.request_timeout:g}")
        policy = CONTENT_SECURITY_POLICY
        stripped = self._stripped_prefix()
        if stripped:  # its links are relative, and the browser may be at the prefix without its slash
            text = text.replace("<head>", f'<head>\n  <base href="{escape(stripped)}/">', 1)
            policy = policy.replace("base-uri 'none'", "base-uri 'self'")
        response = current_app.response_class(text, mimetype="text/html")
        response.headers["Content-Security-Policy"] = policy
        response.headers["Referrer-Policy"] = "no-referrer"
        return _plain(response)

    def _stripped_prefix(self) -> str:
        """What a trusted proxy cut off before our own prefix, as Traefik and others tell it; or ""."""
        given = request.headers.get("X-Forwarded-Prefix", "").rstrip("/")
        if not self._settings.trusted_proxies or not is_path(given):
            return ""
        return given + (self._settings.url_prefix or "")

    def no_slash(self) -> Response:
        """`GET` of the prefix without its last slash. Scheme, host and port are the browser's."""
        query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
        path = (self._stripped_prefix() or request.script_root + (self._settings.url_prefix or "")) + "/"
        headers = [("Location", path + query), ("Cache-Control", "no-store")]
        return _plain(current_app.response_class(status=308, headers=headers))

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
            return _refusal(NotFound("this server signs nothing"), self._cors())
        response = _plain(current_app.response_class(public_key, mimetype="application/pgp-keys"))
        self._share(response)
        return response

    def health(self) -> Response:
        """`GET /health`: the process answers."""
        return _plain(_json({"TYPE": "HEALTHY"}))

    def ready(self) -> Response:
        """`GET /ready`: it can pair."""
        self._hosting.look(request.environ)
        if self._hosting.is_split:
            return _refusal(Unavailable("several processes"))
        if self._store.is_ready() and (self._signatures is None or self._signatures.is_ready()):
            return _plain(_json({"TYPE": "READY"}))
        return _refusal(Unavailable("not ready"))

    def metrics(self) -> Response:
        """`GET /metrics`: for Prometheus."""
        text = exposition(self._request_log.metrics, self._store.statistics)
        return _plain(current_app.response_class(text, headers=[("Content-Type", CONTENT_TYPE_LATEST)]))

    def pools(self) -> Response:
        """`GET /pools`: counts of each pool, for `flask spacerift pools`, which knows the same secret."""
        if not self._is_the_operator():
            return _refusal(NotFound("not found"))
        return _plain(_json({"pools": [asdict(each) for each in self._store.pools()]}))

    def seen(self) -> Response:
        """`GET /seen`: as whom we see the one who asks, for `flask spacerift doctor --url`.

        The address is its keyed hash, which tells no more than whether two requests have the same one.
        """
        if not self._is_the_operator():
            return _refusal(NotFound("not found"))
        named = [each for each in request.headers.get("X-Forwarded-For", "").split(",") if each.strip()]
        fields: dict[str, object] = {
            "TYPE": "SEEN",
            "ADDRESS": self._address(),
            "FORWARDED": len(named),
            "TRUSTED_PROXIES": self._settings.trusted_proxies,
        }
        return _plain(_json(fields))

    def _is_the_operator(self) -> bool:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return is_good_pass(self._settings.secret_key, given)

    def _share(self, response: Response) -> None:
        """Let pages of the allowed origins read this."""
        response.headers.extend(self._cors())

    def _cors(self) -> tuple[Header, ...]:
        return self._origins.headers(request.headers.get("Origin", ""))

    def _address(self) -> str:
        forwarded = request.headers.get("X-Forwarded-For", "")
        return self._endpoint.address(request.environ.get("REMOTE_ADDR", ""), forwarded).hex()


def _refusal(refusal: SignalError, headers: Sequence[Header] = ()) -> Response:
    status, more, payload, _ = refused(refusal)
    return current_app.response_class(payload, status, [*HEADERS, *headers, *more])


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


def _json(fields: dict[str, object]) -> Response:
    return current_app.response_class(messages.encode(fields), headers=HEADERS)


def _plain(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response

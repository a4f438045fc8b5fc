"""Builds the objects and joins them; the only file that knows all of them."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from flask import Flask, Response
from flask.sessions import SessionInterface
from werkzeug.exceptions import HTTPException

from . import messages
from .commands.group import group
from .errors import ConfigurationError
from .http.connection import WRITE_SECONDS
from .http.crowd import Crowd
from .http.endpoint import HEADERS, Endpoint
from .http.hosting import Hosting
from .http.passes import new_pass
from .http.routes import Routes
from .http.wsgi import WsgiDriver
from .matching.exchange import DRAIN_SECONDS, Exchange
from .matching.identity import Identity
from .matching.limits import Limits, MemoryLimits
from .matching.rules import Times
from .matching.stores.base import Store
from .matching.stores.memory import MemoryStore
from .matching.stores.redis import RedisStore
from .matching.stores.redis_client import Servers
from .matching.stores.redis_counts import RedisLimits
from .matching.tickets import OpenTickets
from .matching.timers import Timers
from .openpgp.signatures import Signatures
from .openpgp.trust import open_keyring
from .settings import Settings, sources
from .telemetry.metrics import Metrics, process_metrics
from .telemetry.request_log import RequestLog
from .telemetry.signs import ProxySigns

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


class SignalServer:
    """One signal server: what the endpoint of one application works with, as `app.extensions["spacerift"]`.

    Attributes:
        settings: the values in force.
        sources: where each of them comes from, by name; see `settings.sources`.
        store: where offers and pairs are kept.
        exchange: carries requests through the matcher.
        timers: make the calls that are due.
        endpoint: takes a request from its bytes to its reply.
        crowd: how many connections each address has, if a server tells it.
        is_alone: the application is ours, and has nothing else that must see a request.
        tickets: the open requests of this process.
    """

    def __init__(self, settings: Settings, sources: Mapping[str, str]) -> None:
        self.settings = settings
        self.sources = sources
        self.is_alone = False
        self.timers = Timers()
        metrics = process_metrics()
        servers = None
        if settings.redis_url is not None:
            servers = Servers(settings.redis_url, verify_tls=settings.redis_tls_verify == "on")
        limits = limits_of(settings, servers)
        self.tickets = OpenTickets(
            held_per_address=settings.held_per_address, max_waiting=settings.max_waiting
        )
        self.store = store_of(settings, servers)
        self.exchange = Exchange(
            self.store,
            self.tickets,
            limits,
            self.timers,
            metrics,
            request_seconds=settings.request_timeout,
            longest_seconds=settings.request_timeout + settings.answer_timeout + WRITE_SECONDS + 1,
        )
        self.request_log = RequestLog(metrics, form=settings.log, trusts_ids=bool(settings.trusted_proxies))
        self.signatures = signatures_of(settings, self.store, metrics)
        signs = ProxySigns(metrics, trusted_proxies=settings.trusted_proxies)
        self.timers.every_tick(signs.look, unless=lambda: True)
        identity = Identity(settings.secret_key or secrets.token_urlsafe(32))
        # A proxy's connections are those of many.
        most = None if settings.trusted_proxies else settings.connections_per_address
        self.crowd = Crowd(most, identity.address, lambda: metrics.limit_hit("connections"))
        self.endpoint = Endpoint(
            settings=settings,
            identity=identity,
            limits=limits,
            exchange=self.exchange,
            request_log=self.request_log,
            signatures=self.signatures,
            signs=signs,
        )
        self.timers.every_tick(metrics.publish, unless=lambda: "PROMETHEUS_MULTIPROC_DIR" not in os.environ)
        hosting = Hosting(is_shared=servers is not None)
        self.driver = WsgiDriver(self.endpoint, self.timers, hosting, max_body=settings.max_body)
        self.routes = Routes(
            self.endpoint,
            self.driver,
            hosting,
            settings=settings,
            request_log=self.request_log,
            store=self.store,
            signatures=self.signatures,
        )

    @property
    def paths(self) -> tuple[str, str]:
        """Where the endpoint is: a client may leave the last slash out."""
        prefix = self.settings.url_prefix or ""
        return (f"{prefix}/", prefix) if prefix else ("/", "/")

    def statistics(self) -> dict[str, int]:
        """Counts, without a signal, an address or a namespace."""
        return self.store.statistics() | {"held": len(self.tickets)}

    def snapshot(self) -> dict[str, Any]:
        """What stands in the store and in this process: no signal, address, namespace or peer."""
        rates = ("request_limit", "pair_limit", "address_limit", "held_per_address", "max_waiting")
        return {
            "counts": self.statistics(),
            "pools": [asdict(each) for each in self.store.pools()],
            "limits": {name: str(getattr(self.settings, name)) for name in rates},
            "refused": dict(self.request_log.metrics.refusals),
        }

    def look_at_store(self) -> None:
        """Let the log say what is wrong with Redis before anybody asks for something."""
        if not self.store.is_ready() or not isinstance(self.store, RedisStore):
            return
        policy = self.store.eviction()
        if policy not in ("noeviction", None):
            log.warning(
                "maxmemory-policy is %s: when Redis is full it forgets who waits. Set noeviction", policy
            )

    def names(self) -> dict[str, object]:
        """What `flask shell` knows by name."""
        return {
            "spacerift": self,
            "settings": self.settings,
            "store": self.store,
            "exchange": self.exchange,
            "keyring": self.signatures and self.signatures.keyring,
        }

    def new_pass(self) -> str:
        """What lets an operator's command see `GET /pools`, for a minute. Needs a SECRET_KEY."""
        assert self.settings.secret_key is not None
        return new_pass(self.settings.secret_key)

    def shutdown(self, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Answer every held request now, and take no more; see `Exchange.shutdown`."""
        self.exchange.shutdown(drain_seconds=drain_seconds)


class Spacerift:
    """The Flask extension: a signal server, mounted in an application.

        app = Flask(__name__)
        app.config["SPACERIFT_URL_PREFIX"] = "/rift"
        Spacerift(app)

    Args:
        settings: in place of what the application's configuration and the environment say.
    """

    def __init__(self, app: Flask | None = None, settings: Settings | None = None) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Mount a signal server of the application's own.

        Raises:
            ConfigurationError: a setting has a bad value.
        """
        try:
            settings = self._settings or Settings.from_env(os.environ, app.config)
            given = dict.fromkeys(settings.__slots__, "application")
            server = SignalServer(settings, given if self._settings else sources(os.environ, app.config))
        except ConfigurationError as error:
            if click.get_current_context(silent=True) is None:
                raise
            raise click.ClickException(str(error)) from None  # `flask` prints its one line, and no stack
        app.extensions["spacerift"] = server
        app.cli.add_command(group)
        app.shell_context_processor(server.names)
        app.register_blueprint(server.routes.blueprint(), url_prefix=settings.url_prefix)


def create_app(settings: Settings | None = None) -> Flask:
    """The application that `gunicorn` and `flask` run: the endpoint, its demo page, and nothing else."""
    app = Flask("signal_server", static_folder=None)
    app.url_map.merge_slashes = False  # what is not there is a 404, and no redirect to what is
    app.session_interface = _NoSessions()
    Spacerift(app, settings)
    app.extensions["spacerift"].request_log.to_terminal()
    app.register_error_handler(HTTPException, _http_error)
    app.extensions["spacerift"].is_alone = True
    return app


def serve() -> Flask:
    """`create_app` for a server's command line: a bad setting is one line, and no stack."""
    try:
        return create_app()
    except ConfigurationError as error:
        log.error("%s", error)
        sys.exit(4)  # gunicorn's code for an application that does not load: it stops, and does not try again


def store_of(settings: Settings, servers: Servers | None = None) -> Store:
    """The store: in Redis if there are servers of it, in this process otherwise."""
    times = Times(
        request=_ms(settings.request_timeout),
        answer=_ms(settings.answer_timeout),
        write=_ms(WRITE_SECONDS),
        pair_memory=_ms(settings.pair_memory_ttl),
    )
    sweep_ms = _ms(settings.pair_memory_sweep)
    if servers is None:
        return MemoryStore(times, sweep_ms=sweep_ms)
    return RedisStore(servers, times, sweep_ms=sweep_ms)


def signatures_of(settings: Settings, store: Store, metrics: Metrics) -> Signatures | None:
    """What verifies and signs, or nothing: without signatures no gpg is needed, and none is run."""
    if settings.signatures == "off":
        return None
    keyring = open_keyring(
        openpgp=settings.openpgp,
        trusted_keys=settings.trusted_keys,
        private_key=settings.private_key,
        passphrase=settings.private_key_passphrase,
        yields=settings.signatures == "optional",
    )
    return Signatures(keyring, store, metrics.openpgp)


def limits_of(settings: Settings, servers: Servers | None) -> Limits:
    """The limits: counted in Redis if there are servers of it, in this process otherwise."""
    if servers is None:
        return MemoryLimits(settings)
    longest = settings.request_timeout + settings.answer_timeout + WRITE_SECONDS
    return RedisLimits(servers, settings, longest_ms=_ms(longest))


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000)) if seconds else 0


def _http_error(error: HTTPException) -> Response:
    """What Flask itself refuses (404, 405, an exception of ours) in the form of all other refusals."""
    name = error.name or "Error"
    fields: dict[str, object] = {"TYPE": name.upper().replace(" ", "_"), "DETAIL": name.lower()}
    response = Response(messages.encode(fields), f"{error.code or 500} {name}", HEADERS)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(allowed)
    return response


class _NoSessions(SessionInterface):
    """Nothing here has a session, and opening one for each request takes time."""

    def open_session(self, app: Flask, request: Any) -> None:
        return None

    def save_session(self, app: Flask, session: Any, response: Any) -> None:
        pass

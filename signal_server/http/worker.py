"""gunicorn's gevent worker, but ordinary POSTs are served by callbacks, and who waits has no greenlet.

    listener ─► accept ─► serving: is it ordinary? ─► callbacks, in serving.py
                                        └─ no ─► gunicorn's own code, in a greenlet, for good

The thread of control is gevent's hub. Its callbacks are the watchers of the listeners, one watcher of an
epoll of our own, on which each connection is registered once for its whole life, and a tick. A greenlet is
there only for a step that may wait for another process (OpenPGP, Redis), never for a request that waits.

Set it with `worker_class = "signal_server.http.worker.Worker"`.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import socket
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import Any, Final

import gevent
import gevent.event
import gevent.socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker

from ..matching.exchange import DRAIN_SECONDS
from ..matching.timers import TICK_SECONDS
from .connection import KEEPALIVE, stop_reading
from .crowd import REFUSAL, Crowd
from .ordinary import Ordinary
from .serving import SEND_FLAGS, Connection, Serving, guarded

ACCEPTS_A_TURN: Final = 64
ACCEPTS_A_TURN_OF_MANY: Final = 8
"""The same where there are other workers, who are to have some."""

EXHAUSTED_SECONDS: Final = 0.5
"""The pause after a connection could not be accepted, for want of a descriptor."""

LAST_REQUEST_SECONDS: Final = 1.0
"""At the end, a connection on which nothing is asked is kept so long: a request may be on its way."""

SWEEP_SECONDS: Final = 0.25
"""The pause between two looks for connections that are idle for too long."""


class Worker(GeventWorker):  # type: ignore[misc]
    """See the module. It is a plain `GeventWorker` where that is wanted; see `serves_by_callbacks`."""

    alive: bool
    _was_told = False
    _is_hurried = False

    def run(self) -> None:
        """gunicorn calls this once the application is loaded; it returns when the worker is to end."""
        if not self.serves_by_callbacks():
            super().run()
            return
        self._set_up()
        for listener in self.sockets:
            self._listen(listener)
        self._ticker.start(guarded, self._tick)
        while self.alive:
            self.notify()
            self._told.wait(1.0)
        self._end()

    def serves_by_callbacks(self) -> bool:
        """Is the application ours alone, and does the configuration want nothing that only gunicorn does?"""
        server = getattr(self.wsgi, "extensions", {}).get("spacerift")
        cfg = self.cfg
        hooks = [
            hook
            for hook in (cfg.pre_request, cfg.post_request)
            if not (hook.__module__ == "gunicorn.config" or hasattr(hook, "is_for_greenlets"))
        ]
        return (
            server is not None
            and server.is_alone
            and hasattr(select, "EPOLLRDHUP")
            and not (cfg.is_ssl or cfg.proxy_protocol != "off" or "h2" in cfg.http_protocols)
            and not (cfg.accesslog or cfg.statsd_host or hooks or os.environ.get("SCRIPT_NAME"))
        )

    # --- the beginning -------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        server = self.wsgi.extensions["spacerift"]
        self._exchange = server.endpoint.exchange
        self._crowd: Crowd = server.crowd
        self._timers = server.timers
        self._request_log = server.request_log
        ordinary = Ordinary(
            server.paths, server.endpoint.heads, max_body=server.settings.max_body, config=self.cfg
        )
        blocks = server.store.blocks or (server.signatures is not None and server.signatures.blocks)
        self._serving = Serving(self, server.endpoint, ordinary, blocks=blocks)
        self._timers.drive()
        self._request_log.gather()
        self._handed: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pool = Pool()
        self._next_sweep = 0.0
        self._accepting: list[Any] = []
        self._servers: list[StreamServer] = []
        self._may_accept = True
        self._told = gevent.event.Event()
        self._loop = gevent.get_hub().loop
        self._ticker = self._loop.timer(TICK_SECONDS, TICK_SECONDS)
        self._exhausted = self._loop.timer(EXHAUSTED_SECONDS)

    def _listen(self, listener: Any) -> None:
        if listener.family not in (socket.AF_INET, socket.AF_INET6):
            server = StreamServer(listener, handle=partial(self.handle, listener), spawn=self._pool)
            server.start()
            self._servers.append(server)
            return
        listener.setblocking(False)
        for level, option, value in (*KEEPALIVE, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)):
            listener.setsockopt(level, option, value)  # its connections have them from the start
        watcher = self._loop.io(listener.fileno(), 1)
        watcher.start(guarded, self._accept, listener, watcher)
        self._accepting.append(watcher)
        self._closed_listener = _ListenerName(listener.getsockname())

    def _accept(self, listener: Any, watcher: Any) -> None:
        now = time.monotonic()
        accept, family = listener._sock._accept, listener.family  # a quarter of what `accept` costs
        for _ in range(ACCEPTS_A_TURN if self.cfg.workers == 1 else ACCEPTS_A_TURN_OF_MANY):
            if len(self._serving) + len(self._pool) >= self.worker_connections:
                self._pause_accepting()
                return
            try:
                fd, address = accept()
            except BlockingIOError:
                break
            except OSError:
                # For want of a descriptor, most likely; the watcher would call again at once, and for ever.
                self._pause_accepting()
                self._exhausted.start(guarded, self._resume_accepting)
                return
            sock = _socket.socket(family, socket.SOCK_STREAM, 0, fd)
            if not self._crowd.enter(address[0]):
                with suppress(OSError):
                    sock.send(REFUSAL, SEND_FLAGS)
                sock.close()
                continue
            self._serving.add(sock, fd, address[0], now)
        self._serving.serve_ready()  # what they ask is there by now, most often: a turn of the loop less

    def _pause_accepting(self) -> None:
        """The kernel's queue keeps newcomers meanwhile."""
        self._may_accept = False
        for each in self._accepting:
            each.stop()

    def _resume_accepting(self) -> None:
        if self._serving.is_ending or self._may_accept:
            return
        self._may_accept = True
        for each, listener in zip(self._accepting, self._tcp_listeners(), strict=True):
            each.start(guarded, self._accept, listener, each)

    def _tcp_listeners(self) -> list[Any]:
        return [each for each in self.sockets if each.family in (socket.AF_INET, socket.AF_INET6)]

    def closed(self, connection: Connection) -> None:
        """See `Host`."""
        self._crowd.leave(connection.remote)
        if not self._may_accept:
            self._resume_accepting()

    def retire(self) -> None:
        """See `Host`."""
        self.log.info("Autorestarting worker after current request.")
        self.alive = False

    # --- gunicorn's part -----------------------------------------------------------------------------------

    def take_over(self, connection: Connection, data: bytes) -> None:
        """See `Host`."""
        client = _Replayed(connection.socket.family, socket.SOCK_STREAM, 0, connection.socket.detach())
        client.replay = data
        try:
            address = client.getpeername()
        except OSError:  # it has left
            address = (connection.remote, 0)
        self._pool.spawn(self._handle, client, address, connection.remote)

    def _handle(self, client: Any, address: tuple[str, int], remote: str) -> None:
        try:
            self.handle(self._closed_listener, client, address)
        finally:
            self._crowd.leave(remote)
            if not self._may_accept:
                self._resume_accepting()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """gunicorn's own: one connection, in a greenlet."""
        if hasattr(self, "_handed"):
            self._handed.add(client)
        super().handle(listener, client, addr)

    # --- time ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        self._timers.tick()
        self._serving.tick(now)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._serving.drop_idle(now - (self.cfg.keepalive or 2))
        self._request_log.flush()
        if not self.alive:
            self._told.set()

    # --- the end -------------------------------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: the master wants it."""
        self._was_told = True
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT: the same, and no offer that is out has more time for its answer."""
        if not hasattr(self, "_told"):
            super().handle_quit(sig, frame)
            return
        self._was_told = self._is_hurried = True
        self.alive = False

    def _end(self) -> None:
        """Answer every request, and close every connection; see `Exchange.shutdown`."""
        self._pause_accepting()
        self._serving.is_ending = True
        for each in (*self._servers, *self.sockets):
            each.close()
        if not self._was_told and self.cfg.workers == 1:
            # It ends by itself (--max-requests, --reload): the next one must not wait until it is gone.
            os.kill(self.ppid, signal.SIGHUP)
        started = time.monotonic()
        drain_seconds, last_seconds = (0, 0) if self._is_hurried else (DRAIN_SECONDS, LAST_REQUEST_SECONDS)
        gevent.spawn(guarded, partial(self._exchange.shutdown, drain_seconds=drain_seconds))
        while time.monotonic() < started + self.cfg.graceful_timeout:
            if not len(self._serving) and not len(self._pool):
                break
            if time.monotonic() > started + last_seconds:
                self._serving.drop_idle(time.monotonic())
                for each in list(self._handed):
                    stop_reading(each)
            self.notify()
            gevent.sleep(TICK_SECONDS)
        else:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
        self._request_log.flush()


class _ListenerName:
    """What gunicorn asks of a listener that may be closed already."""

    def __init__(self, name: Any) -> None:
        self._name = name

    def getsockname(self) -> Any:
        return self._name


class _Replayed(gevent.socket.socket):  # type: ignore[misc]
    """A socket that gives back the bytes that were read of it already."""

    replay = b""

    def recv(self, size: int, *args: int) -> bytes:
        if self.replay:
            piece, self.replay = self.replay[:size], self.replay[size:]
            return piece
        return bytes(super().recv(size, *args))

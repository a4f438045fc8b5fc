"""A server whose loop, clock and threads are a test's, and a store that several of them share.

What decides and carries is the server's own: `Serving`, `WsgiDriver`, endpoint, exchange, matcher, tickets,
timers and rules. What is not: `FarStore` and `FarLimits` stand for Redis, as far as a matcher sees it, and
`Process.lend` for the few lines of gunicorn around a WSGI application.
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import signal_server.app as app
import signal_server.http.connection as connection
import signal_server.http.endpoint as endpoint
import signal_server.http.serving as serving
import signal_server.matching.exchange as exchange
import signal_server.matching.tickets as tickets
import signal_server.matching.timers as timers
from green import CLOCK, Daemon, Event, Green, Select, Thread, is_ready
from signal_server.errors import Unavailable
from signal_server.http.ordinary import Ordinary
from signal_server.matching.limits import MemoryLimits
from signal_server.matching.stores.base import Outcome, Store, away
from signal_server.matching.stores.memory import MemoryStore
from signal_server.settings import Settings

REQUEST_SECONDS, ANSWER_SECONDS, MEMORY_SECONDS = 1.5, 0.5, 0.7

AWAY = 0.02
"""So many of the calls find a far store away."""

GUNICORN = SimpleNamespace(limit_request_fields=64, limit_request_field_size=8190, secure_scheme_headers={})

SETTINGS = Settings.from_env(
    {
        "SPACERIFT_SECRET_KEY": "k" * 32,
        "SPACERIFT_LOG": "off",
        "SPACERIFT_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        "SPACERIFT_ANSWER_TIMEOUT": str(ANSWER_SECONDS),
        "SPACERIFT_PAIR_MEMORY_TTL": str(MEMORY_SECONDS),
    }
    | dict.fromkeys((f"SPACERIFT_{name}_LIMIT" for name in ("REQUEST", "PAIR", "ADDRESS")), "")
)


class Shared(Protocol):
    """What processes share.

    Attributes:
        store: the one behind each `FarStore`.
        places: tickets that wait, by the limit over all processes.
        posted: calls whose replies nobody waits for.
        applies: by process: what takes its mail.
        under_way: when each call began whose reply has not come.
        is_vague: a call has failed.
    """

    rng: random.Random
    store: MemoryStore
    places: set[str]
    posted: list[Callable[[], object]]
    applies: dict[int, Callable[[Outcome], object]]
    under_way: list[float]
    is_vague: bool

    def mailed(self, told: Outcome, number: int) -> Outcome:
        """What of this is the process's own; the rest goes into the mail."""

    def wait_for_reply(self) -> None:
        """Of a call that is carried out already."""


@contextlib.contextmanager
def on_green_ground(errors: list[str]) -> Iterator[None]:
    """Let the server's modules find this clock, these threads and this loop."""
    threads = SimpleNamespace(Event=Event, Thread=Thread)
    daemons = SimpleNamespace(Lock=contextlib.nullcontext, Thread=Daemon)
    loop = SimpleNamespace(get_hub=lambda: Process.made)
    steps = SimpleNamespace(begin=lambda *words: Process.current.later(serving.guarded, *words))
    places: list[tuple[Any, str, Any]] = [
        *((module, "time", CLOCK) for module in (exchange, endpoint, serving, connection, timers)),
        (tickets, "threading", threads),
        (exchange, "threading", threads),
        (connection, "threading", daemons),
        (connection, "select", Select()),
        (connection, "is_module_patched", lambda _: True),
        (serving, "gevent", loop),
        (serving, "Steps", lambda: steps),
    ]
    before = [getattr(module, name) for module, name, _ in places]
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(handler.format(record))  # type: ignore[method-assign]
    ours = logging.getLogger("signal_server")
    was, ours.propagate = ours.propagate, False
    ours.addHandler(handler)
    try:
        for module, name, mine in places:
            setattr(module, name, mine)
        yield
    finally:
        for (module, name, _), old in zip(places, before, strict=True):
            setattr(module, name, old)
        ours.removeHandler(handler)
        ours.propagate = was


class FarStore(Store):
    """What a process sees of a store that all share: each call waits on its way there and back.

    What is decided for a request of another process goes into that one's mail. As in Redis, `claim` asks
    nobody, and what runs out of time is somebody else's to look for.
    """

    blocks = True

    def __init__(self, world: Shared, number: int) -> None:
        self._world, self._number = world, number
        self._brought: set[str] = set()

    def start(self, apply: Callable[[Outcome], object]) -> None:
        self._world.applies[self._number] = apply

    def _call(self, event: str, *words: Any, **options: Any) -> Any:
        under_way = self._world.under_way
        under_way.append(Green.current.now)
        try:
            Green.current.wait(Green.current.ready)
            if self._world.rng.random() < AWAY:
                self._world.is_vague = True
                raise away()
            told = getattr(self._world.store, event)(*words, **options)
            if isinstance(told, Outcome):
                told = self._world.mailed(told, self._number)
            Green.current.wait(Green.current.ready)
        finally:
            under_way.pop(0)
        return told

    def _bring(self, event: str, arrival: Any, *words: Any, **options: Any) -> Outcome:
        self._brought.add(arrival.ticket)
        try:
            return self._call(event, arrival, *words, **options)  # type: ignore[no-any-return]
        except Unavailable:
            self._brought.remove(arrival.ticket)
            raise

    def connect(self, arrival: Any, *, may_wait: bool) -> Outcome:
        return self._bring("connect", arrival, may_wait=may_wait)

    def answer(self, arrival: Any, nonce: str) -> Outcome:
        return self._bring("answer", arrival, nonce)

    def bounce(self, arrival: Any, nonce: str, *, may_wait: bool) -> Outcome:
        return self._bring("bounce", arrival, nonce, may_wait=may_wait)

    def release(self, nonce: str) -> Outcome:
        return self._call("release", nonce)  # type: ignore[no-any-return]

    def claim(self, nonce: str) -> Outcome:
        return self._world.mailed(self._world.store.claim(nonce), self._number)

    def settle(self, nonce: str, *, written: bool) -> Outcome:
        return self._call("settle", nonce, written=written)  # type: ignore[no-any-return]

    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> Outcome:
        if ticket not in self._brought:
            return Outcome(good=False)
        return self._call("withdraw", ticket, unless_offered=unless_offered)  # type: ignore[no-any-return]

    def abandon(self, ticket: str) -> None:
        self._world.store.abandon(ticket)

    def take_name(self, name: str, leaver: bytes, ticket: str, pool: str) -> Any:
        taken = self._world.store.take_name(name, leaver, ticket, pool)  # before a `drop_name`, in any case
        self._world.wait_for_reply()
        return taken

    def drop_name(self, name: str) -> None:
        self._world.posted.append(partial(self._world.store.drop_name, name))

    def leave(self, name: str, leaver: bytes) -> Outcome:
        return self._call("leave", name, leaver)  # type: ignore[no-any-return]

    def expire(self) -> Outcome:
        return Outcome()

    def is_idle(self) -> bool:
        return True

    def remember_once(self, key: str, *, seconds: float) -> bool:
        raise NotImplementedError  # nobody signs

    def forget_once(self, key: str) -> None:
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        return self._world.store.statistics()

    def pools(self) -> Any:
        return self._world.store.pools()

    def is_ready(self) -> bool:
        return True


class FarLimits(MemoryLimits):
    """Places that all processes share. A call is carried out at once, and its reply takes time."""

    has_places = True

    def __init__(self, world: Shared) -> None:
        super().__init__(SETTINGS)
        self._world = world

    def take_place(self, address: bytes, ticket: str) -> bool:
        is_taken = self._world.rng.random() > AWAY
        if is_taken:
            self._world.places.add(ticket)
        self._world.wait_for_reply()
        return is_taken

    def leave_place(self, address: bytes, ticket: str) -> None:
        self._world.places.discard(ticket)


class GreenSocket:
    """A client's connection, as a greenlet that serves it has it."""

    family = socket.AF_UNIX

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._socket.recv(size)
            except BlockingIOError:
                Green.current.wait(Green.current.blocked, self.fileno(), select.POLLIN)
            except OSError:
                return b""

    def sendall(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                Green.current.wait(Green.current.blocked, self.fileno(), select.POLLOUT)

    def close(self) -> None:
        self._socket.close()


class Input:
    """`wsgi.input`, of so many bytes."""

    def __init__(self, sock: GreenSocket, data: bytes, length: int) -> None:
        self._socket, self._left = sock, length
        self.data = data

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        while len(self.data) < size:
            piece = self._socket.recv(65536)
            if not piece:
                break
            self.data += piece
        piece, self.data = self.data[:size], self.data[size:]
        self._left -= len(piece)
        return piece


class Process:
    """One process: a server, and the loop that it runs in. It is the worker of its `Serving`.

    Attributes:
        callbacks: what the loop is to call, in order.
        notice: the loop's watcher, if it serves by callbacks.
    """

    made: Process
    current: Process

    def __init__(self, world: Shared, number: int, *, by_callbacks: bool, store: Store) -> None:
        self.world, self.number = world, number
        self.alive, self.nr, self.max_requests = True, 0, sys.maxsize
        self.callbacks: deque[Callable[[], object]] = deque()
        self.notice: Callable[[], object] | None = None
        self.epoll = -1
        makers = app.store_of, app.limits_of
        app.store_of = lambda *_: store  # type: ignore[assignment]
        if store.blocks:
            app.limits_of = lambda *_: FarLimits(world)  # type: ignore[assignment]
        self.server = app.SignalServer(SETTINGS, {})
        app.store_of, app.limits_of = makers
        self.server.timers.drive()
        Process.made = self
        self.serving: serving.Serving | None = None
        if by_callbacks:
            served = self.server.endpoint
            ordinary = Ordinary(["/"], served.heads, max_body=SETTINGS.max_body, config=GUNICORN)
            self.serving = serving.Serving(self, served, ordinary, blocks=store.blocks)  # type: ignore[arg-type]

    # --- the loop that `Serving` sees --------------------------------------------------------------------

    @property
    def loop(self) -> Process:
        return self

    def io(self, fd: int, _: int) -> Any:
        self.epoll = fd

        def start(*words: Any) -> None:
            self.notice = partial(*words)

        return SimpleNamespace(start=start, stop=lambda: None)

    def run_callback(self, *words: Any) -> None:
        self.callbacks.append(partial(*words))

    def later(self, *words: Any) -> None:
        """`Steps.begin`"""
        self.callbacks.append(partial(Green.current.spawn, *words))

    # --- what the seed chooses from ------------------------------------------------------------------------

    def actions(self) -> Iterator[tuple[str, Callable[[], object]]]:
        if self.callbacks:
            yield "callback", self.callbacks[0]
        if self.notice is not None and is_ready(self.epoll, select.POLLIN):
            yield "events", self.notice

    def take(self, name: str, action: Callable[[], object]) -> None:
        Process.current = self
        if name == "callback":
            self.callbacks.popleft()
        action()

    def tick(self) -> None:
        Process.current = self
        self.server.timers.tick()
        if self.serving is not None:
            self.serving.tick(Green.current.now)

    def accept(self, sock: socket.socket) -> None:
        if self.serving is not None:
            inner = sock._sock if hasattr(sock, "_sock") else sock
            self.serving.add(inner, sock.fileno(), "192.0.2.1", Green.current.now)
        else:
            self.later(self.lend, GreenSocket(sock.detach()), b"")

    def end(self) -> None:
        """As a worker that is told to end."""
        self.alive = False
        if self.serving is not None:
            self.serving.is_ending = True
        Green.current.spawn(self.server.exchange.shutdown)

    # --- `Host` --------------------------------------------------------------------------------------------

    def take_over(self, of: Any, data: bytes) -> None:
        self.later(self.lend, GreenSocket(of.socket.detach()), data)

    def closed(self, of: Any) -> None:
        pass

    def retire(self) -> None:
        raise AssertionError

    # --- WSGI ----------------------------------------------------------------------------------------------

    def lend(self, sock: GreenSocket, data: bytes) -> None:
        """Serve a connection as gunicorn does: one request after the other, each by `WsgiDriver`."""
        with contextlib.closing(sock):
            while self.alive and sock not in connection._no_longer_read:
                while b"\r\n\r\n" not in data:
                    piece = sock.recv(65536)
                    if not piece:
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                body = Input(sock, data, length)
                environ = {
                    "SERVER_SOFTWARE": "gunicorn",
                    "wsgi.multithread": True,
                    "REMOTE_ADDR": "192.0.2.1",
                    "CONTENT_TYPE": "application/json",
                    "CONTENT_LENGTH": str(length),
                    "wsgi.input": body,
                    "gunicorn.socket": sock,
                }
                status, headers, pieces = self.server.driver.serve(environ)
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
                try:
                    sock.sendall(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1"))
                    for piece in pieces:
                        sock.sendall(piece)
                except OSError:
                    return
                finally:
                    if hasattr(pieces, "close"):
                        pieces.close()
                data = body.data

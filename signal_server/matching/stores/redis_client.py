"""The connections to Redis, of which a process has two, however many requests it holds.

All calls go over one connection, and those that are made while another is under way share the next packet:
a call by itself costs redis-py 70 µs and a round trip, a hundred together cost little more than one. A second
connection hears the notices of other processes.

redis-py connects, authenticates, encrypts and parses. While the server is away every call fails at once, and
one thread (a greenlet, under gevent) knocks at its door until it is back.
"""

from __future__ import annotations

import logging
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from gevent.monkey import get_original
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry

from ...errors import ConfigurationError, Unavailable
from .base import away

TIMEOUT_SECONDS: Final = 0.5
"""How long Redis may be silent when it is asked, before it counts as away; whoever asks is promised an answer
within a second. A process that is busy itself may take longer for its calls."""

PATIENCE: Final = 10
"""So many times as long any call may take, whatever keeps it."""

KNOCK_SECONDS: Final = 0.2
"""The pause between two attempts to connect."""

IDLE_SECONDS: Final = 20.0
"""After so long a connection shows that it still stands; platforms cut idle ones."""

MOST_AT_ONCE: Final = 256
"""Calls in one packet."""

CLUSTER: Final = "+cluster"

Address = tuple[str, int]
Connection = Any
"""redis-py's, which has few types."""

# gevent's asks its loop, which is what is late; ours does not block.
_poll: Any = get_original("select", "poll")

log = logging.getLogger(__name__)

_random = random.SystemRandom()  # whoever has seeded the common one keeps its sequence


class Unsent(Unavailable):
    """The command was not sent, so it is known that nothing happened."""


class Call:
    """A command under way."""

    __slots__ = ("_done", "_seconds", "error", "packed", "reply")

    def __init__(self, packed: tuple[bytes, ...], seconds: float) -> None:
        self._seconds = seconds
        self.packed = packed
        self.reply: Any = None
        self.error: Exception | None = None
        self._done = threading.Event()

    def finish(self) -> None:
        self._done.set()

    def wait(self) -> Any:
        """The reply.

        Raises:
            Unavailable: there is none, and it is not known whether the command was carried out.
            ResponseError: the command was refused, and did nothing.
        """
        if not self._done.wait(self._seconds):
            raise away()
        if self.error is not None:
            raise self.error
        return self.reply


class Link:
    """One connection to one server, shared by all threads of the process.

    Args:
        connection: not connected yet.
        call_seconds: how long a call may take, whatever keeps it.
        is_back: called when the server was away and is there again.
    """

    def __init__(self, connection: Connection, call_seconds: float, is_back: Callable[[], None]) -> None:
        self._connection = connection
        self._call_seconds = call_seconds
        self._is_back = is_back
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._started = False
        self._is_down = False
        self._epoch = b""

    def submit(self, *packed: bytes) -> Call:
        """Send a command, and do not wait for its reply.

        Args:
            packed: the command as it goes over the wire, in pieces; between two of them goes the epoch.

        Raises:
            Unsent: the server is known to be away.
        """
        if self._is_down:
            raise away(Unsent)
        call = Call(packed, self._call_seconds)
        self._calls.append(call)
        self._wake.set()
        if not self._started:
            self._start()
        return call

    def _start(self) -> None:
        # At the first call and not before, for neither a thread nor a connection survives a fork.
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="spacerift-redis", daemon=True).start()

    def _run(self) -> None:
        while True:
            if not self._wake.wait(IDLE_SECONDS):
                self._calls.append(Call((pack(b"PING"),), self._call_seconds))
            self._wake.clear()
            while self._calls:
                self._exchange([self._calls.popleft() for _ in range(min(len(self._calls), MOST_AT_ONCE))])

    def _exchange(self, calls: list[Call]) -> None:
        left = deque(calls)
        try:
            if not self._epoch:
                self._connect()
            self._connection.send_packed_command(
                [b"".join(self._epoch.join(call.packed) for call in calls)], check_health=False
            )
            while left:
                self._receive(left[0])
                left.popleft().finish()
        except (RedisError, OSError) as exc:
            self._is_down = True
            log.warning("Redis is away: %s", _why(exc))
            self._disconnect()
            self._give_up(left)
            self._knock()

    def _receive(self, call: Call) -> None:
        try:
            call.reply = self._read()
        except ResponseError as exc:
            call.error = exc

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disconnect_on_error=False)
        except TimeoutError:
            if not self._has_replied():
                raise
            return self._connection.read_response()

    def _has_replied(self) -> bool:
        """In a process that is busy for longer than the time-out, the reply and the time-out come at once."""
        poll = _poll()
        poll.register(self._connection._sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _connect(self) -> None:
        self._connection.connect()
        self._connection.send_command("INFO", "server", check_health=False)
        info: bytes = self._connection.read_response()
        run_id = next(line[7:].strip() for line in info.splitlines() if line.startswith(b"run_id:"))
        self._epoch = _bulk(run_id)

    def _disconnect(self) -> None:
        self._epoch = b""
        self._connection.disconnect()

    def _give_up(self, left: Iterable[Call]) -> None:
        for call in left:
            call.error = away()
            call.finish()
        while self._calls:
            call = self._calls.popleft()
            call.error = away(Unsent)
            call.finish()

    def _knock(self) -> None:
        """Return once the server is back."""
        while True:
            time.sleep(KNOCK_SECONDS * _random.uniform(0.5, 1.0))
            try:
                self._connect()
            except (RedisError, OSError, StopIteration):
                self._disconnect()
                self._give_up(())  # what was submitted before it was known that the server is away
            else:
                self._is_down = False
                log.warning("Redis is back")
                self._is_back()
                return


class Notices:
    """A connection that listens on one channel.

    Args:
        connect: makes a connection, to any server that is there.
        channel: what to listen to.
        heard: called with each notice; and with None, if some may have been missed.
    """

    def __init__(
        self, connect: Callable[[], Connection], channel: str, heard: Callable[[bytes | None], None]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._heard = heard
        self.is_listening = False
        threading.Thread(target=self._run, name="spacerift-notices", daemon=True).start()

    def _run(self) -> None:
        while True:
            connection = self._connect()
            try:
                self._listen(connection)
            except (RedisError, OSError):
                self.is_listening = False
                connection.disconnect()
            time.sleep(KNOCK_SECONDS * _random.uniform(0.5, 1.0))

    def _listen(self, connection: Connection) -> None:
        connection.connect()
        connection.send_command("SUBSCRIBE", self._channel, check_health=False)
        was_asked = False
        while True:
            try:
                message = connection.read_response(timeout=IDLE_SECONDS, disconnect_on_error=False)
            except TimeoutError:
                if was_asked:
                    raise
                was_asked = True
                connection.send_command("PING", check_health=False)
                continue
            was_asked = False
            if message[0] == b"message":
                self._heard(message[2])
            elif message[0] == b"subscribe":
                self.is_listening = True
                self._heard(None)


class Servers:
    """The server of each key: one, or the nodes of a Redis Cluster.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads them; or `redis+cluster://` or
            `rediss+cluster://` with any node of a cluster.
        verify_tls: False takes any certificate.
        timeout_seconds: after which silence a server is away.

    Raises:
        ConfigurationError: it is no such address.
    """

    def __init__(
        self, url: str, *, verify_tls: bool = True, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        options: dict[str, Any] = {
            "socket_timeout": timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        parts = urlsplit(url)
        if parts.scheme != "unix":
            options |= {"socket_connect_timeout": timeout_seconds, "socket_keepalive": True}
        if parts.scheme.startswith("rediss") and not verify_tls:
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
        plain = url.replace(f"{CLUSTER}://", "://", 1)
        try:
            pool = ConnectionPool.from_url(plain, **options)
            pool.connection_class(
                **pool.connection_kwargs
            )  # without I/O; else the first request would find it
        except (TypeError, ValueError, RedisError) as exc:
            raise ConfigurationError(_why_refused(parts.query, exc)) from exc
        self._make, self._options = pool.connection_class, pool.connection_kwargs
        self._call_seconds = timeout_seconds * PATIENCE
        self._nodes = _Nodes(self._connect) if plain != url else None
        self._links: dict[Address | None, Link] = {}
        self._heard: list[Callable[[bytes | None], None]] = []
        self._lock = threading.Lock()

    def call(self, key: bytes, *packed: bytes) -> Any:
        """Send a command to the server of `key` and wait for its reply.

        Args:
            packed: from `pack` or `pack_around_epoch`.

        Raises:
            Unavailable: it is not known whether the command was carried out.
            NoScriptError: the server does not know the script; nothing was done.
        """
        try:
            return self._link(key).submit(*packed).wait()
        except NoScriptError:
            raise
        except ResponseError as exc:
            if self._nodes is not None:
                self._nodes.look_again()  # the key may have moved to another node
            log.error("Redis refuses: %s", exc)
            raise away() from exc
        except Unavailable:
            if self._nodes is not None:
                self._nodes.look_again()  # another node may take over
            raise

    def send(self, key: bytes, *packed: bytes) -> None:
        """Send a command to the server of `key`, and do not wait for its reply.

        Raises:
            Unsent: the server is known to be away.
        """
        self._link(key).submit(*packed)

    def run(self, key: bytes, source: bytes, *packed: bytes) -> Any:
        """Run a script on the server of `key`.

        Args:
            source: of the script, for a server that does not know it yet.
            packed: its `EVALSHA`.

        Raises:
            Unavailable: it is not known whether it was run.
        """
        try:
            return self.call(key, *packed)
        except NoScriptError:
            self.call(key, pack(b"SCRIPT", b"LOAD", source))
        try:
            return self.call(key, *packed)
        except NoScriptError:
            raise away() from None  # it forgets as fast as it learns: it was started anew just now

    @property
    def is_cluster(self) -> bool:
        return self._nodes is not None

    def listen(self, channel: str, heard: Callable[[bytes | None], None]) -> Notices:
        """Call `heard` with all that is published on a channel, on any node.

        And with None, if some may have been missed, or a server was away.
        """
        self._heard.append(heard)
        return Notices(lambda: self._connect(self._nodes.any() if self._nodes else None), channel, heard)

    def _link(self, key: bytes) -> Link:
        address = None if self._nodes is None else self._nodes.of(key)
        link = self._links.get(address)
        if link is None:
            with self._lock:
                new = Link(self._connect(address), self._call_seconds, self._tell_all)
                link = self._links.setdefault(address, new)
        return link

    def _tell_all(self) -> None:
        for heard in self._heard:
            heard(None)

    def _connect(self, address: Address | None) -> Connection:
        place = {} if address is None else {"host": address[0], "port": address[1]}
        return self._make(**{**self._options, **place})


class _Nodes:
    """Which node of a cluster has which keys. One thread asks, when there is reason to."""

    def __init__(self, connect: Callable[[Address | None], Connection]) -> None:
        self._connect = connect
        self._by_slot: dict[int, Address] = {}
        self._doubt = threading.Event()
        self._known = threading.Event()
        self._started = False
        self._lock = threading.Lock()

    def of(self, key: bytes) -> Address:
        if not self._known.is_set():
            self.look_again()
            self._known.wait(TIMEOUT_SECONDS)
        address = self._by_slot.get(key_slot(key))
        if address is None:
            raise away()
        return address

    def any(self) -> Address | None:
        """One of the nodes; None for the one that the URL names."""
        return _random.choice([*set(self._by_slot.values())] or [None])

    def look_again(self) -> None:
        self._doubt.set()
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="spacerift-cluster", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._doubt.wait()
            self._doubt.clear()
            for address in [None, *set(self._by_slot.values())]:
                connection = self._connect(address)
                try:
                    self._ask(connection)
                    break
                except (RedisError, OSError):
                    continue
                finally:
                    connection.disconnect()
            time.sleep(KNOCK_SECONDS)

    def _ask(self, connection: Connection) -> None:
        connection.connect()
        connection.send_command("CLUSTER", "SLOTS", check_health=False)
        by_slot = {}
        for first, last, (host, port, *_), *_ in connection.read_response():
            for slot in range(first, last + 1):
                by_slot[slot] = (host.decode() or connection.host, port)
        self._by_slot = by_slot
        self._known.set()


def _why_refused(query: str, error: Exception) -> str:
    """Which part of the URL the driver does not take. Its own words may repeat the password."""
    options = sorted(name for name in parse_qs(query, keep_blank_values=True) if name in str(error))
    flag = "Certificate Requirements" in str(error)  # whose text does not name its option
    named = "ssl_cert_reqs" if flag else ", ".join(options)
    if named:
        return f"REDIS_URL has a value of '{named}' that the driver does not take"
    return "REDIS_URL must be such as 'redis://host:6379/0'"


def _why(error: BaseException) -> str:
    """The kinds of an error and of what it came from. Their texts may hold an address."""
    cause = error.__cause__ or error.__context__
    name = type(error).__name__
    return name if cause is None else f"{name} from {_why(cause)}"


def pack(*words: bytes) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(_bulk, words)))


def pack_around_epoch(before: Iterable[bytes], after: Iterable[bytes]) -> tuple[bytes, bytes]:
    """A command that has the epoch among its words, which the link puts between the two pieces."""
    before, after = list(before), list(after)
    head = b"*%d\r\n%b" % (len(before) + 1 + len(after), b"".join(map(_bulk, before)))
    return head, b"".join(map(_bulk, after))


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)

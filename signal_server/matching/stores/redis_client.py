"""The Redis servers of a deployment: which of them has a key, and what it is asked.

A process has two connections to each, however many requests it holds: one for calls, and one for the
notices of other processes. redis-py connects, authenticates and encrypts; `redis_hub` and `redis_threads`
read and write.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from gevent.monkey import is_module_patched
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.retry import Retry

from ...errors import ConfigurationError, Unavailable
from .base import away
from .redis_hub import HubConnection, HubNotices
from .redis_protocol import KNOCK_SECONDS, TIMEOUT_SECONDS, Connection, Refused, refusals
from .redis_threads import ThreadConnection, ThreadNotices

CLUSTER: Final = "+cluster"

Address = tuple[str, int]

Notices = HubNotices | ThreadNotices


_random = random.SystemRandom()  # a seed of the common generator keeps its sequence


class Servers:
    """The server of each key: one, or the nodes of a Redis Cluster.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads them; or `redis+cluster://` or
            `rediss+cluster://` with any node of a cluster.
        verify_tls: False takes any certificate.
        timeout_seconds: after which silence a server is away.

    Attributes:
        is_divided: not all keys may be in one call. So it is with one server, too, if it is a cluster of its
            own, which is known once it has refused a call.

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
        self._timeout_seconds = timeout_seconds
        self._nodes = _Nodes(self._connect) if plain != url else None
        self.is_divided = self._nodes is not None
        self._connections: dict[Address | None, HubConnection | ThreadConnection] = {}
        self._heard: list[Callable[[bytes | None], object]] = []
        self._lock = threading.Lock()

    def call(self, key: bytes, *packed: bytes) -> Any:
        """Send a command to the server of `key` and wait for its reply.

        Args:
            packed: from `pack`, or in pieces between which the epoch goes.

        Raises:
            Unavailable: it is not known whether the command was carried out.
        """
        try:
            return self.ask(key, *packed)
        except Refused as refused:
            refusals.tell(refused)
            raise away() from refused

    def ask(self, key: bytes, *packed: bytes) -> Any:
        """As `call`, for a command that may be refused.

        Raises:
            Refused: the reply is an error.
            Unavailable: see `call`.
        """
        if self._nodes is None:
            return self._connection(key).call(*packed)
        try:
            return self._connection(key).call(*packed)
        except (Refused, Unavailable):
            self._nodes.look_again()  # the key may have moved to another node, or one may take over
            raise

    def send(self, key: bytes, *packed: bytes) -> None:
        """Send a command to the server of `key`, and do not wait for its reply.

        Raises:
            Unsent: the server is known to be away.
        """
        self._connection(key).send(*packed)

    @property
    def is_cluster(self) -> bool:
        return self._nodes is not None

    @property
    def is_in_hub(self) -> bool:
        """Do greenlets wait for the replies? gevent's, in whose processes threads are greenlets."""
        return bool(is_module_patched("threading") and is_module_patched("socket"))

    def node_of(self, key: bytes) -> Address | None:
        """Names the server of `key`."""
        return None if self._nodes is None else self._nodes.of(key)

    def listen(self, channel: str, heard: Callable[[bytes | None], None]) -> Notices:
        """Call `heard` with all that is published on a channel, on any node.

        And with None, if some may have been missed, or a server was away. Under gevent it is called in the
        hub.
        """
        self._heard.append(heard)
        kind = HubNotices if self.is_in_hub else ThreadNotices
        return kind(lambda: self._connect(self._nodes.any() if self._nodes else None), channel, heard)

    def on_return(self, call: Callable[[], object]) -> None:
        """Call it whenever a server that was away is back."""
        self._heard.append(lambda _: call())

    def _connection(self, key: bytes) -> HubConnection | ThreadConnection:
        address = None if self._nodes is None else self._nodes.of(key)
        connection = self._connections.get(address)
        if connection is None:
            # With the first call and not before, because neither a thread nor a connection survives a fork.
            kind = HubConnection if self.is_in_hub else ThreadConnection
            with self._lock:
                new = kind(self._connect(address), self._timeout_seconds, self._tell_all)
                connection = self._connections.setdefault(address, new)
        return connection

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

"""Connections to Redis under gevent: written and read by callbacks in its hub.

One connection is shared by all greenlets of the process. What they ask in one turn of the loop goes out in
one packet; a reply is handed to the greenlet that sleeps until it comes, by a plain switch. There is no
event, no lock and no time-out for each call: one timer watches the oldest.

Replies come in the order of the calls, so a connection on which anything at all went wrong (half a command
written, a reply that cannot be read, a time-out) is closed, and every call on it fails. No call is ever
carried over to the next.
"""

from __future__ import annotations

import logging
import random
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import gevent
import hiredis
from gevent import get_hub, getcurrent
from gevent.event import Event
from redis.exceptions import RedisError

from ...errors import SignalError
from .base import away
from .redis_protocol import (
    IDLE_SECONDS,
    KNOCK_SECONDS,
    PATIENCE,
    TIMEOUT_SECONDS,
    Connection,
    Packed,
    Refused,
    Unsent,
    pack,
    read_epoch,
    refusals,
    trouble,
)

CHUNK: Final = 1 << 18
"""Bytes to read at once."""

READ: Final = 1
WRITE: Final = 2

WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

LOST: Final = (RedisError, OSError, StopIteration, hiredis.ProtocolError)

log = logging.getLogger(__name__)

_random = random.SystemRandom()  # a seed of the common generator keeps its sequence


class Stream:
    """The bytes of one established connection, read and written without ever blocking.

    Args:
        connection: redis-py's, established and authenticated. From here on it is ours, and only closed by it.
        heard: called with each reply, in the hub.
        lost: called once, if the connection breaks; nothing is heard after that.
    """

    def __init__(
        self,
        connection: Connection,
        heard: Callable[[Any], object],
        lost: Callable[[BaseException], object],
    ) -> None:
        self._connection = connection
        self._heard = heard
        self._lost = lost
        self._socket: Any = connection._sock
        self._socket.settimeout(0.0)
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)
        self._reader = hiredis.Reader()
        self._rest = b""
        self.is_open = True
        self.heard_at = time.monotonic()
        self._hub = get_hub()
        self._readable = self._hub.loop.io(self._socket.fileno(), READ)
        self._writable = self._hub.loop.io(self._socket.fileno(), WRITE)
        self._readable.start(self.read)

    def write(self, packed: bytes) -> None:
        """Write, or keep what the kernel does not take now for when it does."""
        if self._rest:
            self._rest += packed
            return
        self._rest = packed
        self._write_rest()

    def _write_rest(self) -> None:
        try:
            written = self._socket.send(self._rest)
        except WOULD_BLOCK:
            written = 0
        except OSError as error:
            self.lose(error)
            return
        self._rest = self._rest[written:]
        if written:
            self.heard_at = time.monotonic()  # a server that reads is there
        if not self._rest:
            self._writable.stop()
        elif not self._writable.active:
            self._writable.start(self._write_rest)

    def read(self) -> None:
        """Hand out the replies that are there."""
        try:
            while self.is_open and self._read_some():
                pass
        except (OSError, hiredis.ProtocolError) as error:
            self.lose(error)

    def _read_some(self) -> bool:
        """Returns True if there may be more, of which the loop will not tell."""
        try:
            received = self._socket.recv(CHUNK)
        except WOULD_BLOCK:
            return False
        if not received:
            raise ConnectionResetError
        self.heard_at = time.monotonic()
        self._reader.feed(received)
        while self.is_open:
            reply = self._reader.gets()
            if reply is False:  # in this version of the protocol no reply is
                break
            try:
                self._heard(reply)
            except Exception:  # noqa: BLE001  the other replies have their turn all the same
                self._hub.handle_error(self, *sys.exc_info())
        return self._is_tls and self.is_open and bool(self._socket.pending())

    def lose(self, error: BaseException) -> None:
        """Close it, and say so."""
        if self.close():
            self._lost(error)

    def close(self) -> bool:
        """Returns False if it was closed before."""
        if not self.is_open:
            return False
        self.is_open = False
        for watcher in (self._readable, self._writable):
            watcher.stop()
            watcher.close()
        self._connection.disconnect()
        return True


class Call:
    """A command under way. `waiter` sleeps until it has a reply or an error; None: nobody does, or any
    more."""

    __slots__ = ("error", "packed", "reply", "sent_at", "waiter")

    def __init__(self, packed: Packed, waiter: Any) -> None:
        self.packed = packed
        self.waiter = waiter
        self.reply: Any = None
        self.error: Exception | None = None
        self.sent_at = 0.0


class HubConnection:
    """One connection to one server, shared by all greenlets of the process.

    Args:
        connection: redis-py's, not connected yet.
        silence_seconds: after so long without a reply the server is away.
        is_back: called when a connection was lost and stands again.
    """

    def __init__(self, connection: Connection, silence_seconds: float, is_back: Callable[[], None]) -> None:
        self._connection = connection
        self._silence_seconds = silence_seconds
        self._is_back = is_back
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._epoch = b""
        self._stream: Stream | None = None
        self._unsent: list[Call] = []
        self._sent: deque[Call] = deque()
        self._is_started = False
        self._is_down = False
        self._is_flushing = False
        self._timer: Any = None
        self._broken = Event()

    def call(self, *packed: bytes) -> Any:
        """Send a command, and sleep until its reply is here.

        Raises:
            Unsent: the server is known to be away.
            Unavailable: there is no reply, and it is not known whether the command was carried out.
            Refused: the reply is an error.
        """
        call = Call(packed, getcurrent())
        self._submit(call)
        try:
            while call.waiter is not None:  # whatever else may wake this greenlet
                self._hub.switch()
        finally:
            call.waiter = None  # a time-out or an end of this greenlet came first
        if call.error is not None:
            raise call.error
        return call.reply

    def send(self, *packed: bytes) -> None:
        """Send a command, in this turn of the loop, and do not wait for its reply.

        Raises:
            Unsent: the server is known to be away.
        """
        self._submit(Call(packed, None))

    # --- to the server -------------------------------------------------------------------------------------

    def _submit(self, call: Call) -> None:
        if self._is_down:
            raise away(Unsent)
        self._unsent.append(call)
        if not self._is_started:
            self._is_started = True
            gevent.spawn(self._run)
        elif self._stream is not None and not self._is_flushing:
            self._is_flushing = True
            self._loop.run_callback(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._stream is None or not self._unsent:
            return
        now = time.monotonic()
        calls, self._unsent = self._unsent, []
        for call in calls:
            call.sent_at = now
        self._sent.extend(calls)
        if self._timer is None:
            self._watch(self._silence_seconds)
        self._stream.write(b"".join([self._epoch.join(call.packed) for call in calls]))

    # --- from the server -----------------------------------------------------------------------------------

    def _heard(self, reply: Any) -> None:
        """Wake the greenlet that waits for this reply. It runs until it waits for something else."""
        if not self._sent:
            assert self._stream is not None
            self._stream.lose(hiredis.ProtocolError("a reply that nobody asked for"))
            return
        call = self._sent.popleft()
        if isinstance(reply, hiredis.ReplyError):
            call.error = Refused(str(reply))
            if call.waiter is None:
                self._loop.run_callback(gevent.spawn, refusals.tell, call.error)
        else:
            call.reply = reply
        self._wake(call)

    def _wake(self, call: Call) -> None:
        waiter, call.waiter = call.waiter, None
        if waiter is not None:
            waiter.switch()

    # --- time ----------------------------------------------------------------------------------------------

    def _watch(self, seconds: float) -> None:
        self._timer = self._loop.timer(max(0.001, seconds))
        self._timer.start(self._look_at_oldest)

    def _look_at_oldest(self) -> None:
        """Is its reply overdue?"""
        self._stop_timer()
        if self._stream is None or not self._sent:
            return
        self._stream.read()  # it may be this process that is late
        if self._stream is None or not self._sent:
            return
        sent_at = self._sent[0].sent_at
        silent_since = max(sent_at, self._stream.heard_at)
        due = min(silent_since + self._silence_seconds, sent_at + self._silence_seconds * PATIENCE)
        left = due - time.monotonic()
        if left > 0:
            self._watch(left)
        else:
            self._stream.lose(TimeoutError())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    # --- connecting ----------------------------------------------------------------------------------------

    def _lost(self, error: BaseException) -> None:
        """The connection broke: nobody knows what became of the calls that were sent over it."""
        self._stream = None
        self._stop_timer()
        calls, self._sent = self._sent, deque()
        self._fail(calls, away)
        if isinstance(error, TimeoutError):
            self._go_down(error)  # else they would wait once more for what does not come
        self._broken.set()

    def _go_down(self, error: BaseException) -> None:
        calls, self._unsent = self._unsent, []
        self._fail(calls, lambda: away(Unsent))
        if not self._is_down:
            self._is_down = True
            self._loop.run_callback(gevent.spawn, log.warning, trouble(error))

    def _fail(self, calls: Iterable[Call], error: Callable[[], SignalError]) -> None:
        for call in calls:
            call.error = error()
            self._loop.run_callback(self._wake, call)

    def _run(self) -> None:
        """Keep a connection, and see that it still stands while nobody uses it."""
        while True:
            stream = self._connect()
            while not self._broken.wait(IDLE_SECONDS):
                if time.monotonic() > stream.heard_at + IDLE_SECONDS / 2:
                    self._submit(Call((pack(b"PING"),), None))
            self._broken.clear()

    def _connect(self) -> Stream:
        """Try until the connection stands. Calls wait for the first attempt, and fail at once after that."""
        was_lost = bool(self._epoch)
        while True:
            try:
                self._epoch = read_epoch(self._connection)
                stream = self._stream = Stream(self._connection, self._heard, self._lost)
                break
            except LOST as error:
                self._connection.disconnect()
                self._go_down(error)
            gevent.sleep(KNOCK_SECONDS * _random.uniform(0.5, 1.0))
        was_down, self._is_down = self._is_down, False
        self._flush()
        if was_down:
            log.warning("Redis is back")
        if was_lost or was_down:
            self._is_back()
        return stream


class HubNotices:
    """A connection that listens on one channel.

    Args:
        connect: makes a connection of redis-py's, to any server that is there.
        channel: what to listen to.
        heard: called with each notice, and with None if some may have been missed. It must not block.
    """

    def __init__(
        self, connect: Callable[[], Connection], channel: str, heard: Callable[[bytes | None], None]
    ) -> None:
        self._connect = connect
        self._channel = channel.encode()
        self._heard = heard
        self.is_listening = False
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            connection = self._connect()
            try:
                connection.connect()
                self._listen(connection)
            except LOST:
                connection.disconnect()
            self.is_listening = False
            gevent.sleep(KNOCK_SECONDS * _random.uniform(0.5, 1.0))

    def _listen(self, connection: Connection) -> None:
        """Return once the connection is broken, or says nothing when it is asked."""
        broken = Event()
        stream = Stream(connection, self._receive, lambda _: broken.set())
        stream.write(pack(b"SUBSCRIBE", self._channel))
        while not broken.wait(IDLE_SECONDS if self.is_listening else TIMEOUT_SECONDS):
            asked_at = time.monotonic()
            stream.write(pack(b"PING"))
            if not broken.wait(TIMEOUT_SECONDS) and stream.heard_at < asked_at:
                stream.close()
                return

    def _receive(self, message: Any) -> None:
        if isinstance(message, list) and message[0] == b"message":
            self._heard(message[2])
        elif isinstance(message, list) and message[0] == b"subscribe":
            self.is_listening = True
            self._heard(None)

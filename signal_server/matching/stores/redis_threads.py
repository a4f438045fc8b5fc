"""Connections to Redis on plain threads: under gthread, `flask run`, and wherever gevent has not patched
them.

One thread writes and reads a connection for all the others. Calls that are made while others are under way
share the next packet: a call by itself costs redis-py 70 µs and a round trip, a hundred together cost
little more than one.
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

from redis.exceptions import RedisError, ResponseError, TimeoutError

from .base import away
from .redis_protocol import (
    IDLE_SECONDS,
    KNOCK_SECONDS,
    PATIENCE,
    Connection,
    Packed,
    Refused,
    Unsent,
    pack,
    read_epoch,
    trouble,
)

MOST_IN_A_PACKET: Final = 256

LOST: Final = (RedisError, OSError, StopIteration)

log = logging.getLogger(__name__)

_random = random.SystemRandom()  # a seed of the common generator keeps its sequence


class Call:
    """A command under way."""

    __slots__ = ("_done", "_seconds", "error", "packed", "reply")

    def __init__(self, packed: Packed, seconds: float) -> None:
        self._seconds = seconds
        self.packed = packed
        self.reply: Any = None
        self.error: Exception | None = None
        self._done = threading.Event()

    def finish(self) -> None:
        self._done.set()

    def wait(self) -> Any:
        if not self._done.wait(self._seconds):
            raise away()
        if self.error is not None:
            raise self.error
        return self.reply


class ThreadConnection:
    """One connection to one server, shared by all threads of the process. See `HubConnection`."""

    def __init__(self, connection: Connection, silence_seconds: float, is_back: Callable[[], None]) -> None:
        self._connection = connection
        self._call_seconds = silence_seconds * PATIENCE
        self._is_back = is_back
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._started = False
        self._is_down = False
        self._epoch = b""

    def call(self, *packed: bytes) -> Any:
        """Send a command, and wait for its reply.

        Raises:
            Unsent: the server is known to be away.
            Unavailable: there is no reply, and it is not known whether the command was carried out.
            Refused: the reply is an error.
        """
        return self._submit(packed).wait()

    def send(self, *packed: bytes) -> None:
        """Send a command, and do not wait for its reply.

        Raises:
            Unsent: the server is known to be away.
        """
        self._submit(packed)

    def _submit(self, packed: Packed) -> Call:
        if self._is_down:
            raise away(Unsent)
        call = Call(packed, self._call_seconds)
        self._calls.append(call)
        self._wake.set()
        if not self._started:
            self._start()
        return call

    def _start(self) -> None:
        # At the first call and not before, because neither a thread nor a connection survives a fork.
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
                count = min(len(self._calls), MOST_IN_A_PACKET)
                self._exchange([self._calls.popleft() for _ in range(count)])

    def _exchange(self, calls: list[Call]) -> None:
        left = deque(calls)
        try:
            if not self._epoch:
                self._epoch = read_epoch(self._connection)
            self._connection.send_packed_command(
                [b"".join(self._epoch.join(call.packed) for call in calls)], check_health=False
            )
            while left:
                self._receive(left[0])
                left.popleft().finish()
        except LOST as error:
            self._is_down = True
            log.warning(trouble(error))
            self._disconnect()
            self._give_up(left)
            self._knock()

    def _receive(self, call: Call) -> None:
        try:
            call.reply = self._read()
        except ResponseError as error:
            call.error = Refused.from_redis(error)

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disconnect_on_error=False)
        except TimeoutError:
            if not self._has_replied():
                raise
            return self._connection.read_response()

    def _has_replied(self) -> bool:
        """In a process that is busy for longer than the time-out, the reply and the time-out come at once."""
        poll = select.poll()
        poll.register(self._connection._sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

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
                self._epoch = read_epoch(self._connection)
            except LOST:
                self._disconnect()
                self._give_up(())  # what was submitted before it was known that the server is away
            else:
                self._is_down = False
                log.warning("Redis is back")
                self._is_back()
                return


class ThreadNotices:
    """A connection that listens on one channel. See `HubNotices`."""

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
            except LOST:
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

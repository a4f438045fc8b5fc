"""How commands look on the wire, and how a call of Redis can fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, ResponseError

from ...errors import Unavailable

TIMEOUT_SECONDS: Final = 0.5
"""How long Redis may be silent when it is asked, before it counts as away. Clients are promised a reply
within a second."""

PATIENCE: Final = 10
"""A call may take so many times as long if Redis is not silent but slow, or this process is."""

KNOCK_SECONDS: Final = 0.2
"""The pause between two attempts to connect."""

IDLE_SECONDS: Final = 20.0
"""After so long a connection shows that it still stands; platforms cut idle ones."""

log = logging.getLogger(__name__)

Connection = Any
"""redis-py's, which has few types."""

Packed = tuple[bytes, ...]
"""A command as it goes over the wire, in pieces; the epoch goes between each two of them."""

EPOCH_LENGTH: Final = 16


class Unsent(Unavailable):
    """The command was not sent, so it is known that nothing happened."""


class Refused(Exception):
    """Redis' reply is an error.

    Attributes:
        is_unknown: the server does not know the script or the function; nothing was done.
        is_forbidden: it does not know the command, or the user may not use it; nothing was done.
        is_divided: it takes no keys of several slots in one call; nothing was done.
    """

    def __init__(self, text: str, *, is_unknown: bool = False, is_forbidden: bool = False) -> None:
        super().__init__(text)
        self.is_unknown = is_unknown or text.startswith("NOSCRIPT") or text.endswith("Function not found")
        self.is_forbidden = is_forbidden or text.startswith("NOPERM") or "unknown command" in text
        self.is_divided = text.endswith("hash to the same slot")

    @classmethod
    def from_redis(cls, error: ResponseError) -> Refused:
        """From redis-py's exception, whose text may lack the first word."""
        return cls(
            f"{type(error).__name__}: {error}",
            is_unknown=isinstance(error, NoScriptError),
            is_forbidden=isinstance(error, NoPermissionError),
        )


def pack(*words: bytes) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(bulk, words)))


def bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def read_epoch(connection: Connection) -> bytes:
    """Connect, and ask for the life of the server: the beginning of its `run_id`."""
    connection.connect()
    connection.send_command("INFO", "server", check_health=False)
    info: bytes = connection.read_response()
    run_id = next(line[7:].strip() for line in info.splitlines() if line.startswith(b"run_id:"))
    return run_id[:EPOCH_LENGTH].ljust(EPOCH_LENGTH, b"0")


def trouble(error: BaseException) -> str:
    """A line for the log. A server that knows us, and lets us do too little, is not away."""
    is_refusal = isinstance(error, NoPermissionError | AuthenticationError)
    return f"Redis {'refuses' if is_refusal else 'is away'}: {_reason(error)}"


class Refusals:
    """Tells the log that the server refuses commands: a line a second, for it may refuse every one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until = 0.0
        self._untold = 0

    def tell(self, refused: Exception) -> None:
        now = self._clock()
        if now < self._quiet_until:
            self._untold += 1
            return
        more = f" ({self._untold} more since the last such line)" if self._untold else ""
        self._quiet_until, self._untold = now + 1, 0
        log.error("Redis refuses: %s%s", refused, more)


refusals = Refusals()


def _reason(error: BaseException) -> str:
    """The kinds of an error and of what it came from. Their texts may hold an address."""
    cause = error.__cause__ or error.__context__
    name = type(error).__name__
    return name if cause is None else f"{name} from {_reason(cause)}"

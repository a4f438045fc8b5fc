"""Why there is no link.

SpaceriftError      .type is the server's, or NETWORK, TLS, BAD_REPLY, ANSWER_LATE or UNTRUSTED of our own
├── BadSignal       the other peer's signal cannot be read, or is not wanted
└── LinkLost        signals were exchanged, and the link did not open
Cancelled
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

PASSING: Final = (297, 298, 299, 408, 429)
"""May be gone on the next attempt, as may any status from 500 on. 408 and 429 may come from a proxy."""

CLOCK_OFF_SECONDS: Final = 30
"""A clock that is nearer to the server's is no reason for a refusal, with what a request takes."""


class SpaceriftError(Exception):
    """A request that was refused, or a reply that is no good.

    Attributes:
        type: the `TYPE` of the reply, such as `RATE_LIMIT`, or a name of our own.
        status: of HTTP, 0 where there was no reply.
        retry_after: seconds after which asking again makes sense, or None.
    """

    def __init__(self, type: str, message: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.status = status
        self.retry_after = retry_after

    @property
    def passes(self) -> bool:
        """It may be gone on the next attempt."""
        return (
            self.type in ("NETWORK", "BAD_SIGNAL", "LINK_LOST", "ANSWER_LATE")
            or self.status in PASSING
            or self.status >= 500
        )


class BadSignal(SpaceriftError):
    """A signal that cannot be read or is not wanted: raised by `answer`, it bounces the offer."""

    def __init__(self, message: str = "the other peer's signal cannot be read") -> None:
        super().__init__("BAD_SIGNAL", message)


class LinkLost(SpaceriftError):
    """The link did not open."""

    def __init__(self, message: str = "the link did not open") -> None:
        super().__init__("LINK_LOST", message)


class Cancelled(Exception):
    """`Cancel.cancel()` was called."""


def untrusted(why: str) -> SpaceriftError:
    return SpaceriftError("UNTRUSTED", f"not trusted: {why}", status=200)


def refusal(status: int, reply: Mapping[str, Any], location: str = "") -> SpaceriftError:
    """What a reply of another status than 200 says.

    Args:
        location: where a redirect points to. A POST that follows one may arrive as a GET, or at a stranger's.
    """
    kind = reply.get("TYPE")
    if not isinstance(kind, str):  # a proxy's page
        kind = "UNAVAILABLE" if status >= 500 else "BAD_REPLY"
    about = reply.get("PARAMETER") or reply.get("DETAIL") or f"the server replies {status}"
    if location and 300 <= status < 400:
        about = f"{about} and points to {location!a}: connect to that URL, if it is the server's"
    server_ms = reply.get("TIME")
    if isinstance(server_ms, int) and abs(ahead := server_ms / 1000 - time.time()) > CLOCK_OFF_SECONDS:
        which = "ahead of" if ahead > 0 else "behind"
        about = f"{about}; the server's clock is {abs(ahead):.0f} s {which} this machine's"
    seconds = reply.get("RETRY_AFTER")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e9
    return SpaceriftError(kind, f"{kind}: {about}", status=status, retry_after=seconds if is_number else None)

"""What can go wrong, each with the HTTP status and the wire name that it ends a request with.

    SignalError
    ├── BadRequest            400
    ├── MissingParameter      499   .parameter
    ├── Untrusted             403   .reason, for the log only
    ├── NotFound              404
    ├── MethodNotAllowed      405
    ├── RequestTimeout        408
    ├── TooLarge              413
    ├── UnsupportedMediaType  415
    ├── RateLimited           297   .retry_after, .reason: the limit
    └── Unavailable           503   .retry_after
    HungUp                          the client left: there is nobody to answer
    ConfigurationError              a setting keeps the server from starting

An expected outcome (no peer came, the other one is gone) is a reply, not an exception.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar


class SignalError(Exception):
    """A request that is refused. Nothing was changed by it.

    Attributes:
        status: the HTTP status line's code and reason.
        code: the `TYPE` of the JSON body.
        detail: what was wrong, in our own words: never a text of the client's.
        reason: the same for the log, where the client is not to know.
        retry_after: seconds after which asking again makes sense, or None.
    """

    status: ClassVar[str] = "500 Internal Server Error"
    code: ClassVar[str] = "ERROR"
    reason = ""
    retry_after: int | None = None

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def fields(self) -> dict[str, object]:
        """The JSON body, in the order in which it is written."""
        body: dict[str, object] = {"TYPE": self.code}
        if self.detail:
            body["DETAIL"] = self.detail
        if self.retry_after is not None:
            body["RETRY_AFTER"] = self.retry_after
        return body


class BadRequest(SignalError):
    status = "400 Bad Request"
    code = "BAD_REQUEST"


class MissingParameter(SignalError):
    status = "499 Missing Parameter"
    code = "MISSING_PARAMETER"

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self.parameter = self.reason = parameter

    def fields(self) -> dict[str, object]:
        return {"TYPE": self.code, "PARAMETER": self.parameter}


class Untrusted(SignalError):
    """The same answer for every cause; `reason` is for the log.

    Attributes:
        time_ms: the server's clock, which a signed peer is told; None for an open one.
    """

    status = "403 Forbidden"
    code = "UNTRUSTED"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        self.time_ms: int | None = None

    def fields(self) -> dict[str, object]:
        return {"TYPE": self.code} | ({} if self.time_ms is None else {"TIME": self.time_ms})


class NotFound(SignalError):
    status = "404 Not Found"
    code = "NOT_FOUND"


class MethodNotAllowed(SignalError):
    status = "405 Method Not Allowed"
    code = "METHOD_NOT_ALLOWED"


class RequestTimeout(SignalError):
    status = "408 Request Timeout"
    code = "REQUEST_TIMEOUT"


class TooLarge(SignalError):
    status = "413 Content Too Large"
    code = "TOO_LARGE"


class UnsupportedMediaType(SignalError):
    status = "415 Unsupported Media Type"
    code = "UNSUPPORTED_MEDIA_TYPE"


class RateLimited(SignalError):
    status = "297 Rate Limit"
    code = "RATE_LIMIT"

    def __init__(self, retry_after: int, reason: str = "") -> None:
        super().__init__()
        self.retry_after = retry_after
        self.reason = reason


class Unavailable(SignalError):
    """Shutting down, full, or the store is away: nothing was lost, ask again."""

    status = "503 Service Unavailable"
    code = "UNAVAILABLE"

    def __init__(self, reason: str = "", retry_after: int = 1) -> None:
        super().__init__()
        self.reason = reason
        self.retry_after = retry_after


class Full(Unavailable):
    """No more may wait; nothing was done."""

    def __init__(self) -> None:
        super().__init__("full")


class HungUp(Exception):
    """The client closed its connection while it was waiting."""


class ConfigurationError(Exception):
    """One line that names the setting and says what is wrong with it."""


E = TypeVar("E", bound=BaseException)


def bare(error: E) -> E:
    """The same error without the frames that it went through.

    They hold the request whose result it is, and with it all that the client sent, in a circle: until the
    collector came, a few thousand refusals of large bodies would be a hundred MB.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error

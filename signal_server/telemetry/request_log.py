"""What became of each request: counted for `/metrics`, and told in one line of the log.

A line names the request, what was asked, the reply, its status and the time it took; for a refusal, why. It
never holds a signal, an address, a nonce, a key, a namespace or a peer, nor any text of the client's.

In somebody's application the lines go to `logging`, at INFO, where they are as quiet or as loud as the
application has it. Our own server writes them straight to the terminal: by way of `logging` a line costs ten
times as much, a sixth of the whole request (see docs/operating.md).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import secrets
import sys
import time
from typing import Final

from ..errors import Full, SignalError
from ..messages import Request
from .metrics import Metrics

HUNG_UP: Final = "HUNG_UP"

PACKAGE: Final = "signal_server"
"""The logger above all of ours."""

log = logging.getLogger(__name__)

_GOOD_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


class RequestLog:
    """Opens an entry for each request.

    Args:
        metrics: counts.
        form: of the log's lines: `text`, `json`, or `off` for none.
        trusts_ids: the client's `X-Request-Id` was set, or let through, by a proxy that we trust.
    """

    def __init__(self, metrics: Metrics, *, form: str, trusts_ids: bool) -> None:
        self.metrics = metrics
        self._form = form
        self._terminal = False
        self._trusts_ids = trusts_ids
        # Unique over all processes, and cheap.
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def open(self, given_id: str | None) -> Entry:
        """Open the entry of a request that has just come in."""
        if given_id and self._trusts_ids and _GOOD_ID.fullmatch(given_id):
            return Entry(self, given_id)
        return Entry(self, f"{self._prefix}-{next(self._numbers):x}")

    def to_terminal(self) -> None:
        """Let this package's log go to the terminal, unless somebody has set up logging already."""
        ours = logging.getLogger(PACKAGE)
        if not ours.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(_Formatter(self._form))
            ours.addHandler(handler)
        self._terminal = any(isinstance(each.formatter, _Formatter) for each in ours.handlers)

    def write(self, entry: Entry, reply: str, status: str, seconds: float, why: str) -> None:
        if self._form == "off" or not (self._terminal or log.isEnabledFor(logging.INFO)):
            return
        # By hand, for the encoder would take longer than all the rest. None of the values needs quoting.
        if self._form == "json":
            line = f'"id":"{entry.id}","asked":"{entry.asks}","reply":"{reply}","status":{status or 0}'
            line = f'{line},"ms":{seconds * 1000:.1f}' + (f',"why":{json.dumps(why)}' if why else "")
        else:
            line = f"id={entry.id} asked={entry.asks} reply={reply} status={status or 0}"
            line = f"{line} ms={seconds * 1000:.1f}" + (f" why={json.dumps(why)}" if why else "")
        if self._terminal:
            with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, or a full disk
                sys.stderr.write(_framed(self._form, _utc(time.time()), "INFO", line) + "\n")
        else:
            log.info("{%s}" if self._form == "json" else "%s", line)


class Entry:
    """One request, until it is closed.

    Attributes:
        id: names it in the log and to the client.
        received: when it came in, by the monotonic clock.
        asked: what was asked, once it is known.
    """

    __slots__ = ("_request_log", "asked", "id", "received")

    def __init__(self, request_log: RequestLog, id: str) -> None:
        self._request_log = request_log
        self.id = id
        self.received = time.monotonic()
        self.asked: Request | None = None

    @property
    def asks(self) -> str:
        """`CONNECT`, `ANSWER` or `BOUNCE`; with `signed` before it for a signed peer; or `-`."""
        asked = self.asked
        if asked is None:
            return "-"
        what = "ANSWER" if asked.is_answer else asked.type
        return what if asked.signer is None else f"signed-{what}"

    def replied(self, reply: str, status: str, *, written: bool = True) -> None:
        """It ended with a reply, given by its `TYPE` and its status line."""
        self._close(reply, status[:3], "" if written else "not written, the client had left")

    def refused(self, refusal: SignalError) -> None:
        if refusal.code == "RATE_LIMIT":
            self._request_log.metrics.limit_hit(refusal.reason).inc()
        elif isinstance(refusal, Full):
            self._request_log.metrics.limit_hit("waiting").inc()
        self._close(refusal.code, refusal.status[:3], refusal.reason or refusal.detail)

    def hung_up(self) -> None:
        """The client left while it was waiting."""
        self._close(HUNG_UP, "", "")

    def _close(self, reply: str, status: str, why: str) -> None:
        seconds = time.monotonic() - self.received
        self._request_log.metrics.request(reply, status).observe(seconds)
        self._request_log.write(self, reply, status, seconds, why)


class _Formatter(logging.Formatter):
    """For what is not an outcome: a warning, an error."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        line = f'"message":{json.dumps(text)}' if self._form == "json" else text
        return _framed(self._form, _utc(record.created), record.levelname, line)


def _framed(form: str, moment: str, level: str, line: str) -> str:
    if form == "json":
        return f'{{"time":"{moment}","level":"{level}",{line}}}'
    return f"{moment} {level} {line}"


def _utc(seconds: float) -> str:
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"

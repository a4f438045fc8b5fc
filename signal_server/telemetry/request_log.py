"""How each request ended: counted for `/metrics`, and told in one line of the log.

A line names the request, what was asked, the reply, its status and the time it took; for a refusal, why. It
never holds a signal, an address, a nonce, a key, a namespace or a peer, nor any text of the client's.

In somebody's application the lines go to `logging`, at INFO, where they are as quiet or as loud as the
application has it. Our own server writes them straight to the terminal: by way of `logging` a line costs ten
times as much (see docs/operating.md). Its worker gathers them, and writes many at once.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import json
import logging
import re
import secrets
import select
import sys
import time
from typing import Any, Final, Protocol

from gevent.monkey import get_original

from ..errors import Full, SignalError
from .metrics import Metrics

HUNG_UP: Final = "HUNG_UP"
NOT_WRITTEN: Final = "not written, the client had left"

PACKAGE: Final = "signal_server"
"""The logger above all of ours."""

AT_ONCE: Final = 4096
"""Bytes. A pipe that says it can be written takes so many without waiting (POSIX: PIPE_BUF)."""

MOST_GATHERED: Final = 10_000
"""Lines that are kept for a terminal that takes none; what comes after is dropped, and counted."""

log = logging.getLogger(__name__)

_GOOD_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)

_IPV4: Final = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)
"""An IPv4 address, alone or with a port or a number behind it, as some proxies make their ids."""

_poll: Any = get_original("select", "poll")


class Entry(Protocol):
    """One request, as the log has it.

    Attributes:
        id: names it in the log and to the client.
        received: when it came in, by the monotonic clock.
        asks: `CONNECT`, `ANSWER`, `BOUNCE` or `LEAVE`; with `signed-` before it for a signed peer; or `-`.
    """

    id: str
    received: float
    asks: str


class RequestLog:
    """Names, counts and tells each request.

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
        self._gathered: list[str] | None = None
        self._dropped = 0

    def id(self, given_id: str) -> str:
        """The name of a request: its `X-Request-Id`, if it is a good one of a proxy that we trust."""
        if given_id and self._trusts_ids and _is_good(given_id):
            return given_id
        return f"{self._prefix}-{next(self._numbers):x}"

    def to_terminal(self) -> None:
        """Let this package's log go to the terminal, unless somebody has set up logging already."""
        ours = logging.getLogger(PACKAGE)
        if not ours.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(_Formatter(self._form))
            ours.addHandler(handler)
        self._terminal = any(isinstance(each.formatter, _Formatter) for each in ours.handlers)

    def gather(self) -> None:
        """Keep the lines from now on, until `flush`."""
        self._gathered = []

    def flush(self) -> None:
        """Write the lines that were gathered, as far as the terminal takes them without waiting."""
        if not self._gathered:
            return
        lines, self._gathered = self._gathered, []
        if self._dropped:
            text = f"{self._dropped} lines were dropped"
            line = f'"message":{json.dumps(text)}' if self._form == "json" else text
            lines.append(_framed(self._form, _utc(time.time()), "WARNING", line))
            self._dropped = 0
        at = 0
        while at < len(lines) and _takes_more(sys.stderr):
            piece, size = at, 0
            while at < len(lines) and (at == piece or size + len(lines[at]) < AT_ONCE):
                size += len(lines[at]) + 1
                at += 1
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write("\n".join(lines[piece:at]) + "\n")
                sys.stderr.flush()
        self._gathered[:0] = lines[at:]

    def replied(self, entry: Entry, reply: str, status: str, *, written: bool = True) -> None:
        """A request ended with a reply, given by its `TYPE` and its status line."""
        self._end(entry, reply, status[:3], "" if written else NOT_WRITTEN)

    def refused(self, entry: Entry, refusal: SignalError) -> None:
        """A request was refused."""
        if refusal.code == "RATE_LIMIT":
            self.metrics.limit_hit(refusal.reason)
        elif isinstance(refusal, Full):
            self.metrics.limit_hit("waiting")
        self._end(entry, refusal.code, refusal.status[:3], refusal.reason or refusal.detail)

    def hung_up(self, entry: Entry) -> None:
        """A client left while its request was waiting."""
        self._end(entry, HUNG_UP, "", "")

    def _end(self, entry: Entry, reply: str, status: str, why: str) -> None:
        seconds = time.monotonic() - entry.received
        self.metrics.request(reply, status, seconds)
        if self._form == "off" or not (self._terminal or log.isEnabledFor(logging.INFO)):
            return
        # By hand: none of the values needs quoting, and `json` would take longer than all the rest.
        ms = f"{seconds * 1000:.1f}"
        if self._form == "json":
            line = (
                f'"id":"{entry.id}","asked":"{entry.asks}","reply":"{reply}","status":{status or 0},"ms":{ms}'
            )
            line = f'{line},"why":{json.dumps(why)}' if why else line
        else:
            line = f"id={entry.id} asked={entry.asks} reply={reply} status={status or 0} ms={ms}"
            line = f"{line} why={json.dumps(why)}" if why else line
        if not self._terminal:
            log.info("{%s}" if self._form == "json" else "%s", line)
            return
        line = _framed(self._form, _utc(time.time()), "INFO", line)
        if self._gathered is None:
            with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, or a full disk
                sys.stderr.write(line + "\n")
        elif len(self._gathered) < MOST_GATHERED:
            self._gathered.append(line)
        else:
            self._dropped += 1


def _is_good(given_id: str) -> bool:
    """Is it short and harmless, and no address, which must not stand in a log?"""
    if not _GOOD_ID.fullmatch(given_id) or _IPV4.search(given_id):
        return False
    try:
        ipaddress.ip_address(given_id)
    except ValueError:
        return True
    return False


def _takes_more(stream: Any) -> bool:
    try:
        poll = _poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return True  # no file at all, or a regular one: it does not make us wait


class _Formatter(logging.Formatter):
    """What else this package has to say, in the form of the lines of requests."""

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


_last: tuple[int, str] = (0, "")


def _utc(seconds: float) -> str:
    """A moment as text, to the millisecond. Many lines are of the same one."""
    global _last
    moment_ms = int(seconds * 1000)
    if moment_ms != _last[0]:
        whole, rest = divmod(moment_ms, 1000)
        _last = moment_ms, f"{_second(whole)}.{rest:03d}Z"
    return _last[1]


@functools.lru_cache(1)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))

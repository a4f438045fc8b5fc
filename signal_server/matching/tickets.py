"""The open requests of this process, and how each learns its reply.

A ticket is *resolved*, once, with a reply or a refusal. A thread sleeps until then (`wait`), or a callback is
made (`on_result`); nothing in the rules or the stores knows which.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gevent.monkey import get_original

from ..errors import Full, HungUp, RateLimited, SignalError
from ..messages import Arrival, Reply

Result = Reply | SignalError | HungUp

_new_lock: Any = get_original("threading", "Lock")  # see stores/memory


class Ticket(Arrival):
    """One open request: what the store sees of it, and what becomes of it here.

    It is made before it is known what is asked; whoever reads that fills it in.

    Attributes:
        address: where it comes from, hashed.
        nonce: that it presents.
        is_bounce: it bounces the offer of its nonce, and does not answer it.
        is_replay: its signed text came before, so it is good as the repeat of an answer only.
        result: the reply or refusal, once it is decided.
        callback: is called then.
        refusal: what a `NO_PEER` means instead, if the request may not wait.
        is_counted: as a new connect of its peer.
        has_place: it is counted among those of its address that wait, over all processes.
        until: it ends then at the latest, by the monotonic clock.
    """

    __slots__ = (
        "address",
        "callback",
        "has_place",
        "is_bounce",
        "is_counted",
        "is_replay",
        "nonce",
        "refusal",
        "result",
        "until",
    )

    def __init__(self, address: bytes) -> None:
        self.ticket = self.pool = self.signal = self.name = ""
        self.peer = self.bearer = self.digest = self.leaver = b""
        self.rematch = self.is_bounce = self.is_replay = self.is_counted = self.has_place = False
        self.wait_ms = 0
        self.until = 0.0
        self.counts = ()
        self.address = address
        self.nonce: str | None = None
        self.result: Result | None = None
        self.refusal: SignalError | None = None
        self.callback: Callable[[], object] | None = None

    @property
    def is_answer(self) -> bool:
        return self.nonce is not None and not self.is_bounce

    def on_result(self, callback: Callable[[], object]) -> None:
        """Call back once there is a result: at once, if there is one."""
        self.callback = callback
        if self.result is not None:
            callback()

    def wait(self) -> None:
        """Sleep until there is a result."""
        if self.result is None:
            event = threading.Event()
            self.on_result(event.set)
            event.wait()


class OpenTickets:
    """The tickets of this process.

    Args:
        held_per_address: requests of one address that may wait at once; None for any number.
        max_waiting: requests that may wait at once in this process; None for any number.

    Attributes:
        by_id: those that are open.
        is_shut: the process ends, and finishes only what is under way.
    """

    def __init__(self, *, held_per_address: int | None, max_waiting: int | None) -> None:
        self._held_per_address = held_per_address
        self._max_waiting = max_waiting
        self.by_id: dict[str, Ticket] = {}
        self._held: dict[bytes, int] = {}
        self._lock = _new_lock()
        self.is_shut = False
        self._process = secrets.token_urlsafe(9)
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self.by_id)

    def open(self, ticket: Ticket) -> None:
        """Name a ticket, and count it."""
        name = ticket.ticket = f"{self._process}{next(self._numbers):x}"
        address, held = ticket.address, self._held
        with self._lock:
            self.by_id[name] = ticket
            held[address] = held.get(address, 0) + 1

    def close(self, ticket: Ticket) -> bool:
        """Returns False if it was closed before."""
        with self._lock:
            if self.by_id.pop(ticket.ticket, None) is None:
                return False
            address, held = ticket.address, self._held
            left = held[address] - 1
            if left:
                held[address] = left
            else:
                del held[address]
            return True

    def refusal(self, ticket: Ticket) -> SignalError | None:
        """Why this ticket, which is open, may not wait; None if it may."""
        if self._held_per_address is not None and self._held[ticket.address] > self._held_per_address:
            return RateLimited(1, "held")
        if self._max_waiting is not None and len(self.by_id) > self._max_waiting:
            return Full()
        return None

    def shut(self) -> None:
        """Whoever opens tickets is to open no more but those of answers."""
        self.is_shut = True

    def oldest(self) -> Iterator[Ticket]:
        """Those that are open, the oldest first, while they are being closed."""
        while self.by_id:
            try:
                yield next(iter(self.by_id.values()))
            except (RuntimeError, StopIteration):  # another thread has changed them
                return

    def all(self) -> list[Ticket]:
        """Those that are open."""
        with self._lock:
            return list(self.by_id.values())

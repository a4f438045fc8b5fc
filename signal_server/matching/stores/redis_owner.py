"""What one process holds in one shard, and what it has not finished there.

An *owner* is the process in one shard for as long as its *lease* holds, which its calls prolong, two a
second at least. An owner whose lease is over may do nothing more. Its requests leave the pools, the process
answers them with 503, and begins anew as another owner.

Five kinds of business may be unfinished:

    what         is                                      put in by            taken out by
    tickets      requests that wait for a reply          the call that        its reply, its withdrawal,
                                                         brings one           the end of the owner
    withdrawals  tickets of requests that were given up  a call that failed   the next poll that succeeds
    doubt        a reply was lost, and with it, maybe,   a call that failed   the next poll, which asks
                 replies to other requests                                    about all tickets
    claims       nonces of answers that may be written   their `ANSWER`       `claim` or `settle`
    left over    what a call decided before it failed    that call            the next poll
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final

from gevent.monkey import get_original

_new_lock: Any = get_original("threading", "Lock")  # see memory

LEASE_MS: Final = 3000
"""After so long without a sign of life a process is dead."""

CHECK_SECONDS: Final = 5.0
"""The pause between two polls that ask whether Redis knows of our requests still, if nothing is wrong."""

MOST_TICKETS: Final = 500


@dataclass(slots=True, eq=False)
class Owner:
    """One owner.

    Attributes:
        name: what stands before the dot names the process.
        prolonged: when the call was made that last prolonged the lease.
        used: when it was last needed.
        checked: when Redis was last asked of all its requests.
        begins: Redis has not heard of it yet.
        is_over: its lease is, as far as we know.
        tickets: the requests that wait for a reply, each with the nonce that it answers, or "". None: the
            call that brings it is under way.
        last: the number of the last mail that was fetched.
        is_in_doubt: a reply was lost, and what it said of the requests.
        doubtful: those to ask about.
    """

    name: bytes
    prolonged: float
    used: float
    checked: float
    begins: bool = True
    is_over: bool = False
    tickets: dict[str, str | None] = field(default_factory=dict)
    last: bytes = b""
    is_in_doubt: bool = False
    doubtful: list[tuple[str, str]] = field(default_factory=list)

    def take_doubtful(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Requests to ask about now, and those to ask about later."""
        now = time.monotonic()
        if self.is_in_doubt or now > self.checked + CHECK_SECONDS:
            self.is_in_doubt, self.checked = False, now
            self.doubtful = [
                (ticket, nonce) for ticket, nonce in list(self.tickets.items()) if nonce is not None
            ]
        return self.doubtful[:MOST_TICKETS], self.doubtful[MOST_TICKETS:]


class Owners:
    """The owners of this process, one in each shard that it uses, and what they have not finished.

    Attributes:
        process: names it.
    """

    def __init__(self) -> None:
        self.process = secrets.token_urlsafe(12).replace(".", "-")
        self._lock = _new_lock()
        self._owners: dict[int, Owner] = {}
        self._shard_of_ticket: dict[str, int] = {}
        self._withdrawals: dict[int, list[str]] = {}

    def of(self, shard: int) -> Owner:
        owner = self._owners.get(shard)
        if owner is not None:
            return owner
        with self._lock:
            now = time.monotonic()
            name = f"{self.process}.{secrets.token_hex(4)}".encode()
            return self._owners.setdefault(shard, Owner(name, prolonged=now, used=now, checked=now))

    def end(self, shard: int, owner: Owner) -> list[str]:
        """End an owner. Returns its requests, which nobody else will answer."""
        with self._lock:
            if owner.is_over:
                return []
            owner.is_over = True
            if self._owners.get(shard) is owner:
                del self._owners[shard]
            lost = [ticket for ticket, nonce in owner.tickets.items() if nonce is not None]
        for ticket in lost:
            self._shard_of_ticket.pop(ticket, None)
        return lost

    @property
    def shards(self) -> list[int]:
        """Where this process has requests, or had a moment ago, or may have left some behind."""
        return [*{*self._owners, *self._withdrawals}]

    @property
    def is_uneasy(self) -> bool:
        """Is something to be put right, as soon as the server is there?"""
        return bool(self._withdrawals) or any(each.is_in_doubt for each in list(self._owners.values()))

    def is_used(self, shard: int) -> bool:
        return shard in self._owners or shard in self._withdrawals

    def end_if_idle(self, shard: int, owner: Owner, idle_seconds: float) -> bool:
        if owner.tickets or self._withdrawals.get(shard) or time.monotonic() - owner.used < idle_seconds:
            return False
        self.end(shard, owner)
        return True

    # --- tickets -------------------------------------------------------------------------------------------

    def bring(self, shard: int, ticket: str) -> None:
        """A call with this request is about to be made."""
        self._shard_of_ticket[ticket] = shard

    def shard_of(self, ticket: str) -> int | None:
        return self._shard_of_ticket.get(ticket)

    def note_waiting(self, owner: Owner, ticket: str, nonce: str) -> bool:
        """The call that brought a request was answered, and its reply is not here yet.

        Returns:
            False if its owner ended meanwhile: no reply will come.
        """
        with self._lock:
            if ticket in owner.tickets:
                owner.tickets[ticket] = nonce
                return not owner.is_over
            return True

    def forget(self, shard: int, ticket: str) -> None:
        """It has its reply, or needs none."""
        self._shard_of_ticket.pop(ticket, None)
        owner = self._owners.get(shard)
        if owner is not None:
            owner.tickets.pop(ticket, None)

    # --- withdrawals ---------------------------------------------------------------------------------------

    def withdraw_later(self, shard: int, *tickets: str) -> None:
        """Requests were given up.

        It is not known whether the offer of one waits, or whether it was handed another, and neither may
        stay so.
        """
        if tickets:
            self._withdrawals.setdefault(shard, []).extend(tickets)

    def take_withdrawals(self, shard: int) -> tuple[list[str], bool]:
        """Some of them, and whether there are more."""
        tickets = self._withdrawals.pop(shard, [])
        if len(tickets) > MOST_TICKETS:
            self._withdrawals[shard] = tickets[MOST_TICKETS:]
        return tickets[:MOST_TICKETS], len(tickets) > MOST_TICKETS

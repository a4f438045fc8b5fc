"""The store of any number of processes on any number of machines: the rules as Lua, in Redis.

A pool lives in one of 64 *shards*, whose keys share a hash tag, so that each event is one call of one
server and all of this runs on a Redis Cluster too. `lua/state.lua` describes the keys.

    owner    This process in one shard, for as long as its lease holds; see `redis_owner`.
    epoch    The life of the Redis server. Its name is part of each key's, so what another life wrote is not
             seen: its last words may have been forgotten. Only the pairs are those of all lives.
    mail     What one owner's call decides for another owner's request lies in the state, as long as its owner
             lives, until that has fetched it. A notice says that there is some. If the notice is lost, the
             next poll, half a second later at most, does as well.

Nothing here depends on a reply or a notice arriving: a call whose reply is lost fails with `Unavailable`, and
the process then asks what became of its requests.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from zlib import crc32

from ...errors import RateLimited, SignalError, Unavailable
from ...messages import ANSWER, DEMOTE, Arrival, Count, Delivery, Reply
from ..rules import Times
from .base import LEAVE_SECONDS, Name, Nonces, Outcome, PoolCounts, Store, away
from .redis_client import Notices, Servers
from .redis_counts import too_many
from .redis_heartbeat import POLL_SECONDS, Heartbeat
from .redis_owner import LEASE_MS, Owner, Owners
from .redis_protocol import Unsent, pack
from .redis_scripts import PREFIX, Library, Script, ScriptReply, key_of, place_of, word_of

SHARDS: Final = 64

LEASE_IS_SURE: Final = 0.9
"""After any call that succeeds a lease holds for so much of its length at least; see `begin` in rules.lua."""

NAME_SECONDS: Final = 0.05
"""How long a name that is in use may take to become free."""

MOST_AGAIN: Final = 200
"""Calls of one event, each of which ends 500 other things first."""


class RedisStore(Store):
    """Keeps everything in Redis.

    Args:
        servers: where.
        times: how long things last.
        sweep_ms: how often old pairs are deleted.
        shards: how many there are, the same for all processes.
        lease_ms: after which silence a process is dead.
        clock: the time in ms, the same for all processes; None for that of the server.
        secret: makes what was never used before and cannot be guessed; of it a call's nonces are made.
    """

    def __init__(
        self,
        servers: Servers,
        times: Times,
        *,
        sweep_ms: int,
        shards: int = SHARDS,
        lease_ms: int = LEASE_MS,
        clock: Callable[[], int] | None = None,
        secret: Callable[[], str] | None = None,
    ) -> None:
        self._servers = servers
        self._times = times
        self._sweep_seconds = sweep_ms / 1000
        # What a process decided has run out of time by then, so it need not look after the shard any longer.
        self._idle_seconds = (times.answer + times.write) / 1000 + 2 * POLL_SECONDS
        self._lease_ms = lease_ms
        self._may_write_ms = min(times.write, lease_ms * LEASE_IS_SURE)
        self._clock = clock
        self._secret = secret or Nonces()
        self._library = Library(servers)
        self._take_name, self._leave_name = Script(servers, "take_name"), Script(servers, "leave_name")
        self._longest_ms = b"%d" % (times.request + times.answer + times.write + lease_ms)
        self._places = [place_of(shard, times, lease_ms) for shard in range(shards)]
        self._owners = Owners()
        self._lock = threading.Lock()
        self._given: set[str] = set()  # nonces that our requests were given, and did not use here
        self._claims: dict[str, float] = {}  # by nonce: until when its answer may be written
        self._left_over = Outcome()
        self._next_sweep: dict[int, float] = {}
        self._heartbeat = Heartbeat(self)

    blocks = True

    def start(self, apply: Callable[[Outcome], object]) -> None:
        self._heartbeat.apply = apply

    def listen(self, heard: Callable[[bytes | None], None]) -> Notices:
        return self._servers.listen(f"{PREFIX}:{self._owners.process}", heard)

    # --- events --------------------------------------------------------------------------------------------

    def connect(self, arrival: Arrival, *, may_wait: bool) -> Outcome:
        words = b"%d" % may_wait, word_of(arrival), arrival.signal.encode()
        return self._take_in("connect", arrival, words, due_ms=arrival.wait_ms)

    def answer(self, arrival: Arrival, nonce: str) -> Outcome:
        words = nonce.encode(), word_of(arrival), arrival.signal.encode()
        outcome = self._take_in("answer", arrival, words, due_ms=self._times.write, nonce=nonce)
        self._given.discard(nonce)
        return outcome

    def bounce(self, arrival: Arrival, nonce: str, *, may_wait: bool) -> Outcome:
        words = nonce.encode(), b"%d" % may_wait, word_of(arrival), arrival.signal.encode()
        outcome = self._take_in("bounce", arrival, words, due_ms=arrival.wait_ms)
        self._given.discard(nonce)
        return outcome

    def release(self, nonce: str) -> Outcome:
        return self._call("release", _shard_of(nonce), nonce.encode())

    def claim(self, nonce: str) -> Outcome:
        """Asks nobody: the `ANSWER` came with the time for which this process, and no other, may write it.

        A process that was stopped meanwhile, and may have been given up, finds that time over.
        """
        return Outcome(good=self._now() < self._claims.pop(nonce, 0))

    def settle(self, nonce: str, *, written: bool) -> Outcome:
        self._claims.pop(nonce, None)
        words = nonce.encode(), b"%d" % written
        return self._call("settle", _shard_of(nonce), *words, by_any_owner=False)

    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> Outcome:
        shard = self._owners.shard_of(ticket)
        if shard is None:
            return Outcome(good=False)
        try:
            outcome = self._call("withdraw", shard, ticket.encode(), b"%d" % unless_offered)
        except Unavailable:
            self._owners.withdraw_later(shard, ticket)
            raise
        if outcome.good:
            self._owners.forget(shard, ticket)
        return outcome

    def abandon(self, ticket: str) -> None:
        shard = self._owners.shard_of(ticket)
        if shard is not None:
            self._owners.forget(shard, ticket)
            self._owners.withdraw_later(shard, ticket)

    def take_name(self, name: str, leaver: bytes, ticket: str, pool: str) -> Name:
        key, shard = _name_key(name), b"%d" % self._shard_of_pool(pool)
        words = leaver.hex().encode(), shard, ticket.encode(), self._longest_ms
        taken = _NAMES[self._take_name.run(key, b"1", key, *words)]
        if taken is Name.IN_USE:
            # By a client that has its reply from another process, whose word that it is free is on its way?
            time.sleep(NAME_SECONDS)
            taken = _NAMES[self._take_name.run(key, b"1", key, *words)]
        return taken

    def drop_name(self, name: str) -> None:
        key = _name_key(name)
        with suppress(Unavailable):
            self._servers.send(key, pack(b"DEL", key))

    def leave(self, name: str, leaver: bytes) -> Outcome:
        key, lasts = _name_key(name), b"%d" % round(LEAVE_SECONDS * 1000)
        found = self._leave_name.run(key, b"1", key, leaver.hex().encode(), lasts)
        if not found:
            return Outcome(good=False)
        return self._call("leave", int(found[0]), found[1], lasts)

    def is_idle(self) -> bool:
        return True  # the heartbeat looks after what runs out of time

    def expire(self) -> Outcome:
        """Poll all shards. Only tests need it; see `is_idle`."""
        outcome = Outcome()
        for shard in self.shards:
            _add(outcome, self.poll(shard))
        return outcome

    def remember_once(self, key: str, *, seconds: float) -> bool:
        name = _seen_key(key)
        lasts = b"%d" % max(1, round(seconds * 1000))
        return self._servers.call(name, pack(b"SET", name, b"", b"NX", b"PX", lasts)) is None

    def forget_once(self, key: str) -> None:
        name = _seen_key(key)
        self._servers.call(name, pack(b"DEL", name))

    def statistics(self) -> dict[str, int]:
        counts = [0, 0, 0, 0]
        for each in self._places:
            counts = [sum(both) for both in zip(counts, self._library.view("statistics", each), strict=True)]
        return dict(zip(("waiting", "offered", "handovers", "pairs"), counts, strict=True))

    def pools(self) -> list[PoolCounts]:
        rows = [row for each in self._places for row in self._library.view("pools", each)]
        return [PoolCounts(pool.decode(), *counts) for pool, *counts in rows]

    def is_ready(self) -> bool:
        """A server that can be read and not written is not ready, nor is one on which we may not publish."""
        try:
            for shard in range(len(self._places) if self._servers.is_cluster else 1):
                key = key_of(shard, "ready")
                self._servers.call(key, pack(b"SET", key, b"", b"PX", b"10000"))
            self._servers.call(key, pack(b"PUBLISH", f"{PREFIX}:ready".encode(), b""))
        except Unavailable:
            return False
        return True

    def eviction(self) -> str | None:
        """Redis' `maxmemory-policy`: what it throws away when its memory is full. None: it does not tell."""
        with suppress(Unavailable):
            info: bytes = self._servers.call(key_of(0, "ready"), pack(b"INFO", b"memory"))
            found = re.search(r"^maxmemory_policy:(\S+)", info.decode(), re.MULTILINE)
            return found and found[1]
        return None

    # --- one call ------------------------------------------------------------------------------------------

    def _take_in(
        self, event: str, arrival: Arrival, words: Sequence[bytes], *, due_ms: int, nonce: str = ""
    ) -> Outcome:
        """Run an event that brings a request, which may then wait."""
        shard, ticket = self._shard_of_pool(arrival.pool), arrival.ticket
        self._owners.bring(shard, ticket)
        try:
            outcome = self._call(event, shard, *words, ticket=ticket, nonce=nonce, counts=arrival.counts)
        except SignalError as exc:
            self._owners.forget(shard, ticket)
            if isinstance(exc, RateLimited):
                arrival.counts = ()
            elif not isinstance(exc, Unsent):
                arrival.counts = [each._replace(key=b"") for each in arrival.counts]
                self._owners.withdraw_later(shard, ticket)
            raise
        arrival.counts = ()
        if self._owners.shard_of(ticket) is not None:
            self._heartbeat.poll_at(shard, due_ms / 1000, ticket)
        return outcome

    def _call(
        self,
        event: str,
        shard: int,
        *words: bytes,
        ticket: str | None = None,
        nonce: str = "",
        by_any_owner: bool = True,
        counts: Sequence[Count] = (),
    ) -> Outcome:
        """Run an event, by another owner if ours has lapsed.

        Raises:
            RateLimited: one of `counts` is full.
        """
        outcome = Outcome(good=False)
        try:
            for _ in range(MOST_AGAIN):
                owner, began = self._owners.of(shard), self._now()
                if ticket is not None:
                    owner.tickets[ticket] = None
                reply = self._run(event, shard, owner, *words, counts=counts)
                if reply.status == b"LAPSED":
                    outcome.lost.extend(self._owners.end(shard, owner))
                    if by_any_owner:
                        continue
                    return outcome
                self._deliver(shard, owner, outcome, reply.deliveries, began + self._may_write_ms)
                if reply.status == b"AGAIN":
                    continue
                if reply.status == b"FULL":
                    raise too_many(counts, *reply.more)
                good = bool(reply.is_good)
                if ticket is not None:
                    if not good:
                        self._owners.forget(shard, ticket)
                    elif not self._owners.note_waiting(owner, ticket, nonce):
                        self._owners.forget(shard, ticket)
                        self._owners.withdraw_later(shard, ticket)
                        outcome.lost.append(ticket)
                outcome.good, outcome.responder = good, bytes.fromhex(reply.responder.decode()) or None
                return outcome
            raise away()
        except SignalError:
            self._leave_over(shard, outcome)
            raise

    def _run(
        self, event: str, shard: int, owner: Owner, *words: bytes, counts: Sequence[Count] = ()
    ) -> ScriptReply:
        began = owner.used = time.monotonic()
        now = b"-" if self._clock is None else b"%d" % self._clock()
        call = b" ".join((owner.name, b"%d" % owner.begins, now, *[each.rate for each in counts]))
        keys = [each.key for each in counts]
        try:
            status, good, responder, deliveries, *more = self._library.run(
                event, self._places[shard], call, self._secret().encode(), *words, keys=keys
            )
        except Unavailable as exc:
            if not isinstance(exc, Unsent):
                owner.is_in_doubt = True
            raise
        finally:
            self._heartbeat.begin()
        if status != b"LAPSED" and (owner.begins or event == "poll"):
            owner.begins, owner.prolonged = False, max(owner.prolonged, began)
        return ScriptReply(status, good, responder, deliveries, more)

    def _deliver(
        self, shard: int, owner: Owner, outcome: Outcome, words: Sequence[bytes], write_until: float
    ) -> None:
        """Take replies for our own requests.

        Args:
            write_until: in ms of our clock; an `ANSWER` may be written until then.
        """
        for at in range(0, len(words), 4):
            ticket, kind, nonce, signal = [each.decode() for each in words[at : at + 4]]
            owner.used = time.monotonic()  # it will be settled or released
            self._owners.forget(shard, ticket)
            owner.tickets.pop(ticket, None)
            if kind == "CROWDED":
                outcome.is_crowded = True
                continue
            outcome.deliveries.append(Delivery(ticket, Reply(kind, nonce, signal)))
            if kind == DEMOTE:
                self._given.add(nonce)
                self._heartbeat.poll_at(shard, self._times.answer / 1000, nonce)
            elif kind == ANSWER:
                self._claims[nonce] = write_until

    def _shard_of_pool(self, pool: str) -> int:
        return crc32(pool.encode()) % len(self._places)

    def _now(self) -> float:
        """In ms of a clock that also goes on while this process is stopped."""
        return time.monotonic() * 1000 if self._clock is None else self._clock()

    def _leave_over(self, shard: int, outcome: Outcome) -> None:
        """A call failed, or was refused, that had decided something before: it is handed out all the same."""
        if outcome.deliveries or outcome.lost:
            with self._lock:
                _add(self._left_over, outcome)
            self._heartbeat.poll_soon(shard)

    # --- polling -------------------------------------------------------------------------------------------

    @property
    def is_in_hub(self) -> bool:
        return self._servers.is_in_hub

    @property
    def shards(self) -> list[int]:
        return self._owners.shards

    @property
    def is_uneasy(self) -> bool:
        return self._owners.is_uneasy

    def take_open(self, name: str) -> bool:
        """Is this ticket, or this nonce, still to be used, as far as we know? A nonce is asked of once."""
        if name in self._given:
            self._given.discard(name)
            return True
        return self._owners.shard_of(name) is not None

    def poll(self, shard: int) -> Outcome:
        """Prolong the lease, fetch the mail, end what has run out of time, and ask about what is in doubt."""
        with self._lock:
            outcome, self._left_over = self._left_over, Outcome()
        while self._owners.is_used(shard):
            owner = self._owners.of(shard)
            if self._owners.end_if_idle(shard, owner, self._idle_seconds):
                break
            if not self._poll_once(shard, owner, outcome):
                break
        return outcome

    def _poll_once(self, shard: int, owner: Owner, outcome: Outcome) -> bool:
        """Returns True if there is more to do at once."""
        withdrawals, later = self._owners.take_withdrawals(shard)
        doubtful, owner.doubtful = owner.take_doubtful()
        now, began, used = time.monotonic(), self._now(), owner.used
        sweeps = now >= self._next_sweep.setdefault(shard, now + self._sweep_seconds)
        names = [*withdrawals, *(word for each in doubtful for word in each)]
        words = owner.last, b"%d" % sweeps, b"%d" % len(withdrawals), *(each.encode() for each in names)
        try:
            reply = self._run("poll", shard, owner, *words)
        except SignalError:
            reply = ScriptReply(b"LOST")
        owner.used = used  # to poll is not to use it
        if reply.status != b"OK":
            self._owners.withdraw_later(shard, *withdrawals)
            owner.is_in_doubt = owner.is_in_doubt or bool(doubtful)
        if reply.status == b"LAPSED" or (
            reply.status == b"LOST" and time.monotonic() - owner.prolonged > self._lease_ms / 1000
        ):
            outcome.lost.extend(self._owners.end(shard, owner))
        if reply.status in (b"LAPSED", b"LOST"):
            return False
        self._deliver(shard, owner, outcome, reply.deliveries, began + self._may_write_ms)
        if reply.status == b"AGAIN":
            return True
        mail, lost, is_more = reply.more
        self._fetch(shard, owner, outcome, mail, began)
        if is_more:
            owner.is_in_doubt = owner.is_in_doubt or bool(doubtful)
            return True
        for ticket in [each.decode() for each in lost]:
            if owner.tickets.get(ticket) is not None:
                self._owners.forget(shard, ticket)
                outcome.lost.append(ticket)
                # For the reply that was lost may have been a `DEMOTE`.
                self._owners.withdraw_later(shard, ticket)
        if sweeps:
            self._next_sweep[shard] = now + self._sweep_seconds
        return bool(owner.doubtful) or later

    def _fetch(self, shard: int, owner: Owner, outcome: Outcome, mail: Sequence[Any], began: float) -> None:
        for number, left_ms, delivery in zip(mail[::3], mail[1::3], mail[2::3], strict=True):
            if number > owner.last:
                owner.last = number
                lasts = min(left_ms, self._lease_ms * LEASE_IS_SURE)
                self._deliver(shard, owner, outcome, delivery.split(b" ", 3), began + lasts)


def _seen_key(key: str) -> bytes:
    return f"{PREFIX}:seen:{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}".encode()


def _shard_of(nonce: str) -> int:
    return int(nonce.partition("-")[0])


def _name_key(name: str) -> bytes:
    return f"{PREFIX}:name:{name}".encode()


_NAMES: Final = {b"taken": Name.TAKEN, b"in use": Name.IN_USE, b"left": Name.LEFT}


def _add(outcome: Outcome, more: Outcome) -> None:
    outcome.deliveries.extend(more.deliveries)
    outcome.lost.extend(more.lost)

"""The store of any number of processes on any number of machines: the rules as Lua scripts, in Redis.

A pool lives in one of 64 *shards*, whose keys share a hash tag, so that each event is one script on one
server and all of this runs on a Redis Cluster too. `lua/rules.lua` describes the keys.

    owner    This process in one shard, for as long as its *lease* holds, which its calls prolong, two a
             second at least. An owner whose lease is over may do nothing more, and its requests leave the
             pools; the process answers them with 503 and begins anew as another owner.
    epoch    The life of the Redis server. What another life of it wrote is not believed, for its last words
             may have been forgotten; only the pairs are kept.
    mail     What one owner's call decides for another owner's request lies in the state, as long as its owner
             lives, until that has fetched it. A notice says that there is some; if the notice is lost, the
             next look at the mail, half a second later at most, does as well.

Nothing here depends on a reply or a notice arriving: a call whose reply is lost fails with `Unavailable`, and
the process then asks what became of its requests.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from ...errors import SignalError, Unavailable
from ...messages import DEMOTE, NO_PEER, Arrival, Delivery, Reply
from ..rules import Times
from .base import LEAVE_SECONDS, Name, Outcome, PoolCounts, Store, away, pool_hash
from .redis_client import Notices, Servers, Unsent, pack, pack_around_epoch

PREFIX: Final = "spacerift1"
"""Of every key. The number changes with the meaning of the keys, so that two releases do not mix."""

SHARDS: Final = 64

LEASE_MS: Final = 3000
"""After so long without a sign of life a process is dead."""

TEND_SECONDS: Final = 0.5
"""The pause between two signs of life."""

UNEASY_SECONDS: Final = 0.1
"""The same while no notices come, so that nobody waits longer for what another process decided, and while it
is not known what became of a call."""

GRID_SECONDS: Final = 0.1
"""What runs out of time is looked after at multiples of this, many at once."""

CHECK_SECONDS: Final = 5.0
"""The pause between two looks whether Redis knows of our requests still, if nothing is wrong."""

MOST_AT_ONCE: Final = 16
MOST_AGAIN: Final = 200
MOST_TICKETS: Final = 500

FOLDER = Path(__file__).parent / "lua"
"""Of the scripts."""

KEYS: Final = ("epoch", "count", "leases", "offers", "handovers", "due", "index", "pairs", "mail")
EVENTS: Final = ("connect", "answer", "bounce", "release", "claim", "settle", "withdraw", "leave", "tend")

log = logging.getLogger(__name__)


class _Script:
    """A script by its hash, and the words of a call of it that are the same each time."""

    def __init__(self, source: bytes, shards: int, words: Sequence[str] = ()) -> None:
        self.source = source
        digest = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        self._before = [
            [
                b"EVALSHA",
                digest.encode(),
                b"%d" % len(KEYS),
                *_keys(shard),
                *(each.encode() for each in words),
            ]
            for shard in range(shards)
        ]

    def packed(self, shard: int, *after: bytes) -> tuple[bytes, bytes]:
        return pack_around_epoch([*self._before[shard], b"%d" % shard], after)

    def packed_alone(self, shard: int) -> bytes:
        return pack(*self._before[shard])


@dataclass(slots=True, eq=False)
class _Life:
    """One owner.

    Attributes:
        owner: its name; what stands before the dot names the process.
        begins: Redis has not heard of it yet.
        tended: when the call was made that last prolonged the lease.
        used: when it was last needed.
        checked: when Redis was last asked of all its requests.
        is_over: its lease is, as far as we know.
        tickets: the requests that wait for a reply, each with the nonce that it answers, or "". None: the
            call that brings it is under way.
        last: the number of the last mail that was fetched.
        is_in_doubt: a reply was lost, and what it said of the requests.
        doubtful: those to ask about.
    """

    owner: bytes
    tended: float
    used: float
    checked: float
    begins: bool = True
    is_over: bool = False
    tickets: dict[str, str | None] = field(default_factory=dict)
    last: bytes = b""
    is_in_doubt: bool = False
    doubtful: list[tuple[str, str]] = field(default_factory=list)


class RedisStore(Store):
    """Keeps everything in Redis.

    Args:
        servers: where.
        times: how long things last.
        sweep_ms: how often old pairs are deleted.
        shards: how many there are, the same for all processes.
        lease_ms: after which silence a process is dead.
        clock: the time in ms, the same for all processes; None for that of the server.
        secret: makes what was never used before, of which a call's nonces are made.
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
        secret: Callable[[], bytes] = lambda: secrets.token_bytes(32),
    ) -> None:
        self._servers = servers
        self._times = times
        self._shards = shards
        self._sweep_seconds = sweep_ms / 1000
        # What a process decided has run out of time by then, so it need not look after the shard any longer.
        self._idle_seconds = (times.answer + times.write) / 1000 + 2 * TEND_SECONDS
        self._lease_seconds = lease_ms / 1000
        self._clock = clock
        self._secret = secret
        words = [
            str(each) for each in (times.request, times.answer, times.write, times.pair_memory, lease_ms)
        ]
        rules = (FOLDER / "rules.lua").read_bytes()
        self._scripts = {
            name: _Script(rules + (FOLDER / f"{name}.lua").read_bytes(), shards, words) for name in EVENTS
        }
        self._counts = _Script((FOLDER / "statistics.lua").read_bytes(), shards)
        self._pools = _Script((FOLDER / "pools.lua").read_bytes(), shards)
        self._process = secrets.token_urlsafe(12).replace(".", "-")
        self._lock = threading.Lock()
        self._lives: dict[int, _Life] = {}
        self._shard_of_ticket: dict[str, int] = {}
        self._given: set[str] = set()  # nonces that our requests were given, and did not use here
        self._owed: dict[int, list[str]] = {}  # by shard, tickets whose offers we could not take out
        self._left_over = Outcome()
        self._next_sweep: dict[int, float] = {}
        self._keeper = _Keeper(self)

    blocks = True

    def start(self, apply: Callable[[Outcome], object]) -> None:
        self._keeper.apply = apply

    def listen(self, heard: Callable[[bytes | None], None]) -> Notices:
        return self._servers.listen(f"{PREFIX}:{self._process}", heard)

    # --- events --------------------------------------------------------------------------------------------

    def connect(self, arrival: Arrival, *, may_wait: bool) -> Outcome:
        if arrival.name and self._has_left(arrival.name, arrival.leaver):
            return Outcome([Delivery(arrival.ticket, Reply(NO_PEER))])
        words = *_words(arrival), b"%d" % arrival.wait_ms, b"%d" % may_wait, arrival.signal.encode()
        return self._take_in("connect", arrival, words, due_ms=arrival.wait_ms)

    def answer(self, arrival: Arrival, nonce: str) -> Outcome:
        self._given.discard(nonce)
        words = *_words(arrival), nonce.encode(), arrival.digest.hex().encode(), arrival.signal.encode()
        return self._take_in("answer", arrival, words, due_ms=self._times.write, nonce=nonce)

    def bounce(self, arrival: Arrival, nonce: str, *, may_wait: bool) -> Outcome:
        self._given.discard(nonce)
        wait = b"%d" % arrival.wait_ms
        words = *_words(arrival), wait, b"%d" % may_wait, arrival.signal.encode(), nonce.encode()
        return self._take_in("bounce", arrival, words, due_ms=arrival.wait_ms)

    def release(self, nonce: str) -> Outcome:
        return self._call("release", _shard_of(nonce), nonce.encode())

    def claim(self, nonce: str) -> Outcome:
        return self._call("claim", _shard_of(nonce), nonce.encode(), by_any_owner=False)

    def settle(self, nonce: str, *, written: bool) -> Outcome:
        words = nonce.encode(), b"%d" % written
        return self._call("settle", _shard_of(nonce), *words, by_any_owner=False)

    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> Outcome:
        shard = self._shard_of_ticket.get(ticket)
        if shard is None:
            return Outcome(good=False)
        try:
            outcome = self._call("withdraw", shard, ticket.encode(), b"%d" % unless_offered)
        except Unavailable:
            self._owe(shard, ticket)
            raise
        if outcome.good:
            self._forget(shard, ticket)
        return outcome

    def take_name(self, name: str, leaver: bytes, ticket: str) -> Name:
        if self._has_left(name, leaver):
            return Name.LEFT
        key = _name_key(name)
        lasts = b"%d" % (self._times.request + self._times.answer + self._times.write + 10_000)
        words = f"{leaver.hex()} {ticket} {self._process}".encode()
        taken = self._servers.call(key, pack(b"SET", key, words, b"NX", b"PX", lasts))
        return Name.IN_USE if taken is None else Name.TAKEN

    def drop_name(self, name: str) -> None:
        key = _name_key(name)
        with suppress(Unavailable):
            self._servers.send(key, pack(b"DEL", key))

    def leave(self, name: str, leaver: bytes) -> Outcome:
        key = _name_key(name)
        words: bytes = self._servers.call(key, pack(b"GET", key)) or leaver.hex().encode() + b"  "
        owner, ticket, _ = words.decode().split(" ")
        if owner != leaver.hex():
            return Outcome(good=False)
        shard = self._shard_of_ticket.get(ticket)
        outcome = self._call("leave", shard, ticket.encode()) if shard is not None else Outcome(good=False)
        if not outcome.good:
            left = _left_key(name, leaver)
            self._servers.call(left, pack(b"SET", left, b"", b"PX", b"%d" % (LEAVE_SECONDS * 1000)))
        return outcome

    def is_idle(self) -> bool:
        return True  # the keeper looks after what runs out of time

    def _has_left(self, name: str, leaver: bytes) -> bool:
        key = _left_key(name, leaver)
        return bool(self._servers.call(key, pack(b"EXISTS", key)))

    def expire(self) -> Outcome:
        """Also fetches the mail, and prolongs the leases."""
        outcome = Outcome()
        for shard in self.shards:
            _add(outcome, self.tend(shard))
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
        for shard in range(self._shards):
            key, packed = _key(shard, "epoch"), self._counts.packed_alone(shard)
            counts = [sum(each) for each in zip(counts, self._run(self._counts, key, packed), strict=True)]
        return dict(zip(("waiting", "offered", "handovers", "pairs"), counts, strict=True))

    def pools(self) -> list[PoolCounts]:
        rows = []
        for shard in range(self._shards):
            key, packed = _key(shard, "epoch"), self._pools.packed_alone(shard)
            rows += self._run(self._pools, key, packed)
        return [PoolCounts(pool.decode(), *counts) for pool, *counts in rows]

    def is_ready(self) -> bool:
        """A server that can be read and not written is not ready."""
        try:
            for shard in range(self._shards if self._servers.is_cluster else 1):
                key = _key(shard, "ready")
                self._servers.call(key, pack(b"SET", key, b"", b"PX", b"10000"))
        except Unavailable:
            return False
        return True

    def eviction(self) -> str | None:
        """Redis' `maxmemory-policy`: what it throws away when its memory is full. None: it does not tell."""
        with suppress(Unavailable):
            info: bytes = self._servers.call(_key(0, "epoch"), pack(b"INFO", b"memory"))
            found = re.search(r"^maxmemory_policy:(\S+)", info.decode(), re.MULTILINE)
            return found and found[1]
        return None

    # --- one call ------------------------------------------------------------------------------------------

    def _take_in(
        self, event: str, arrival: Arrival, words: Sequence[bytes], *, due_ms: int, nonce: str = ""
    ) -> Outcome:
        """Bring a request that may have to wait for its reply."""
        shard, ticket = crc32(arrival.pool.encode()) % self._shards, arrival.ticket
        self._shard_of_ticket[ticket] = shard
        try:
            outcome = self._call(event, shard, *words, ticket=ticket, nonce=nonce)
        except SignalError as exc:
            self._forget(shard, ticket)
            if not isinstance(exc, Unsent):
                self._owe(shard, ticket)
            raise
        if ticket in self._shard_of_ticket:
            self._keeper.look_after(shard, due_ms / 1000, ticket)
        return outcome

    def _call(
        self,
        event: str,
        shard: int,
        *words: bytes,
        ticket: str | None = None,
        nonce: str = "",
        by_any_owner: bool = True,
    ) -> Outcome:
        """Run an event's script, under another owner if ours has lapsed."""
        outcome = Outcome(good=False)
        try:
            for _ in range(MOST_AGAIN):
                life = self._life(shard)
                if ticket is not None:
                    life.tickets[ticket] = None
                status, *rest = self._try(event, shard, life, *words)
                if status == b"LAPSED":
                    outcome.lost.extend(self._end(shard, life))
                    if by_any_owner:
                        continue
                    return outcome
                good, responder, deliveries = rest[:3]
                self._deliver(shard, life, outcome, deliveries)
                if status == b"AGAIN":
                    continue
                if ticket is not None:
                    self._settle_in(life, ticket, nonce, is_good=bool(good), outcome=outcome)
                return Outcome(
                    outcome.deliveries,
                    bool(good),
                    bytes.fromhex(responder.decode()) or None,
                    lost=outcome.lost,
                )
            raise away()
        except SignalError:
            self._leave_over(outcome)
            raise

    def _try(self, event: str, shard: int, life: _Life, *words: bytes) -> list[Any]:
        begins, began = life.begins, time.monotonic()
        now = b"" if self._clock is None else b"%d" % self._clock()
        script = self._scripts[event]
        packed = script.packed(shard, life.owner, b"%d" % begins, now, self._secret(), *words)
        life.used = began
        try:
            reply: list[Any] = self._run(script, _key(shard, "epoch"), *packed)
        except Unavailable:
            life.is_in_doubt = True
            self._keeper.begin()
            raise
        if reply[0] != b"LAPSED" and (begins or event == "tend"):
            life.begins, life.tended = False, max(life.tended, began)
        self._keeper.begin()
        return reply

    def _run(self, script: _Script, key: bytes, *packed: bytes) -> Any:
        return self._servers.run(key, script.source, *packed)

    def _deliver(self, shard: int, life: _Life, outcome: Outcome, words: Sequence[bytes]) -> None:
        for at in range(0, len(words), 4):
            ticket, kind, nonce, signal = (each.decode() for each in words[at : at + 4])
            life.tickets.pop(ticket, None)
            life.used = time.monotonic()  # it will be claimed or released
            self._shard_of_ticket.pop(ticket, None)
            outcome.deliveries.append(Delivery(ticket, Reply(kind, nonce, signal)))
            if kind == DEMOTE:
                self._given.add(nonce)
                self._keeper.look_after(shard, self._times.answer / 1000, nonce)

    def _settle_in(self, life: _Life, ticket: str, nonce: str, *, is_good: bool, outcome: Outcome) -> None:
        """The call that brought a request was answered: its reply is here, or is waited for, or neither."""
        if not is_good:
            life.tickets.pop(ticket, None)
            return
        with self._lock:
            if ticket not in life.tickets:
                return  # it has its reply
            life.tickets[ticket] = nonce
            if life.is_over:
                outcome.lost.append(ticket)

    # --- lives ---------------------------------------------------------------------------------------------

    def _life(self, shard: int) -> _Life:
        life = self._lives.get(shard)
        if life is not None:
            return life
        with self._lock:
            now = time.monotonic()
            owner = f"{self._process}.{secrets.token_hex(4)}".encode()
            return self._lives.setdefault(shard, _Life(owner, tended=now, used=now, checked=now))

    def _end(self, shard: int, life: _Life) -> list[str]:
        """End a life. Returns the requests that it held, which nobody else will answer."""
        with self._lock:
            if life.is_over:
                return []
            life.is_over = True
            if self._lives.get(shard) is life:
                del self._lives[shard]
            lost = [ticket for ticket, nonce in life.tickets.items() if nonce is not None]
        for ticket in lost:
            self._shard_of_ticket.pop(ticket, None)
        return lost

    def _forget(self, shard: int, ticket: str) -> None:
        self._shard_of_ticket.pop(ticket, None)
        life = self._lives.get(shard)
        if life is not None:
            life.tickets.pop(ticket, None)

    def _owe(self, shard: int, ticket: str) -> None:
        """A request was given up.

        It is not known whether its offer waits, or whether it was handed another, and neither may stay so.
        """
        self._owed.setdefault(shard, []).append(ticket)

    def _leave_over(self, outcome: Outcome) -> None:
        """A call failed that had decided something before: let it be handed out all the same."""
        if outcome.deliveries or outcome.lost:
            with self._lock:
                _add(self._left_over, outcome)

    # --- what is done now and then -------------------------------------------------------------------------

    def is_open(self, name: str) -> bool:
        """Is this ticket, or this nonce, still to be used or to run out of time, as far as we know?"""
        if name in self._given:
            self._given.discard(name)  # it is asked of once, when its time is over
            return True
        return name in self._shard_of_ticket

    @property
    def shards(self) -> list[int]:
        """Where this process has requests, or had a moment ago, or may have left some behind."""
        return [*{*self._lives, *self._owed}]

    @property
    def is_uneasy(self) -> bool:
        """Is something to be put right, as soon as the server is there?"""
        return bool(self._owed) or any(each.is_in_doubt for each in list(self._lives.values()))

    def tend(self, shard: int) -> Outcome:
        """Prolong the lease, fetch the mail, end what has run out of time, and ask about what is in doubt."""
        with self._lock:
            outcome, self._left_over = self._left_over, Outcome()
        while shard in self._lives or shard in self._owed:
            if not self._tend_once(shard, self._life(shard), outcome):
                break
        return outcome

    def _tend_once(self, shard: int, life: _Life, outcome: Outcome) -> bool:
        """Returns True if there is more to do at once."""
        if self._is_idle(shard, life):
            return False
        owed, later = self._take_owed(shard)
        doubtful, life.doubtful = self._doubtful(life)
        now = time.monotonic()
        sweeps = now >= self._next_sweep.setdefault(shard, now + self._sweep_seconds)
        asked = [word.encode() for each in doubtful for word in each]
        words = life.last, b"%d" % sweeps, b"%d" % len(owed), *(each.encode() for each in owed), *asked
        used = life.used
        try:
            status, *rest = self._try("tend", shard, life, *words)
        except SignalError:
            self._owed.setdefault(shard, []).extend(owed)
            life.is_in_doubt = True
            if time.monotonic() - life.tended > self._lease_seconds:
                outcome.lost.extend(self._end(shard, life))
            return False
        finally:
            life.used = used
        if status == b"LAPSED":
            self._owed.setdefault(shard, []).extend(owed)
            outcome.lost.extend(self._end(shard, life))
            return False
        _, _, deliveries, *rest = rest
        self._deliver(shard, life, outcome, deliveries)
        if status == b"AGAIN":
            self._owed.setdefault(shard, []).extend(owed)
            life.is_in_doubt = life.is_in_doubt or bool(doubtful)
            return True
        mail, lost, is_more = rest
        self._fetch(shard, life, outcome, mail)
        if is_more:
            life.is_in_doubt = life.is_in_doubt or bool(doubtful)
            return True
        for ticket in lost:
            if life.tickets.get(ticket.decode()) is not None:
                self._forget(shard, ticket.decode())
                outcome.lost.append(ticket.decode())
                self._owe(shard, ticket.decode())  # for the reply that was lost may have been a `DEMOTE`
        if sweeps:
            self._next_sweep[shard] = now + self._sweep_seconds
        return bool(life.doubtful) or later

    def _is_idle(self, shard: int, life: _Life) -> bool:
        if life.tickets or self._owed.get(shard) or time.monotonic() - life.used < self._idle_seconds:
            return False
        self._end(shard, life)
        return True

    def _doubtful(self, life: _Life) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Requests to ask about now, and those to ask about later."""
        now = time.monotonic()
        if life.is_in_doubt or now > life.checked + CHECK_SECONDS:
            life.is_in_doubt, life.checked = False, now
            life.doubtful = [
                (ticket, nonce) for ticket, nonce in list(life.tickets.items()) if nonce is not None
            ]
        return life.doubtful[:MOST_TICKETS], life.doubtful[MOST_TICKETS:]

    def _take_owed(self, shard: int) -> tuple[list[str], bool]:
        """Some of the requests that were given up, and whether there are more."""
        owed = self._owed.pop(shard, [])
        if len(owed) > MOST_TICKETS:
            self._owed[shard] = owed[MOST_TICKETS:]
        return owed[:MOST_TICKETS], len(owed) > MOST_TICKETS

    def _fetch(self, shard: int, life: _Life, outcome: Outcome, mail: Sequence[bytes]) -> None:
        for number, delivery in zip(mail[::2], mail[1::2], strict=True):
            if number > life.last:
                life.last = number
                self._deliver(shard, life, outcome, delivery.split(b" ", 3))


class _Keeper:
    """The thread (a greenlet, under gevent) that tends the shards: when a notice comes, when something runs
    out of time, and twice a second in any case.

    Attributes:
        apply: hands an outcome out; without it there is no thread, and somebody else must tend.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.apply: Callable[[Outcome], object] | None = None
        self._notices: Notices | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wakes_at = 0.0
        self._noticed: set[int] = set()
        self._due: list[tuple[int, int]] = []  # a heap of (multiple of GRID_SECONDS, shard)
        self._planned: dict[tuple[int, int], list[str]] = {}  # and what each of them is for

    def begin(self) -> None:
        # With the first call and not before, for neither a thread nor a connection survives a fork.
        if self._notices is not None or self.apply is None:
            return
        with self._lock:
            if self._notices is None:
                self._notices = self._store.listen(self._hear)
                threading.Thread(target=self._run, name="spacerift-keeper", daemon=True).start()

    def look_after(self, shard: int, seconds: float, name: str) -> None:
        """Tend a shard after so many seconds, if this ticket or nonce is open still."""
        if self.apply is None:
            return
        due = time.monotonic() + max(0.0, seconds)
        entry = int(due / GRID_SECONDS) + 1, shard
        with self._lock:
            if entry in self._planned:
                self._planned[entry].append(name)
                return
            self._planned[entry] = [name]
            heapq.heappush(self._due, entry)
        if due < self._wakes_at:
            self._wake.set()

    def _hear(self, notice: bytes | None) -> None:
        with self._lock:
            self._noticed.update(self._store.shards if notice is None else [int(notice)])
        self._wake.set()

    def _run(self) -> None:
        tended = time.monotonic()
        while True:
            now = time.monotonic()
            is_deaf = self._notices is None or not self._notices.is_listening
            is_uneasy = is_deaf or self._store.is_uneasy
            next_tending = tended + (UNEASY_SECONDS if is_uneasy else TEND_SECONDS)
            if now >= next_tending:
                shards, tended = set(self._store.shards), now
                self._take_due(now)
            else:
                shards = self._take_due(now)
            self._tend_all(list(shards))
            self._wait(next_tending)

    def _take_due(self, now: float) -> set[int]:
        with self._lock:
            shards, self._noticed = self._noticed, set()
            while self._due and self._due[0][0] * GRID_SECONDS <= now:
                entry = heapq.heappop(self._due)
                if [name for name in self._planned.pop(entry) if self._store.is_open(name)]:
                    shards.add(entry[1])
            return shards

    def _tend_all(self, shards: list[int]) -> None:
        """Some at once, for their calls share their way to Redis and back."""

        def tend_some() -> None:
            while shards:
                with suppress(IndexError):  # another took the last one
                    self._tend(shards.pop())

        helpers = [
            threading.Thread(target=tend_some, daemon=True) for _ in range(min(len(shards), MOST_AT_ONCE) - 1)
        ]
        for helper in helpers:
            helper.start()
        tend_some()
        for helper in helpers:
            helper.join()

    def _tend(self, shard: int) -> None:
        try:
            outcome = self._store.tend(shard)
            if self.apply is not None:
                self.apply(outcome)
        except Exception:
            log.exception("tending failed")

    def _wait(self, until: float) -> None:
        with self._lock:
            if self._due:
                until = min(until, self._due[0][0] * GRID_SECONDS)
            self._wakes_at = until
        self._wake.wait(max(0.0, until - time.monotonic()))
        self._wake.clear()


def _key(shard: int, name: str) -> bytes:
    return f"{PREFIX}:{{{shard}}}:{name}".encode()


def _keys(shard: int) -> list[bytes]:
    return [_key(shard, name) for name in KEYS]


def _seen_key(key: str) -> bytes:
    return f"{PREFIX}:seen:{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}".encode()


def _name_key(name: str) -> bytes:
    return f"{PREFIX}:name:{name}".encode()


def _left_key(name: str, leaver: bytes) -> bytes:
    return f"{PREFIX}:left:{name}:{leaver.hex()}".encode()


def _shard_of(nonce: str) -> int:
    return int(nonce.partition("-")[0])


def _words(arrival: Arrival) -> tuple[bytes, ...]:
    # Redis never sees a namespace.
    pool = pool_hash(arrival.pool).encode()
    peer, bearer = arrival.peer.hex().encode(), arrival.bearer.hex().encode()
    return arrival.ticket.encode(), pool, peer, bearer


def _add(outcome: Outcome, more: Outcome) -> None:
    outcome.deliveries.extend(more.deliveries)
    outcome.lost.extend(more.lost)

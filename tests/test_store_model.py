"""The store in Redis against the rules: a machine plays both at once and demands the same of both.

Everything is compared: each delivery, its order, each nonce, what was good, and the counts. `MUTANTS` breaks
the Lua one line at a time, and the machine must notice each; `tests/mutate_lua.py` breaks every line in turn.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import signal_server.matching.stores.redis_scripts as redis_scripts
from redis_server import RedisServer
from signal_server.matching.rules import Times
from signal_server.matching.stores.base import LEAVE_SECONDS, Name, Outcome
from signal_server.matching.stores.memory import MemoryStore
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.messages import ANSWER, DEMOTE, Arrival, Delivery
from store_contract import leaver_of, peer_of
from varied import Varied

TIMES = Times(request=31_000, answer=5_000, write=3_000, pair_memory=47_000)
"""All whole seconds, and each event has a millisecond of its own: so no two things of two events run out of
time at once, because the rules and Redis need not agree on which of them is first."""

FOR_EVER = 10**9

PEERS = st.sampled_from(["ann", "ben", "cat", "dan", "eve"])
POOLS = st.sampled_from(["open:", "open:chess"])
NAMES = ["red", "green"]


class Machine(RuleBasedStateMachine):
    """Plays one server, or several that share the store."""

    servers: Servers
    redis: RedisServer
    varied: Varied
    processes = 1

    def __init__(self) -> None:
        super().__init__()
        self.redis.call("FLUSHALL")
        self.base_ms = self.now_ms = 1_000_000
        self.secret = b""
        self.made = 0
        self.events = 0
        self.claimers: dict[str, int] = {}  # nonce: the process that was handed its `ANSWER`
        self.named: dict[str, Arrival] = {}
        self.left_ms: dict[str, int] = {}
        self.left_by: dict[str, bytes] = {}
        self.tickets: dict[str, int] = {}  # and the process that holds each
        self.given: dict[str, tuple[Arrival, str]] = {}  # nonce: to whom, and its last answer
        self.model = MemoryStore(TIMES, sweep_ms=FOR_EVER, clock=lambda: self.now_ms, nonces=self.next_nonce)
        self.stores = [
            RedisStore(
                self.servers,
                TIMES,
                sweep_ms=FOR_EVER,
                shards=1,
                lease_ms=FOR_EVER,
                clock=lambda: self.now_ms,
                secret=lambda: self.secret.decode(),
            )
            for _ in range(self.processes)
        ]
        for (
            store
        ) in self.stores:  # each begins its life here, so that it is written to from the first event on
            store.release("0-none")

    # --- what is played ------------------------------------------------------------------------------------

    @precondition(lambda self: self.has_room(1))
    @rule(
        peer=PEERS,
        pool=POOLS,
        may_wait=st.booleans() | st.just(True),
        wait_ms=st.sampled_from([TIMES.request, TIMES.request, 17_000]),
        rematch=st.booleans(),
    )
    def connect(self, peer: str, pool: str, may_wait: bool, wait_ms: int, rematch: bool) -> None:
        arrival = self.arrive(peer, pool, wait_ms=wait_ms, rematch=rematch)
        self.play("connect", arrival, holder=arrival.ticket, may_wait=may_wait)

    @rule(
        peer=PEERS,
        pool=POOLS,
        name=st.sampled_from(NAMES),
        leaves=st.sampled_from(["", "on its way", "at once"]),
        late=st.integers(0, 3),
    )
    def connect_by_name(self, peer: str, pool: str, name: str, leaves: str, late: int) -> None:
        """A request with a name, and perhaps a LEAVE: while it is on its way to the rules, or then."""
        if name in self.named:
            self.base_ms += 3_000  # a LEAVE of a name that is in use is not remembered for another request
        arrival = self.arrive(peer, pool, name=name)
        words = arrival.name, arrival.leaver, arrival.ticket, arrival.pool
        taken = self.play("take_name", *words, holder=arrival.ticket)
        if taken is not Name.TAKEN:
            return
        self.named[name] = arrival
        if leaves == "on its way":
            self.play("leave", name, leaver_of(peer))
        self.base_ms += 1_000 * late
        self.play("connect", arrival, holder=arrival.ticket, may_wait=True)
        if leaves == "at once":
            self.left_by[name] = leaver_of(peer)
            self.play("leave", name, leaver_of(peer))

    @rule(name=st.sampled_from(NAMES), peer=PEERS, rightly=st.booleans())
    def leave(self, name: str, peer: str, rightly: bool) -> None:
        """A name is a secret of one client, so one that nobody has come with is left by one client only."""
        leaver = self.named[name].leaver if rightly and name in self.named else leaver_of(peer)
        if name not in self.named and self.left_by.get(name) != leaver:
            self.base_ms += 3_000
        self.left_by[name] = leaver
        self.play("leave", name, leaver)

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def drop_name(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.named)))
        del self.named[name]
        self.base_ms += 3_000  # by when no LEAVE is remembered
        self.play("drop_name", name)

    @precondition(lambda self: self.has_room(3))
    @rule(peers=st.permutations(["ann", "ben", "cat", "dan"]), pool=POOLS, rematch=st.booleans())
    def meet(self, peers: list[str], pool: str, rematch: bool) -> None:
        """Some at once, on purpose: among few peers that know each other it happens too seldom."""
        for peer in peers[:3]:
            arrival = self.arrive(peer, pool, rematch=rematch)
            self.play("connect", arrival, holder=arrival.ticket, may_wait=True)

    @precondition(lambda self: self.has_room(5))
    @rule(
        peers=st.permutations(["ann", "ben", "cat", "dan"]),
        pool=POOLS | st.just("open:alone"),
        crossing=st.booleans(),
        says=st.tuples(st.booleans(), st.booleans()),
    )
    def link_and_meet_again(
        self, peers: list[str], pool: str, crossing: bool, says: tuple[bool, bool]
    ) -> None:
        """On purpose, too: two are linked, maybe while one bounces the other elsewhere, and come again."""
        ann, ben = peers[:2]
        self.demoted(ann, pool)
        nonce = self.demoted(ben, pool)
        if nonce is None:
            return
        if crossing:
            self.demoted(ben, pool)
            bounced = self.demoted(ann, pool)
            if bounced is not None:
                arrival = self.arrive(ann, pool)
                self.play("bounce", arrival, bounced, holder=arrival.ticket, may_wait=True)
        arrival = self.arrive(ben, pool, text="the answer")
        self.play("answer", arrival, nonce, holder=arrival.ticket)
        self.play("claim", nonce)
        self.play("settle", nonce, written=True)
        for peer, rematch in zip((ann, ben), says, strict=True):
            self.demoted(peer, pool, rematch=rematch)

    @precondition(lambda self: self.has_room(7))
    @rule(
        peers=st.permutations(["ann", "ben", "cat", "dan"]),
        pool=POOLS | st.just("open:slow"),
        offers=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=2, max_size=4),
        waits=st.booleans(),
        rematch=st.booleans(),
    )
    def let_lapse(
        self, peers: list[str], pool: str, offers: list[tuple[int, bool]], waits: bool, rematch: bool
    ) -> None:
        """On purpose, too: one gets what others offer, does not answer in time, and comes again or waits."""
        for number, says_so in offers:
            self.demoted(peers[number], pool, rematch=says_so)
        for _ in range(2):
            self.demoted(peers[0], pool, rematch=rematch)
            if waits:
                self.demoted(peers[1], pool, rematch=rematch)
            self.base_ms += TIMES.answer
            self.play("expire")
        self.demoted(peers[0], pool, rematch=rematch)

    @precondition(lambda self: self.has_room(3))
    @rule(peers=st.permutations(["ann", "ben", "cat", "dan"]), pool=POOLS | st.just("open:away"))
    def turn_away(self, peers: list[str], pool: str) -> None:
        """A bounce that may not wait, where only another offer of the bounced peer waits."""
        self.demoted(peers[0], pool)
        self.demoted(peers[0], pool)
        nonce = self.demoted(peers[1], pool)
        if nonce is not None:
            arrival = self.arrive(peers[1], pool)
            self.play("bounce", arrival, nonce, holder=arrival.ticket, may_wait=False)

    def demoted(self, peer: str, pool: str, *, rematch: bool = False) -> str | None:
        """Let a peer connect. Returns the nonce, if it is handed an offer at once."""
        arrival = self.arrive(peer, pool, rematch=rematch)
        told = self.play("connect", arrival, holder=arrival.ticket, may_wait=True)
        assert isinstance(told, Outcome)
        own = [each.reply for each in told.deliveries if each.ticket == arrival.ticket]
        return own[0].nonce if own and own[0].type == DEMOTE else None

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        wrong=st.sampled_from(["", "", "", "pool", "peer"]),
        same=st.booleans(),
        bounce=st.booleans(),
        rematch=st.booleans(),
    )
    def present(self, data: st.DataObject, wrong: str, same: bool, bounce: bool, rematch: bool) -> None:
        """An answer or a bounce, by the one who was given the nonce or by somebody else."""
        nonce = data.draw(self.nonces())
        responder, text = self.given[nonce]
        pool = data.draw(POOLS) if wrong == "pool" else responder.pool
        peer = data.draw(PEERS) if wrong == "peer" else name_of(responder)
        arrival = self.arrive(peer, pool, text=text if same else "", rematch=rematch)
        if bounce:
            self.play("bounce", arrival, nonce, holder=arrival.ticket, may_wait=data.draw(st.booleans()))
        else:
            self.given[nonce] = responder, arrival.signal
            self.play("answer", arrival, nonce, holder=arrival.ticket)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.play("release", data.draw(self.nonces()))

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        self.play("claim", data.draw(self.nonces()))

    @precondition(lambda self: self.given)
    @rule(data=st.data(), written=st.booleans())
    def settle(self, data: st.DataObject, written: bool) -> None:
        self.play("settle", data.draw(self.nonces()), written=written)

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        twist=st.sampled_from(
            ["", "repeats", "claims twice", "initiator leaves", "is lost", "in another pool first"]
        ),
    )
    def deliver(self, data: st.DataObject, twist: str) -> None:
        """The whole way on purpose: random play walks it too seldom."""
        handovers = self.model._rules._handovers
        offered = [nonce for nonce, each in handovers.items() if each.stage.name == "OFFERED"]
        nonce = data.draw(st.sampled_from(offered or list(self.given)))
        responder, _ = self.given[nonce]
        arrival = self.arrive(name_of(responder), responder.pool, text="the answer")
        self.given[nonce] = responder, arrival.signal
        handover = handovers.get(nonce)
        if twist == "initiator leaves" and handover is not None and handover.offer is not None:
            self.play("withdraw", handover.offer.arrival.ticket, holder=handover.offer.arrival.ticket)
        if twist == "in another pool first":
            other = self.arrive(name_of(responder), "open:elsewhere", text="the answer")
            self.play("answer", other, nonce, holder=other.ticket)
        self.play("answer", arrival, nonce, holder=arrival.ticket)
        if twist == "repeats":
            again = self.arrive(name_of(responder), responder.pool, text="the answer")
            self.play("answer", again, nonce, holder=again.ticket)
        for _ in range(1 + (twist == "claims twice")):
            self.play("claim", nonce)
        self.play("settle", nonce, written=twist != "is lost")

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), unless_offered=st.booleans())
    def withdraw(self, data: st.DataObject, unless_offered: bool) -> None:
        known, pending = list(self.tickets), list(self.model._rules._offers)
        ticket = data.draw(st.sampled_from(pending or known) | st.sampled_from(known))
        self.play("withdraw", ticket, holder=ticket, unless_offered=unless_offered)

    @rule(seconds=st.sampled_from([1, 2, 2, 5, 5, 20, 47]), exactly=st.booleans())
    def pass_time(self, seconds: int, exactly: bool) -> None:
        due_ms = self.next_due_ms()
        self.base_ms += 1_000 * seconds
        self.play("expire", now_ms=due_ms if exactly else None)

    def teardown(self) -> None:
        """After all deadlines nothing is left but what was remembered of pairs."""
        for name in self.named:
            self.play("drop_name", name)
        for _ in range(8):
            self.base_ms += 20_000
            self.play("expire")
        counts = self.stores[0].statistics()
        assert counts | {"pairs": 0} == dict.fromkeys(counts, 0)
        left = {key.rpartition(":")[2] for key in self.redis.lifetimes() if ":name:" not in key}
        assert left <= {"life", "offers", "due", "pairs"}
        for key in self.redis.lifetimes():
            assert not key.endswith(":offers") or self.redis.call("HKEYS", key) == ["count"]
        for store in self.stores:  # nor in the processes
            owners = store._owners
            assert not owners._shard_of_ticket
            assert not any(each.tickets for each in owners._owners.values())

    # --- how it is compared --------------------------------------------------------------------------------

    def play(
        self,
        event: str,
        *words: object,
        holder: str | None = None,
        now_ms: int | None = None,
        **options: object,
    ) -> object:
        """Let both do the same, and demand the same."""
        self.events += 1
        self.now_ms = self.base_ms + self.events if now_ms is None else max(self.now_ms, now_ms)
        self.base_ms = max(self.base_ms, self.now_ms // 1_000 * 1_000)
        self.secret, self.made = self.next_secret(), 0
        self.forget_leaves()
        if event == "leave":
            self.left_ms[str(words[0])] = self.now_ms
        if holder is not None:
            self.tickets.setdefault(holder, len(self.tickets) % self.processes)
        expected = getattr(self.model, event)(*words, **options)
        store = self.stores[self.tickets[holder] if holder is not None else 0]
        if event in ("claim", "settle"):  # by whom it was handed to
            store = self.stores[self.claimers.get(str(words[0]), 0)]
        told = getattr(store, event)(*words, **options)
        if event == "leave":  # which Redis forgets by its own clock, ahead of ours on a busy machine
            self.redis.call("PEXPIRE", f"{redis_scripts.PREFIX}:name:{words[0]}", 600_000, "GT")
        if not isinstance(expected, Outcome):
            assert told == expected
            return told
        if event != "leave":  # nobody asks whether one was there
            assert (told.good, told.responder) == (expected.good, expected.responder)
        assert told.lost == []
        if event in (
            "claim",
            "leave",
            "withdraw",
        ):  # if they ask no shard, the next event ends what is due
            told.deliveries += self.stores[0].expire().deliveries
        if self.processes == 1:
            assert told.deliveries == expected.deliveries, (self.now_ms, told.deliveries, expected.deliveries)
        else:
            told = self.fetch(told)
            assert sorted(told.deliveries, key=repr) == sorted(expected.deliveries, key=repr)
        counts = store.statistics()
        assert counts == {name: self.model.statistics()[name] for name in counts}
        assert all(left > 0 for left in self.redis.lifetimes().values()), "a key without an end"
        self.note(words, told.deliveries)
        return told

    def forget_leaves(self) -> None:
        """As Redis does by itself, but by our clock."""
        for name, left_ms in self.left_ms.items():
            key = f"{redis_scripts.PREFIX}:name:{name}"
            if self.now_ms >= left_ms + LEAVE_SECONDS * 1_000 and " " not in (
                self.redis.call("GET", key) or " "
            ):
                self.redis.call("DEL", key)

    def fetch(self, told: Outcome) -> Outcome:
        """With what the others found in their mail: each only what is its own."""
        deliveries = list(told.deliveries)
        for number, store in enumerate(self.stores):
            mine = store.expire().deliveries
            assert all(self.tickets[each.ticket] == number for each in mine)
            deliveries += mine
        return Outcome(deliveries)

    def note(self, words: tuple[object, ...], deliveries: list[Delivery]) -> None:
        arrivals = [each for each in words if isinstance(each, Arrival)]
        for arrival in arrivals:
            self.arrivals[arrival.ticket] = arrival
        for each in deliveries:
            if each.reply.type == DEMOTE:
                self.given[each.reply.nonce] = self.arrivals[each.ticket], ""
            elif each.reply.type == ANSWER:
                self.claimers[each.reply.nonce] = self.tickets[each.ticket]

    def next_due_ms(self) -> int | None:
        deadlines = self.model._rules.deadlines
        entries = itertools.chain(*(each.values() for each in (*deadlines._queues, deadlines._early)))
        return min(entries, default=None)

    def nonces(self) -> st.SearchStrategy[str]:
        """One that was given to somebody, most often one that is good still."""
        good = list(self.model._rules._handovers)
        return st.sampled_from(good or list(self.given)) | st.sampled_from(list(self.given))

    def has_room(self, more: int) -> bool:
        """Are there few enough offers? An event makes five handovers at most then; see `next_secret`."""
        return len(self.model._rules._offers) + more <= 10

    # --- what is made --------------------------------------------------------------------------------------

    @property
    def arrivals(self) -> dict[str, Arrival]:
        return self.__dict__.setdefault("_arrivals", {})

    def next_secret(self) -> bytes:
        """One whose first nonces are in the order of the alphabet, as Redis has what is due at once."""
        for number in itertools.count():
            secret = b"%b*%d" % (self.secret.partition(b"*")[0], number + self.events * 1_000)
            made = [hashlib.sha1(secret + b"%d" % each).hexdigest() for each in range(1, 6)]
            if made == sorted(made):
                return secret
        raise AssertionError

    def next_nonce(self) -> str:
        self.made += 1
        return "0-" + hashlib.sha1(self.secret + b"%d" % self.made).hexdigest()

    def arrive(
        self,
        peer: str,
        pool: str,
        *,
        text: str = "",
        wait_ms: int = TIMES.request,
        rematch: bool = False,
        name: str = "",
    ) -> Arrival:
        ticket = f"{peer}-{len(self.arrivals) + 1}"
        signal = text or f"signal of {ticket} ☎"
        arrival = Arrival(
            ticket=ticket,
            pool=pool,
            peer=peer_of(peer),
            bearer=f"of {peer}".encode(),
            signal=signal,
            digest=b"%d" % crc32(signal.encode()),
            wait_ms=wait_ms,
            rematch=rematch,
            name=name,
            leaver=leaver_of(peer) if name else b"",
        )
        self.arrivals[ticket] = arrival
        return self.varied.note(arrival)


def name_of(arrival: Arrival) -> str:
    return arrival.peer.rstrip(b".").decode()


QUICK = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
BITES = settings(QUICK, max_examples=200, phases=[Phase.generate], derandomize=True, database=None)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def machine_of(redis: RedisServer, processes: int) -> type[Machine]:
    names = {
        "servers": Servers(redis.url, timeout_seconds=10),
        "redis": redis,
        "processes": processes,
        "varied": Varied(),
    }
    return type("Machine", (Machine,), names)


@pytest.mark.parametrize("processes", [1, 3])
def test_redis_decides_what_the_rules_decide(redis: RedisServer, processes: int) -> None:
    machine = machine_of(redis, processes)
    run_state_machine_as_test(machine, settings=QUICK)
    assert not machine.varied.missing(), "what an arrival says, and the machine never plays"


MUTANTS = [
    ("rules", "offer.peer == peer or offer.peer == unwanted or met(", "met("),
    ("rules", " or met(pool, peer, offer.peer) ~= how", ""),
    ("rules", "search_among('r', 'linked')", "search_among('r', nil)"),
    ("bounce", "oldest_for(arrival, handover.initiator)", "oldest_for(arrival)"),
    ("rules", " or arrival.rematch and search_among('r', 'linked')", ""),
    ("rules", " or arrival.rematch and search_among", " or search_among"),
    ("rules", "if would_lapse_again(offer, arrival) then", "if false then"),
    ("rules", "again = again or offer", "again = offer"),
    ("rules", "again = again or offer", ""),
    ("rules", "arrival.place and arrival.place < offer.place", "arrival.place"),
    ("rules", "(offer.lapsed and offer.ticket or offer.peer)", "offer.peer"),
    ("rules", "(offer.lapsed or '') .. late", "late"),
    ("rules", "give_back(handover.ticket, handover.responder)", "give_back(handover.ticket)"),
    ("rules", "give_back(handover.ticket, handover.responder)", ""),
    ("rules", "    stand('q', 'r', offer)\n", ""),
    ("rules", "handover.pool == arrival.pool and ", ""),
    ("rules", " and handover.bearer == arrival.bearer", ""),
    ("rules", "if head and head < place then", "if head then"),
    ("rules", "if other.place < offer.place then", "if false then"),
    ("release", "    give_back(handover.ticket)\n", ""),
    ("state", "how == 'linked' and met(", "false and met("),
    ("state", "score % 2 == 1", "false"),
    ("answer", "handover.digest ~= arrival.digest", "false"),
    ("answer", "set_deadline(nonce, NOW + WRITE)\n", ""),
    ("bounce", "    give_back(handover.ticket)\n    connect(arrival, true)", "    connect(arrival, true)"),
    ("bounce", "'bounced'", "'linked'"),
    ("connect", "arrival.named == '1' and", "false and"),
    ("leave", "    withdraw(ticket)\n", ""),
    ("settle", "remember(handover, 'linked')\n", ""),
]
"""A file, and what of it is broken how."""


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[f"{name}: {old!r}" for name, old, _ in MUTANTS])
def test_a_broken_line_of_lua_is_noticed(
    redis: RedisServer, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, old, new = MUTANTS[number]
    shutil.copytree(redis_scripts.FOLDER, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{name}.lua"
    source = file.read_text()
    assert source.count(old) == 1, "the line to break has changed"
    file.write_text(source.replace(old, new))
    monkeypatch.setattr(redis_scripts, "FOLDER", tmp_path)
    with pytest.raises(Exception):  # noqa: B017  the two differ, or the script falls over
        run_state_machine_as_test(machine_of(redis, 1), settings=BITES)

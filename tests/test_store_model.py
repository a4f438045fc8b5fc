"""The store in Redis against the rules: a machine plays both at once and demands the same of both.

Everything is compared: each delivery, its order, each nonce, what was good, and the counts. `MUTANTS` breaks
the Lua one line at a time, and the machine must notice each; `tests/mutate_lua.py` breaks every line in turn.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import signal_server.matching.stores.redis as redis_store
from redis_server import RedisServer
from signal_server.matching.rules import Times
from signal_server.matching.stores.base import Outcome
from signal_server.matching.stores.memory import MemoryStore
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.messages import DEMOTE, Arrival, Delivery

TIMES = Times(request=3_000, answer=500, write=300, pair_memory=4_000)
FOR_EVER = 10**9

PEERS = st.sampled_from(["ann", "ben", "cat", "dan", "eve"])
POOLS = st.sampled_from(["open:", "open:chess"])


class Machine(RuleBasedStateMachine):
    """Plays one server, or several that share the store."""

    servers: Servers
    redis: RedisServer
    processes = 1

    def __init__(self) -> None:
        super().__init__()
        self.redis.call("FLUSHALL")
        self.now_ms = 1_000_000
        self.secret = b""
        self.made = 0
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
                secret=lambda: self.secret,
            )
            for _ in range(self.processes)
        ]
        for (
            store
        ) in self.stores:  # each begins its life here, so that it is written to from the first event on
            store.release("0-none")

    # --- what is played ------------------------------------------------------------------------------------

    @rule(
        peer=PEERS, pool=POOLS, may_wait=st.booleans() | st.just(True), waited_ms=st.sampled_from([0, 0, 400])
    )
    def connect(self, peer: str, pool: str, may_wait: bool, waited_ms: int) -> None:
        arrival = self.arrive(peer, pool, waited_ms=waited_ms)
        self.play("connect", arrival, holder=arrival.ticket, may_wait=may_wait)

    @rule(peers=st.permutations(["ann", "ben", "cat", "dan"]), pool=POOLS)
    def meet(self, peers: list[str], pool: str) -> None:
        """Some at once, on purpose: among few peers that know each other it happens too seldom."""
        for peer in peers[:3]:
            arrival = self.arrive(peer, pool)
            self.play("connect", arrival, holder=arrival.ticket, may_wait=True)

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        wrong=st.sampled_from(["", "", "", "pool", "peer"]),
        same=st.booleans(),
        bounce=st.booleans(),
    )
    def present(self, data: st.DataObject, wrong: str, same: bool, bounce: bool) -> None:
        """An answer or a bounce, by the one who was given the nonce or by somebody else."""
        nonce = data.draw(self.nonces())
        responder, text = self.given[nonce]
        pool = data.draw(POOLS) if wrong == "pool" else responder.pool
        peer = data.draw(PEERS) if wrong == "peer" else responder.peer
        arrival = self.arrive(peer, pool, text=text if same else "")
        if bounce:
            self.play("bounce", arrival, nonce, holder=arrival.ticket, may_wait=data.draw(st.booleans()))
        else:
            self.given[nonce] = responder, arrival.signal
            self.play("answer", arrival, nonce, holder=arrival.ticket)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), event=st.sampled_from(["release", "claim"]))
    def name(self, data: st.DataObject, event: str) -> None:
        self.play(event, data.draw(self.nonces()))

    @precondition(lambda self: self.given)
    @rule(data=st.data(), written=st.booleans())
    def settle(self, data: st.DataObject, written: bool) -> None:
        self.play("settle", data.draw(self.nonces()), written=written)

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(), twist=st.sampled_from(["", "repeats", "claims twice", "initiator leaves", "is lost"])
    )
    def deliver(self, data: st.DataObject, twist: str) -> None:
        """The whole way on purpose: random play walks it too seldom."""
        handovers = self.model._rules._handovers
        offered = [nonce for nonce, each in handovers.items() if each.stage.name == "OFFERED"]
        nonce = data.draw(st.sampled_from(offered or list(self.given)))
        responder, _ = self.given[nonce]
        arrival = self.arrive(responder.peer, responder.pool, text="the answer")
        self.given[nonce] = responder, arrival.signal
        handover = handovers.get(nonce)
        if twist == "initiator leaves" and handover is not None and handover.offer is not None:
            self.play("withdraw", handover.offer.arrival.ticket, holder=handover.offer.arrival.ticket)
        self.play("answer", arrival, nonce, holder=arrival.ticket)
        if twist == "repeats":
            again = self.arrive(responder.peer, responder.pool, text="the answer")
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

    @rule(ms=st.sampled_from([1, 50, 50, 200, 200, 500, 4_000]), exactly=st.booleans())
    def pass_time(self, ms: int, exactly: bool) -> None:
        due_ms = self.model._rules.next_deadline_ms()
        if exactly and due_ms is not None:
            ms = max(1, due_ms - self.now_ms)
        self.now_ms += ms
        self.play("expire")

    def teardown(self) -> None:
        """After all deadlines nothing is left but what was remembered of pairs."""
        for _ in range(6):
            self.now_ms += 2_000
            self.play("expire")
        counts = self.stores[0].statistics()
        assert counts | {"pairs": 0} == dict.fromkeys(counts, 0)
        left = {key.rpartition(":")[2] for key in self.redis.lifetimes()}
        assert left <= {"epoch", "count", "leases", "pairs"}

    # --- how it is compared --------------------------------------------------------------------------------

    def play(self, event: str, *words: object, holder: str | None = None, **options: object) -> None:
        """Let both do the same, and demand the same."""
        self.secret, self.made = self.secret + b"*", 0
        if holder is not None:
            self.tickets.setdefault(holder, len(self.tickets) % self.processes)
        expected: Outcome = getattr(self.model, event)(*words, **options)
        store = self.stores[self.tickets[holder] if holder is not None else 0]
        told: Outcome = getattr(store, event)(*words, **options)
        assert (told.good, told.responder) == (expected.good, expected.responder)
        assert told.lost == []
        if self.processes == 1:
            assert told.deliveries == expected.deliveries
        else:
            told = self.fetch(told)
            assert sorted(told.deliveries, key=repr) == sorted(expected.deliveries, key=repr)
        counts = store.statistics()
        assert counts == {name: self.model.statistics()[name] for name in counts}
        assert all(left > 0 for left in self.redis.lifetimes().values()), "a key without an end"
        self.note(words, told.deliveries)

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

    def nonces(self) -> st.SearchStrategy[str]:
        """One that was given to somebody, most often one that is good still."""
        good = list(self.model._rules._handovers)
        return st.sampled_from(good or list(self.given)) | st.sampled_from(list(self.given))

    # --- what is made --------------------------------------------------------------------------------------

    @property
    def arrivals(self) -> dict[str, Arrival]:
        return self.__dict__.setdefault("_arrivals", {})

    def next_nonce(self) -> str:
        self.made += 1
        return "0-" + hashlib.sha1(self.secret + b"%d" % self.made).hexdigest()

    def arrive(self, peer: str, pool: str, *, text: str = "", waited_ms: int = 0) -> Arrival:
        ticket = f"{peer}-{len(self.arrivals) + 1}"
        signal = text or f"signal of {ticket} ☎"
        arrival = Arrival(ticket, pool, peer, f"of-{peer}", signal, str(crc32(signal.encode())), waited_ms)
        self.arrivals[ticket] = arrival
        return arrival


QUICK = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
BITES = settings(QUICK, max_examples=120, phases=[Phase.generate], derandomize=True, database=None)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def machine_of(redis: RedisServer, processes: int) -> type[Machine]:
    names = {"servers": Servers(redis.url, timeout_seconds=10), "redis": redis, "processes": processes}
    return type("Machine", (Machine,), names)


@pytest.mark.parametrize("processes", [1, 3])
def test_redis_decides_what_the_rules_decide(redis: RedisServer, processes: int) -> None:
    run_state_machine_as_test(machine_of(redis, processes), settings=QUICK)


MUTANTS = [
    ("rules", "offer.peer ~= peer and not have_met", "not have_met"),
    ("rules", " and not have_met(pool, peer, offer.peer)", ""),
    ("rules", "handover.pool == arrival.pool and ", ""),
    ("rules", " and handover.bearer == arrival.bearer", ""),
    ("rules", "if head and head < place then", "if head then"),
    ("rules", "if other.place < offer.place then", "if false then"),
    ("rules", "  give_back(handover.ticket)\nend", "end"),
    ("answer", "handover.digest ~= digest", "false"),
    ("answer", "set_deadline(nonce, NOW + WRITE)\n", ""),
    ("bounce", "  give_back(handover.ticket)\n  connect(arrival, true)", "  connect(arrival, true)"),
    ("claim", "handover.stage = 'writing'\n", ""),
    ("settle", "remember(handover)\n", ""),
]
"""A file, and what of it is broken how."""


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[f"{name}: {old!r}" for name, old, _ in MUTANTS])
def test_a_broken_line_of_lua_is_noticed(
    redis: RedisServer, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, old, new = MUTANTS[number]
    shutil.copytree(redis_store.FOLDER, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{name}.lua"
    source = file.read_text()
    assert source.count(old) == 1, "the line to break has changed"
    file.write_text(source.replace(old, new))
    monkeypatch.setattr(redis_store, "FOLDER", tmp_path)
    with pytest.raises(Exception):  # noqa: B017  the two differ, or the script falls over
        run_state_machine_as_test(machine_of(redis, 1), settings=BITES)

"""The store in Redis against the rules: a machine plays both at once and demands the same of both.

Everything is compared: each delivery, its order, each nonce, what was good, and the counts. `MUTANTS` breaks
the Lua one line at a time, and the machine must notice each; `tests/mutate_lua.py` breaks every line in turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from redis_server import RedisServer
from signal_server.messages import DEMOTE, Arrival, Delivery
from signal_server.rules import Times
from signal_server.stores.base import Outcome, Store
from signal_server.stores.link import Servers
from signal_server.stores.memory import MemoryStore
from signal_server.stores.redis import RedisStore

TIMES = Times(request=1_500, answer=500, write=300, pair_memory=4_000)
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
        self.given: dict[str, tuple[Arrival, str]] = {}  # nonce: to whom, and the last answer to it
        self.model: Store = MemoryStore(
            TIMES, sweep_ms=FOR_EVER, clock=lambda: self.now_ms, nonces=self.next_nonce
        )
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
            store.release("0.none")

    # --- what is played ------------------------------------------------------------------------------------

    @rule(
        peer=PEERS, pool=POOLS, may_wait=st.booleans() | st.just(True), waited_ms=st.sampled_from([0, 0, 400])
    )
    def connect(self, peer: str, pool: str, may_wait: bool, waited_ms: int) -> None:
        arrival = self.arrive(peer, pool, waited_ms=waited_ms)
        self.play("connect", arrival, holder=arrival.ticket, may_wait=may_wait)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), right=st.booleans() | st.just(True), same=st.booleans(), bounce=st.booleans())
    def present(self, data: st.DataObject, right: bool, same: bool, bounce: bool) -> None:
        nonce = data.draw(st.sampled_from(list(self.given)))
        responder, digest = self.given[nonce]
        pool = responder.pool if right else data.draw(POOLS)
        peer = responder.peer if right else data.draw(PEERS)
        arrival = self.arrive(peer, pool, text=digest if same else "")
        if bounce:
            self.play("bounce", arrival, nonce, holder=arrival.ticket, may_wait=data.draw(st.booleans()))
        else:
            self.given[nonce] = responder, arrival.digest
            self.play("answer", arrival, nonce, holder=arrival.ticket)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), event=st.sampled_from(["release", "claim"]))
    def name(self, data: st.DataObject, event: str) -> None:
        self.play(event, data.draw(st.sampled_from(list(self.given))))

    @precondition(lambda self: self.given)
    @rule(data=st.data(), written=st.booleans())
    def settle(self, data: st.DataObject, written: bool) -> None:
        self.play("settle", data.draw(st.sampled_from(list(self.given))), written=written)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), repeats=st.booleans())
    def deliver(self, data: st.DataObject, repeats: bool) -> None:
        """The whole way on purpose: random play walks it too seldom."""
        nonce = data.draw(st.sampled_from(list(self.given)))
        responder, _ = self.given[nonce]
        arrival = self.arrive(responder.peer, responder.pool, text="the answer")
        self.given[nonce] = responder, arrival.digest
        self.play("answer", arrival, nonce, holder=arrival.ticket)
        if repeats:
            again = self.arrive(responder.peer, responder.pool, text="the answer")
            self.play("answer", again, nonce, holder=again.ticket)
        self.play("claim", nonce)
        self.play("settle", nonce, written=True)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.tickets)))
        self.play("withdraw", ticket, holder=ticket)

    @rule(ms=st.sampled_from([1, 50, 300, 500, 1_200, 4_000]))
    def pass_time(self, ms: int) -> None:
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
        assert left <= {"shard", "leases", "pairs"}

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

    # --- what is made --------------------------------------------------------------------------------------

    @property
    def arrivals(self) -> dict[str, Arrival]:
        return self.__dict__.setdefault("_arrivals", {})

    def next_nonce(self) -> str:
        self.made += 1
        return "0." + hashlib.sha1(self.secret + b"%d" % self.made).hexdigest()

    def arrive(self, peer: str, pool: str, *, text: str = "", waited_ms: int = 0) -> Arrival:
        ticket = f"{peer}-{len(self.arrivals) + 1}"
        signal = text or f"signal of {ticket} ☎"
        arrival = Arrival(ticket, pool, peer, f"of-{peer}", signal, str(hash(signal) & 0xFFFF), waited_ms)
        self.arrivals[ticket] = arrival
        return arrival


QUICK = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def machine_of(redis: RedisServer, processes: int) -> type[Machine]:
    names = {"servers": Servers(redis.url), "redis": redis, "processes": processes}
    return type("Machine", (Machine,), names)


@pytest.mark.parametrize("processes", [1, 3])
def test_redis_decides_what_the_rules_decide(redis: RedisServer, processes: int) -> None:
    run_state_machine_as_test(machine_of(redis, processes), settings=QUICK)

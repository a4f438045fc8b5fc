"""The rules against their invariants: a machine plays any peers in any order and looks at every reply.

The model knows only what peers can see: who asked, what each was told, who claimed which answer. `MUTANTS`
below breaks the rules one line at a time, and the machine must notice each.
"""

from __future__ import annotations

import inspect
import itertools
import textwrap
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from signal_server.matching import rules as rules_module
from signal_server.matching.rules import Rules, Times
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery

TIMES = Times(request=1_500, answer=500, write=300, pair_memory=4_000)

PEERS = st.sampled_from(["ann", "ben", "cat", "dan", "eve"])
POOLS = st.sampled_from(["open:", "open:chess"])


@dataclass
class Held:
    """An open request, as its client sees it. `place` and `due_ms` are of its offer, if it has one."""

    arrival: Arrival
    place: int = 0
    due_ms: int = 0
    withdrawn: bool = False
    nonce: str | None = None  # out with this handover


@dataclass
class Handed:
    """A nonce that was given to somebody."""

    offer: Held
    responder: Arrival
    due_ms: int
    stage: str = "offered"  # answered, writing, delivered
    digest: str = ""
    repliers: list[str] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    rules_class: type[Rules] = Rules

    def __init__(self) -> None:
        super().__init__()
        self.rules = self.rules_class(TIMES)
        self.now_ms = 0
        self.counter = itertools.count(1)
        self.open: dict[str, Held] = {}  # by ticket
        self.handed: dict[str, Handed] = {}  # by nonce
        self.met: dict[tuple[str, frozenset[str]], int] = {}  # until
        self.fresh: list[str] = []

    # --- what the peers do ---------------------------------------------------------------------------------

    @rule(peer=PEERS, pool=POOLS, may_wait=st.booleans() | st.just(True))
    def connect(self, peer: str, pool: str, may_wait: bool) -> None:
        held = self.arrive(peer, pool)
        self.tick()
        expected = self.oldest_for(held.arrival)
        self.open[held.arrival.ticket] = held
        if may_wait:
            held.place, held.due_ms = next(self.counter), self.now_ms + TIMES.request
        told = self.rules.connect(held.arrival, may_wait=may_wait, nonces=self.nonce, now_ms=self.now_ms)
        if expected is None:
            assert [each.reply.type for each in told] == ([] if may_wait else [NO_PEER])
        else:
            assert self.only(told, DEMOTE).signal == expected.arrival.signal, "not the oldest"
        self.look(told)

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), right=st.booleans() | st.just(True), same=st.booleans(), bounce=st.booleans())
    def present(self, data: st.DataObject, right: bool, same: bool, bounce: bool) -> None:
        """An answer or a bounce, by the one who was given the nonce or by somebody else."""
        nonce = data.draw(st.sampled_from(list(self.handed)))
        handed = self.handed[nonce]
        pool = handed.responder.pool if right else data.draw(POOLS)
        peer = handed.responder.peer if right else data.draw(PEERS)
        held = self.arrive(peer, pool, text=handed.digest if same else "")
        self.tick()
        handed = self.handed.get(nonce, Handed(held, held.arrival, 0, "void"))
        good = handed.stage != "void" and peer == handed.responder.peer and pool == handed.responder.pool
        repeat = handed.stage != "offered" and handed.digest == held.arrival.digest
        good = good and (handed.stage == "offered" or (repeat and not bounce))
        self.open[held.arrival.ticket] = held
        before = self.rules.statistics()
        if bounce:
            self.bounce(held, nonce, handed, good)
        else:
            self.answer(held, nonce, handed, good, repeat)
        if not good:
            assert self.rules.statistics() == before, "a bad nonce changed something"
            del self.open[held.arrival.ticket]

    def answer(self, held: Held, nonce: str, handed: Handed, good: bool, repeat: bool) -> None:
        offer_is_there = handed.stage == "offered" and not handed.offer.withdrawn
        told = self.rules.answer(held.arrival, nonce, nonces=self.nonce, now_ms=self.now_ms)
        assert (told is not None) == good
        if told is None:
            return
        if repeat:
            if handed.stage == "delivered":
                assert self.only(told, DELIVERED) is not None
            else:
                assert told == []
                handed.repliers.append(held.arrival.ticket)
        elif offer_is_there:
            assert [each.ticket for each in told] == [handed.offer.arrival.ticket]
            assert self.only(told, ANSWER).signal == held.arrival.signal
            handed.stage, handed.digest, handed.due_ms = (
                "answered",
                held.arrival.digest,
                self.now_ms + TIMES.write,
            )
            handed.repliers = [held.arrival.ticket]
        else:
            del self.handed[nonce]
        self.look(told)

    def bounce(self, held: Held, nonce: str, handed: Handed, good: bool) -> None:
        held.place, held.due_ms = next(self.counter), self.now_ms + TIMES.request
        told = self.rules.bounce(held.arrival, nonce, may_wait=True, nonces=self.nonce, now_ms=self.now_ms)
        assert (told is not None) == good
        if told is None:
            return
        self.remember(handed)
        del self.handed[nonce]
        self.back(handed.offer)
        self.look(told)

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def unwritten_demote(self, data: st.DataObject) -> None:
        nonce = data.draw(st.sampled_from(list(self.handed)))
        self.tick()
        handed = self.handed.get(nonce)
        told = self.rules.release(nonce, nonces=self.nonce, now_ms=self.now_ms)
        if handed is None or handed.stage != "offered":
            assert told == []
            return
        del self.handed[nonce]
        self.back(handed.offer)
        self.look(told)

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        nonce = data.draw(st.sampled_from(list(self.handed)))
        self.tick()
        handed = self.handed.get(nonce)
        may = handed is not None and handed.stage == "answered"
        assert self.rules.claim(nonce) == may
        if may:
            handed.stage = "writing"  # type: ignore[union-attr]

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), written=st.booleans() | st.just(True))
    def settle(self, data: st.DataObject, written: bool) -> None:
        nonce = data.draw(st.sampled_from(list(self.handed)))
        self.tick()
        handed = self.handed.get(nonce)
        if handed is not None and handed.stage not in ("answered", "writing"):
            handed = None
        written = written and handed is not None and handed.stage == "writing"
        settled = self.rules.settle(nonce, written=written, nonces=self.nonce, now_ms=self.now_ms)
        if handed is None:
            assert settled.deliveries == []
            assert settled.responder is None
            return
        if written:
            assert settled.responder == handed.responder.peer
            assert [(each.ticket, each.reply.type) for each in settled.deliveries] == [
                (ticket, DELIVERED) for ticket in handed.repliers
            ], "DELIVERED to those who answered, and to nobody else"
            self.remember(handed)
            handed.stage, handed.due_ms = "delivered", self.now_ms + TIMES.answer
        else:
            assert settled.responder is None
            assert {each.ticket for each in settled.deliveries} == set(handed.repliers)
            assert all(each.reply.type in (DEMOTE, NO_PEER) for each in settled.deliveries)
            del self.handed[nonce]
        self.look(settled.deliveries)

    @precondition(lambda self: self.offered())
    @rule(data=st.data(), fate=st.sampled_from(["written", "not written", "never written"]))
    def deliver(self, data: st.DataObject, fate: str) -> None:
        """The whole way on purpose: random play walks it too seldom."""
        nonce = data.draw(st.sampled_from(self.offered()))
        handed = self.handed[nonce]
        peer, pool = handed.responder.peer, handed.responder.pool
        held = self.arrive(peer, pool)
        self.open[held.arrival.ticket] = held
        self.answer(held, nonce, handed, good=True, repeat=False)
        if handed.stage != "answered":
            return
        other = self.arrive(peer, pool).arrival
        assert self.rules.answer(other, nonce, nonces=self.nonce, now_ms=self.now_ms) is None
        if fate == "never written":
            self.now_ms = handed.due_ms
            self.tick()
            return
        repeat = self.arrive(peer, pool, text=handed.digest)
        self.open[repeat.arrival.ticket] = repeat
        self.answer(repeat, nonce, handed, good=True, repeat=True)
        assert self.rules.claim(nonce)
        written = fate == "written"
        settled = self.rules.settle(nonce, written=written, nonces=self.nonce, now_ms=self.now_ms)
        assert [each.ticket for each in settled.deliveries] == handed.repliers
        assert all((each.reply.type == DELIVERED) == written for each in settled.deliveries)
        assert (settled.responder is not None) == written
        if written:
            self.remember(handed)
            handed.stage, handed.due_ms = "delivered", self.now_ms + TIMES.answer
        else:
            del self.handed[nonce]
        self.look(settled.deliveries)

    @precondition(lambda self: any(map(self.is_waiting, self.open.values())))
    @rule(bounced=st.booleans())
    def return_late(self, bounced: bool) -> None:
        """An offer comes back when its time is over: on purpose too."""
        offer = min(filter(self.is_waiting, self.open.values()), key=lambda each: each.due_ms)
        self.now_ms = max(self.now_ms, offer.due_ms - 100)
        self.tick()
        newcomer = self.arrive(f"new-{next(self.counter)}", offer.arrival.pool)
        self.open[newcomer.arrival.ticket] = newcomer
        told = self.rules.connect(newcomer.arrival, may_wait=False, nonces=self.nonce, now_ms=self.now_ms)
        self.look(told)
        nonce = offer.nonce
        self.now_ms += 200
        self.tick()
        if nonce is None or nonce not in self.handed:
            return
        handed = self.handed[nonce]
        if bounced:
            again = self.arrive(handed.responder.peer, offer.arrival.pool)
            self.open[again.arrival.ticket] = again
            self.bounce(again, nonce, handed, good=True)
        else:
            told = self.rules.release(nonce, nonces=self.nonce, now_ms=self.now_ms)
            del self.handed[nonce]
            self.back(handed.offer)
            self.look(told)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.open)))
        self.tick()
        held = self.open.get(ticket)
        pending = held is not None and held.place > 0 and not self.is_answered(held)
        assert self.rules.withdraw(ticket) == pending, "withdraw is true, or a reply will come; never both"
        if pending:
            held.withdrawn = True  # type: ignore[union-attr]
            del self.open[ticket]

    @rule(ms=st.sampled_from([1, 50, 300, 500, 1_200, 4_000]))
    def pass_time(self, ms: int) -> None:
        due_ms = self.rules.next_deadline_ms()
        if due_ms is not None and due_ms > self.now_ms:
            ms = min(ms, due_ms - self.now_ms)  # a store rings no later than this
        self.now_ms += ms
        self.tick()

    @rule()
    def sweep(self) -> None:
        self.rules.sweep(now_ms=self.now_ms)
        assert self.rules.statistics()["pairs"] == sum(until > self.now_ms for until in self.met.values())

    # --- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def nobody_waits_who_may_meet(self) -> None:
        waiting = [each for each in self.open.values() if self.is_waiting(each)]
        for one, other in itertools.combinations(waiting, 2):
            forgotten = self.met.get(self.pair(one.arrival, other.arrival), self.now_ms + 1) <= self.now_ms
            assert not self.may_meet(one.arrival, other.arrival) or forgotten

    @invariant()
    def nobody_waits_past_its_time(self) -> None:
        assert all(each.due_ms > self.now_ms for each in self.open.values() if self.is_waiting(each))

    @invariant()
    def counts_agree(self) -> None:
        counts = self.rules.statistics()
        assert counts["waiting"] == sum(map(self.is_waiting, self.open.values()))
        assert counts["handovers"] == len(self.handed)

    def teardown(self) -> None:
        """After all deadlines nothing is left."""
        for _ in range(10):
            self.now_ms += 5_000
            self.tick()
        self.rules.sweep(now_ms=self.now_ms)
        assert self.open == {}
        assert self.rules.statistics() == dict.fromkeys(self.rules.statistics(), 0)

    # --- the model's own rules -----------------------------------------------------------------------------

    def nonce(self) -> str:
        self.fresh.append(f"nonce-{next(self.counter)}")
        return self.fresh[-1]

    def arrive(self, peer: str, pool: str, text: str = "") -> Held:
        ticket = f"{peer}-{next(self.counter)}"
        signal = text or f"signal of {ticket}"
        return Held(Arrival(ticket, pool, peer, f"of {peer}", signal, signal))

    def tick(self) -> None:
        """Let time do its work, as every event of a store begins."""
        told = self.rules.expire(nonces=self.nonce, now_ms=self.now_ms)
        lost = {
            ticket
            for each in self.handed.values()
            if each.stage in ("answered", "writing") and each.due_ms <= self.now_ms
            for ticket in each.repliers
        }
        assert lost <= {each.ticket for each in told}, "who answers one that is gone hears of it"
        for nonce, handed in list(self.handed.items()):
            if handed.due_ms <= self.now_ms:
                del self.handed[nonce]
                if handed.stage == "offered":
                    self.back(handed.offer)
        for each in told:
            held = self.open[each.ticket]
            if each.reply.type == NO_PEER and each.ticket not in lost:
                assert held.due_ms <= self.now_ms, "ended before its time"
        self.look(told)

    def look(self, told: list[Delivery]) -> None:
        """Every reply is for an open request, which it ends; every DEMOTE is a legal one."""
        for each in told:
            held = self.open.pop(each.ticket)
            if each.reply.type != DEMOTE:
                continue
            nonce = each.reply.nonce
            assert nonce in self.fresh, "a nonce is fresh"
            self.fresh.remove(nonce)
            (offer,) = [one for one in self.open.values() if one.arrival.signal == each.reply.signal]
            assert self.is_waiting(offer), "handed to one at a time"
            assert self.may_meet(offer.arrival, held.arrival), "oneself, a remembered pair or another pool"
            assert not held.place or offer.place < held.place, "the older stays the initiator"
            offer.nonce = nonce
            self.handed[nonce] = Handed(offer, held.arrival, self.now_ms + TIMES.answer)

    def back(self, offer: Held) -> None:
        offer.nonce = None

    def remember(self, handed: Handed) -> None:
        if handed.offer.arrival.peer != handed.responder.peer:
            self.met[self.pair(handed.offer.arrival, handed.responder)] = self.now_ms + TIMES.pair_memory

    def pair(self, one: Arrival, other: Arrival) -> tuple[str, frozenset[str]]:
        return one.pool, frozenset((one.peer, other.peer))

    def may_meet(self, one: Arrival, other: Arrival) -> bool:
        return (
            one.pool == other.pool
            and one.peer != other.peer
            and self.met.get(self.pair(one, other), 0) <= self.now_ms
        )

    def oldest_for(self, arrival: Arrival) -> Held | None:
        able = [
            each
            for each in self.open.values()
            if self.is_waiting(each) and self.may_meet(each.arrival, arrival)
        ]
        return min(able, key=lambda each: each.place, default=None)

    def offered(self) -> list[str]:
        """Nonces that are good still, when the clock has not moved since the last event."""
        return [name for name, each in self.handed.items() if each.stage == "offered"]

    def is_waiting(self, held: Held) -> bool:
        return held.place > 0 and held.nonce is None

    def is_answered(self, held: Held) -> bool:
        return held.nonce is not None and (
            held.nonce not in self.handed or self.handed[held.nonce].stage != "offered"
        )

    def only(self, told: list[Delivery], kind: str):  # type: ignore[no-untyped-def]
        mine = [each.reply for each in told if each.reply.type == kind]
        assert len(mine) == 1
        return mine[0]


QUICK = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def test_the_rules_keep_their_invariants() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


MUTANTS = [
    ("elif owner == peer or", "elif"),
    ("or self.pairs.have_met(peer, owner, now_ms=now_ms)", ""),
    ("for entry in passed_over:", "for entry in ():"),
    ("self._pool(arrival.pool).remove(found)", "pass"),
    ("handover.pool != arrival.pool or", ""),
    ("or handover.bearer != arrival.bearer", ""),
    ("offer, handover.offer = handover.offer, None", "offer = handover.offer"),
    ("if handover.digest != arrival.digest:", "if False:"),
    ("handover.repliers.append(arrival)\n            return []", "return []"),
    ("handover.stage is not _Stage.ANSWERED:\n            return False", "False:\n            return False"),
    ("handover.stage = _Stage.WRITING", "pass"),
    ("handover.stage not in (_Stage.ANSWERED, _Stage.WRITING)", "False"),
    ("if not written:\n            return", "if False:\n            return"),
    ("self._remember(handover, now_ms)\n        repliers", "repliers"),
    ("self._remember(handover, now_ms)\n        if not may_wait:", "if not may_wait:"),
    ("returned = self._return(handover.offer, nonces, now_ms)", "returned = []"),
    ("self._handovers[offer.nonce].offer = None", "pass"),
    ("self._pool(offer.arrival.pool).remove(offer)\n            self._tidy", "self._tidy"),
    ("offer.nonce = None\n        pool", "pool"),
    ("if offer.deadline_ms <= now_ms:", "if False:"),
    ("pool.remove(other)\n", "\n"),
    ("key=lambda each: each.place)", "key=lambda each: -each.place)"),
    ("del self._offers[younger.arrival.ticket]", "pass"),
    (
        "self._set_deadline(nonce, handover, now_ms + self._times.answer)\n        return Delivery",
        "return Delivery",
    ),
    ("self._set_deadline(nonce, handover, now_ms + self._times.write)", "pass"),
    ("if handover.stage in (_Stage.ANSWERED, _Stage.WRITING):", "if False:"),
    ("return offer is not None and offer.nonce is None", "return offer is not None"),
    ("heapq.heappush(self._deadlines, (offer.deadline_ms, offer.arrival.ticket, False))", "pass"),
    ("if places[0] == offer.place:", "if False:"),
    (
        "if places:\n            heapq.heappush(self._heads, (places[0], peer))\n        else:",
        "if not places:",
    ),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[f"{old!r}"[:40] for old, _ in MUTANTS])
def test_a_broken_rule_is_noticed(number: int) -> None:
    old, new = MUTANTS[number]
    source = inspect.getsource(rules_module)
    assert source.count(old) == 1, "the line to break has changed"
    names = {"__name__": rules_module.__name__, "__package__": rules_module.__package__}
    exec(compile(textwrap.dedent(source.replace(old, new)), "broken rules", "exec"), names)
    broken = type("Broken", (Machine,), {"rules_class": names["Rules"]})
    thorough = settings(QUICK, max_examples=1500, phases=[Phase.generate], derandomize=True, database=None)
    with pytest.raises(Exception):  # noqa: B017  an assertion of the model, or the rules fall over
        run_state_machine_as_test(broken, settings=thorough)

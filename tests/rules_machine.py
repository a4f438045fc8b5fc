"""The rules against their invariants: a machine plays any peers in any order and looks at every reply.

The model knows only what peers can see: who asked, what each was told, who claimed which answer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from signal_server.matching.rules import Rules, Times
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery
from varied import Varied

TIMES = Times(request=1_500, answer=500, write=300, pair_memory=4_000)

PEERS = st.sampled_from([name.ljust(16, b".") for name in (b"ann", b"ben", b"cat", b"dan", b"eve")])
POOLS = st.sampled_from(["open:", "open:chess"])
WAITS = st.sampled_from([TIMES.request, TIMES.request, 700, 200, 1])
OFFERS_OF_ALL = st.tuples(st.sampled_from([b"ann", b"ann", b"cat", b"dan"]), st.booleans())
OFFERS_OF_DAN = st.tuples(st.just(b"dan"), st.booleans())


@dataclass
class Held:
    """An open request, as its client sees it. `place` and `due_ms` are of its offer, if it has one."""

    arrival: Arrival
    place: int = 0
    due_ms: int = 0
    withdrawn: bool = False
    nonce: str | None = None  # out with this handover
    lapsed: set[bytes] = field(default_factory=set)  # peers that had it and did not answer in time


@dataclass
class Handed:
    """A nonce that was given to somebody."""

    offer: Held
    responder: Arrival
    due_ms: int
    stage: str = "offered"  # answered, writing, delivered
    digest: bytes = b""
    repliers: list[str] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    rules_class: type[Rules] = Rules
    varied = Varied()

    def __init__(self) -> None:
        super().__init__()
        self.rules = self.rules_class(TIMES)
        self.now_ms = 0
        self.counter = itertools.count(1)
        self.open: dict[str, Held] = {}  # by ticket
        self.handed: dict[str, Handed] = {}  # by nonce
        self.met: dict[tuple[str, frozenset[bytes]], tuple[int, bool]] = {}  # until; by a bounce
        self.apart: set[frozenset[str]] = set()  # tickets that could not meet when they began to wait
        self.returned: set[str] = set()  # tickets whose offers came back in this event
        self.fresh: list[str] = []

    # --- what the peers do ---------------------------------------------------------------------------------

    @rule(
        peer=PEERS,
        pool=POOLS,
        may_wait=st.booleans() | st.just(True),
        rematch=st.booleans() | st.just(True),
        wait_ms=WAITS,
    )
    def connect(self, peer: bytes, pool: str, may_wait: bool, rematch: bool, wait_ms: int) -> None:
        held = self.arrive(peer, pool, rematch=rematch, wait_ms=wait_ms)
        self.tick()
        expected = self.oldest_for(held.arrival)
        self.open[held.arrival.ticket] = held
        if may_wait:
            self.place(held)
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
        rematch, may_wait = data.draw(st.booleans()), data.draw(st.booleans() | st.just(True))
        text = handed.digest.decode() if same else ""
        held = self.arrive(peer, pool, text=text, rematch=rematch, wait_ms=data.draw(WAITS))
        self.tick()
        handed = self.handed.get(nonce, Handed(held, held.arrival, 0, "void"))
        good = handed.stage != "void" and peer == handed.responder.peer and pool == handed.responder.pool
        repeat = handed.stage != "offered" and handed.digest == held.arrival.digest
        good = good and (handed.stage == "offered" or (repeat and not bounce))
        self.open[held.arrival.ticket] = held
        before = self.rules.statistics()
        if bounce:
            self.bounce(held, nonce, handed, good, may_wait)
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

    def bounce(self, held: Held, nonce: str, handed: Handed, good: bool, may_wait: bool) -> None:
        before, found = self.rules.statistics(), None
        if good and not may_wait:
            found = self.oldest_for(held.arrival, unwanted=handed.offer.arrival.peer)
        if may_wait:
            self.place(held)
        told = self.rules.bounce(
            held.arrival, nonce, may_wait=may_wait, nonces=self.nonce, now_ms=self.now_ms
        )
        assert (told is not None) == good
        if told is None:
            return
        if found is None and not may_wait:
            assert [(each.ticket, each.reply.type) for each in told] == [(held.arrival.ticket, NO_PEER)]
            assert self.rules.statistics() == before, "a bounce that is refused changes nothing"
            self.look(told)
            return
        if found is not None:
            assert [each.reply.signal for each in told if each.ticket == held.arrival.ticket] == [
                found.arrival.signal
            ], "not the oldest"
        self.remember(handed, bounced=True)
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
            self.remember(handed, bounced=False)
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
        self.deliver_now(data.draw(st.sampled_from(self.offered())), fate)

    def deliver_now(self, nonce: str, fate: str) -> None:
        handed = self.handed[nonce]
        peer, pool = handed.responder.peer, handed.responder.pool
        for wrong in (self.arrive(peer, f"{pool}elsewhere"), self.arrive(b"somebody else...", pool)):
            given = self.rules.answer(wrong.arrival, nonce, nonces=self.nonce, now_ms=self.now_ms)
            assert given is None, "in another pool, or by another bearer"
        held = self.arrive(peer, pool)
        self.open[held.arrival.ticket] = held
        self.answer(held, nonce, handed, good=True, repeat=False)
        if handed.stage != "answered":
            return
        other = self.arrive(peer, pool).arrival  # whose answer is another one
        assert self.rules.answer(other, nonce, nonces=self.nonce, now_ms=self.now_ms) is None
        if fate == "never written":
            self.now_ms = handed.due_ms
            self.tick()
            return
        repeat = self.arrive(peer, pool, text=handed.digest.decode())
        self.open[repeat.arrival.ticket] = repeat
        self.answer(repeat, nonce, handed, good=True, repeat=True)
        assert self.rules.claim(nonce)
        assert not self.rules.claim(nonce), "an answer is claimed once"
        written = fate == "written"
        settled = self.rules.settle(nonce, written=written, nonces=self.nonce, now_ms=self.now_ms)
        assert [each.ticket for each in settled.deliveries] == handed.repliers
        assert all((each.reply.type == DELIVERED) == written for each in settled.deliveries)
        assert (settled.responder is not None) == written
        if written:
            self.remember(handed, bounced=False)
            handed.stage, handed.due_ms = "delivered", self.now_ms + TIMES.answer
        else:
            del self.handed[nonce]
        self.look(settled.deliveries)

    @rule(lapsed=st.booleans())
    def quarrel(self, lapsed: bool) -> None:
        """Each of two peers holds an offer of the other: one is bounced, and the other is answered."""
        pool, ann, ben = f"open:quarrel-{next(self.counter)}", b"ann".ljust(16, b"."), b"ben".ljust(16, b".")
        for peer in (ann, ben, ben, ann):
            self.connect_now(self.arrive(peer, pool, rematch=True))
        bounced, answered = (nonce for nonce, each in self.handed.items() if each.responder.pool == pool)
        again = self.arrive(self.handed[bounced].responder.peer, pool)
        self.open[again.arrival.ticket] = again
        self.bounce(again, bounced, self.handed[bounced], good=True, may_wait=True)
        for peer in (ann, ben):
            self.connect_now(self.arrive(peer, f"{pool}-aside"))
        self.deliver_now(list(self.handed)[-1], "written")
        self.now_ms += 1  # so the first pair is remembered anew, and longer than the second
        self.deliver_now(answered, "written")
        if lapsed:  # and not swept yet
            self.now_ms += TIMES.pair_memory
        else:
            self.now_ms += TIMES.pair_memory - 1
            self.sweep()
        for peer in (ann, ben):
            self.connect_now(self.arrive(peer, pool, rematch=True))
        for nonce in self.offered():
            if self.handed[nonce].responder.pool == pool:
                self.deliver_now(nonce, "written")
        for peer in (ann, ben):
            self.connect_now(self.arrive(peer, pool, rematch=True))

    @rule(
        offers=st.lists(
            st.tuples(st.sampled_from([b"ann", b"cat", b"dan"]), st.booleans(), st.booleans()),
            min_size=2,
            max_size=6,
        ),
        rematch=st.booleans() | st.just(True),
    )
    def friends(self, offers: list[tuple[bytes, bool, bool]], rematch: bool) -> None:
        """Ben looks for somebody where his friends Ann and Cat wait, and Dan, whom he never met."""
        pool = f"open:friends-{next(self.counter)}"
        ann, ben, cat, dan = (name.ljust(16, b".") for name in (b"ann", b"ben", b"cat", b"dan"))
        for one, other in itertools.combinations((ann, cat, dan), 2):
            self.meet(one, other, pool, bounced=True)
        for friend in (ann, cat):
            self.meet(friend, ben, pool, bounced=False)
        gone = []
        for name, says_so, leaves in offers:
            held = self.arrive(name.ljust(16, b"."), pool, rematch=says_so)
            self.connect_now(held)
            if leaves:
                gone.append(held)
        for held in gone:
            self.withdraw_now(held)
        for _ in range(2):
            self.connect(peer=ben, pool=pool, may_wait=False, rematch=rematch, wait_ms=1)

    @rule(
        offers=st.lists(OFFERS_OF_ALL, min_size=2, max_size=5)
        | st.lists(OFFERS_OF_DAN, min_size=3, max_size=4),
        tries=st.integers(1, 4),
        rematch=st.booleans() | st.just(True),
        leaves=st.integers(0, 6),
    )
    def slow(self, offers: list[tuple[bytes, bool]], tries: int, rematch: bool, leaves: int) -> None:
        """Ben answers nobody in time, and asks again and again, and so does Eve. Dan is his friend."""
        pool = f"open:slow-{next(self.counter)}"
        ann, ben, cat, dan, eve = (name.ljust(16, b".") for name in (b"ann", b"ben", b"cat", b"dan", b"eve"))
        for one, other in itertools.combinations((ann, cat, dan), 2):
            self.meet(one, other, pool, bounced=True)
        self.meet(dan, ben, pool, bounced=False)
        waiting = [self.arrive(name.ljust(16, b"."), pool, rematch=says_so) for name, says_so in offers]
        for held in waiting:
            self.connect_now(held)
        for number in range(tries):
            for peer in (ben, eve, ben)[: 1 + 2 * (number % 2)]:
                self.connect(peer=peer, pool=pool, may_wait=False, rematch=rematch, wait_ms=1)
            if number == 0 and leaves < len(waiting) and waiting[leaves].arrival.ticket in self.open:
                self.withdraw_now(waiting[leaves])
            self.now_ms += TIMES.answer
            self.tick()
        for peer in (ben, *(b"new-%012d" % next(self.counter) for _ in offers)):
            self.connect(peer=peer, pool=pool, may_wait=False, rematch=rematch, wait_ms=1)

    @rule(
        others=st.permutations([b"ben", b"ben", b"cat", b"dan"]),
        older=st.booleans(),
        rematch=st.booleans() | st.just(True),
        twice=st.booleans(),
    )
    def slow_and_waiting(self, others: list[bytes], older: bool, rematch: bool, twice: bool) -> None:
        """Ben does not answer Ann in time, and waits himself by then, beside others that have met him."""
        pool = f"open:slow-{next(self.counter)}"
        ann, ben, cat, dan = (name.ljust(16, b".") for name in (b"ann", b"ben", b"cat", b"dan"))
        for one, other in itertools.combinations((ben, cat, dan), 2):
            self.meet(one, other, pool, bounced=True)
        self.meet(ann, dan, pool, bounced=False)
        if older:  # one of Ben's is out while he is given Ann's, and comes back to stand before it
            self.connect_now(self.arrive(ben, pool))
            self.connect_now(self.arrive(b"fay".ljust(16, b"."), pool))
        self.connect_now(self.arrive(ann, pool, rematch=rematch))
        self.connect(peer=ben, pool=pool, may_wait=False, rematch=False, wait_ms=1)
        for name in others:
            self.connect_now(self.arrive(name.ljust(16, b"."), pool, rematch=True))
        for _ in range(1 + twice):
            self.now_ms += TIMES.answer
            self.tick()

    @rule(waits=st.permutations([TIMES.request, 700, 200, 1]))
    def impatient(self, waits: list[int]) -> None:
        """Requests of one peer whose times run out in another order than they came."""
        pool = f"open:impatient-{next(self.counter)}"
        for wait_ms in waits:
            self.connect_now(self.arrive(b"ann".ljust(16, b"."), pool, wait_ms=wait_ms))
        for ms in (1, 150, 50, 500):
            self.now_ms += ms
            self.tick()
            self.nobody_waits_past_its_time()

    @rule()
    def turn_away(self) -> None:
        """A bounce that may not wait, where only another offer of the bounced peer waits."""
        pool, ann, ben = f"open:away-{next(self.counter)}", b"ann".ljust(16, b"."), b"ben".ljust(16, b".")
        for peer in (ann, ann, ben):
            self.connect_now(self.arrive(peer, pool))
        again = self.arrive(ben, pool)
        self.open[again.arrival.ticket] = again
        nonce = list(self.handed)[-1]
        self.bounce(again, nonce, self.handed[nonce], good=True, may_wait=False)

    def meet(self, one: bytes, other: bytes, pool: str, *, bounced: bool) -> None:
        """Let two meet in a pool in which nobody else waits that they may meet."""
        first = self.arrive(one, pool)
        self.connect_now(first)
        self.connect_now(self.arrive(other, pool))
        nonce = list(self.handed)[-1]
        if not bounced:
            self.deliver_now(nonce, "written")
            return
        again = self.arrive(other, pool)
        self.open[again.arrival.ticket] = again
        self.bounce(again, nonce, self.handed[nonce], good=True, may_wait=True)
        for held in (first, again):
            self.withdraw_now(held)

    def withdraw_now(self, held: Held) -> None:
        assert self.rules.withdraw(held.arrival.ticket)
        held.withdrawn = True
        del self.open[held.arrival.ticket]

    @precondition(lambda self: any(map(self.is_waiting, self.open.values())))
    @rule(bounced=st.booleans())
    def return_late(self, bounced: bool) -> None:
        """An offer comes back when its time is over: on purpose too."""
        offer = min(filter(self.is_waiting, self.open.values()), key=lambda each: each.due_ms)
        self.now_ms = max(self.now_ms, offer.due_ms - 100)
        self.tick()
        newcomer = self.arrive(b"new-%012d" % next(self.counter), offer.arrival.pool)
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
            self.bounce(again, nonce, handed, good=True, may_wait=True)
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

    @precondition(lambda self: self.apart_now())
    @rule(data=st.data())
    def meet_again(self, data: st.DataObject) -> None:
        """Two that have met come again, once their memory counts no more or just before."""
        pool, two = data.draw(st.sampled_from(self.apart_now()))
        until_ms = self.met[pool, two][0]
        self.now_ms = max(self.now_ms, until_ms - data.draw(st.sampled_from([0, 1])))
        for peer in sorted(two):
            rematch = data.draw(st.booleans() | st.just(True))
            self.connect_now(self.arrive(peer, pool, rematch=rematch))

    def connect_now(self, held: Held) -> None:
        self.tick()
        self.open[held.arrival.ticket] = held
        self.place(held)
        self.look(self.rules.connect(held.arrival, may_wait=True, nonces=self.nonce, now_ms=self.now_ms))

    @rule(ms=st.sampled_from([1, 50, 300, 500, 1_200, 4_000]), exactly=st.booleans())
    def pass_time(self, ms: int, exactly: bool) -> None:
        due = [each.due_ms for each in (*filter(self.is_waiting, self.open.values()), *self.handed.values())]
        if exactly and due and min(due) > self.now_ms:
            ms = min(due) - self.now_ms
        self.now_ms += ms
        self.tick()

    @rule()
    def sweep(self) -> None:
        self.rules.sweep(now_ms=self.now_ms)
        assert self.rules.statistics()["pairs"] == sum(
            until_ms > self.now_ms for until_ms, _ in self.met.values()
        )

    # --- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def nobody_waits_who_may_meet(self) -> None:
        """But if the memory of a pair runs out while both wait, nothing happens that could bring them
        together."""
        waiting = [each for each in self.open.values() if self.is_waiting(each)]
        apart = set()
        for one, other in itertools.combinations(waiting, 2):
            two = frozenset((one.arrival.ticket, other.arrival.ticket))
            able = self.may_meet(one.arrival, other.arrival)
            assert not able or two in self.apart, "they wait, and may meet"
            if not able or two in self.apart:
                apart.add(two)
        self.apart = apart

    @invariant()
    def nobody_waits_past_its_time(self) -> None:
        assert all(each.due_ms > self.now_ms for each in self.open.values() if self.is_waiting(each))

    @invariant()
    def counts_agree(self) -> None:
        counts = self.rules.statistics()
        assert counts["waiting"] == sum(map(self.is_waiting, self.open.values()))
        assert counts["handovers"] == len(self.handed)
        assert len(self.rules.deadlines) == counts["waiting"] + counts["handovers"], "one for each"

    def teardown(self) -> None:
        """After all deadlines nothing is left."""
        for _ in range(10):
            self.now_ms += 5_000
            self.tick()
        self.rules.sweep(now_ms=self.now_ms)
        assert self.open == {}
        assert self.rules.is_empty()
        assert self.rules.statistics() == dict.fromkeys(self.rules.statistics(), 0)

    # --- the model's own rules -----------------------------------------------------------------------------

    def nonce(self) -> str:
        self.fresh.append(f"nonce-{next(self.counter)}")
        return self.fresh[-1]

    def arrive(
        self,
        peer: bytes,
        pool: str,
        text: str = "",
        *,
        rematch: bool = False,
        wait_ms: int = TIMES.request,
    ) -> Held:
        number = next(self.counter)
        ticket = f"{peer.decode()}-{number}"
        signal = text or f"signal of {ticket}"
        arrival = Arrival(
            ticket,
            pool,
            peer,
            b"of " + peer,
            signal,
            signal.encode(),
            wait_ms,
            rematch,
            name="" if number % 2 else f"name-{number}",
            leaver=b"" if number % 2 else b"of " + peer,
        )
        return Held(self.varied.note(arrival))

    def place(self, held: Held) -> None:
        """It waits from now on, if nobody is there for it."""
        held.place, held.due_ms = next(self.counter), self.now_ms + held.arrival.wait_ms

    def tick(self) -> None:
        """Let time do its work, as every event of a store begins."""
        told = self.rules.expire(nonces=self.nonce, now_ms=self.now_ms)
        lost = {
            ticket
            for each in self.handed.values()
            if each.stage in ("answered", "writing") and each.due_ms <= self.now_ms
            for ticket in each.repliers
        }
        due_ms = {
            ticket: each.due_ms
            for each in self.handed.values()
            for ticket in (*each.repliers, each.offer.arrival.ticket)
        }
        due_ms |= {ticket: each.due_ms for ticket, each in self.open.items() if self.is_waiting(each)}
        assert lost <= {each.ticket for each in told}, "who answers one that is gone hears of it"
        for nonce, handed in list(self.handed.items()):
            if handed.due_ms <= self.now_ms:
                del self.handed[nonce]
                if handed.stage == "offered":
                    handed.offer.lapsed.add(handed.responder.peer)
                    self.back(handed.offer)
        ended = []
        for each in told:
            held = self.open[each.ticket]
            if each.reply.type == NO_PEER and each.ticket not in lost:
                assert held.due_ms <= self.now_ms, "ended before its time"
            if each.reply.type == NO_PEER or each.ticket in lost:  # not one that met an offer that returned
                ended.append(due_ms[each.ticket])
        assert ended == sorted(ended), "what is due first happens first"
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
            sides = [(held, offer), (offer, held)]  # who searches, and whom it found
            back = [each for each in sides if held.place and each[0].arrival.ticket in self.returned]
            assert any(itertools.starmap(self.was_first, back or sides[:1])), "not the oldest"
            offer.nonce = nonce
            self.handed[nonce] = Handed(offer, held.arrival, self.now_ms + TIMES.answer)
        self.returned.clear()

    def back(self, offer: Held) -> None:
        offer.nonce = None
        self.returned.add(offer.arrival.ticket)

    def remember(self, handed: Handed, *, bounced: bool) -> None:
        two = self.pair(handed.offer.arrival, handed.responder)
        until_ms, before = self.met.get(two, (0, False))
        self.met[two] = (
            self.now_ms + TIMES.pair_memory,
            bounced or (before and until_ms > self.now_ms),
        )

    def pair(self, one: Arrival, other: Arrival) -> tuple[str, frozenset[bytes]]:
        return one.pool, frozenset((one.peer, other.peer))

    def how_met(self, one: Arrival, other: Arrival) -> str:
        until_ms, bounced = self.met.get(self.pair(one, other), (0, False))
        if until_ms <= self.now_ms:
            return "never"
        return "bounced" if bounced else "linked"

    def may_meet(self, one: Arrival, other: Arrival) -> bool:
        if one.pool != other.pool or one.peer == other.peer:
            return False
        met = self.how_met(one, other)
        return met == "never" or (met == "linked" and one.rematch and other.rematch)

    def oldest_for(self, arrival: Arrival, unwanted: bytes | None = None) -> Held | None:
        """Somebody new first, and of those the oldest; what one let lapse comes last."""
        able = [
            each
            for each in self.open.values()
            if self.is_waiting(each)
            and self.may_meet(each.arrival, arrival)
            and each.arrival.peer != unwanted
        ]
        return min(able, key=lambda each: self.rank(each, Held(arrival)), default=None)

    def rank(self, other: Held, searching: Held) -> tuple[bool, bool, int]:
        lapsed = (
            other.arrival.peer in searching.lapsed
            if 0 < searching.place < other.place
            else searching.arrival.peer in other.lapsed
        )
        return lapsed, self.how_met(other.arrival, searching.arrival) != "never", other.place

    def was_first(self, searching: Held, found: Held) -> bool:
        """Did nobody come before this one? Of those that came back in this event it is not known when."""
        return all(
            self.rank(found, searching) <= self.rank(each, searching)
            for each in self.open.values()
            if self.is_waiting(each)
            and each.arrival.ticket not in self.returned
            and self.may_meet(each.arrival, searching.arrival)
        )

    def apart_now(self) -> list[tuple[str, frozenset[bytes]]]:
        return [two for two, (until_ms, _) in self.met.items() if until_ms > self.now_ms]

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

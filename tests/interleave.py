"""Everything that a server does at once, in an order that a seed chooses, with a clock that the seed moves.

    PYTHONPATH=. python tests/interleave.py --seeds 10000          # all kinds in turn
    PYTHONPATH=. python tests/interleave.py --seed 4711 --trace    # one of them, step by step

What runs is the server's own, and real sockets whose other ends the peers have; see green_server.py.

The kinds: `callbacks` and `wsgi`, each with a store in the process (`near`), and with two processes that
share one whose calls take time (`far`): each waits on its way there and on its way back, in a greenlet, while
all else goes on, and some find the store away.

Peers offer, answer (twice, too), bounce, leave, hang up and half hang up, dribble and do not read. The clock
goes to the very moments at which something is due. From what each peer was told, and when, follows:

    each request ends, once, with a whole reply, and not before its time
    DELIVERED: the ANSWER stands in the initiator's socket, and stood there before he hung up
    an ANSWER of which the responder, who stayed, hears nothing true: only after its time for the write
    no answer to another offer, to two, or to its sender; no nonce twice; no offer after its LEAVE
    who hung up before a newcomer sent his request is not handed to him (near)
    in the end no ticket, name, deadline, timer, connection, watch, greenlet or pair is left, nothing was
    logged as an error, and no callback has waited
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from green import Green, is_ready
from green_server import (
    ANSWER_SECONDS,
    MEMORY_SECONDS,
    REQUEST_SECONDS,
    FarStore,
    Process,
    on_green_ground,
)
from signal_server.http.connection import WRITE_SECONDS
from signal_server.matching.exchange import DRAIN_SECONDS
from signal_server.matching.rules import Times
from signal_server.matching.stores.base import LEAVE_SECONDS, Outcome
from signal_server.matching.stores.memory import MemoryStore
from signal_server.matching.tickets import Ticket
from signal_server.messages import Delivery

LONGEST_SECONDS = REQUEST_SECONDS + ANSWER_SECONDS + WRITE_SECONDS + 1

KINDS = ("callbacks near", "wsgi near", "callbacks far", "wsgi far")

STEPS = 160
MOST_OFFERS = 7

CALL_SECONDS = 0.5
"""So long may a call of a far store take."""

Containers = dict | list | set | deque | tuple


# --- the peers ---------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Line:
    """A connection of a peer, which is idle while it has no `ask`."""

    socket: socket.socket
    process: Process
    ask: Ask | None = None
    received: bytes = b""


@dataclass(eq=False, slots=True)
class Ask:
    """A request.

    Attributes:
        text: its SIGNAL, which no other has.
        unsent: what is left of its bytes.
        sent: the step at which the last of them went, and `sent_at` the time.
        told: its reply, read at `told_at`.
        gone: the step at which the peer hung up.
    """

    peer: str
    text: str
    asks: str
    words: dict[str, str]
    line: Line | None = None
    unsent: bytes = b""
    sent: int = 0
    sent_at: float = 0.0
    told: dict[str, Any] | None = None
    told_at: float = 0.0
    gone: int = 0
    dribbled: bool = False
    is_cut: bool = False

    @property
    def is_open(self) -> bool:
        return self.told is None and not self.gone and not self.is_cut


@dataclass(slots=True)
class Handed:
    """An offer that a peer was told of."""

    offer: Ask
    to: str
    answers: list[Ask] = field(default_factory=list)
    is_used: bool = False


class World:
    """Peers and processes, of one seed."""

    def __init__(self, kind: str, seed: int, *, trace: bool = False) -> None:
        Green.current = self.green = Green()
        self.rng = random.Random(f"{kind} {seed}")
        self.trace = trace
        driver, self.reach = kind.split()
        times = Times(
            request=_ms(REQUEST_SECONDS),
            answer=_ms(ANSWER_SECONDS),
            write=_ms(WRITE_SECONDS),
            pair_memory=_ms(MEMORY_SECONDS),
        )
        self.made = 0
        self.times = times
        self.store = self.new_store()
        self.applies: dict[int, Callable[[Outcome], object]] = {}
        self.mail: list[tuple[int, Outcome]] = []
        self.posted: list[Callable[[], object]] = []
        self.places: set[str] = set()
        self.under_way: list[float] = []  # when each call of a far store began
        numbers = range(2 if self.reach == "far" else 1)
        self.processes = [
            Process(
                self,
                number,
                by_callbacks=driver == "callbacks",
                store=FarStore(self, number) if self.reach == "far" else self.store,
            )
            for number in numbers
        ]
        self.owners = {each.server.tickets._process: each.number for each in self.processes}
        self.step = 0
        self.asks: list[Ask] = []
        self.lines: list[Line] = []
        self.lines_of_gunicorn: set[Line | None] = set()
        self.handed: dict[str, Handed] = {}
        self.offers: dict[str, Ask] = {}
        self.left: dict[str, tuple[int, float]] = {}  # by offer: when its LEAVE was told to have come
        self.is_ending = False
        self.has_forgotten = self.has_paused = False
        self.is_vague = False  # the store was away, or somebody does not read what he is told
        self.ends = self.rng.random() < 0.1
        self.seen: Counter[str] = Counter()
        self.numbers = 0

    @property
    def wrong(self) -> list[str]:
        return self.green.wrong

    def new_store(self) -> MemoryStore:
        return MemoryStore(
            self.times, sweep_ms=500, clock=lambda: _ms(self.green.now), nonces=self.next_nonce
        )

    def next_nonce(self) -> str:
        self.made += 1
        return f"{self.made:022d}"

    def wait_for_reply(self) -> None:
        """Of a call that is carried out already."""
        self.under_way.append(self.green.now)
        self.green.wait(self.green.ready)
        self.under_way.pop(0)

    def mailed(self, told: Outcome, number: int) -> Outcome:
        """What of this is the process's own; the rest is mail."""
        by_process: dict[int, list[Delivery]] = {}
        for each in told.deliveries:
            owner = next(owner for name, owner in self.owners.items() if each.ticket.startswith(name))
            by_process.setdefault(owner, []).append(each)
        mine = by_process.pop(number, [])
        self.mail += [(owner, Outcome(deliveries)) for owner, deliveries in by_process.items()]
        return Outcome(mine, told.good, told.responder, [])

    # --- one run -------------------------------------------------------------------------------------------

    def run(self) -> None:
        for self.step in range(1, STEPS + 1):
            self.choose([*self.server_actions(), *self.peer_actions(), *self.time_actions()])
        self.settle()
        self.check()

    def choose(self, actions: list[tuple[float, str, Callable[[], object]]]) -> None:
        _, name, action = self.rng.choices(actions, [weight for weight, _, _ in actions])[0]
        if self.trace:
            print(f"{self.step:4} {self.green.now:9.3f} {name}")
        try:
            action()
        except Exception:  # noqa: BLE001  that is what is looked for
            self.wrong.append(f"{name} failed: {traceback.format_exc()}")

    def server_actions(self) -> Iterator[tuple[float, str, Callable[[], object]]]:
        for each in self.processes:
            for name, action in each.actions():
                yield 4, f"{each.number}: {name}", partial(each.take, name, action)
        runnable = self.green.runnable()
        for chosen in runnable:
            yield 4 / len(runnable) + 1, "a greenlet goes on", partial(self.green.resume, chosen)
        if self.mail:
            yield 3, "mail", self.deliver_mail
        if self.posted:
            yield 3, "what was posted arrives", lambda: self.posted.pop(0)()

    def deliver_mail(self) -> None:
        number, outcome = self.mail.pop(self.rng.randrange(len(self.mail)))
        Process.current = self.processes[number]
        self.green.spawn(self.applies[number], outcome)

    def time_actions(self) -> Iterator[tuple[float, str, Callable[[], object]]]:
        for each in self.processes:
            yield 1 / len(self.processes), f"{each.number}: tick", each.tick
        if self.reach == "far":
            yield 0.7, "the store looks for what is due", self.poll
            yield 0.01, "the store is empty", self.forget
        most = min(self.under_way, default=float("inf")) + CALL_SECONDS - self.green.now
        for seconds in (0.001, 0.05, 0.2, 0.6):
            if seconds < most:
                yield 0.25, f"{seconds} s pass", partial(self.advance, seconds)
        if not self.is_ending:
            yield 0.01, "all processes are stopped for a while", self.stop
        due_ms = self.store._deadlines.first_ms
        if due_ms < 1 << 40:
            for off in (-1, 0, 1):
                seconds = (due_ms + off) / 1000 - self.green.now
                if 0 < seconds < most:
                    yield 0.3, f"{off} ms from a deadline", partial(self.advance, seconds)
        if self.ends and not self.is_ending and self.step > STEPS // 2:
            yield 0.5, "the end", self.end

    def advance(self, seconds: float) -> None:
        self.green.now = round(self.green.now + seconds, 4)

    def stop(self) -> None:
        """A request whose call is under way is overdue then: it ends before its call does."""
        self.has_paused = True
        self.advance(LONGEST_SECONDS + 1)
        if self.rng.random() < 0.5:
            for each in self.processes:
                each.tick()

    def forget(self) -> None:
        """A Redis that was killed, of which our own store's care is not part: each request has its clock."""
        self.store, self.is_vague = self.new_store(), True
        self.has_forgotten = self.has_paused = True
        self.left.clear()

    def poll(self) -> None:
        Process.current = self.processes[0]
        told = self.mailed(self.store.expire(), -1)
        assert not told.deliveries

    def end(self) -> None:
        self.is_ending = self.is_vague = True
        for each in self.processes:
            Process.current = each
            each.end()

    # --- what the peers do ---------------------------------------------------------------------------------

    def peer_actions(self) -> Iterator[tuple[float, str, Callable[[], object]]]:
        if len(self.offers) < MOST_OFFERS and not self.is_ending:
            yield 2, "a peer comes", self.come
        for each in self.asks:
            if each.is_open:
                yield from self.actions_of(each)
        for nonce, handed in self.handed.items():
            if not handed.is_used or 0 < len(handed.answers) < 3:
                yield (
                    0.1 if handed.is_used else 2,
                    f"{handed.to} answers {nonce}",
                    partial(self.answer, nonce, handed),
                )
                if not self.is_ending and not handed.is_used:
                    yield 0.4, f"{handed.to} bounces {nonce}", partial(self.bounce, nonce, handed)
                    yield 0.1, f"a thief presents {nonce}", partial(self.steal, nonce, handed)

    def actions_of(self, ask: Ask) -> Iterator[tuple[float, str, Callable[[], object]]]:
        if ask.unsent:
            yield 2, f"{ask.peer} sends the rest", partial(self.send, ask)
        elif ask.line is not None and is_ready(ask.line.socket.fileno(), select.POLLIN):
            yield 2, f"{ask.peer} reads", partial(self.read, ask)
        yield 0.12, f"{ask.peer} closes", partial(self.hang_up, ask, half=False)
        if ask.line is not None and not ask.unsent and not ask.line.received:
            yield 0.08, f"{ask.peer} closes its sending half", partial(self.hang_up, ask, half=True)
        if "REQUEST" in ask.words and ask.asks == "CONNECT" and not self.is_ending:
            yield 0.3, f"{ask.peer} leaves", partial(self.leave, ask)

    def come(self) -> None:
        self.numbers += 1
        # Half of them are others that were here before, so that pairs, and oneself, matter.
        name = f"p{self.rng.choice([self.numbers, self.numbers % 3])}"
        words = {"REMATCH": "1"} if self.rng.random() < 0.5 else {}
        if self.rng.random() < 0.3:
            words["REQUEST"] = f"{self.numbers:022d}"
        self.offer(name, words | {"TYPE": "CONNECT"}, "CONNECT")

    def offer(self, name: str, words: dict[str, str], asks: str) -> None:
        text = f"offer {len(self.asks)} of {name}"
        self.offers[text] = self.ask(name, text, words, asks)

    def answer(self, nonce: str, handed: Handed) -> None:
        handed.is_used = True
        again = handed.answers and self.rng.random() < 0.7
        text = handed.answers[0].text if again else f"answer {len(self.asks)} to {handed.offer.text}"
        words = {"TYPE": "CONNECT", "NONCE": nonce, "REMATCH": "1"}
        handed.answers.append(self.ask(handed.to, text, words, "ANSWER"))

    def bounce(self, nonce: str, handed: Handed) -> None:
        handed.is_used = True
        self.offer(handed.to, {"TYPE": "BOUNCE", "NONCE": nonce}, "BOUNCE")

    def steal(self, nonce: str, handed: Handed) -> None:
        self.numbers += 1
        text = f"theft {len(self.asks)} to {handed.offer.text}"
        self.ask(f"thief{self.numbers}", text, {"TYPE": "CONNECT", "NONCE": nonce}, "ANSWER")

    def leave(self, ask: Ask) -> None:
        words = {"TYPE": "LEAVE", "REQUEST": ask.words["REQUEST"]}
        self.ask(ask.peer, ask.text, words, "LEAVE")

    def ask(self, name: str, text: str, words: dict[str, str], asks: str) -> Ask:
        ask = Ask(name, text, asks, words)
        self.asks.append(ask)
        given = words | {"FINGERPRINT": name}
        if asks != "LEAVE":
            given["SIGNAL"] = text + " " * self.rng.choice([0, 0, 500, 20_000])
        body = json.dumps(given).encode()
        odd = "Keep-Alive: 5\r\n" if self.rng.random() < 0.05 else ""
        head = f"POST / HTTP/1.1\r\nHost: t\r\n{odd}Content-Type: application/json\r\n"
        ask.unsent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        idle = [each for each in self.lines if each.ask is None]
        ask.line = self.rng.choice(idle) if idle and self.rng.random() < 0.6 else self.open_line()
        ask.line.ask = ask
        if odd:
            self.lines_of_gunicorn.add(ask.line)
        if self.rng.random() < 0.15:
            ask.dribbled = True
            self.lines_of_gunicorn.add(ask.line)  # if it takes too long
            cut = self.rng.randrange(1, len(ask.unsent))
            self.send(ask, cut)
        else:
            self.send(ask)
        return ask

    def open_line(self) -> Line:
        mine, other = socket.socketpair()
        mine.setblocking(False)
        other.setblocking(False)
        if self.rng.random() < 0.3:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # a long reply does not fit at once
        process = self.rng.choice(self.processes)
        Process.current = process
        process.accept(_inner(other))
        line = Line(mine, process)
        self.lines.append(line)
        return line

    def send(self, ask: Ask, size: int | None = None) -> None:
        assert ask.line is not None
        try:
            ask.unsent = ask.unsent[ask.line.socket.send(ask.unsent[:size]) :]
        except BlockingIOError:
            return
        except OSError:
            self.cut(ask)
            return
        if not ask.unsent:
            ask.sent, ask.sent_at = self.step, self.green.now

    def cut(self, ask: Ask) -> None:
        """Its connection is closed, and there was no reply."""
        assert ask.line is not None
        ask.is_cut = True
        self.close(ask.line)
        # A server that ends closes connections on which it has read nothing yet.
        if not (self.is_ending or ask.dribbled):
            self.wrong.append(f"{ask.text} was cut off")

    def close(self, line: Line) -> None:
        line.socket.close()
        if line in self.lines:
            self.lines.remove(line)

    def hang_up(self, ask: Ask, *, half: bool) -> None:
        """What stands in the socket was written before."""
        if self.pull(ask):
            return
        assert ask.line is not None
        ask.gone = self.step
        if half:
            self.is_vague = True
            ask.line.socket.shutdown(socket.SHUT_WR)
            self.lines.remove(ask.line)  # it is kept open, and nothing is sent on it
        else:
            self.close(ask.line)

    def read(self, ask: Ask) -> None:
        self.pull(ask)

    def pull(self, ask: Ask) -> bool:
        """Read what is there. Returns whether the request has ended."""
        line = ask.line
        assert line is not None
        ended = False
        while not ended:
            try:
                piece = line.socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            line.received += piece
            ended = not piece
        head, found, body = line.received.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) if found else 0
        if not found or len(body) < length:
            if ended:
                if self.green.now < ask.sent_at + WRITE_SECONDS:
                    if line.received:
                        self.wrong.append(f"{ask.text} has half a reply: {line.received!r}")
                    self.cut(ask)
                else:  # who does not read for so long is cut off
                    ask.gone = self.step
                    self.close(line)
            return ended
        line.received = body[length:]
        if line.received:
            self.wrong.append(f"{ask.text}: more than a reply: {line.received!r}")
        line.ask = None
        if ended or b"Connection: close" in head:
            self.close(line)
        self.told(ask, int(head.split(b" ")[1]), json.loads(body[:length]))
        return True

    # --- what must hold ------------------------------------------------------------------------------------

    def told(self, ask: Ask, status: int, told: dict[str, Any]) -> None:
        ask.told, ask.told_at = told, self.green.now
        kind = told["TYPE"]
        self.seen[f"{ask.asks} {kind}"] += 1
        if self.trace:
            print(f"                    {ask.peer} is told {kind} for {ask.text}")
        if ask.unsent and status not in (408, 503):
            self.wrong.append(f"{ask.text} was answered before it was sent: {told}")
        if status == 408 and ask.dribbled:
            return
        allowed = (
            {200, 299} | ({503} if self.is_ending else set()) | ({297, 503} if self.reach == "far" else set())
        )
        if status not in allowed:
            self.wrong.append(f"{ask.text} is told {told}")
        getattr(self, f"told_{kind.lower()}", lambda *_: None)(ask, told)

    def told_demote(self, ask: Ask, told: dict[str, Any]) -> None:
        nonce, offer = told["NONCE"], self.offers[told["SIGNAL"].rstrip()]
        if nonce in self.handed:
            self.wrong.append(f"{nonce} was given twice")
        self.handed[nonce] = Handed(offer, ask.peer)
        if offer.peer == ask.peer:
            self.wrong.append(f"{ask.peer} meets itself")
        step, at = self.left.get(offer.text, (self.step, 0.0))
        if step < ask.sent and self.green.now < at + LEAVE_SECONDS and not self.has_paused:
            self.wrong.append(f"{offer.text} was handed out after its LEAVE")
        # If one was served by gunicorn's code and one by callbacks, each is seen to leave in its own time.
        mixed = self.lines_of_gunicorn & {offer.line, ask.line} and self.processes[0].serving is not None
        if 0 < offer.gone < ask.sent and self.reach == "near" and not mixed:
            self.wrong.append(f"{offer.text} had left when {ask.text} was sent, and was handed to it")

    def told_answer(self, ask: Ask, told: dict[str, Any]) -> None:
        text = told["SIGNAL"].rstrip()
        if not text.endswith(f" to {ask.text}") or text.startswith("theft"):
            self.wrong.append(f"{ask.text} is told {text}")
        reached = [each for each in self.offers.values() if each is not ask and each.told is not None]
        if any(each.told["TYPE"] == "ANSWER" and each.told["SIGNAL"].rstrip() == text for each in reached):  # type: ignore[index]
            self.wrong.append(f"{text} reached two")

    def told_delivered(self, ask: Ask, told: dict[str, Any]) -> None:
        offer = self.handed[ask.words["NONCE"]].offer
        if offer.is_open:
            self.pull(offer)
        got = (offer.told or {}).get("SIGNAL", "").rstrip()
        if got != ask.text:
            self.wrong.append(f"{ask.text} is told DELIVERED, and {offer.text} has {offer.told}")

    def told_no_peer(self, ask: Ask, told: dict[str, Any]) -> None:
        waits = ask.asks == "CONNECT" and "REQUEST" not in ask.words and ask.sent_at and not ask.dribbled
        early = self.green.now < ask.sent_at + REQUEST_SECONDS - 0.002
        if waits and early and not self.has_forgotten:
            self.wrong.append(f"{ask.text} ends before its time")

    def told_left(self, ask: Ask, told: dict[str, Any]) -> None:
        self.left.setdefault(ask.text, (self.step, self.green.now))

    def settle(self) -> None:
        """Nobody does anything more but read, until all has had its time."""
        self.step += 1
        until = self.green.now + 2 * LONGEST_SECONDS + 6
        self.pump()
        self.check_prompt()
        ended = self.green.now + DRAIN_SECONDS + 0.5 if self.is_ending else float("inf")
        while self.green.now < until:
            self.pump()
            if self.green.now > ended:
                self.check_ended()
                ended = float("inf")
            self.advance(0.25)
            if self.reach == "far":
                self.poll()
            for each in self.processes:
                each.tick()
        for ask in self.asks:
            if ask.is_open and not (ask.unsent and ask.dribbled):
                self.wrong.append(f"{ask.text} ({ask.asks}) has no end: {ask}")
        for line in list(self.lines):
            self.close(line)
        for ask in self.asks:
            if ask.line is not None:
                ask.line.socket.close()
        self.pump()

    def pump(self) -> None:
        """Let all go on that can, in any order."""
        for _ in range(5_000):
            actions = list(self.server_actions())
            actions += [
                (1.0, f"{each.peer} reads", partial(self.read, each))
                for each in self.asks
                if each.is_open
                and each.line is not None
                and is_ready(each.line.socket.fileno(), select.POLLIN)
            ]
            actions += [
                (1.0, "sends", partial(self.send, each)) for each in self.asks if each.is_open and each.unsent
            ]
            if not actions:
                return
            self.choose(actions)
        self.wrong.append("it does not come to rest")

    def check(self) -> None:
        for handed in self.handed.values():
            self.check_known(handed)
        self.store.expire()
        self.store._rules.sweep(now_ms=_ms(self.green.now))
        counts = self.store.statistics()
        left = {
            "statistics": {name: count for name, count in counts.items() if count},
            "names": self.store._names,
            "deadlines": contents(self.store._deadlines, "_last_ms"),
            "greenlets": [None] * self.green.alive,
            "mail": self.mail,
            "places": self.places,
        }
        for process in self.processes:
            server = process.server
            left["tickets"] = server.tickets.by_id
            left["held"] = server.tickets._held
            left["watches"] = server.driver._hangups._calls
            left["timers"] = [each for queue in server.timers._queues.values() for each in queue]
            if process.serving is not None:
                left["serving"] = contents(process.serving, "_heads")
            for name, value in left.items():
                if value:
                    self.wrong.append(f"left behind: {name}: {value}")

    def check_prompt(self) -> None:
        """All that could go on has, so nobody waits for a time to be over, but for a peer who knows that."""
        for process in self.processes:
            open_ = process.server.tickets.by_id.values()
            self.wrong.extend(f"{each.ticket} has its result and is open" for each in open_ if each.result)
        held = sum(not each.is_answer for each in self.tickets())
        if held > sum(each.is_open for each in self.asks) and not self.has_forgotten:
            self.wrong.append("a request is held whose peer has left or was answered")
        if self.is_vague:
            return
        for nonce, handover in self.store._rules._handovers.items():
            stage = handover.stage.name
            if stage in ("ANSWERED", "WRITING") or (stage == "OFFERED" and nonce not in self.handed):
                self.wrong.append(f"{nonce} is {stage}, and nobody is about to go on with it")

    def check_ended(self) -> None:
        """Who waits is answered when a server ends, and who is offered has two seconds more."""
        if any(not each.is_answer for each in self.tickets()) and not self.has_forgotten:
            self.wrong.append("a server has ended, and holds requests")

    def tickets(self) -> list[Ticket]:
        return [each for process in self.processes for each in process.server.tickets.by_id.values()]

    def check_known(self, handed: Handed) -> None:
        """If the answer arrived, who sent it and stayed was told so, unless the time for it was over."""
        told = handed.offer.told
        if told is None or told["TYPE"] != "ANSWER" or self.is_ending or self.reach == "far":
            return
        same = [each for each in handed.answers if each.text == told["SIGNAL"].rstrip()]
        kinds = {(each.told or {}).get("TYPE") for each in same}
        if not same or "DELIVERED" in kinds or None in kinds:
            return
        ended_at = max(each.told_at for each in (*same, handed.offer))
        took = ended_at - min(each.sent_at for each in same)
        if took < WRITE_SECONDS or len(told["SIGNAL"]) < 1_000:  # which is written at once, or not at all
            self.wrong.append(f"{same[0].text} arrived, and is told {kinds} after {took:.3f} s")


def contents(owner: object, *but: str) -> dict[str, object]:
    """What its containers hold, and those in them."""
    names = [*getattr(owner, "__slots__", ()), *getattr(owner, "__dict__", {})]
    values = {name: getattr(owner, name) for name in names if name not in but}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, Containers) and any(not isinstance(each, Containers) or each for each in value)
    }


def _inner(sock: socket.socket) -> Any:
    """The kind of socket that the worker has: without Python's part."""
    return socket.socket(fileno=sock.detach())


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def interleave(kind: str, seed: int, *, trace: bool = False) -> World:
    """One seed. What is wrong is in its `wrong`."""
    errors: list[str] = []
    with on_green_ground(errors):
        world = World(kind, seed, trace=trace)
        world.run()
    world.wrong.extend(errors)
    return world


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--kind", choices=KINDS, help="this one only")
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    seeds = [given.seed] if given.seed is not None else range(given.first, given.first + given.seeds)
    kinds = [given.kind] if given.kind else KINDS
    seen: Counter[str] = Counter()
    steps, wrong, started = 0, 0, time.monotonic()
    for seed in seeds:
        for kind in kinds:
            world = interleave(kind, seed, trace=given.trace)
            seen += world.seen
            steps += world.step
            if world.wrong:
                wrong += 1
                print(f"seed {seed}, {kind}:", *world.wrong[:5], sep="\n  ", flush=True)
        if wrong:
            break
    print(f"{len(seeds)} seeds of {', '.join(kinds)}: {steps} steps, {wrong} wrong", end="; ")
    print(f"{time.monotonic() - started:.0f} s; replies {dict(seen.most_common())}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Peers that link through several servers while everything else goes wrong, and a checker of what each saw.

    PYTHONPATH=. python tests/chaos.py --seconds 120              # all faults
    PYTHONPATH=. python tests/chaos.py --faults kill,kill,stop    # these only, and more of the first
    PYTHONPATH=. python tests/chaos.py --driver wsgi              # under gunicorn's own gevent worker
    PYTHONPATH=. python tests/chaos.py --scripts                  # on a Redis without functions
    PYTHONPATH=. python tests/chaos.py --broken                   # does the checker notice a broken server?

The faults: `kill` a worker with -9, `stop` one for some seconds, `restart` Redis after a kill -9, so empty,
`freeze` Redis for some seconds, `deaf`: cut the connections that notices come over, `cut`: cut all of them.
The peers use what the protocol gives them and nothing else. Every offer and every answer is a text that is
used once, so from what each peer was told it follows whether anything went wrong:

    an answer that was written for another offer, or that reached two, or the sender itself
    an offer with two answers, or handed to a second peer while it was out, or after it was answered
    a nonce given twice
    DELIVERED, but the initiator, who stayed, has no answer, or has it later
    a peer that has not linked again 45 s after a fault
    two that meet again within the memory, though not both said REMATCH, or one had bounced the other
    an offer that was handed out after its LEAVE
    a reply that is cut short, or a status that the protocol does not have, or a request that never ends
    a key that is left in Redis when all is over
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import signal_server.matching.stores.redis_scripts as redis_scripts
from live import Server
from redis_server import REDIS, VALKEY, RedisServer
from signal_server.matching.stores.base import LEAVE_SECONDS

REQUEST_SECONDS = 3.0
ANSWER_SECONDS = 1.0
MEMORY_SECONDS = 1.0
STOPPED_SECONDS = (0.5, 2, 3.5, 5)
LONGEST_SECONDS = REQUEST_SECONDS + ANSWER_SECONDS + 3 + 3 + 5  # and the write, a lease, and the longest stop
AGAIN_SECONDS = 45.0
"""So long after a fault each peer has linked again."""

LATER_SECONDS = 0.05
"""An answer that comes so long after its DELIVERED was not there before it, however busy this process is."""

STATUSES = {200, 297, 298, 299, 503}
PADDING = " " * 1_000

FAULTS = ("kill", "stop", "restart", "freeze", "deaf", "cut")


@dataclass(slots=True)
class Handed:
    """An offer that a peer was given: by the server at some time between `sent` and `at`."""

    sent: float
    at: float
    offer: str
    to: str
    rematch: bool  # both said so
    ended: float | None = None  # bounced, or hung up
    bounced_at: float = 0  # when it was known to be bounced
    answer: str | None = None
    answered: float | None = None
    told: str | None = None
    told_at: float = 0


@dataclass
class Seen:
    """What all the peers saw."""

    handed: dict[str, Handed] = field(default_factory=dict)  # by nonce
    answers: dict[str, tuple[str, float]] = field(default_factory=dict)  # by offer: the answer that came
    says: set[str] = field(default_factory=set)  # texts that came with REMATCH
    ended: dict[str, tuple[float, float]] = field(default_factory=dict)  # by offer: it came, it left
    troubled: list[tuple[float, float]] = field(default_factory=list)  # from when to when there was a fault
    left: set[str] = field(default_factory=set)  # offers whose peers hung up, or whose connection broke
    replies: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    is_away: bool = False  # Redis is, for long enough to be noticed
    refused: list[float] = field(default_factory=list)  # seconds to a 503 to a request of that time
    waits: list[float] = field(default_factory=list)  # seconds from an answer to the ANSWER
    linked: dict[str, list[float]] = field(default_factory=dict)  # by peer: when
    lives: list[float] = field(default_factory=list)  # when Redis was emptied
    unknown: int = 0  # answers that arrived, whose sender was told that they did not, or nothing
    faults: Counter[str] = field(default_factory=Counter)
    early: list[float] = field(default_factory=list)  # seconds by which DELIVERED was known before the ANSWER
    recovery: list[float] = field(default_factory=list)  # seconds to the next link of anybody, by fault
    again: list[float] = field(default_factory=list)  # the same of each peer

    @property
    def part_linked(self) -> float:
        """How many of the peers have linked since the last fault."""
        since = self.troubled[-1][1] if self.troubled else 0
        return sum(bool(times) and times[-1] > since for times in self.linked.values()) / len(self.linked)


class Peer:
    """One that links again and again, each time under a new offer."""

    def __init__(self, name: str, ports: list[int], seen: Seen, rng: random.Random) -> None:
        self.name, self.ports, self.seen, self.rng = name, ports, seen, rng
        self.number = 0

    async def run(self, until: float) -> None:
        """Until then, and on until each peer has linked since the last fault."""
        linked = self.seen.linked[self.name] = []
        while time.monotonic() < until or self.seen.part_linked < 1:
            if time.monotonic() > until + AGAIN_SECONDS:
                break
            self.number += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                told = await self.link(f"offer {self.name}.{self.number}")
                if told is not None and told["TYPE"] in ("ANSWER", "DELIVERED"):
                    linked.append(time.monotonic())
            await asyncio.sleep(self.rng.uniform(0, 0.1))

    async def link(self, offer: str) -> dict[str, str] | None:
        leaves = self.rng.random() < 0.05
        if self.rng.random() < 0.1:
            told = await self.ask_and_leave(offer)
        else:
            told = await self.ask(offer, {"TYPE": "CONNECT"}, leaves=leaves)
        while told is not None and told["TYPE"] == "DEMOTE":
            nonce, chance = told["NONCE"], self.rng.random()
            handed = self.seen.handed[nonce]
            if chance < 0.1:
                handed.ended = time.monotonic()
                self.number += 1
                offer = f"offer {self.name}.{self.number}"
                told = await self.ask(offer, {"TYPE": "BOUNCE", "NONCE": nonce})
                if (
                    told is not None and time.monotonic() < handed.sent + ANSWER_SECONDS
                ):  # its time was not over
                    handed.bounced_at = handed.ended
                continue
            if chance < 0.15:
                return None  # says nothing, and so the nonce runs out
            if chance < 0.2:
                await self.steal()
            told = await self.answer(nonce, handed)
        return told

    async def ask_and_leave(self, offer: str) -> dict[str, str] | None:
        """A request with a name, which a LEAVE ends, whichever worker that comes to."""
        name, began = f"{self.rng.getrandbits(128):032x}", time.monotonic()
        asking = asyncio.create_task(self.ask(offer, {"TYPE": "CONNECT", "REQUEST": name}))
        await asyncio.sleep(self.rng.choice([0, 0.01, 0.1, 0.3]))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(LONGEST_SECONDS):
                leave = {"TYPE": "LEAVE", "REQUEST": name, "FINGERPRINT": self.name}
                told = await self.exchange(leave, leaves=False)
                if told is not None and told["TYPE"] == "LEFT":
                    self.seen.replies["LEFT"] += 1
                    self.seen.ended[offer] = began, time.monotonic()
        return await asking

    async def steal(self) -> None:
        """Answer with a nonce that somebody else was given."""
        others = [nonce for nonce, each in list(self.seen.handed.items())[-10:] if each.to != self.name]
        if others:
            await self.ask(f"stolen by {self.name}", {"TYPE": "CONNECT", "NONCE": self.rng.choice(others)})

    async def answer(self, nonce: str, handed: Handed) -> dict[str, str] | None:
        handed.answer = f"answer of {self.name} to {handed.offer} under {nonce}"
        handed.answered = time.monotonic()
        told = await self.ask(handed.answer, {"TYPE": "CONNECT", "NONCE": nonce})
        handed.told, handed.told_at = "nothing" if told is None else told["TYPE"], time.monotonic()
        return told

    async def ask(
        self, text: str, parameters: dict[str, str], *, leaves: bool = False
    ) -> dict[str, str] | None:
        """One request. None: there was no reply, for the connection broke or we left."""
        began, was_away = time.monotonic(), self.seen.is_away
        told = None
        if leaves:
            self.seen.left.add(text)
        if self.rng.random() < 0.5:
            parameters = parameters | {"REMATCH": "1"}
            self.seen.says.add(text)
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                told = await self.exchange(
                    parameters | {"SIGNAL": text + PADDING, "FINGERPRINT": self.name}, leaves
                )
        except TimeoutError:
            self.seen.wrong.append(f"{text}: no reply after {LONGEST_SECONDS} s")
        except (OSError, asyncio.IncompleteReadError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                self.seen.wrong.append(f"{text}: cut short")
        if told is None:
            self.seen.left.add(text)
            self.seen.replies["(none)"] += 1
            return None
        self.seen.replies[told["TYPE"]] += 1
        if told["TYPE"] == "UNAVAILABLE" and was_away:
            self.seen.refused.append(time.monotonic() - began)
        self.note(text, told, began)
        if told["TYPE"] in ("UNAVAILABLE", "RATE_LIMIT"):
            await asyncio.sleep(self.rng.uniform(0.1, 0.5))
        return told

    def note(self, text: str, told: dict[str, str], began: float) -> None:
        now, given = time.monotonic(), told.get("SIGNAL", "").rstrip(" ")
        if told["TYPE"] == "ANSWER":
            if text in self.seen.answers:
                self.seen.wrong.append(f"{text}: two answers")
            self.seen.answers[text] = given, now
        elif told["TYPE"] == "DEMOTE":
            if told["NONCE"] in self.seen.handed:
                self.seen.wrong.append(f"{told['NONCE']} was given twice")
            rematch = {text, given} <= self.seen.says
            self.seen.handed[told["NONCE"]] = Handed(began, now, given, self.name, rematch)

    async def exchange(self, parameters: dict[str, str], leaves: bool) -> dict[str, str] | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rng.choice(self.ports))
        try:
            body = json.dumps(parameters).encode()
            head = (
                f"POST / HTTP/1.1\r\nHost: chaos\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}"
            )
            writer.write(head.encode() + b"\r\n\r\n" + body)
            if leaves:
                await asyncio.sleep(self.rng.uniform(0, 0.3))
                return None
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split(" ")[1])
            if status not in STATUSES:
                self.seen.wrong.append(f"status {status}")
            length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length"))
            told: dict[str, str] = json.loads(await reader.readexactly(int(length.split(":")[1])))
            return told
        finally:
            writer.close()


class Trouble:
    """Makes it."""

    def __init__(self, redis: RedisServer, servers: list[Server], seen: Seen, rng: random.Random) -> None:
        self.redis, self.servers, self.seen, self.rng = redis, servers, seen, rng

    async def run(self, faults: list[str], until: float, pause: float) -> None:
        await asyncio.sleep(1.5)  # let them link first
        while time.monotonic() < until - 1:
            fault = self.rng.choice(faults)
            began = time.monotonic()
            if await getattr(self, fault)() is not False:
                self.seen.faults[fault] += 1
            ended = time.monotonic()
            self.seen.troubled.append((began, ended))
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * pause)
            # On a busy machine workers are killed faster than they start, and then there are none.
            while self.seen.part_linked < 0.5 and time.monotonic() < min(until, ended + AGAIN_SECONDS):
                await asyncio.sleep(0.05)

    def worker(self) -> int:
        parent = self.rng.choice(self.servers).process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(self.rng.choice(children)) if children else 0

    async def kill(self) -> bool:
        worker = self.worker()
        if worker:
            os.kill(worker, signal.SIGKILL)
        return worker > 0

    async def stop(self) -> bool:
        worker = self.worker()
        if worker:
            os.kill(worker, signal.SIGSTOP)
            await asyncio.sleep(self.rng.choice(STOPPED_SECONDS))
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        return worker > 0

    async def restart(self) -> None:
        self.redis.kill()
        self.seen.is_away = True
        self.seen.lives.append(time.monotonic())
        await asyncio.sleep(self.rng.uniform(0, 1.5))
        self.seen.is_away = False
        self.redis.start()
        self.seen.lives.append(time.monotonic())

    async def freeze(self) -> None:
        self.redis.stop()
        self.seen.is_away = True
        await asyncio.sleep(self.rng.choice([0.3, 1, 3.5]))
        self.seen.is_away = False
        self.redis.go_on()

    async def deaf(self) -> None:
        self.redis.call("CLIENT", "KILL", "TYPE", "pubsub")

    async def cut(self) -> None:
        self.redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.redis.call("CLIENT", "KILL", "TYPE", "pubsub")


def check(seen: Seen) -> None:
    """Find what is wrong in what the peers saw."""
    wrong = seen.wrong
    by_answer = {each.answer: each for each in seen.handed.values() if each.answer}
    arrived: Counter[str] = Counter()
    for offer, (given, at) in seen.answers.items():
        arrived[given] += 1
        handed = by_answer.get(given)
        if handed is None or handed.offer != offer:
            wrong.append(f"{offer} got what was not written for it: {given[:60]}")
            continue
        if handed.to == offer.split(" ")[1].split(".")[0]:
            wrong.append(f"{offer} was answered by itself")
        assert handed.answered is not None
        seen.waits.append(at - handed.answered)
        seen.unknown += handed.told != "DELIVERED"
    wrong += [f"{text[:60]} reached {count}" for text, count in arrived.items() if count > 1]
    for each in seen.handed.values():
        if each.told != "DELIVERED":
            continue
        _, at = seen.answers.get(each.offer, ("", 0.0))
        if at:
            seen.early.append(at - each.told_at)
            if at > each.told_at + LATER_SECONDS:
                wrong.append(f"DELIVERED, but {each.offer} has its answer {at - each.told_at:.2f} s later")
        elif each.offer not in seen.left:
            wrong.append(f"DELIVERED, but {each.offer} has no answer")
    check_handed(seen)
    check_memory(seen)
    check_again(seen)


def check_handed(seen: Seen) -> None:
    """An offer is out with one at a time, and with nobody once it is answered.

    What a peer is told may be late, for its worker may be stopped: only what cannot have been otherwise
    counts.
    """
    by_offer: dict[str, list[Handed]] = defaultdict(list)
    for each in seen.handed.values():
        by_offer[each.offer].append(each)
    for offer, given in by_offer.items():
        came, ended = seen.ended.get(offer, (0, 0))
        # A fault may delay the request itself until its LEAVE is forgotten.
        if ended and not any(start < ended + 0.5 and came - 0.5 < end for start, end in seen.troubled):
            # A request that took longer to be read than a LEAVE is remembered is none that was left.
            late = [each for each in given if ended < each.sent and each.at < ended + LEAVE_SECONDS]
            seen.wrong += [
                f"{offer} was handed out {each.sent - ended:.3f} s after its LEAVE" for each in late
            ]
        for one, other in itertools.permutations(given, 2):
            if one.told == "DELIVERED" and other.sent > one.told_at:
                seen.wrong.append(f"{offer} was handed out after it was answered")
            until = min(one.sent + ANSWER_SECONDS - 0.01, one.ended or float("inf"))
            if one.at < other.sent and other.at < until:
                seen.wrong.append(f"{offer} was out with two: {one} {other}")


def check_memory(seen: Seen) -> None:
    """Two that were linked do not meet again for a while, unless both want to; and after a bounce they do not
    in any case. Unless Redis has forgotten it."""
    met: dict[tuple[frozenset[str], bool], float] = {}
    events = [
        (each.answered or 0, "linked", each) for each in seen.handed.values() if each.told == "DELIVERED"
    ]
    events += [(each.bounced_at, "bounced", each) for each in seen.handed.values() if each.bounced_at]
    events += [(each.at, "handed", each) for each in seen.handed.values()]
    for at, what, each in sorted(events, key=lambda event: event[0]):
        pair = frozenset((each.to, each.offer.split(" ")[1].split(".")[0]))
        if what != "handed":
            met[pair, what == "bounced"] = at
            continue
        for is_bounce in (False, True):
            since = met.get((pair, is_bounce))
            if since is None or not since < at < since + MEMORY_SECONDS or forgotten(seen, since, at):
                continue
            if is_bounce or not each.rematch:
                seen.wrong.append(f"{set(pair)} met again after {at - since:.2f} s, bounced: {is_bounce}")


def check_again(seen: Seen) -> None:
    """After each fault each peer links again, whatever else goes wrong meanwhile."""
    for _, ended in seen.troubled:
        nexts = []
        for peer, times in seen.linked.items():
            number = bisect_right(times, ended)
            nexts.append((times[number] if number < len(times) else float("inf")) - ended)
            if nexts[-1] > AGAIN_SECONDS:
                seen.wrong.append(f"{peer} linked {nexts[-1]:.1f} s after a fault")
        seen.recovery.append(min(nexts))
        seen.again += nexts


def forgotten(seen: Seen, since: float, until: float) -> bool:
    return any(since - 1 < life < until for life in seen.lives)


async def play(
    redis: RedisServer,
    servers: list[Server],
    *,
    seconds: float,
    peers: int,
    faults: list[str],
    pause: float,
    seed: int,
) -> Seen:
    seen, rng, until = Seen(), random.Random(seed), time.monotonic() + seconds
    ports = [server.port for server in servers]
    async with asyncio.TaskGroup() as tasks:
        for number in range(peers):
            tasks.create_task(Peer(f"p{number}", ports, seen, random.Random(rng.random())).run(until))
        if faults:
            tasks.create_task(Trouble(redis, servers, seen, rng).run(faults, until, pause))
    return seen


def leftovers(redis: RedisServer) -> list[str]:
    """What is in Redis after all that was waiting has had its time, beside the memory of pairs."""
    deadline = time.monotonic() + LONGEST_SECONDS + 5
    while True:
        kinds = ("handovers", "mail", "index")
        keys = redis.lifetimes()
        left = [key for key in keys if key.rpartition(":")[2] in kinds]
        left += [key for key in keys if key.endswith(":offers") and redis.call("HKEYS", key) != ["count"]]
        if not left or time.monotonic() > deadline:
            return left + [key for key, ms in redis.lifetimes().items() if ms < 0]
        time.sleep(0.1)


def chaos(
    *,
    seconds: float,
    peers: int = 40,
    workers: int = 3,
    faults: list[str],
    pause: float = 2.0,
    seed: int = 0,
    lua: str = "",
    binary: str = REDIS,
    scripts: bool = False,
) -> Seen:
    """Let it go wrong for a while. Returns what was seen, checked."""
    settings: dict[str, object] = {
        "SECRET_KEY": "chaos",
        "WEB_CONCURRENCY": workers,
        "REQUEST_TIMEOUT": REQUEST_SECONDS,
        "ANSWER_TIMEOUT": ANSWER_SECONDS,
        "PAIR_MEMORY_TTL": MEMORY_SECONDS,
        "PAIR_MEMORY_SWEEP": 1,
        "LOG": "off",
    }
    with ExitStack() as stack:
        what = {}
        if lua:
            what["app"] = "tests.broken_probe:app()"
            os.environ["TEST_LUA"] = lua
            stack.callback(os.environ.pop, "TEST_LUA")
        options = {"rename_command": 'FUNCTION ""'} if scripts else {}
        redis = stack.enter_context(RedisServer(binary, **options))
        servers = [stack.enter_context(Server(**what, REDIS_URL=redis.url, **settings)) for _ in range(2)]
        seen = asyncio.run(
            play(redis, servers, seconds=seconds, peers=peers, faults=faults, pause=pause, seed=seed)
        )
        seen.wrong += [f"left behind: {key}" for key in leftovers(redis)]
    check(seen)
    return seen


def kind_of(wrong: str) -> str:
    return re.sub(r"\S*\d\S*", "*", wrong)


def report(seen: Seen) -> str:
    waits, refused = sorted(seen.waits) or [0.0], sorted(seen.refused) or [0.0]
    kinds = Counter(map(kind_of, seen.wrong))
    recovery, again, early = (sorted(each) or [0.0] for each in (seen.recovery, seen.again, seen.early))
    lines = [
        f"faults     {dict(seen.faults)}",
        f"replies    {dict(seen.replies)}",
        f"links      {len(seen.answers)}, of which the answering peer does not know {seen.unknown}",
        f"answers    arrive after {waits[len(waits) // 2] * 1000:.0f} ms (p50), "
        f"{waits[int(len(waits) * 0.99)] * 1000:.0f} ms (p99), {waits[-1] * 1000:.0f} ms (most)",
        f"503        after {refused[-1] * 1000:.0f} ms at most, while Redis was away",
        f"links anew {recovery[len(recovery) // 2]:.1f} s (p50), {recovery[-1]:.1f} s (most) after a fault; "
        f"each peer {again[len(again) // 2]:.1f} s (p50), {again[int(len(again) * 0.99)]:.1f} s (p99), "
        f"{again[-1]:.1f} s (most)",
        f"DELIVERED  is known {1000 * early[-1]:.0f} ms before the ANSWER at most",
        f"wrong      {len(seen.wrong)} {dict(kinds)}",
        *(f"           {each}" for each in sorted(seen.wrong, key=lambda each: kinds[kind_of(each)])[:20]),
    ]
    return "\n".join(lines)


BROKEN = {
    "an offer stays in the pool when it is handed out": (
        "rules",
        "    stop_waiting(found)\n",
        "",
    ),
    "DELIVERED is said before the answer is written": (
        "answer",
        "deliver(offer, 'ANSWER', nonce, signal)\n",
        "deliver(offer, 'ANSWER', nonce, signal)\ndeliver(arrival, 'DELIVERED', '', '')\n",
    ),
    "the memory forgets": ("settle", "remember(handover, 'linked')\n", ""),
    "a nonce is anybody's": (
        "rules",
        "handover.pool == arrival.pool and handover.bearer == arrival.bearer",
        "true",
    ),
}


def broken() -> Iterator[tuple[str, Seen]]:
    """The same with a server that is broken on purpose."""
    for what, (name, old, new) in BROKEN.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(redis_scripts.FOLDER, folder, dirs_exist_ok=True)
            file = Path(folder) / f"{name}.lua"
            source = file.read_text()
            assert source.count(old) == 1, f"the line to break has changed: {old}"
            file.write_text(source.replace(old, new))
            yield what, chaos(seconds=10, faults=list(FAULTS), lua=folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--peers", type=int, default=40)
    parser.add_argument("--workers", type=int, default=3, help="of each of the two servers")
    parser.add_argument("--faults", default=",".join(FAULTS), help="by commas; empty for none")
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10_000)
    parser.add_argument("--valkey", action="store_true", help="instead of Redis")
    parser.add_argument("--scripts", action="store_true", help="on a server without functions")
    parser.add_argument("--broken", action="store_true")
    given = parser.parse_args()
    Server.driver = given.driver
    if given.broken:
        results = list(broken())
        for what, seen in results:
            print(f"{what}: {len(seen.wrong)} wrong, such as {seen.wrong[:1]}")
        return int(not all(seen.wrong for _, seen in results))
    print(
        f"seed {given.seed}, {given.seconds:g} s, {given.peers} peers, two servers of {given.workers} workers"
    )
    faults = [each for each in given.faults.split(",") if each]
    seen = chaos(
        seconds=given.seconds,
        peers=given.peers,
        workers=given.workers,
        faults=faults,
        pause=given.pause,
        seed=given.seed,
        binary=VALKEY if given.valkey else REDIS,
        scripts=given.scripts,
    )
    print(report(seen))
    return int(bool(seen.wrong))


if __name__ == "__main__":
    sys.exit(main())

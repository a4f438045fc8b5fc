"""What several workers and Redis cost, for docs/scale-out-proofs.md.

    python -m tests.bench.redis_costs            # some minutes
    python -m tests.bench.redis_costs --quick

Pairs a second of 1, 2 and 3 workers in turns within one run, beside one worker on its own store; what of the
CPU is the workers' and what is Redis'; and the memory that Redis needs for a waiting peer and for a pair.
Clients, workers and Redis share the machine, so where there are few cores the rates say less than the costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from random import Random

from live import Server
from redis_server import RedisServer
from signal_server.matching.rules import Times
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.messages import Arrival

from .client import CLIENTS, HIGH, SIGNAL, Client, cpu_seconds, form, machine, pair

CALLS = ("cmdstat_fcall", "cmdstat_evalsha")
"""How a script is called, by Redis' age."""

TIMES = Times(request=60_000, answer=60_000, write=60_000, pair_memory=3_600_000)


def rate(server: Server, redis: RedisServer, seconds: float, clients: int = CLIENTS) -> dict[str, float]:
    async def run() -> tuple[int, list[float]]:
        waits: list[float] = []
        until = time.monotonic() + seconds
        done = await asyncio.gather(*(pair(server.port, until, number, waits) for number in range(clients)))
        return sum(done), waits

    workers = server.workers
    before = sum(map(cpu_seconds, workers)), cpu_seconds(redis.process.pid), time.monotonic()
    done, waits = asyncio.run(run())
    after = sum(map(cpu_seconds, workers)), cpu_seconds(redis.process.pid), time.monotonic()
    waits.sort()
    return {
        "pairs_per_second": done / (after[2] - before[2]),
        "worker_cpu_us_per_pair": (after[0] - before[0]) / done * 1e6,
        "redis_cpu_us_per_pair": (after[1] - before[1]) / done * 1e6,
        "p50_ms": waits[len(waits) // 2] * 1000,
        "p99_ms": waits[int(len(waits) * 0.99)] * 1000,
    }


def wakes(port: int, per_second: float, seconds: float) -> dict[str, float]:
    """How long after an answer was sent its initiator has it, and its sender DELIVERED.

    So many pairs a second meet, each peer on a connection of its own, so most pairs are of two workers.
    """

    async def meet(number: int, answered: list[float], delivered: list[float]) -> None:
        async with Client(port) as alice, Client(port) as bob:
            name, room = f"{started:.3f}.{number}", number
            held = asyncio.ensure_future(alice.ask(form(f"a{name}", SIGNAL, room)))
            await asyncio.sleep(0.5)  # she waits by then
            told = json.loads(await bob.ask(form(f"b{name}", SIGNAL, room)))
            assert told["TYPE"] == "DEMOTE", told
            sent = time.perf_counter()
            held.add_done_callback(lambda _: answered.append(time.perf_counter() - sent))
            last = json.loads(await bob.ask(form(f"b{name}", SIGNAL, room, told["NONCE"])))
            delivered.append(time.perf_counter() - sent)
            assert last["TYPE"] == "DELIVERED", last
            assert json.loads(await held)["TYPE"] == "ANSWER"

    async def run() -> tuple[list[float], list[float]]:
        answered: list[float] = []
        delivered: list[float] = []
        pairs = set()
        for number in range(round(per_second * seconds)):
            await asyncio.sleep(max(0.0, started + due[number] - time.monotonic()))
            pairs.add(asyncio.ensure_future(meet(number, answered, delivered)))
        await asyncio.gather(*pairs)
        return answered, delivered

    random = Random(1)
    due = sorted(random.uniform(0, seconds) for _ in range(round(per_second * seconds)))
    started = time.monotonic()
    return {
        f"{what}_{name}_ms": sorted(waits)[int(len(waits) * share)] * 1000
        for what, waits in zip(("answer", "delivered"), asyncio.run(run()), strict=True)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    }


def arrival(number: int, pool: str = "open:") -> Arrival:
    name = number.to_bytes(16, "big")
    return Arrival(f"{number:016d}", pool, name, name, SIGNAL, name, TIMES.request)


def used_memory(redis: RedisServer) -> int:
    return int(redis.call("INFO", "memory")["used_memory"])


def memory(count: int) -> dict[str, float]:
    """Bytes in Redis for a waiting peer with an offer of 1.5 KB, and for a remembered pair."""
    with RedisServer() as redis:
        store = RedisStore(Servers(redis.url, timeout_seconds=10), TIMES, sweep_ms=10**6, lease_ms=10**9)
        one = arrival(0)
        store.connect(one, may_wait=True)
        before = used_memory(redis)
        for number in range(1, count + 1):  # one peer with many requests, so that they wait side by side
            each = arrival(number)
            store.connect(replace(each, peer=one.peer), may_wait=True)
        waiting = (used_memory(redis) - before) / count
    with RedisServer() as redis:
        store = RedisStore(
            Servers(redis.url, timeout_seconds=10), TIMES, sweep_ms=10**6, shards=1, lease_ms=10**9
        )
        before, cpu = used_memory(redis), cpu_seconds(redis.process.pid)
        for number in range(1, count + 1):
            room = f"open:{number}"
            store.connect(arrival(2 * number, room), may_wait=True)
            (told,) = store.connect(arrival(2 * number + 1, room), may_wait=True).deliveries
            store.answer(arrival(2 * number + 1, room), told.reply.nonce)
            store.claim(told.reply.nonce)
            store.settle(told.reply.nonce, written=True)
        cpu = (cpu_seconds(redis.process.pid) - cpu) / count
        for key in redis.lifetimes():
            if key.endswith((":handovers", ":due")):  # which go when their time is over
                redis.call("DEL", key)
        pairs = (used_memory(redis) - before) / count
    return {
        "bytes_per_waiting_peer": waiting,
        "bytes_of_them_without_the_offer": waiting - len(SIGNAL),
        "bytes_per_remembered_pair": pairs,
        "redis_cpu_us_for_the_five_scripts_of_a_pair": cpu * 1e6,
    }


def scripts(rounds: int, count: int) -> dict[str, float]:
    """Microseconds of Redis for each script, the best of some rounds."""
    best: dict[str, float] = {}

    def took(name: str) -> None:
        told = redis.call("INFO", "commandstats")
        usec = sum(float(told[name]["usec"]) for name in CALLS if name in told) / count
        best[name] = min(usec, best.get(name, usec))
        redis.call("CONFIG", "RESETSTAT")

    with RedisServer() as redis:
        servers = Servers(redis.url, timeout_seconds=10)
        for _ in range(rounds):
            redis.call("FLUSHALL")
            store = RedisStore(servers, TIMES, sweep_ms=10**6, shards=1, lease_ms=10**9)
            store.connect(arrival(0), may_wait=True)
            rooms = [f"open:{number}" for number in range(count)]
            redis.call("CONFIG", "RESETSTAT")
            for number, room in enumerate(rooms):
                store.connect(arrival(2 * number, room), may_wait=True)
            took("connect, and wait")
            told = [
                store.connect(arrival(2 * number + 1, room), may_wait=True).deliveries[0].reply.nonce
                for number, room in enumerate(rooms)
            ]
            took("connect, and match")
            for number, room in enumerate(rooms):
                store.answer(arrival(2 * number + 1, room), told[number])
            took("answer")
            for nonce in told:
                store.claim(nonce)
            took("claim")
            for nonce in told:
                store.settle(nonce, written=True)
            took("settle")
            for _ in range(count):
                store.expire()
            took("poll")
    return best


def main(*, quick: bool) -> None:
    rounds, seconds = (1, 2.0) if quick else (5, 6.0)
    print(machine())
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        shared = {"SECRET_KEY": "bench", "REDIS_URL": redis.url, "LOG": "off"}
        servers = {"memory": stack.enter_context(Server(limits=True, LOG="off", **HIGH))}
        for count in (1, 2, 3):
            servers[str(count)] = stack.enter_context(
                Server(limits=True, **HIGH, **shared, WEB_CONCURRENCY=count)
            )
        found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                found[name].append(rate(server, redis, seconds))
        for name, server in servers.items():
            found[f"{name}, one pair at a time"] = [rate(server, redis, seconds, 1)]
        for per_second in (20, 100, 200):
            found[f"3, {per_second} pairs a second"] = [
                wakes(servers["3"].port, per_second, 10 * seconds / 6)
            ]
    for name, measured in found.items():
        line = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        print(f"{name:>28}  " + "  ".join(f"{key} {value:.1f}" for key, value in line.items()))
    for key, value in scripts(rounds * 2, 500).items():
        print(f"{key:>46} {value:.1f} us")
    for key, value in memory(1_000 if quick else 20_000).items():
        print(f"{key:>46} {value:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    main(quick=parser.parse_args().quick)

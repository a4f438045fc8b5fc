"""Measures this server beside others, in one run: for docs/performance.md.

    python -m tests.bench                 # some 10 minutes; prints tables
    python -m tests.bench --write         # and puts them, the plot and the profile into docs/performance.md
    python -m tests.bench --quick         # a few seconds; the suite runs it

It needs a C compiler, the packages of tests/requirements.txt, this project's git history (for the earlier
commit), npm (for PeerJS's server) and redis-server; and for the profile the right to look into other
processes. The servers run on the first core and the load generator on the last one. Every limit is on, and
too high to hit. All servers run from the beginning to the end and are measured in turns, because machines are
noisy: trust ratios, and the CPU time of a pair before pairs a second. Traffic goes to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from redis_server import RedisServer

from . import inside, profile, redis_costs, report, servers, signed
from .measure import Crowd, Load, Rate, compiled, median
from .servers import Started

OURS, UNSEEN, EARLIER = "Spacerift", "Spacerift, heads never seen twice", f"Spacerift at {servers.EARLIER}"
PEERJS, NOTHING = "PeerJS's server (Node)", "N: a Flask view that does nothing"
MOUNTED, MOUNTED_EARLIER = "mounted, stock gunicorn", f"mounted, stock gunicorn, at {servers.EARLIER}"

Load_ = tuple[int, bool]
"""Pairs at once, and whether connections are kept."""


@dataclass
class Results:
    """What was measured. The keys are names of servers, and loads."""

    rates: dict[tuple[str, Load_], Rate] = field(default_factory=dict)
    crowds: dict[tuple[str, int], Crowd] = field(default_factory=dict)
    redis: dict[tuple[str, Load_], tuple[Rate, float]] = field(default_factory=dict)
    """With the µs of Redis' own CPU for a pair."""
    wakes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Times in ms over two workers, by commit; see `redis_costs.wakes`."""
    signed: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """Pairs a second, and ms of CPU for one, by commit and engine."""
    forgeries: dict[str, list[float]] = field(default_factory=dict)
    """The p99 in ms of an unsigned pair, alone and beside bad signatures, by engine."""
    inside: inside.Inside | None = None
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)
    """µs of a pair, by part, for new and for kept connections."""


@dataclass(frozen=True)
class Plan:
    at_once: tuple[int, ...]
    rounds: int
    warm: float
    seconds: float
    crowds: tuple[int, ...]
    upkeep_seconds: float


LONG = Plan(at_once=(64, 256, 1), rounds=3, warm=0.7, seconds=2, crowds=(2_000, 10_000), upkeep_seconds=16)
SHORT = Plan(at_once=(16,), rounds=1, warm=0.3, seconds=0.7, crowds=(200,), upkeep_seconds=1)


@contextlib.contextmanager
def running(folder: Path, *, quick: bool) -> Iterator[dict[str, Started]]:
    """All servers that are measured, by name."""
    with ExitStack() as stack:

        def add(started: Started) -> None:
            stack.callback(started.stop)
            found[started.name] = started

        found: dict[str, Started] = {}
        add(servers.ours(OURS))
        add(servers.nothing(NOTHING))
        if not quick:
            tree = stack.enter_context(servers.earlier(folder))
            add(servers.ours(EARLIER, tree))
            add(servers.peerjs(PEERJS, folder))
            add(servers.mounted(MOUNTED))
            add(servers.mounted(MOUNTED_EARLIER, tree))
        yield found


def measure_rates(load: Load, found: dict[str, Started], plan: Plan, results: Results) -> None:
    names = {OURS: OURS, UNSEEN: OURS} | {name: name for name in found}
    for at_once, kept in itertools.product(plan.at_once, (False, True)):
        rounds: dict[str, list[Rate]] = {}
        for _ in range(plan.rounds):
            for name, server in names.items():
                if name in (MOUNTED, MOUNTED_EARLIER) and at_once != 64:
                    continue
                each = load.rate(
                    found[server],
                    at_once=at_once,
                    kept=kept,
                    unseen=name == UNSEEN,
                    warm=plan.warm,
                    seconds=plan.seconds,
                )
                rounds.setdefault(name, []).append(each)
        for name, measured in rounds.items():
            results.rates[name, (at_once, kept)] = median(measured)
            print(report.progress(name, at_once, kept, results.rates[name, (at_once, kept)]), flush=True)


def measure_crowds(load: Load, folder: Path, plan: Plan, results: Results, *, quick: bool) -> None:
    """Each on a server of its own, whose memory holds nothing else."""
    with ExitStack() as stack:
        starts = {OURS: lambda: servers.ours(OURS)}
        if not quick:
            tree = stack.enter_context(servers.earlier(folder))
            starts |= {
                EARLIER: lambda: servers.ours(EARLIER, tree),
                PEERJS: lambda: servers.peerjs(PEERJS, folder),
            }
        for waiting in plan.crowds:
            for name, begin in starts.items():
                server = begin()
                try:
                    crowd = results.crowds[name, waiting] = load.crowd(server, waiting, plan.upkeep_seconds)
                finally:
                    server.stop()
                print(f"  {name}: {crowd}", flush=True)


def measure_signed(folder: Path, plan: Plan, results: Results) -> None:
    with servers.earlier(folder) as tree:
        results.signed = signed.rates(plan.seconds, {OURS: servers.ROOT, EARLIER: tree})
    results.forgeries = signed.beside_forgeries(4 * plan.seconds)


def measure_redis(load: Load, folder: Path, plan: Plan, results: Results) -> None:
    with ExitStack() as stack:
        tree = stack.enter_context(servers.earlier(folder))
        for name, root in ((OURS, servers.ROOT), (EARLIER, tree)):
            with RedisServer() as redis:
                two = servers.ours(name, root, REDIS_URL=redis.url, SECRET_KEY="bench", WEB_CONCURRENCY=2)
                try:
                    results.wakes[name] = redis_costs.wakes(two.port, per_second=200, seconds=8)
                finally:
                    two.stop()
            with RedisServer() as redis:
                servers.pin(redis.process.pid, servers.cores()[1])
                server = servers.ours(name, root, REDIS_URL=redis.url, SECRET_KEY="bench")
                try:
                    for at_once, kept in ((64, False), (64, True)):
                        found = [
                            load.rate_with(
                                server,
                                redis.process.pid,
                                at_once=at_once,
                                kept=kept,
                                warm=plan.warm,
                                seconds=plan.seconds,
                            )
                            for _ in range(plan.rounds)
                        ]
                        rate = median([each for each, _ in found])
                        beside = sorted(us for _, us in found)[len(found) // 2]
                        results.redis[name, (at_once, kept)] = rate, beside
                        print(f"  Redis: {beside:.0f} µs,{report.progress(name, at_once, kept, rate)}")
                finally:
                    server.stop()


def measure_all(*, quick: bool) -> Results:
    plan = SHORT if quick else LONG
    results = Results()
    with tempfile.TemporaryDirectory(prefix="spacerift-bench-") as name:
        folder = Path(name)
        load = Load(compiled(folder))
        results.inside = inside.measure(quick=quick)
        if not quick:
            measure_signed(folder, plan, results)
            measure_redis(load, folder, plan, results)
        with running(folder, quick=quick) as found:
            measure_rates(load, found, plan, results)
            if not quick:
                results.profiles = profile.measure(load, found[OURS], folder, seconds=12)
        measure_crowds(load, folder, plan, results, quick=quick)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, and only what needs no network")
    parser.add_argument("--write", action="store_true", help="put the results into docs/performance.md")
    options = parser.parse_args()
    os.chdir(servers.ROOT)
    results = measure_all(quick=options.quick)
    text = report.tables(results)
    print(text)
    if options.write:
        report.write(results, text, servers.ROOT / "docs")


if __name__ == "__main__":
    main()

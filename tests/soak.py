"""A server that links for an hour, and what it takes: memory, descriptors, greenlets, processes, keys.

    PYTHONPATH=. python tests/soak.py --seconds 3600 --samples memory.jsonl
    PYTHONPATH=. python tests/soak.py --seconds 3600 --samples redis.jsonl --redis --pairs 200
    PYTHONPATH=. python tests/soak.py --draw memory.jsonl redis.jsonl --plot docs/soak.png

Peers come from 16,000 addresses. Most link in a room of their own; others meet in shared ones, hang up,
LEAVE, wait in vain, bounce, keep silent about an offer, meet again, and sign, some of them badly. The limits
are in force. Pairs are remembered for PAIR_MEMORY_SECONDS and not for an hour, so that their memory is full
before the slope is taken, which is from the first third on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gevent

from honest import quantile
from live import Server
from redis_server import RedisServer
from scenes import Play

PAIR_MEMORY_SECONDS = 600
SAMPLE_SECONDS = 10


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        with suppress(FileNotFoundError):  # it has ended since
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found


def sample(server: Server, redis: RedisServer | None) -> dict[str, float]:
    """What it takes now; of its workers together."""
    while "waiting" not in (counts := server.statistics()):
        gevent.sleep(1)  # Redis was too slow
    workers = server.workers
    living: dict[int, dict[str, int]] = {}
    while len(living) < len(workers):
        told = json.loads(server.get("/test/living")[2])
        living[told["pid"]] = told
    taken: dict[str, float] = {
        "memory": server.memory_mib(),
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
        "greenlets": sum(each["greenlets"] for each in living.values()),
        "objects": sum(each["objects"] for each in living.values()),
        "processes": len(family(server.process.pid)) - len(workers) - 1,
        "waiting": counts["waiting"],
        "pairs": counts["pairs"],
    }
    if redis is not None:
        taken["keys"] = redis.call("DBSIZE")
        taken["redis memory"] = redis.call("INFO", "memory")["used_memory"] / 2**20
    return taken


def soak(
    server: Server, redis: RedisServer | None, play: Play, *, every: float, **how: Any
) -> Iterator[dict[str, float]]:
    """Let them play, and sample the server now and then, and once more when nobody is there.

    Args:
        how: they play; see `Play.go_on`.

    Yields:
        what `sample` gives, with the seconds since the start (`at`) and the pairs so far (`linked`).
    """
    started = time.monotonic()
    peers = gevent.spawn(play.go_on, **how)
    while not peers.ready():
        yield sample(server, redis) | {"at": time.monotonic() - started, "linked": play.linked}
        gevent.wait([peers], timeout=every)
    peers.get()
    gevent.sleep(2)
    yield sample(server, redis) | {"at": time.monotonic() - started, "linked": play.linked}


def settled(samples: list[dict[str, float]]) -> list[dict[str, float]]:
    """Those under load, after the first third."""
    under_load = samples[:-1]
    return [each for each in under_load if each["at"] > under_load[-1]["at"] / 3]


def slope(samples: list[dict[str, float]], what: str) -> float:
    """Of a straight line through what was sampled, for an hour; NaN if that is not two samples."""
    if len(samples) < 2:
        return float("nan")
    points = [(each["at"] / 3600, each[what]) for each in samples]
    x_mean, y_mean = (sum(values) / len(points) for values in zip(*points, strict=True))
    above = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return above / sum((x - x_mean) ** 2 for x, _ in points)


def told(samples: list[dict[str, float]]) -> str:
    """Each figure at the start, under load (mean, least and most) and at the end, and its slope."""
    under_load = settled(samples)
    lines = [f"{'':14} {'start':>9} {'mean':>9} {'least':>9} {'most':>9} {'after':>9} {'an hour':>10}"]
    for name in samples[0]:
        if name in ("at", "linked"):
            continue
        values = [each[name] for each in under_load]
        figures = (samples[0][name], sum(values) / len(values), min(values), max(values), samples[-1][name])
        lines.append(
            f"{name:14} "
            + " ".join(f"{each:9.1f}" for each in figures)
            + f" {slope(under_load, name):+10.2f}"
        )
    return "\n".join(lines)


SHOWN = {
    "memory": "memory of the workers, MB",
    "descriptors": "descriptors",
    "greenlets": "greenlets",
    "processes": "processes beside the workers (those that run gpg among them)",
    "keys": "keys in Redis",
    "redis memory": "memory of Redis, MB",
}


def draw(runs: dict[str, list[dict[str, float]]], path: str) -> None:
    """What was taken over time, for docs/reliability.md."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 2, figsize=(10, 7), layout="constrained", sharex=True)
    for axis, (name, title) in zip(axes.flat, SHOWN.items(), strict=True):
        for run, samples in runs.items():
            if name in samples[0]:
                minutes = [each["at"] / 60 for each in samples]
                colour = f"C{list(runs).index(run)}"
                axis.plot(minutes, [each[name] for each in samples], colour, label=run, linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=100)


def read(path: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


SETTINGS: dict[str, object] = {
    "LOG": "off",
    "PAIR_MEMORY_TTL": PAIR_MEMORY_SECONDS,
    "SIGNATURES": "optional",
    "SECRET_KEY": "soak",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pairs", type=float, default=500, help="a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pair-memory", type=float, default=PAIR_MEMORY_SECONDS, help="in seconds")
    parser.add_argument("--redis", action="store_true", help="with two workers on Redis, and Sequoia")
    parser.add_argument("--unsigned", action="store_true", help="nobody signs")
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    parser.add_argument("--samples", default=os.devnull, help="a file for what is sampled, a line each")
    parser.add_argument("--draw", nargs="+", help="files of samples, each named after its run")
    parser.add_argument("--plot", help="a file for their picture")
    options = parser.parse_args()
    if options.draw:
        runs = {Path(each).stem: read(each) for each in options.draw}
        for run, samples in runs.items():
            print(f"{run}\n{told(samples)}")
        if options.plot:
            draw(runs, options.plot)
        return 0
    Server.driver = options.driver
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer()) if options.redis else None
        shared: dict[str, object] = (
            {"REDIS_URL": redis.url, "WEB_CONCURRENCY": 2, "OPENPGP": "sequoia"} if redis else {}
        )
        shared["PAIR_MEMORY_TTL"] = options.pair_memory
        server = stack.enter_context(Server(limits=True, **SETTINGS | shared))
        out = stack.enter_context(open(options.samples, "w"))
        play, samples = Play(server.port, options.seed), []
        how = {"pairs": options.pairs, "seconds": options.seconds, "unsigned": options.unsigned}
        for each in soak(server, redis, play, every=SAMPLE_SECONDS, **how):
            samples.append(each)
            print(json.dumps(each), file=out, flush=True)
        stacks = server.log.count("Traceback")
    took = time.process_time() / samples[-1]["at"]
    print(f"{play.linked} pairs, {play.linked / options.seconds:.0f} a second;", end=" ")
    print(
        f"p50 {quantile(play.waits, 0.5) * 1000:.0f} ms, p99 {quantile(play.waits, 0.99) * 1000:.0f} ms;",
        end=" ",
    )
    print(f"scenes {dict(play.done)}; odd {dict(play.odd)}; stacks {stacks}; our share of a core {took:.2f}")
    print(told(samples))
    return min(1, stacks)


if __name__ == "__main__":
    sys.exit(main())

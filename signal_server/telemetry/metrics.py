"""What `GET /metrics` tells Prometheus. No label names a namespace, an address or a peer.

The counts are plain numbers, read when somebody asks: prometheus_client's own counters would take longer for
a request than the whole of its matching. Under several gunicorn workers each writes its counts into a file in
`PROMETHEUS_MULTIPROC_DIR` (see gunicorn.conf.py) once a second, and the worker that is asked adds all of them
up. The gauges are the store's, which is one.
"""

from __future__ import annotations

import functools
import json
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..errors import Unavailable

REQUEST_BUCKETS: Final = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 15, 20)
OPENPGP_BUCKETS: Final = (0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 3)

PUBLISH_SECONDS: Final = 1.0
"""The pause between two writes of a worker's counts."""

GAUGES: Final = {
    "waiting": ("waiting", "Requests that wait for a peer"),
    "offered": ("offered", "Requests whose offer is out with a peer that is to answer it"),
    "pools": ("pools", "Pools in which a request waits or is offered"),
    "pairs": ("pairs_remembered", "Pairs that are not matched again for a while"),
}
"""By the store's name for it: ours, and what it means."""

TOTALS: Final = {
    "pairs": "Answers that were delivered",
    "answers_lost": "Answers whose receiver had left",
    "ghosts": "Offers handed to a peer that had left, and taken back",
    "unnamed_requests": "Requests with fewer addresses in X-Forwarded-For than proxies are trusted",
    "hours_without_hang_ups": "Hours in which many waited in vain and no client was seen to leave",
}

Statistics = Callable[[], dict[str, int]]


class Metrics:
    """The counts of a process; take them from `process_metrics`.

    Attributes:
        refusals: requests that were refused by a limit, by its name.
        totals: see `TOTALS`.
    """

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        # By labels: how many fell into each bucket, in one above all of them, and the sum of seconds.
        self._requests: dict[tuple[str, ...], list[float]] = {}
        self._openpgp: dict[tuple[str, ...], list[float]] = {}
        self._published = 0.0

    def request(self, reply: str, status: str, seconds: float) -> None:
        """Count a request by how it ended, and the time it took."""
        row = self._requests.get((reply, status))
        if row is None:
            row = self._requests.setdefault((reply, status), _row(REQUEST_BUCKETS))
        row[bisect_left(REQUEST_BUCKETS, seconds)] += 1
        row[-1] += seconds

    def openpgp(self, operation: str) -> AbstractContextManager[None]:
        """Take the time of a signature that is made or verified."""
        row = self._openpgp.get((operation,))
        return _Timed(row or self._openpgp.setdefault((operation,), _row(OPENPGP_BUCKETS)))

    def limit_hit(self, limit: str) -> None:
        """Count a request that a limit refused."""
        self.refusals[limit] += 1

    def paired(self) -> None:
        self.totals["pairs"] += 1

    def answer_lost(self) -> None:
        self.totals["answers_lost"] += 1

    def ghost(self) -> None:
        self.totals["ghosts"] += 1

    def publish(self, *, now: bool = False) -> None:
        """Write the counts where the other workers find them, once a second at most."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        moment = time.monotonic()
        if not folder or (not now and moment < self._published + PUBLISH_SECONDS):
            return
        self._published = moment
        path = Path(folder, f"spacerift-{os.getpid()}")
        with suppress(OSError):  # a full disk costs the counts, and nothing else
            path.with_suffix(".new").write_text(json.dumps(self.counts()))
            path.with_suffix(".new").replace(path.with_suffix(".json"))

    def counts(self) -> dict[str, dict[str, Any]]:
        """All counts, by the name of their metric."""
        return {
            "requests": {" ".join(labels): row for labels, row in self._requests.items()},
            "openpgp": {" ".join(labels): row for labels, row in self._openpgp.items()},
            "refusals": self.refusals,
            "totals": self.totals,
        }


@functools.cache
def process_metrics() -> Metrics:
    """One for the process, whose file has one name."""
    return Metrics()


def exposition(metrics: Metrics, statistics: Statistics) -> bytes:
    """The counts of all workers, and the store's, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Store(statistics))
    registry.register(_Counts(metrics))
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Timed:
    """Adds the time of a block to a row of `OPENPGP_BUCKETS`."""

    __slots__ = ("_row", "_started")

    def __init__(self, row: list[float]) -> None:
        self._row = row

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        self._row[bisect_left(OPENPGP_BUCKETS, seconds)] += 1
        self._row[-1] += seconds


def _row(buckets: tuple[float, ...]) -> list[float]:
    return [0] * (len(buckets) + 1) + [0.0]


class _Counts(Collector):
    """The counts of this process or, where workers share a folder, of all that have ever been there."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        counts = self._all()
        yield _histogram(
            "spacerift_request_seconds",
            "From a request to its reply. ANSWER: the time to pair. HUNG_UP: the client left",
            ["reply", "status"],
            REQUEST_BUCKETS,
            counts["requests"],
        )
        yield _histogram(
            "spacerift_openpgp_seconds",
            "Signatures made and verified",
            ["operation"],
            OPENPGP_BUCKETS,
            counts["openpgp"],
        )
        refused = CounterMetricFamily("spacerift_limits_hit", "Requests refused by a limit", labels=["limit"])
        for limit, count in counts["refusals"].items():
            refused.add_metric([limit], count)
        yield refused
        for name, meaning in TOTALS.items():
            yield CounterMetricFamily(f"spacerift_{name}", meaning, value=counts["totals"].get(name, 0))

    def _all(self) -> dict[str, dict[str, Any]]:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            return self._metrics.counts()
        self._metrics.publish(now=True)
        summed: dict[str, dict[str, Any]] = {name: {} for name in self._metrics.counts()}
        for path in Path(folder).glob("spacerift-*.json"):
            for name, rows in json.loads(path.read_text()).items():
                for labels, value in rows.items():
                    summed[name][labels] = _sum(summed[name].get(labels), value)
        return summed


def _sum(one: Any, other: Any) -> Any:
    if one is None:
        return other
    return [a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other


def _histogram(
    name: str, meaning: str, labels: list[str], buckets: tuple[float, ...], rows: dict[str, list[float]]
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, (*counts, seconds) in rows.items():
        ends = [*(str(float(each)) for each in buckets), "+Inf"]
        summed = [sum(counts[: place + 1]) for place in range(len(counts))]
        family.add_metric(values.split(" "), list(zip(ends, summed, strict=True)), seconds)
    return family


class _Store(Collector):
    """The gauges, of the moment in which they are read."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        try:
            counts = self._statistics()
        except Unavailable:
            counts = {}
        yield GaugeMetricFamily("spacerift_store_up", "Whether the store answers", value=bool(counts))
        for key, (name, meaning) in GAUGES.items():
            if key in counts:
                yield GaugeMetricFamily(f"spacerift_{name}", meaning, value=counts[key])

"""What `GET /metrics` tells Prometheus. No label names a namespace, an address or a peer.

Under several gunicorn workers each writes its counts into files of its own in `PROMETHEUS_MULTIPROC_DIR` (see
gunicorn.conf.py), and whoever is asked adds all of them up. The gauges are the store's, which is one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ..errors import Unavailable

REQUEST_BUCKETS: Final = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 15, 20)
OPENPGP_BUCKETS: Final = (0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 3)

GAUGES: Final = {
    "waiting": ("waiting", "Requests that wait for a peer"),
    "offered": ("offered", "Requests whose offer is out with a peer that is to answer it"),
    "pools": ("pools", "Pools with anything in them"),
    "pairs": ("pairs_remembered", "Pairs that are not matched again for a while"),
}
"""By the store's name for it: ours, and what it means."""

Statistics = Callable[[], dict[str, int]]


class Metrics:
    """The counts of a process; take them from `process_metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "spacerift_request_seconds",
            "From a request to its reply. ANSWER: the time to pair. HUNG_UP: the client left",
            ["reply", "status"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._limits_hit = Counter(
            "spacerift_limits_hit", "Requests refused by a limit", ["limit"], registry=self.registry
        )
        self._openpgp = Histogram(
            "spacerift_openpgp_seconds",
            "Signatures made and verified",
            ["operation"],
            buckets=OPENPGP_BUCKETS,
            registry=self.registry,
        )
        self.pairs = Counter("spacerift_pairs", "Answers that were delivered", registry=self.registry)
        self.answers_lost = Counter(
            "spacerift_answers_lost", "Answers whose receiver had left", registry=self.registry
        )
        self.ghosts = Counter(
            "spacerift_ghosts",
            "Offers handed to a peer that had left, and taken back",
            registry=self.registry,
        )
        # `labels` costs more than the observation itself.
        self.request = functools.cache(self._requests.labels)
        self.limit_hit = functools.cache(self._limits_hit.labels)
        self.openpgp = functools.cache(self._openpgp.labels)

    def paired(self) -> None:
        self.pairs.inc()

    def answer_lost(self) -> None:
        self.answers_lost.inc()

    def ghost(self) -> None:
        self.ghosts.inc()

    def refusals(self) -> dict[str, int]:
        """How many requests this process has refused, by limit."""
        return {
            sample.labels["limit"]: int(sample.value)
            for metric in self._limits_hit.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }


@functools.cache
def process_metrics() -> Metrics:
    """One for the process, for its files have room for no second one with the same names."""
    return Metrics()


def exposition(metrics: Metrics, statistics: Statistics) -> bytes:
    """The counts of all workers, and the store's, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Store(statistics))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry.register(_AllWorkers())
        return generate_latest(registry)
    ProcessCollector(registry=registry)
    return generate_latest(registry) + generate_latest(metrics.registry)


class _AllWorkers(Collector):
    """The counts of all workers, and of those that have ended. An application's own stay out."""

    def collect(self) -> Iterator[Metric]:
        files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db")
        # The file of a worker that is just beginning is empty for a moment, and the reader takes that ill.
        begun = [str(each) for each in files if each.stat().st_size]
        for metric in MultiProcessCollector.merge(begun):  # type: ignore[no-untyped-call]
            if metric.name.startswith("spacerift_"):
                yield metric


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

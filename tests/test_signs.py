"""Signs that a proxy hides what the server must know."""

from __future__ import annotations

import logging

import pytest

from live import Server
from signal_server.telemetry.metrics import Metrics
from signal_server.telemetry.signs import HOUR_SECONDS, MANY_WAITS, ProxySigns


def hour_of(metrics: Metrics, signs: ProxySigns, now: float, *, waits: int, hang_ups: int) -> float:
    """Let an hour pass with so many of each. Returns its end."""
    for _ in range(waits):
        metrics.request("NO_PEER", "299", 15.0)
    for _ in range(hang_ups):
        metrics.request("HUNG_UP", "", 3.0)
    signs.look(now + HOUR_SECONDS)
    return now + HOUR_SECONDS


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_an_hour_in_which_nobody_leaves_is_told_and_counted(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    signs, now = ProxySigns(metrics, trusted_proxies=1), 1e9
    told = []
    for waits, hang_ups in [(MANY_WAITS, 0), (MANY_WAITS, 1), (MANY_WAITS, 0), (MANY_WAITS - 1, 0)]:
        now = hour_of(metrics, signs, now, waits=waits, hang_ups=hang_ups)
        told.append(metrics.totals["hours_without_hang_ups"])
    assert told == [1, 1, 2, 2]
    assert caplog.text.count("hung up") == 2


def test_what_ends_at_once_is_no_wait(metrics: Metrics) -> None:
    signs = ProxySigns(metrics, trusted_proxies=1)
    for _ in range(MANY_WAITS):
        metrics.request("NO_PEER", "299", 0.001)  # an answer to somebody who is gone
    hour_of(metrics, signs, 1e9, waits=0, hang_ups=0)
    assert metrics.totals["hours_without_hang_ups"] == 0


def test_it_looks_once_an_hour(metrics: Metrics) -> None:
    signs = ProxySigns(metrics, trusted_proxies=1)
    now = hour_of(metrics, signs, 1e9, waits=MANY_WAITS, hang_ups=0)
    for _ in range(MANY_WAITS):
        metrics.request("NO_NAMESPACE_PEER", "298", 15.0)
    signs.look(now + HOUR_SECONDS - 1)
    assert metrics.totals["hours_without_hang_ups"] == 1
    signs.look(now + HOUR_SECONDS)
    assert metrics.totals["hours_without_hang_ups"] == 2


def test_too_few_addresses_are_told_once(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    signs = ProxySigns(metrics, trusted_proxies=2)
    with caplog.at_level(logging.WARNING):
        signs.unnamed()
        signs.unnamed()
    assert caplog.text.count("SPACERIFT_TRUSTED_PROXIES=2") == 1
    assert metrics.totals["unnamed_requests"] == 2


@pytest.mark.parametrize(
    ("trusted", "forwarded", "is_told"),
    [(1, None, True), (2, "192.0.2.1", True), (1, "192.0.2.1", False), (0, None, False)],
)
def test_a_request_without_its_addresses_is_noticed(
    trusted: int, forwarded: str | None, is_told: bool
) -> None:
    with Server(TRUSTED_PROXIES=trusted) as server:
        headers = {"X-Forwarded-For": forwarded} if forwarded else {}
        for _ in range(2):
            assert server.post({}, headers=headers).status == 499
        assert server.log.count("fewer addresses") == (1 if is_told else 0)
        unnamed = 2 if is_told else 0
        assert f"spacerift_unnamed_requests_total {unnamed}.0" in server.get("/metrics")[2].decode()

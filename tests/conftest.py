"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest

from live import Call, Server

# A shell that runs us in the background has Ctrl-C ignored, and so would be all that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

BY_BOTH_DRIVERS = {
    "test_floods",
    "test_hostile",
    "test_live",
    "test_live_words",
    "test_drain",
    "test_restarts",
}
"""Tests that each driver must pass: our worker's callbacks, and WSGI on gunicorn's own gevent worker."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ in BY_BOTH_DRIVERS:
        metafunc.parametrize("driver", ["callbacks", "wsgi"], indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def driver(request: pytest.FixtureRequest) -> str:
    """Which driver the servers of these tests have."""
    Server.driver = getattr(request, "param", "callbacks")
    return Server.driver


@pytest.fixture(scope="session")
def server(driver: str) -> Iterator[Server]:
    """One server with the protocol's times, without limits, for the tests that need nothing else."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def quick(driver: str) -> Iterator[Server]:
    """One server with short times: 1 s for a request, 0.4 s for an answer."""
    with Server(REQUEST_TIMEOUT=1, ANSWER_TIMEOUT=0.4) as running:
        yield running


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    """A test may leave its connections open; the next one finds empty pools."""
    yield
    for call in list(Call.open):
        call.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a test that failed goes what the servers said that it shares with others."""
    report = yield
    if report.when == "call" and report.failed:
        report.sections += [("server", server.last_words()) for server in Server.running]
    return report

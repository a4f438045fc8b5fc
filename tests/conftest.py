"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from live import Call, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server with the protocol's times, without limits, for the tests that need nothing else."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def quick() -> Iterator[Server]:
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

"""The greenlets of steps that may wait."""

from __future__ import annotations

import gc
import logging
import weakref

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event
from greenlet import getcurrent

from signal_server.http.steps import MOST_IDLE, Steps
from signal_server.http.steps import log as steps_log


def test_they_are_taken_in_their_order_and_not_at_once() -> None:
    steps, taken = Steps(), []
    for number in range(3):
        steps.begin(taken.append, number)
    assert taken == []
    gevent.sleep(0)
    assert taken == [0, 1, 2]


def test_one_that_waits_keeps_nobody_waiting() -> None:
    steps, go_on, taken = Steps(), Event(), []

    def wait() -> None:
        go_on.wait()
        taken.append("waited")

    steps.begin(wait)
    steps.begin(taken.append, "next")
    gevent.sleep(0)
    assert taken == ["next"]
    go_on.set()
    gevent.sleep(0.01)
    assert taken == ["next", "waited"]


def test_a_greenlet_takes_one_step_after_the_other(caplog: pytest.LogCaptureFixture) -> None:
    steps, seen = Steps(), []

    def fail() -> None:
        seen.append(getcurrent())
        raise ValueError("on purpose")

    for _ in range(3):
        steps.begin(fail)
        gevent.sleep(0)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    levels = [each.levelno for each in caplog.records if each.name == steps_log.name]
    assert levels == [logging.ERROR] * 3


def test_whatever_else_wakes_an_idle_one_is_no_step() -> None:
    steps, seen, taken = Steps(), [], []
    steps.begin(lambda: seen.append(getcurrent()))
    gevent.sleep(0)
    for words in ((), ("late",), (None,)):
        get_hub().loop.run_callback(seen[0].switch, *words)
        gevent.sleep(0)
    steps.begin(taken.append, 1)
    gevent.sleep(0)
    assert taken == [1]
    assert not seen[0].dead


def test_an_idle_one_keeps_nothing_of_its_steps_alive() -> None:
    class Body:
        pass

    steps, kept = Steps(), []
    for _ in range(3):
        body = Body()
        kept.append(weakref.ref(body))
        steps.begin(lambda _: None, body)
        del body
        gevent.sleep(0)
    gc.collect()
    assert [each() for each in kept] == [None] * 3


def test_no_more_are_kept_than_a_turn_needs() -> None:
    steps, go_on, seen = Steps(), Event(), []

    def wait() -> None:
        seen.append(getcurrent())
        go_on.wait()

    for _ in range(MOST_IDLE + 10):
        steps.begin(wait)
    gevent.sleep(0)
    go_on.set()
    gevent.sleep(0.01)
    assert sum(each.dead for each in seen) == 10

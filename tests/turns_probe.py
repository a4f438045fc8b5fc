"""The server as tests/probe.py serves it, and a route that tells how long a greenlet keeps others waiting."""

from __future__ import annotations

import time
from typing import Any

import gevent
from flask import Flask
from greenlet import settrace

from tests import probe


def app() -> Flask:
    """`GET /test/longest`: the CPU seconds of the longest turn of a greenlet since somebody asked last."""
    served = probe.app()
    longest, began = 0.0, 0.0

    def switched(_: str, greenlets: tuple[Any, Any]) -> None:
        nonlocal longest, began
        now = time.thread_time()
        # The hub waits, and the main greenlet starts it.
        if isinstance(greenlets[0], gevent.Greenlet):
            longest = max(longest, now - began)
        began = now

    @served.route("/test/longest")
    def tell() -> dict[str, float]:
        nonlocal longest
        told, longest = longest, 0.0
        return {"seconds": told}

    settrace(switched)
    return served

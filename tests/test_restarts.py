"""Short runs of tests/restarts.py. Longer ones are by hand; see docs/reliability.md."""

from __future__ import annotations

import asyncio

from live import Server
from restarts import RELOADED, SPREAD, come_back, under_reloads


def test_reloads_under_load_cut_nobody(driver: str) -> None:
    with Server(LOG="off") as server:
        seen = asyncio.run(under_reloads(server, reloads=4, seconds=3, waiting=50, per_second=400))
        assert server.log.count(RELOADED) == 4
        assert "Traceback" not in server.log
    assert not seen.cut, seen
    assert not seen.refused
    assert seen.replies.keys() == {200, 503}
    assert seen.replies[503] >= 50


def test_a_crowd_comes_back_in_no_wave(driver: str) -> None:
    seen, back = asyncio.run(come_back(800, addresses=80))
    assert not seen.cut
    assert seen.replies[503] >= 800
    assert max(back.waves) < 1.5 * SPREAD
    assert back.seconds - back.away < 15

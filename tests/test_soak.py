"""A short run of tests/soak.py. Longer ones are by hand; see docs/reliability.md."""

from __future__ import annotations

import pytest

from live import Server
from redis_server import RedisServer
from scenes import SHARES, Play
from soak import SETTINGS, slope, soak


def settings(redis: RedisServer | None) -> dict[str, object]:
    short = {"REQUEST_TIMEOUT": 4, "ANSWER_TIMEOUT": 1.5, "PAIR_LIMIT": "1 per second"}
    return SETTINGS | short | ({} if redis is None else {"REDIS_URL": redis.url})


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "redis"])
def test_peers_that_come_and_go_leave_nothing_behind(shared: bool) -> None:
    """Nothing but the memory of pairs, and that of one process is its own."""
    with RedisServer() as redis, Server(limits=True, **settings(redis if shared else None)) as server:
        play = Play(server.port, seed=1, friends_seconds=1.5)
        samples = list(soak(server, redis if shared else None, play, pairs=60, seconds=4, every=2))
        assert "Traceback" not in server.log
    assert play.linked > 50
    assert play.done.keys() == SHARES.keys()
    assert not play.odd
    first, last = samples[0], samples[-1]
    assert last["waiting"] == 0
    assert last["descriptors"] <= first["descriptors"] + 6
    assert last["greenlets"] <= first["greenlets"] + 2
    assert last["processes"] <= first["processes"]
    assert last["memory"] < first["memory"] + 40


def test_a_slope_is_a_slope() -> None:
    assert slope([{"at": 36.0 * n, "memory": 7.0 + 0.5 * n} for n in range(5)], "memory") == pytest.approx(50)

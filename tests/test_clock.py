"""A clock that is set while it is used: the server's, and Redis'."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

import pytest

from live import ROOT, Server
from redis_server import RedisServer
from signed_peer import SignedPeer

HOUR = 3600


class Clock:
    """What programs take for the time of day that are started while it is there; see clock.c."""

    def __init__(self, folder: Path) -> None:
        self.preload, self.file = folder / "clock.so", folder / "offset"
        self.file.write_bytes(bytes(8))
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", self.preload, ROOT / "tests/clock.c"]
        subprocess.run(command, check=True, timeout=60)

    def set(self, seconds: int) -> None:
        """It is so far off from now on, for all of them at once."""
        with self.file.open("r+b") as file:
            file.write(struct.pack("l", seconds))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(tmp_path)
    monkeypatch.setenv("LD_PRELOAD", str(made.preload))
    monkeypatch.setenv("CLOCK_OFFSET", str(made.file))
    return made


JUMPS = pytest.mark.parametrize("seconds", [HOUR, -HOUR, 100 * 24 * HOUR])


def link(server: Server, room: str, others: int = 0) -> None:
    """Two strangers link, beside so many who wait."""
    with server.offer("alice", NAMESPACE=room) as alice:
        server.until(waiting=others + 1)
        bob = {"TYPE": "CONNECT", "SIGNAL": "b", "FINGERPRINT": "bob", "NAMESPACE": room}
        answered = server.post(bob | {"NONCE": server.post(bob)["NONCE"]})
        assert (answered.type, alice.reply().type) == ("DELIVERED", "ANSWER")


def date(server: Server) -> str:
    return server.get("/health")[1]["date"]


@JUMPS
def test_who_waits_goes_on_waiting_and_what_is_remembered_stays(clock: Clock, seconds: int) -> None:
    rates = {"REQUEST_LIMIT": "3 per minute", "PAIR_LIMIT": "", "ADDRESS_LIMIT": ""}
    with Server(limits=True, REQUEST_TIMEOUT=2, **rates) as server:
        link(server, "room")
        before, started = date(server), time.monotonic()
        with (
            server.offer("carol", NAMESPACE="another") as carol,
            server.offer("alice", NAMESPACE="room") as alice,
        ):
            server.until(waiting=2)
            clock.set(seconds)
            assert date(server) != before
            link(server, "a third", 2)
            assert carol.is_held()
            with server.offer("bob", NAMESPACE="room"):
                server.until(waiting=3)  # these two have met
            assert [each.reply().type for each in (carol, alice)] == ["NO_NAMESPACE_PEER"] * 2
        assert 1.5 < time.monotonic() - started < 6
        assert server.offer("alice").reply()["RETRY_AFTER"] > 50, "it has asked three times within a minute"


def test_who_signs_by_another_clock_hears_the_time(clock: Clock) -> None:
    peer = SignedPeer("room")
    with Server(SIGNATURES="required", REQUEST_TIMEOUT=0.3) as server:
        assert server.post(peer.request()).status == 298
        clock.set(HOUR)
        told = server.post(peer.request())
        assert told.status == 403
        assert abs(told["TIME"] / 1000 - time.time() - HOUR) < 10
        clock.set(0)
        assert server.post(peer.request()).status == 298


@JUMPS
def test_a_redis_whose_clock_is_set_links_on(clock: Clock, seconds: int) -> None:
    times = {"REQUEST_TIMEOUT": 1, "ANSWER_TIMEOUT": 1}
    with RedisServer() as redis, Server(REDIS_URL=redis.url, SECRET_KEY="s", **times) as server:
        link(server, "room")
        with server.offer("carol", NAMESPACE="another") as carol:
            server.until(waiting=1)
            started = time.monotonic()
            clock.set(seconds)
            # Set forward, all leases are over. Set back, no time is, and her worker ends her wait by its own.
            assert carol.reply(20).type in ("UNAVAILABLE", "NO_NAMESPACE_PEER")
            assert time.monotonic() - started < 10
            server.until(waiting=0)
        link(server, "a third")

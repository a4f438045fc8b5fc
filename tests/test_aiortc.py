"""aiortc, by the example in docs/examples. tests/test_matrix.py links it with all others, open and signed."""

from __future__ import annotations

import asyncio
import json
import runpy
import time
from collections.abc import Iterator
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCPeerConnection

from live import ROOT, Server
from network import ADDRESS, add, delete, network
from python_peer import aiortc_peer, until_waiting
from signal_server.client import dtls_fingerprint

HELLO = "hello from aiortc"


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def example() -> Iterator[dict[str, Any]]:
    """What the example defines. It sets how long aioice waits, for the whole process."""
    gathers = aioice.ice.Connection.get_component_candidates
    before = gathers.__defaults__, aioice.ice.CONSENT_INTERVAL
    yield runpy.run_path(str(ROOT / "docs/examples/aiortc_peer.py"))
    gathers.__defaults__, aioice.ice.CONSENT_INTERVAL = before


def test_two_of_them_link_and_a_goodbye_ends_both(server: Server, namespace: str) -> None:
    with aiortc_peer(server.url, namespace) as alice:
        until_waiting(server)
        with aiortc_peer(server.url, namespace) as bob:
            bob.until("linked, as the responder", HELLO)
            alice.until("linked, as the initiator", HELLO)
            bob.interrupt()
            alice.ends()


def test_ctrl_c_leaves_the_pool(server: Server, namespace: str) -> None:
    with aiortc_peer(server.url, namespace) as alice:
        until_waiting(server)
        alice.interrupt()
        server.until(waiting=0)


def test_it_bounces_what_it_cannot_read_and_drops_an_answer_that_does_not_fit(
    server: Server, namespace: str
) -> None:
    with server.offer("nonsense", NAMESPACE=namespace) as joker, aiortc_peer(server.url, namespace):
        until_waiting(server, 2)
        assert joker.is_held()
        joker.close()
        until_waiting(server)
        whose = {"FINGERPRINT": "another", "NAMESPACE": namespace, "TYPE": "CONNECT"}
        demote = server.post(whose, SIGNAL="offer")
        server.until(waiting=0)
        nonsense = '{"type": "answer", "sdp": "v=0 no"}'
        assert server.post(whose, SIGNAL=nonsense, NONCE=demote["NONCE"]).type == "DELIVERED"
        until_waiting(server)


def test_a_link_that_is_lost_is_made_again_with_the_same_peer() -> None:
    with network(), Server() as server, aiortc_peer(server.url, "friends") as alice:
        until_waiting(server)
        with aiortc_peer(server.url, "friends") as bob:
            bob.until("linked, as the responder", HELLO)
            alice.until("linked, as the initiator", HELLO)
            delete(ADDRESS)
            alice.until("interrupted")
            bob.until("interrupted")
            with server.offer("a stranger", NAMESPACE="friends"):
                add("10.99.0.3")
                back = time.monotonic()
                alice.until(HELLO)
                bob.until(HELLO)
                assert time.monotonic() - back < 10
            alice.interrupt()
            bob.ends()


TWILIO = [
    {"url": "stun:10.99.0.77:3478", "urls": "stun:10.99.0.77:3478"},
    {
        "url": "turn:10.99.0.77:3478?transport=udp",
        "username": "someone",
        "urls": "turn:10.99.0.77:3478?transport=udp",
        "credential": "something",
    },
]
"""Servers in Twilio's form, at an address where nobody is."""


def test_they_link_though_stun_and_turn_are_silent() -> None:
    """Unbounded, aioice waits for 5 s, which is as long as the server waits for an answer."""
    settings = {"ICE_SERVERS": json.dumps(TWILIO)}
    with network(), Server(**settings) as server, aiortc_peer(server.url, "friends") as alice:
        until_waiting(server)
        with aiortc_peer(server.url, "friends") as bob:
            started = time.monotonic()
            bob.until("linked, as the responder")
            alice.until("linked, as the initiator")
            assert time.monotonic() - started < 9  # two gatherings of 1.5 s, on a machine that is busy


def test_an_answer_takes_half_of_the_time_that_the_server_waits(example: dict[str, Any]) -> None:
    async def run() -> float:
        servers = [{"urls": ["stun:10.99.0.77:3478"]}]
        alice, bob = example["Peer"]([]), example["Peer"](servers)
        offer = await alice.offer()
        started = time.monotonic()
        answer = await bob.answer(offer, 1.0)
        took = time.monotonic() - started
        assert "typ host" in answer
        await alice.close()
        await bob.close()
        return took

    with network():
        assert 0.4 < asyncio.run(run()) < 1


LOCAL = "a=candidate:0 1 UDP 2122252543 0d04e6c9-4e7b-4d4b-9b0e-a8a7a8b5f0ec.local 50000 typ host\r\n"


def test_an_offer_of_names_alone_that_says_that_it_ends_is_not_given_up(example: dict[str, Any]) -> None:
    """Such is Firefox's, and names are seldom known: its own checks then tell us the address."""

    async def run() -> None:
        alice, bob = example["Peer"]([]), example["Peer"]([])
        signal = json.loads(await alice.offer())
        lines = signal["sdp"].splitlines(keepends=True)
        assert "a=end-of-candidates\r\n" in lines
        first = next(number for number, line in enumerate(lines) if line.startswith("a=candidate"))
        kept = [line for line in lines if not line.startswith("a=candidate")]
        signal["sdp"] = "".join([*kept[:first], LOCAL, *kept[first:]])
        answer = await bob.answer(json.dumps(signal), 5.0)
        assert "typ host" in answer
        await alice.apply(answer)
        assert await asyncio.wait_for(asyncio.gather(alice.opened, bob.opened), 10) == [True, True]
        await alice.close()
        await bob.close()

    with network():
        asyncio.run(run())


def test_an_offer_is_answered_as_the_server_of_dtls(example: dict[str, Any]) -> None:
    """With GStreamer's RSA certificate and aiortc's ciphers, no other way round works."""

    async def run() -> None:
        alice, bob = example["Peer"]([]), example["Peer"]([])
        answer = await bob.answer(await alice.offer(), 5.0)
        assert "a=setup:passive" in answer
        await alice.close()
        await bob.close()

    with network():
        asyncio.run(run())


def test_without_a_network_there_is_no_offer(example: dict[str, Any]) -> None:
    async def run() -> None:
        peer = example["Peer"]([])
        with pytest.raises(example["LinkLost"], match="no network"):
            await peer.offer()
        await peer.close()

    with network():
        delete(ADDRESS)
        asyncio.run(run())


def test_a_peer_is_known_by_its_certificate(example: dict[str, Any]) -> None:
    async def run() -> None:
        peer = example["Peer"]([])
        first, second = dtls_fingerprint(await peer.offer()), dtls_fingerprint(await peer.offer())
        assert first is not None
        assert first == second
        await peer.close()
        # This is why the example reaches for a private name: by itself, each connection makes another.
        other = RTCPeerConnection()
        other.createDataChannel("x")
        assert dtls_fingerprint((await other.createOffer()).sdp) not in (None, first)
        await other.close()

    with network():
        asyncio.run(run())

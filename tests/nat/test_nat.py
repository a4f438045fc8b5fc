"""Strangers behind NATs: what each kind is, and who links with whom. table.py has them all, by hand."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from aioice.stun import TransactionFailed
from aioice.turn import TurnClientUdpProtocol

from laboratory import KINDS, OTHER, OTHER_V6, SERVER, SERVER_V6, Laboratory
from live import ROOT
from peers import MODULE, STUN, TURN_SECRET, Browsers, Try, Window, World, attempt
from signal_server.http.ice import turn_credential
from timing import FAR

STUN_ONLY = {"ICE_SERVERS": json.dumps([{"urls": [STUN]}])}
IPV6 = ("IPv6", "NAT66")
PATIENCE, NEVER = 10, 0.3  # seconds, to wait for what comes, and for what does not


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    """Two homes and the world. The cables between can be made long."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow network namespaces")
    with Laboratory(delays=True) as made:
        yield made


@pytest.fixture(scope="module")
def world(lab: Laboratory) -> Iterator[World]:
    with World(lab) as running:
        running.start_turn()
        yield running


@pytest.fixture(scope="module")
def pages(lab: Laboratory, world: World) -> Iterator[tuple[Window, Window]]:
    """Chromium in home A and Firefox in home B."""
    with Browsers(lab) as browsers:
        yield browsers.start("chromium", "home-a"), browsers.start("firefox", "home-b")


def meet(
    world: World,
    pages: tuple[Window, Window],
    kinds: tuple[str, str],
    *,
    module: str = "spacerift.js",
    **settings: str,
) -> Try:
    """Put Chromium, which waits, and Firefox, which comes, behind these kinds of NAT.

    Firefox stays at one address: after a change it may take half a minute until it loads a page again.
    """
    assert KINDS[kinds[1]].addresses == "private"
    world.start_server(**settings)
    for side, kind, page in zip("ab", kinds, pages, strict=True):
        world.lab.put(side, kind)
        world.open(page, over_v6=KINDS[kind].addresses in IPV6, module=module)
    return attempt(world, *pages)


def heard_from(receiver: socket.socket, sender: socket.socket) -> tuple[str, int] | None:
    """The address from which a datagram to `receiver` comes, or None if none comes."""
    receiver.settimeout(PATIENCE)
    sender.sendto(b"?", receiver.getsockname()[:2])
    try:
        return receiver.recvfrom(100)[1][:2]  # type: ignore[no-any-return]
    except TimeoutError:
        return None


MAPPINGS = {
    # kind: has each destination its own port? may anybody send to a port that is mapped?
    "public": (False, True),
    "firewall": (False, False),
    "full cone": (False, True),
    "home router": (False, False),
    "open masquerade": (False, False),
    "symmetric": (True, False),
    "double": (False, False),
    "IPv6": (False, True),
    "IPv6 firewall": (False, False),
    "NAT66": (False, False),
}


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_kind_maps_and_filters_as_its_name_says(lab: Laboratory, kind: str) -> None:
    lab.put("a", kind)
    is_v6 = KINDS[kind].addresses in IPV6
    server, other = (SERVER_V6, OTHER_V6) if is_v6 else (SERVER, OTHER)
    with (
        lab.udp("home-a", "::" if is_v6 else "0.0.0.0") as client,
        lab.udp("world", server) as one,
        lab.udp("world", other) as another,
        lab.udp("world", other) as stranger,
    ):
        mapped = heard_from(one, client)
        assert mapped
        assert (heard_from(another, client) != mapped) == MAPPINGS[kind][0]
        client.settimeout(PATIENCE if MAPPINGS[kind][1] else NEVER)
        stranger.sendto(b"!", mapped)
        try:
            is_let_in = client.recv(100) == b"!"
        except TimeoutError:
            is_let_in = False
        assert is_let_in == MAPPINGS[kind][1]
        # Where nobody asked for it, a packet that comes first takes the port that our own would have had.
        if not MAPPINGS[kind][1]:
            assert (heard_from(stranger, client) != mapped) == (kind in ("open masquerade", "symmetric"))


def test_behind_a_router_without_udp_only_http_ports_are_reached(lab: Laboratory, world: World) -> None:
    world.start_server()
    lab.put("a", "no UDP")
    with lab.udp("home-a", "0.0.0.0") as client, lab.udp("world", SERVER) as server:
        server.settimeout(NEVER)
        client.sendto(b"?", server.getsockname())
        with pytest.raises(TimeoutError):
            server.recv(100)

    def connect(port: int) -> None:
        socket.create_connection((SERVER, port), timeout=5).close()

    for port in (80, 443):
        lab.within("home-a", lambda port=port: connect(port))
    with pytest.raises(ConnectionRefusedError):
        lab.within("home-a", lambda: connect(3478))


def test_two_home_routers_link_by_stun(world: World, pages: tuple[Window, Window]) -> None:
    found = meet(world, pages, ("home router", "home router"), **STUN_ONLY)
    assert found.linked
    assert found.way == "srflx-srflx"


def test_a_symmetric_nat_needs_turn_where_the_other_side_filters(
    world: World, pages: tuple[Window, Window]
) -> None:
    assert meet(world, pages, ("symmetric", "full cone"), **STUN_ONLY).linked
    found = meet(world, pages, ("symmetric", "home router"), **STUN_ONLY)
    assert found.waited["error"] == found.came["error"] == "LINK_LOST"
    assert (found.waited["candidates"]["ours"]["relay"], found.waited["candidates"]["theirs"]["srflx"]) == (
        0,
        1,
    )
    found = meet(world, pages, ("symmetric", "home router"), **shown_in_the_docs())
    assert found.linked
    assert "relay" in found.way


def test_the_port_443_that_the_docs_show_links_a_peer_without_udp(
    world: World, pages: tuple[Window, Window]
) -> None:
    assert meet(world, pages, ("no UDP", "symmetric"), **shown_in_the_docs()).linked


def test_the_coturn_of_the_docs_refuses_private_peers_and_relays_to_all_others(
    lab: Laboratory, world: World
) -> None:
    lab.put("a", "home router")
    credential = turn_credential(TURN_SECRET, time.time())

    async def relay() -> bytes:
        _, turn = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: TurnClientUdpProtocol(
                (SERVER, 3478), credential["username"], credential["credential"], 600, 500
            ),
            remote_addr=(SERVER, 3478),
        )
        await turn.connect()
        for number, private in enumerate(["10.0.0.2", "172.20.0.2", "192.168.2.2"]):
            with pytest.raises(TransactionFailed, match="403"):
                await turn.channel_bind(0x4100 + number, (private, 5000))
        with lab.udp("world", OTHER) as peer:
            await turn.send_data(b"over the relay", peer.getsockname())
            received = await asyncio.to_thread(peer.recv, 100)
        await turn.delete()
        return received

    assert lab.within("home-a", lambda: asyncio.run(relay())) == b"over the relay"


def shown_in_the_docs() -> dict[str, str]:
    """The settings that docs/nat.md shows, with the addresses of this laboratory."""
    shown = (ROOT / "docs/nat.md").read_text().split("# the signal server\n")[1].split("```")[0]
    found = dict(re.findall(r"SPACERIFT_(\w+)='(.*)'", shown.replace("turn.example.com", SERVER)))
    assert {"ICE_SERVERS", "TURN_URLS", "TURN_SECRET"} == found.keys()
    assert (SERVER_V6 in found["TURN_URLS"], found["TURN_SECRET"]) == (True, TURN_SECRET)
    return found


@pytest.fixture
def far(lab: Laboratory) -> Iterator[None]:
    """All packets of home A and of home B take 40 ms to the world or back."""
    for side in "ab":
        lab.delay(side, 40)
    yield
    for side in "ab":
        lab.delay(side, 0)


@pytest.mark.usefixtures("far")
def test_an_open_masquerade_that_waits_links_if_the_peers_begin_together(
    world: World, pages: tuple[Window, Window]
) -> None:
    module = MODULE.read_text()
    world.offer_module("at once.js", module.replace(FAR, "const FAR = Infinity;"))
    kinds = ("open masquerade", "home router")
    assert meet(world, pages, kinds, module="at once.js", **STUN_ONLY).waited["error"] == "LINK_LOST"
    # A busy machine may hold up one of the two for longer than the way takes. They try again then.
    assert any(meet(world, pages, kinds, **STUN_ONLY).linked for _ in range(5))
    assert meet(world, pages, kinds[::-1], **STUN_ONLY).linked


def test_the_ipv6_address_that_the_docs_show_links_a_peer_without_ipv4(
    world: World, pages: tuple[Window, Window]
) -> None:
    found = meet(world, pages, ("IPv6", "home router"), **shown_in_the_docs())
    assert found.linked
    assert "relay" in found.way

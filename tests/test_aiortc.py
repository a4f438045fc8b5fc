"""aiortc, by the example in docs/examples, links with browser tabs and with itself."""

from __future__ import annotations

import pytest

from live import Server
from python_peer import aiortc_peer
from tabs import OpenTab

pytest_plugins = ["browser_fixtures"]


def test_two_of_them_link(server: Server, namespace: str) -> None:
    with aiortc_peer(server.url, namespace) as alice:
        server.until(waiting=1)
        with aiortc_peer(server.url, namespace) as bob:
            assert bob.says() == "responder: hello from aiortc"
        assert alice.says() == "initiator: hello from aiortc"


@pytest.mark.parametrize("kind", ["native", "simple-peer 9"])
@pytest.mark.parametrize("first", ["aiortc", "tab"])
def test_a_tab_links_with_it(
    open_tab: OpenTab, server: Server, namespace: str, kind: str, first: str
) -> None:
    tab = open_tab()
    if first == "tab":
        tab.meet(kind)
        server.until(waiting=1)
    with aiortc_peer(server.url, namespace) as peer:
        if first == "aiortc":
            server.until(waiting=1)
            tab.meet(kind)
        roles = {tab.linked()["role"]: "tab"}
        tab.say("hello from a tab")
        assert tab.hears() == "hello from aiortc"
        role, _, heard = peer.says().partition(": ")
    assert heard == "hello from a tab"
    assert {**roles, role: "aiortc"} == {"initiator": first, "responder": ({"aiortc", "tab"} - {first}).pop()}


def test_it_bounces_what_it_cannot_read_and_drops_an_answer_that_does_not_fit(
    server: Server, namespace: str
) -> None:
    with server.offer("nonsense", NAMESPACE=namespace) as joker, aiortc_peer(server.url, namespace) as alice:
        server.until(waiting=2)
        assert joker.is_held()
        whose = {"FINGERPRINT": "another", "NAMESPACE": namespace, "TYPE": "CONNECT"}
        joker.close()
        server.until(waiting=1)
        demote = server.post(whose, SIGNAL="offer")
        nonsense = '{"type": "answer", "sdp": "v=0 no"}'
        assert server.post(whose, SIGNAL=nonsense, NONCE=demote["NONCE"]).type == "DELIVERED"
        server.until(waiting=1)
        with aiortc_peer(server.url, namespace) as bob:
            assert bob.says() == "responder: hello from aiortc"
        assert alice.says() == "initiator: hello from aiortc"

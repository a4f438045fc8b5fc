"""aiortc, by the example in docs/examples, links with browser tabs and with itself."""

from __future__ import annotations

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


def test_it_links_with_a_tab(open_tab: OpenTab, server: Server, namespace: str) -> None:
    """tests/test_matrix.py has every kind of tab, both orders, and signed peers."""
    tab = open_tab()
    tab.meet()
    server.until(waiting=1)
    with aiortc_peer(server.url, namespace) as peer:
        assert tab.hears() == "hello from aiortc"
        tab.say("hello from a tab")
        assert peer.says() == "responder: hello from a tab"


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

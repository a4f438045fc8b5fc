"""aiortc, by the example in docs/examples. tests/test_matrix.py links it with tabs, open and signed."""

from __future__ import annotations

import pytest

from live import Server
from python_peer import aiortc_peer


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def test_two_of_them_link(server: Server, namespace: str) -> None:
    with aiortc_peer(server.url, namespace) as alice:
        server.until(waiting=1)
        with aiortc_peer(server.url, namespace) as bob:
            assert bob.says() == "responder: hello from aiortc"
        assert alice.says() == "initiator: hello from aiortc"


def test_it_bounces_what_it_cannot_read_and_drops_an_answer_that_does_not_fit(
    server: Server, namespace: str
) -> None:
    with server.offer("nonsense", NAMESPACE=namespace) as joker, aiortc_peer(server.url, namespace):
        server.until(waiting=2)
        assert joker.is_held()
        joker.close()
        server.until(waiting=1)
        whose = {"FINGERPRINT": "another", "NAMESPACE": namespace, "TYPE": "CONNECT"}
        demote = server.post(whose, SIGNAL="offer")
        server.until(waiting=0)
        nonsense = '{"type": "answer", "sdp": "v=0 no"}'
        assert server.post(whose, SIGNAL=nonsense, NONCE=demote["NONCE"]).type == "DELIVERED"
        server.until(waiting=1)

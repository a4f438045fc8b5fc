"""Tabs in a full mesh, on a full server, and what they keep open."""

from __future__ import annotations

import pytest

from live import Server, eventually
from tabs import Line, OpenTab, Tab

pytest_plugins = ["browser_fixtures"]

FIND_OTHERS = """([namespace, many]) => {
    tab.mesh = [];
    tab.others = (async () => {
        const options = { namespace, rematch: false };
        while (tab.mesh.length < many) tab.mesh.push(await tab.search("native", options));
        return tab.mesh.map(link => link.remoteId);
    })();
}"""


def test_four_pages_become_a_mesh(open_tab: OpenTab, namespace: str) -> None:
    with Server() as server, Line(server.port) as line:
        tabs = [open_tab(line.url) for _ in range(4)]
        for tab in tabs:
            tab.page.evaluate(FIND_OTHERS, [namespace, len(tabs) - 1])
        for tab in tabs:
            assert len(set(tab.page.evaluate("async () => tab.others"))) == len(tabs) - 1
            assert tab.page.evaluate("tab.mesh.every(link => link.channel.readyState === 'open')")
        links = len(tabs) * (len(tabs) - 1) // 2
        assert len(line.posts(TYPE="BOUNCE")) == 0  # the server knows who has met
        assert len(line.posts()) <= 4 * links  # three for each, and room for some that crossed


def test_a_full_server_is_asked_again_without_a_storm(open_tab: OpenTab) -> None:
    with Server(MAX_WAITING=1) as server, Line(server.port) as line:
        with server.offer("someone", NAMESPACE="elsewhere"):
            server.until(waiting=1)
            tab = open_tab(line.url)
            tab.meet()
            tab.reaches("paused")
            assert tab.pauses[0]["status"] == 503
            assert tab.pauses[0]["retryAfter"] >= 1
        other = open_tab(server.url)
        other.meet()
        tab.linked()
        other.linked()
        assert len(line.posts()) <= 4


COUNTED = """{ Peer: class extends RTCPeerConnection {
    constructor(configuration) {
        super(configuration);
        (window.made ??= []).push(this);
    }
} }"""
OPEN = "(window.made ?? []).filter(peer => peer.signalingState !== 'closed').length"


def keeps_one_of_two(tab: Tab) -> bool:
    return eventually(lambda: tab.page.evaluate(f"[window.made?.length, {OPEN}].join()") == "2,1")


@pytest.mark.parametrize("prepares", [False, True])
def test_an_answer_is_gathered_meanwhile_and_nothing_else_stays_open(
    open_tab: OpenTab, server: Server, prepares: bool
) -> None:
    alice, bob = open_tab(fresh=True), open_tab(fresh=True)
    alice.meet(javascript=COUNTED)
    server.until(waiting=1)
    assert keeps_one_of_two(alice)  # nobody demoted her
    if prepares:
        bob.page.evaluate(f"() => void tab.spacerift.prepare(tab.server, window.same = {COUNTED})")
        assert eventually(lambda: bob.page.evaluate("window.made?.length === 2"))
    bob.meet(javascript=f"(window.same ?? {COUNTED})")
    assert (alice.linked()["role"], bob.linked()["role"]) == ("initiator", "responder")
    for tab, size in ((alice, 0), (bob, 1)):
        assert keeps_one_of_two(tab)
        assert tab.page.evaluate("tab.link.peer.getConfiguration().iceCandidatePoolSize") == size
    for tab in (alice, bob):
        tab.page.close()

"""What goes wrong in a browser is told in words that a person can act on; what may pass is tried again."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser

from live import ROOT, Server, eventually, free_port
from tabs import Line, OpenTab, Tab, new_context

pytest_plugins = ["browser_fixtures"]

NOTED = "class extends RTCPeerConnection { constructor(rtc) { super(window.rtc = rtc); } }"
SILENT_SIGNER = (
    "{ fingerprint: 'A', publicKey: () => '', sign: () => new Promise(() => {}), verify: async () => {} }"
)
THROWING_SIGNER = (
    "{ fingerprint: 'A', publicKey: () => '', sign() { throw new Error('locked'); }, verify() {} }"
)


@pytest.mark.parametrize("kind", ["native", "simple-peer 9", "simple-peer 10"])
def test_a_page_without_webrtc_is_told(open_tab: OpenTab, kind: str) -> None:
    tab = open_tab(fresh=True)
    tab.page.add_init_script("for (const name of ['', 'webkit']) delete window[`${name}RTCPeerConnection`]")
    tab.page.reload()
    tab.page.wait_for_function("window.tab")
    tab.meet(kind)
    reason = tab.refused()
    assert (reason["name"], reason["type"]) == ("SpaceriftError", "NO_WEBRTC")
    assert "another browser" in reason["message"]
    tab.page.close()


USE_UP = """async () => {
    for (;;) {
        try { new RTCPeerConnection().close(); } catch { return; }
    }
}"""
SWEEP = "() => { try { for (let i = 0; i < 40; i++) new ArrayBuffer(2 ** 25); } catch {} }"


@pytest.mark.parametrize("kind", ["native", "simple-peer 9"])
def test_a_page_with_too_many_closed_connections_goes_on(
    chromium: Browser, site: str, server: Server, namespace: str, kind: str
) -> None:
    # A context has a process of its own, and its tabs share what the process may have.
    with new_context(chromium) as context:
        tab = Tab(context.new_page(), f"{site}page.html?server={quote(server.url, safe='')}", namespace)
        tab.page.evaluate(USE_UP)
        tab.meet(kind)
        tab.reaches("paused")
        assert tab.pauses[0]["type"] == "NETWORK"
        tab.page.evaluate(SWEEP)
        tab.reaches("waiting")


def test_a_signer_that_does_not_answer_is_told(open_tab: OpenTab) -> None:
    tab = open_tab(fresh=True)
    tab.page.clock.install()
    tab.meet(javascript=f"{{ signer: {SILENT_SIGNER} }}")
    tab.reaches("waiting")
    tab.page.clock.run_for(11_000)
    assert tab.refused()["type"] == "SIGNER"


def test_a_signer_that_throws_is_told(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.meet(javascript=f"{{ signer: {THROWING_SIGNER} }}")
    assert tab.refused()["type"] == "SIGNER"


def test_an_empty_namespace_is_not_the_default_pool(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.meet(namespace="")
    reason = tab.refused()
    assert (reason["name"], reason["type"]) == ("SpaceriftError", "BAD_REQUEST")
    assert "Name a room" in reason["message"]


def test_a_wrong_address_is_given_up_with_a_hint(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.page.evaluate("port => (tab.server = `http://127.0.0.1:${port}/`)", free_port())
    tab.page.evaluate("namespace => tab.meetAt(tab.server, { namespace })", tab.namespace)
    reason = tab.refused()
    assert reason["type"] == "NETWORK"
    assert "SPACERIFT_CORS_ORIGINS" in reason["message"]
    assert tab.states.count("waiting") == 3


def test_an_origin_that_is_not_listed_is_told(open_tab: OpenTab) -> None:
    with Server(CORS_ORIGINS="https://elsewhere.example.com") as strict:
        tab = open_tab()
        tab.page.evaluate("([url, namespace]) => tab.meetAt(url, { namespace })", [strict.url, tab.namespace])
        reason = tab.refused()
        assert reason["type"] in ("NETWORK", "UNTRUSTED")
        assert reason["type"] == "UNTRUSTED" or "SPACERIFT_CORS_ORIGINS" in reason["message"]


def test_a_wrong_path_is_told(open_tab: OpenTab, server: Server) -> None:
    tab = open_tab()
    url = f"{server.url}wrong/"
    tab.page.evaluate("([url, namespace]) => tab.meetAt(url, { namespace })", [url, tab.namespace])
    assert tab.refused()["type"] in ("NOT_FOUND", "NETWORK")


# ---- GET /ice ----


@pytest.mark.parametrize("status", [297, 429, 503])
def test_ice_servers_that_were_limited_are_asked_for_again(
    open_tab: OpenTab, server: Server, status: int
) -> None:
    tab, asked = open_tab(fresh=True), []

    def limit(route: object) -> None:
        asked.append(time.monotonic())
        body = {"TYPE": "RATE_LIMIT", "RETRY_AFTER": 0.3}
        if len(asked) > 1:
            route.fulfill(json={"iceServers": [{"urls": "stun:127.0.0.1:9"}]})  # type: ignore[attr-defined]
        else:
            route.fulfill(status=status, json=body)  # type: ignore[attr-defined]

    tab.page.route("**/ice", limit)
    tab.page.reload()
    tab.page.wait_for_function("window.tab")
    tab.page.evaluate("() => { window.Peer = NOTED }".replace("NOTED", NOTED))
    tab.meet(javascript="{ Peer }")
    tab.reaches("waiting")
    assert tab.page.evaluate("rtc.iceServers") == [{"urls": "stun:127.0.0.1:9"}]
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 0.3
    tab.page.close()


def test_a_refusal_is_not_kept_for_an_empty_list(open_tab: OpenTab, quick: Server) -> None:
    tab, asked = open_tab(quick.url, fresh=True), []

    def refuse(route: object) -> None:
        asked.append(1)
        if len(asked) > 1:
            route.fulfill(json={"iceServers": []})  # type: ignore[attr-defined]
        else:
            route.fulfill(status=403, json={"TYPE": "UNTRUSTED"})  # type: ignore[attr-defined]

    tab.page.route("**/ice", refuse)
    tab.page.reload()
    tab.page.wait_for_function("window.tab")
    tab.meet()
    tab.page.wait_for_function("tab.pauses.length > 1")  # several rounds
    assert len(asked) == 2
    tab.page.close()


def test_a_class_behind_one_address_gets_its_turn_server() -> None:
    """Sixty at once, with the limits that a server has by default."""
    given = {"TURN_URLS": "turn:127.0.0.1:9", "TURN_SECRET": "only for this test"}
    with Server(limits=True, **given) as server:
        command = ["node", "tests/browser/node-class.js", server.url, "60"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == {"turn": 60}


# ---- the network comes and goes ----


def test_the_network_is_back_and_so_is_the_search(
    chromium: Browser, site: str, server: Server, namespace: str
) -> None:
    with Line(server.port) as line, new_context(chromium) as context:
        tab = Tab(context.new_page(), f"{site}page.html?server={quote(line.url, safe='')}", namespace)
        context.set_offline(True)
        tab.meet()
        tab.page.wait_for_function("tab.pauses.length > 3")  # by now it would wait for seconds
        assert {each["type"] for each in tab.pauses} == {"NETWORK"}
        before = len(line.posts(TYPE="CONNECT"))
        context.set_offline(False)
        back = time.monotonic()
        assert eventually(lambda: len(line.posts(TYPE="CONNECT")) > before)
        assert time.monotonic() - back < 1
        server.until(waiting=1)


def test_a_request_that_waits_over_a_line_of_before_is_asked_anew(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        tab = open_tab(line.url)
        tab.meet()
        server.until(waiting=1)
        tab.page.evaluate("dispatchEvent(new Event('online'))")
        assert eventually(lambda: len(line.posts(TYPE="CONNECT")) == 2)
        server.until(waiting=1)  # and not two: the first one was left


# ---- a link that does not open ----


def test_a_link_that_is_lost_says_what_was_gathered_and_after_the_second_what_is_missing(
    open_tab: OpenTab, server: Server
) -> None:
    alice, bob = open_tab(), open_tab()
    for tab in (alice, bob):
        tab.meet(rtc={"iceTransportPolicy": "relay"})  # and there is no relay
    began = time.monotonic()
    alice.page.wait_for_function("tab.losses.length === 1")
    assert 4 < time.monotonic() - began < 9
    alice.page.wait_for_function("tab.losses.length === 2")
    first, second = alice.page.evaluate("tab.losses")
    nothing = {"host": 0, "srflx": 0, "relay": 0, "mapping": "none"}
    assert first["candidates"] == {"ours": nothing, "theirs": nothing}
    assert first["hint"] is None
    assert "a TURN server is needed" in second["hint"]
    assert second["message"].endswith(second["hint"])


@contextlib.contextmanager
def stun_server(*, silent: float = 0) -> Iterator[str]:
    """The URL of a STUN server on loopback.

    Args:
        silent: seconds from its first question on in which it does not answer.
    """

    def answer() -> None:
        begun = None
        while True:
            asked, (address, port) = stun.recvfrom(1500)
            if not asked:
                return
            begun = begun or time.monotonic()
            if time.monotonic() < begun + silent:
                continue
            # Somebody else's address, for Chromium says nothing of one that it has already.
            elsewhere = bytes((203 ^ 0x21, 0 ^ 0x12, 113 ^ 0xA4, 7 ^ 0x42))
            mapped = bytes((0, 1)) + (port ^ 0x2112).to_bytes(2, "big") + elsewhere
            attribute = b"\x00\x20\x00\x08" + mapped
            head = b"\x01\x01" + len(attribute).to_bytes(2, "big") + asked[4:20]
            stun.sendto(head + attribute, (address, port))

    with socket.socket(type=socket.SOCK_DGRAM) as stun:
        stun.bind(("127.0.0.1", 0))
        threading.Thread(target=answer, daemon=True).start()
        yield f"stun:127.0.0.1:{stun.getsockname()[1]}"
        stun.sendto(b"", stun.getsockname())


def test_a_silent_ice_server_of_several_costs_a_third_of_a_second(open_tab: OpenTab, server: Server) -> None:
    """One that answers and one that does not: Chromium itself would gather for 40 s."""
    with stun_server() as url, Line(server.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        began = time.monotonic()
        for tab in (alice, bob):
            tab.meet(rtc={"iceServers": [{"urls": [url, "stun:127.0.0.1:9"]}]})
        for tab in (alice, bob):
            tab.linked()
        took = time.monotonic() - began
        assert took < 1.5
        assert all("typ srflx" in each.signal["sdp"] for each in line.posts(TYPE="CONNECT"))


def test_an_address_from_outside_that_comes_late_is_offered_still(open_tab: OpenTab, server: Server) -> None:
    with stun_server(silent=1) as url, Line(server.port) as line:
        alice = open_tab(line.url, fresh=True)
        alice.meet(rtc={"iceServers": [{"urls": url}]})
        assert eventually(lambda: len(line.posts(TYPE="CONNECT")) == 2)
        assert ["typ srflx" in each.signal["sdp"] for each in line.posts(TYPE="CONNECT")] == [False, True]
        server.until(waiting=1)
        bob = open_tab()
        bob.meet()
        bob.linked()
        assert alice.linked()["states"] == ["gathering", "waiting", "connecting", "linked"]

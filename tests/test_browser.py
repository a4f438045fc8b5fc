"""Two tabs of a real Chromium link: every kind with every kind, over every detour, without a preflight."""

from __future__ import annotations

import json
import subprocess

import pytest
from playwright.sync_api import Browser

from live import ROOT, Server, eventually
from tabs import KINDS, Line, OpenTab, Tab, new_context, talk

pytest_plugins = ["browser_fixtures"]

# ---- who links with whom ----


@pytest.mark.parametrize("newcomer", KINDS)
@pytest.mark.parametrize("waiting", KINDS)
def test_two_tabs_link(open_tab: OpenTab, server: Server, waiting: str, newcomer: str) -> None:
    alice, bob = open_tab(), open_tab()
    alice.meet(waiting)
    alice.reaches("waiting")
    server.until(waiting=1)
    bob.meet(newcomer)
    assert bob.linked()["role"] == "responder"
    assert alice.linked()["role"] == "initiator"
    assert alice.states == ["gathering", "waiting", "connecting", "linked"]
    assert bob.states == ["gathering", "waiting", "answering", "connecting", "linked"]
    talk(alice, bob)


@pytest.mark.parametrize("kind", KINDS)
def test_audio_and_video_go_both_ways(open_tab: OpenTab, kind: str) -> None:
    alice, bob = open_tab(), open_tab()
    media = "{streams: [await navigator.mediaDevices.getUserMedia({audio: true, video: true})]}"
    for tab, its_kind in ((alice, kind), (bob, "native")):
        options = {"namespace": tab.namespace}
        tab.page.evaluate(
            f"async ([kind, given]) => tab.meet(kind, {{...given, ...{media}}})", [its_kind, options]
        )
    for tab in (alice, bob):
        tab.linked()
        tab.page.wait_for_function("tab.link.streams.length === 1")
        tracks = "tab.link.streams[0].getTracks().map(track => track.kind).sort()"
        assert tab.page.evaluate(tracks) == ["audio", "video"]
    talk(alice, bob)


def test_a_page_meets_several_peers_and_stays_linked_with_them(open_tab: OpenTab, server: Server) -> None:
    hub, others = open_tab(), [open_tab() for _ in range(3)]
    for other in others:
        hub.meet()
        server.until(waiting=1)
        other.meet()
        hub.linked()
    for number, other in enumerate(others):
        other.linked()
        hub.page.evaluate(
            "([number, text]) => tab.links[number].channel.send(text)", [number, f"you are {number}"]
        )
        assert other.hears() == f"you are {number}"


# ---- what goes over the line ----


def test_a_link_costs_three_requests_and_no_preflight(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        alice.meet()
        server.until(waiting=1)
        bob.meet()
        alice.linked()
        bob.linked()
        assert [each for each in line.requests if each.method == "OPTIONS"] == []
        assert [each.signal["type"] for each in line.posts()] == ["offer", "offer", "answer"]
        assert {each.parameters["TYPE"] for each in line.posts()} == {"CONNECT"}
        assert "NONCE" in line.posts()[2].parameters
        assert all(
            "a=candidate" in each.signal["sdp"] for each in line.posts()
        )  # gathered before it was sent


def test_ice_servers_are_asked_for_while_the_page_loads(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        tab = open_tab(line.url)
        assert [each.path for each in line.requests if each.path == "/ice"] == ["/ice"]
        tab.meet()
        tab.reaches("waiting")
        assert [each.path for each in line.requests if each.path == "/ice"] == ["/ice"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_is_sent_when_gathering_takes_too_long(open_tab: OpenTab, server: Server, kind: str) -> None:
    deaf = {"iceServers": [{"urls": "stun:127.0.0.1:9"}]}  # Chromium would try it for many seconds
    with Line(server.port) as line:
        tab = open_tab(line.url)
        tab.meet(kind, rtc=deaf, gather=300)
        assert eventually(line.posts)
        assert [each.signal["type"] for each in line.posts()] == ["offer"]


def test_a_bundler_finds_the_modules_in_the_package() -> None:
    script = 'import {connect} from "spacerift"; import {fingerprintjs} from "spacerift/fingerprints";'
    command = ["node_modules/.bin/esbuild", "--bundle", "--format=esm", "--log-level=warning"]
    made = subprocess.run(
        command,
        input=f"{script} console.log(connect, fingerprintjs)",
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert "async function connect" in made.stdout


# ---- leaving ----


@pytest.mark.parametrize("how", ["close", "navigate", "abort"])
def test_a_tab_that_leaves_is_out_of_the_pool_at_once(open_tab: OpenTab, server: Server, how: str) -> None:
    tab, other = open_tab(), open_tab()
    tab.meet()
    server.until(waiting=1)
    if how == "close":
        tab.page.close()
    elif how == "navigate":
        tab.page.goto("about:blank")
    else:
        tab.page.evaluate("tab.abort.abort()")
        assert tab.refused()["name"] == "AbortError"
    server.until(waiting=0)
    other.meet()
    server.until(waiting=1)  # it was not matched with a ghost


@pytest.mark.parametrize("waits_for", ["fingerprint", "met"])
def test_an_abort_is_at_once_whatever_is_waited_for(
    open_tab: OpenTab, server: Server, namespace: str, waits_for: str
) -> None:
    tab, other = open_tab(), open_tab()
    other.meet()
    server.until(waiting=1)
    tab.page.evaluate("window.asked = false")
    tab.meet(javascript=f"{{{waits_for}: () => new Promise(() => window.asked = true)}}")  # for ever
    tab.page.wait_for_function("window.asked")
    tab.page.evaluate("tab.abort.abort()")
    assert tab.refused()["name"] == "AbortError"


@pytest.mark.parametrize(("kind", "how"), [*((kind, "close the tab") for kind in KINDS), ("native", "close")])
def test_the_other_side_is_told_that_a_link_is_over(open_tab: OpenTab, kind: str, how: str) -> None:
    alice, bob = open_tab(), open_tab()
    alice.meet(kind)
    bob.meet(kind)
    alice.linked()
    bob.linked()
    if how == "close the tab":
        bob.page.close()
    else:
        bob.page.evaluate("tab.link.close()")
    patience = "new Promise((_, reject) => setTimeout(reject, 3000, new Error('not told')))"
    alice.page.evaluate(f"Promise.race([tab.link.closed, {patience}])")


# ---- detours ----


def test_a_request_goes_on_after_no_peer(open_tab: OpenTab, quick: Server) -> None:
    alice, bob = open_tab(quick.url), open_tab(quick.url)
    alice.meet()
    alice.page.wait_for_function("tab.pauses.length")
    assert alice.pauses[0]["type"] == "NO_NAMESPACE_PEER"
    alice.reaches("waiting")
    bob.meet()
    alice.linked()
    talk(alice, bob)


def test_without_retry_a_refusal_is_told(open_tab: OpenTab, quick: Server) -> None:
    tab = open_tab(quick.url)
    tab.meet(retry=False)
    reason = tab.refused()
    assert (reason["name"], reason["type"]) == ("SpaceriftError", "NO_NAMESPACE_PEER")
    assert (reason["status"], reason["retryAfter"]) == (298, 0)


def test_a_refusal_that_does_not_pass_is_told_at_once(open_tab: OpenTab, server: Server) -> None:
    tab = open_tab()
    tab.meet(namespace="n" * 300)
    assert tab.refused()["type"] == "BAD_REQUEST"


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"TYPE": "PONG"},
        {"TYPE": "DELIVERED"},
        {"TYPE": "DEMOTE", "SIGNAL": "{}"},
        {"TYPE": "DEMOTE", "NONCE": 7},
    ],
)
def test_what_is_no_reply_is_told_at_once(open_tab: OpenTab, reply: dict[str, object]) -> None:
    tab = open_tab()
    tab.meet(javascript=f"{{ fetch: async () => new Response(JSON.stringify({json.dumps(reply)})) }}")
    reason = tab.refused()
    assert (reason["type"], reason["status"]) == ("BAD_REPLY", 200)
    assert tab.pauses == []


@pytest.mark.parametrize("junk", ["null", "[]", '{"iceServers": 7}', '{"iceServers": {}}', "<html>"])
def test_ice_servers_that_are_none_are_done_without(open_tab: OpenTab, server: Server, junk: str) -> None:
    alice, bob = open_tab(), open_tab()
    alice.page.route("**/ice", lambda route: route.fulfill(body=junk))
    alice.page.reload()
    alice.page.wait_for_function("window.tab")
    alice.meet()
    server.until(waiting=1)
    bob.meet()
    alice.linked()
    bob.linked()
    talk(alice, bob)
    alice.page.unroute("**/ice")


def test_a_rate_limit_is_waited_for(open_tab: OpenTab) -> None:
    with Server(limits=True, PAIR_LIMIT="1 per 2 seconds") as server, Line(server.port) as line:
        alice, bob, carol = (open_tab(line.url) for _ in range(3))
        alice.meet()
        server.until(waiting=1)
        bob.meet()
        alice.linked()
        bob.linked()
        alice.meet()
        alice.reaches("paused")
        assert alice.pauses[0]["type"] == "RATE_LIMIT"
        assert alice.pauses[0]["retryAfter"] > 0
        carol.meet()
        alice.linked()
        carol.linked()
        assert len(alice.pauses) == 1  # it came back when it was allowed to, and not before


def test_a_server_that_starts_again_is_found_again_without_a_storm(open_tab: OpenTab) -> None:
    with Server() as first, Server() as second, Line(first.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        alice.meet()
        first.until(waiting=1)
        first.process.terminate()
        alice.reaches("paused")
        assert alice.pauses[0]["status"] == 503
        first.process.wait(10)
        asked = len(line.posts())
        bob.meet()
        bob.page.wait_for_timeout(1200)
        assert len(line.posts()) - asked <= 8
        assert eventually(lambda: len(line.posts()) - asked >= 2)
        assert {each["type"] for each in bob.pauses} == {"NETWORK"}
        line.target = second.port
        alice.linked()
        bob.linked()
        talk(alice, bob)


def test_an_answer_is_repeated_when_the_line_breaks(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        # Not only once: Chromium itself sends a request again, over a new connection.
        line.breaks_at = lambda request: "NONCE" in request.parameters and len(line.posts()) <= 4
        alice, bob = open_tab(), open_tab(line.url)
        alice.meet()
        server.until(waiting=1)
        bob.meet()
        alice.linked()
        assert bob.linked()["states"] == ["gathering", "waiting", "answering", "connecting", "linked"]
        talk(alice, bob)
        assert len({each.parameters["NONCE"] for each in line.posts()[1:]}) == 1


def test_an_answer_that_came_too_fast_is_sent_again(open_tab: OpenTab) -> None:
    with Server(limits=True, ADDRESS_LIMIT="2 per 2 seconds") as server, Line(server.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        alice.meet()
        server.until(waiting=1)
        bob.meet()
        alice.linked()
        assert bob.linked()["states"] == ["gathering", "waiting", "answering", "connecting", "linked"]
        assert len({each.parameters["NONCE"] for each in line.posts()[2:]}) == 1
        assert len(line.posts()) == 4


def test_an_answer_is_not_gathered_for_until_it_is_too_late(open_tab: OpenTab) -> None:
    with Server(ANSWER_TIMEOUT=3) as server:
        alice, bob = open_tab(server.url), open_tab(server.url)
        alice.meet()
        server.until(waiting=1)
        bob.meet(rtc={"iceServers": [{"urls": "stun:127.0.0.1:9"}]}, gather=3_500)
        assert bob.linked()["role"] == "responder"
        assert "paused" not in bob.states


def test_a_peer_that_one_has_is_bounced(open_tab: OpenTab) -> None:
    with Server(PAIR_MEMORY_TTL=0.05) as server, Line(server.port) as line:
        alice, bob, carol = (open_tab(line.url) for _ in range(3))
        alice.meet()
        server.until(waiting=1)
        bob.meet()
        alice.linked()
        bob.linked()
        alice.meet()
        server.until(waiting=1)
        alice.page.wait_for_timeout(100)  # the server forgets the pair
        bob.meet()
        server.until(waiting=2)
        (bounce,) = line.posts(TYPE="BOUNCE")
        assert bounce.signal["type"] == "offer"
        assert bounce.signal["sdp"] not in [each.signal["sdp"] for each in line.posts(TYPE="CONNECT")]
        carol.meet()
        assert carol.linked()["role"] == "responder"
        talk(alice, carol)  # the oldest one


def test_an_offer_that_cannot_be_read_is_bounced(open_tab: OpenTab, server: Server, namespace: str) -> None:
    tab, other = open_tab(), open_tab()
    nonsense = ["nonsense", "null", '{"type":"offer"}', '{"type":"offer","sdp":"no"}', '{"type":"answer"}']
    for number, signal in enumerate(nonsense):
        pool = f"{namespace} {number}"
        with server.offer(signal, NAMESPACE=pool):
            server.until(waiting=1)
            tab.meet(namespace=pool)
            server.until(waiting=2)
            assert tab.states[-3:] == ["answering", "gathering", "waiting"]
            other.meet(namespace=pool)
            tab.linked()
            other.linked()
            talk(tab, other)
            tab.reset()
            other.reset()
        server.until(waiting=0)


@pytest.mark.parametrize("kind", ["native", "simple-peer 9"])
def test_an_answer_that_does_not_fit_is_dropped_for_a_new_offer(
    open_tab: OpenTab, server: Server, namespace: str, kind: str
) -> None:
    tab, other = open_tab(), open_tab()
    tab.meet(kind)
    for number, signal in enumerate(["nonsense", '{"type":"answer","sdp":"v=0 no"}']):
        server.until(waiting=1)
        whose = {"FINGERPRINT": f"joker {number}", "NAMESPACE": namespace, "TYPE": "CONNECT"}
        demote = server.post(whose, SIGNAL="offer")
        assert server.post(whose, SIGNAL=signal, NONCE=demote["NONCE"]).type == "DELIVERED"
    server.until(waiting=1)
    other.meet()
    tab.linked()
    talk(tab, other)


def test_a_link_that_does_not_open_is_given_up(open_tab: OpenTab, server: Server, namespace: str) -> None:
    tab, vanished, other = open_tab(fresh=True), open_tab(), open_tab()
    tab.page.clock.install()
    answer = """async offer => {
        const peer = new RTCPeerConnection();
        await peer.setRemoteDescription(JSON.parse(offer));
        await peer.setLocalDescription(await peer.createAnswer());
        peer.close();
        return JSON.stringify(peer.localDescription);
    }"""
    tab.meet()
    server.until(waiting=1)
    whose = {"FINGERPRINT": "vanished", "NAMESPACE": namespace, "TYPE": "CONNECT"}
    demote = server.post(whose, SIGNAL="offer")
    server.post(whose, SIGNAL=vanished.page.evaluate(answer, demote["SIGNAL"]), NONCE=demote["NONCE"])
    tab.reaches("connecting")
    tab.page.clock.run_for(11_000)
    assert tab.pauses[0]["type"] == "LINK_LOST"
    tab.page.clock.run_for(1_000)
    server.until(waiting=1)
    other.meet()
    tab.linked()
    talk(tab, other)


@pytest.mark.parametrize("someone_else_waits", [True, False])
def test_a_peer_that_left_before_its_answer_is_got_over(
    open_tab: OpenTab, server: Server, namespace: str, someone_else_waits: bool
) -> None:
    tab, other = open_tab(), open_tab()
    offer = """(async () => {
        const peer = new RTCPeerConnection();
        peer.createDataChannel("");
        return JSON.stringify(await peer.createOffer());
    })()"""
    # Our tab thinks about the offer for as long as the other peer needs to leave.
    thinks = "{met: () => window.left ? false : new Promise(resolve => window.leave = () => resolve(false))}"
    whose = {"FINGERPRINT": "leaves", "NAMESPACE": namespace, "TYPE": "CONNECT"}
    with server.call(whose, SIGNAL=other.page.evaluate(offer)):
        server.until(waiting=1)
        tab.page.evaluate("window.left = window.leave = false")
        tab.meet(javascript=thinks)
        tab.page.wait_for_function("!!window.leave")
    server.until(waiting=0)
    if someone_else_waits:
        other.meet()
        server.until(waiting=1)
    tab.page.evaluate("window.left = true; leave()")
    if not someone_else_waits:
        tab.page.wait_for_function("tab.pauses.length")
        other.meet()
    tab.linked()
    talk(tab, other)
    assert [each["status"] for each in tab.pauses] == ([] if someone_else_waits else [298])


def test_many_that_come_at_once_all_link(open_tab: OpenTab) -> None:
    tabs = [open_tab() for _ in range(6)]
    for tab in tabs:
        tab.meet()
    roles = [tab.linked()["role"] for tab in tabs]
    assert sorted(roles) == ["initiator"] * 3 + ["responder"] * 3


def test_two_searches_of_one_page_run_side_by_side_and_never_meet(open_tab: OpenTab, server: Server) -> None:
    tab, other = open_tab(), open_tab()
    tab.meet()
    tab.page.evaluate("void (window.first = tab.meeting)")
    tab.meet()
    server.until(waiting=2)
    other.meet()
    other.linked()
    tab.page.evaluate("Promise.race([first, tab.meeting]).then(() => null)")


def test_two_searches_of_one_page_never_meet_even_as_two_peers(open_tab: OpenTab, server: Server) -> None:
    tab, other = open_tab(), open_tab()
    tab.meet(fingerprint="one")
    server.until(waiting=1)
    tab.page.evaluate("void (window.first = tab.meeting)")
    tab.meet(fingerprint="another")
    server.until(waiting=2)
    other.meet()
    assert other.linked()["role"] == "responder"
    tab.page.evaluate("first.then(() => null)")  # the oldest


# ---- fingerprints ----


def test_a_fingerprint_is_of_the_browser_unless_it_is_shared(
    open_tab: OpenTab, chromium: Browser, server: Server
) -> None:
    tab, neighbour = open_tab(), open_tab()
    with new_context(chromium) as elsewhere, Line(server.port) as line:
        stranger = Tab(elsewhere.new_page(), tab.page.url, tab.namespace)
        for library in ("fingerprintjs2", "fingerprintjs"):
            own, shared = tab.fingerprint(library), tab.fingerprint(library, shared=True)
            assert len(shared) >= 16
            assert own.startswith(f"{shared}-")
            assert neighbour.fingerprint(library) == own
            assert stranger.fingerprint(library, shared=True) == shared
            assert stranger.fingerprint(library) != own
        stranger.meet(javascript=f"{{fingerprint: tab.fingerprints.{library}()}}")
        server.until(waiting=1)
        bystander = open_tab(line.url)
        bystander.meet(javascript=f"{{fingerprint: tab.fingerprints.{library}()}}")
        bystander.linked()
        assert line.posts()[0].parameters["FINGERPRINT"] == bystander.fingerprint(library)

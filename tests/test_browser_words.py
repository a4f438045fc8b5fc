"""What the browser module says beside its signals: who it is, whom it meets again, and that it leaves."""

from __future__ import annotations

import re
import time

import pytest

from live import Server, eventually
from tabs import KINDS, Line, OpenTab, talk

pytest_plugins = ["browser_fixtures"]


def test_each_request_has_a_name_of_its_own(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        alice.meet()
        server.until(waiting=1)
        bob.meet()
        alice.linked()
        bob.linked()
        names = [each.parameters["REQUEST"] for each in line.posts()]
    assert len(names) == len(set(names)) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,64}", name) for name in names)


@pytest.mark.parametrize("how", ["close", "navigate", "abort"])
def test_a_tab_that_leaves_says_so_through_a_proxy_that_does_not(
    open_tab: OpenTab, server: Server, how: str
) -> None:
    with Line(server.port, tells_hang_ups=False) as line:
        tab = open_tab(line.url)
        tab.meet()
        server.until(waiting=1)
        (asked,) = line.posts(TYPE="CONNECT")
        left = time.monotonic()
        if how == "close":
            tab.page.close()
        elif how == "navigate":
            tab.page.goto("about:blank")
        else:
            tab.page.evaluate("tab.abort.abort()")
        server.until(waiting=0)
        assert time.monotonic() - left < 1
        (leave,) = line.posts(TYPE="LEAVE")
        said = {name: asked.parameters[name] for name in ("REQUEST", "FINGERPRINT")}
        assert leave.parameters == {"TYPE": "LEAVE", **said}
        assert [each for each in line.requests if each.method == "OPTIONS"] == []


NOTES_REPLIES = """() => {
    const json = Response.prototype.json;
    window.replies = [];
    Response.prototype.json = async function () {
        const reply = await json.call(this);
        setTimeout(() => window.replies.push(reply.TYPE)); // once whoever waited for it has it
        return reply;
    };
}"""


def test_a_request_that_got_its_reply_is_not_left(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        for tab in (alice, bob):
            tab.page.evaluate(NOTES_REPLIES)
            tab.meet()
        alice.linked()
        bob.linked()  # maybe before DELIVERED is heard, which would be left indeed
        assert eventually(
            lambda: (
                {"ANSWER", "DELIVERED"}
                <= {each for tab in (alice, bob) for each in tab.page.evaluate("window.replies")}
            )
        )
        for tab in (alice, bob):
            tab.page.evaluate("tab.abort.abort()")
            tab.page.goto("about:blank")
        assert line.posts(TYPE="LEAVE") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "1"),
        ({"rematch": False}, None),
        ({"namespace": None}, None),
        ({"namespace": None, "rematch": True}, "1"),
    ],
)
def test_friends_in_a_room_may_meet_again_and_strangers_only_if_they_say_so(
    open_tab: OpenTab, server: Server, options: dict[str, object], said: str | None
) -> None:
    with Line(server.port) as line:
        tab = open_tab(line.url)
        tab.meet(**options)
        assert eventually(line.posts)
        assert line.posts()[0].parameters.get("REMATCH") == said


@pytest.mark.parametrize("kind", KINDS)
def test_two_friends_who_left_their_room_meet_again_at_once(open_tab: OpenTab, kind: str) -> None:
    with Server() as server:
        alice, bob = open_tab(server.url), open_tab(server.url)
        for _ in range(3):
            alice.meet(kind)
            bob.meet()
            alice.linked()
            bob.linked()
            talk(alice, bob)
            alice.page.evaluate("tab.link.close()")
            bob.page.evaluate("tab.link.closed")


def test_a_link_that_does_not_open_is_tried_again_as_two_others(open_tab: OpenTab, server: Server) -> None:
    with Line(server.port) as line:
        alice, bob = open_tab(line.url), open_tab(line.url)
        nowhere = "{ rtc: { iceTransportPolicy: window.hidden ? 'relay' : 'all' } }"
        for tab in (alice, bob):
            tab.page.evaluate("window.hidden = true")
            tab.meet(javascript=nowhere)
        for tab in (alice, bob):
            tab.page.wait_for_function("tab.pauses.some(({ type }) => type === 'LINK_LOST')")
        before = {each.parameters["FINGERPRINT"] for each in line.posts()}
        assert len(before) == 2
        # The server takes these two for linked, and PAIR_LIMIT would count them.
        assert eventually(lambda: len({each.parameters["FINGERPRINT"] for each in line.posts()}) == 4)


GREET = """async namespace => {
    const link = await tab.spacerift.connect(tab.server, { namespace, signal: tab.abort.signal });
    tab.links.push(link);
    const heard = [];
    const over = new Promise(resolve => {
        link.channel.send("first");
        link.channel.send("second");
        link.channel.onmessage = ({ data }) => heard.push(data);
        link.channel.addEventListener("message", ({ data }) => data === "last" && resolve());
    });
    setTimeout(() => link.channel.send("last"), 150);
    await over;
    const counts = [...(await link.peer.getStats()).values()].find(({ type }) => type === "data-channel");
    return [heard, counts.messagesReceived];
}"""


def test_words_said_in_the_moment_of_the_opening_are_heard(open_tab: OpenTab, server: Server) -> None:
    """All that the browser has: Chromium itself loses a responder's, if the initiator's page is busy."""
    alice, bob = open_tab(), open_tab()
    for number in range(10):
        for tab in (alice, bob):
            tab.page.evaluate(f"room => {{ tab.greeting = ({GREET})(room); }}", f"{alice.namespace} {number}")
        for tab in (alice, bob):
            heard, received = tab.page.evaluate("() => tab.greeting")
            assert heard == ["first", "second", "last"][-received:]
        for tab in (alice, bob):
            tab.page.evaluate("tab.reset()")

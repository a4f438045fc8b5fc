"""A link whose path breaks is made again, with the same peer and no other. resume.py tries more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from live import Call
from resume import Lab
from two_paths import FIREWALL

SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for pictures of the demo, to look at."""

TOGETHER = """() => {
    const print = sdp => /a=fingerprint:sha-256 (.*)/i.exec(sdp)[1].replaceAll(":", "").trim().toLowerCase();
    const { localDescription, remoteDescription } = (tab.link.peer._pc ?? tab.link.peer);
    return "resume:" + [print(localDescription.sdp), print(remoteDescription.sdp)].sort().join("");
}"""

OFFER = """async () => {
    const peer = new RTCPeerConnection();
    peer.createDataChannel("");
    return JSON.stringify(await peer.createOffer());
}"""


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as running:
        yield running


def test_the_two_go_on_over_another_network_and_a_stranger_is_refused(lab: Lab, namespace: str) -> None:
    lab.link("native", namespace=namespace)
    room = str(lab.homes[0].page.evaluate(TOGETHER))
    offer = lab.homes[0].page.evaluate(OFFER)
    stranger = {
        "TYPE": "CONNECT",
        "NAMESPACE": room,
        "FINGERPRINT": "stranger",
        "REMATCH": "1",
        "SIGNAL": offer,
    }
    replies: list[str] = []

    def intrude() -> None:
        """Wait in the room before they come. Whoever is handed the offer must bounce it."""
        with lab.world.inside("server"), Call(lab.server.port, stranger) as call:
            replies.append(call.reply().type)

    intruder = threading.Thread(target=intrude)
    intruder.start()
    back = lab.lose("swap")
    lab.talk()
    assert time.time() - back < 12
    for home in lab.homes:
        assert home.keeps_its_link
        happened = [what for _, *what in home.seen if what[0] != "heard"]
        assert happened[-3:] == [["state", "interrupted"], ["resumed"], ["state", "linked"]]
    intruder.join(20)
    assert replies == ["NO_NAMESPACE_PEER"]
    lab.tidy()


def test_a_goodbye_is_final(lab: Lab, namespace: str) -> None:
    lab.link("native", namespace=namespace)
    lab.homes[0].page.evaluate("() => tab.link.close()")
    lab.homes[1].until("closed")
    assert "interrupted" not in [what[-1] for _, *what in lab.homes[1].seen]


def test_the_server_may_start_anew_meanwhile(lab: Lab, namespace: str) -> None:
    lab.link("simple-peer 9", namespace=namespace)
    back = lab.lose("restart", 7)  # what is left of the time in which they notice
    lab.talk()
    assert time.time() - back < 10
    assert all(home.keeps_its_link for home in lab.homes)


def test_a_path_that_brings_replies_but_no_data_is_lost(lab: Lab, namespace: str) -> None:
    """Firefox does not follow Chromium to a relay: its data still goes over the path that is dead."""
    lab.link("native", namespace=namespace)
    alice = lab.homes[0]
    lab.world.run("a", "nft add rule inet firewall input meta l4proto udp @th,96,32 != 0x2112a442 drop")
    try:  # all but STUN
        alice.says("Do you hear me?")
        began = alice.until("state", "interrupted")
    finally:
        lab.world.run("a", f"nft -f - <<'END'\nflush ruleset\n{FIREWALL}\nEND")
    alice.until("state", "linked", since=began)
    assert alice.keeps_its_link


def test_whoever_does_not_want_to_resume_is_told_that_it_is_over(lab: Lab, namespace: str) -> None:
    lab.link("native", namespace=namespace, resume=1_000)
    lab.world.cut("a", 0)
    for home in lab.homes:
        began = home.until("state", "interrupted")
        assert home.until("closed") - began < 3
    lab.world.mend("a", 0)


def test_the_demo_shows_the_interruption_and_goes_on(lab: Lab) -> None:
    pages: list[Page] = [home.page for home in lab.homes]  # type: ignore[misc]
    for page in pages:
        page.goto(f"{lab.url}#interrupted")
        page.get_by_role("button", name="Meet a stranger").click()
    for page in pages:
        expect(page.get_by_role("status")).to_have_text("You are linked with a stranger.")
    lab.world.cut("a", 0)
    for page in pages:
        expect(page.get_by_role("status")).to_have_text("The link is interrupted.", timeout=15_000)
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/interrupted.png")
    lab.world.mend("a", 0)
    for page in pages:
        expect(page.get_by_role("status")).to_have_text("You are linked with a stranger.", timeout=15_000)
        expect(page.get_by_role("log")).to_contain_text("You are linked again, with the same stranger.")
    pages[0].get_by_role("textbox", name="Your message").fill("Are you still there?")
    pages[0].get_by_role("button", name="Send").click()
    expect(pages[1].get_by_role("log")).to_contain_text("Are you still there?")
    if SHOTS:
        pages[1].screenshot(path=f"{SHOTS}/linked-again.png")

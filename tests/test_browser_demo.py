"""The demo page, used as people use it: by clicks, by keyboard, on a phone, with a screen reader's eyes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from live import ROOT, Server
from tabs import new_context

pytest_plugins = ["browser_fixtures"]

expect.set_options(timeout=15_000)

OpenPage = Callable[..., Page]


@pytest.fixture
def stranger(chromium: Browser, server: Server, namespace: str) -> Iterator[OpenPage]:
    """Open the demo page as somebody else, with a browser of their own, in the test's room."""
    contexts = []

    def opened(room: str = namespace, **options: object) -> Page:
        contexts.append(new_context(chromium, **options))
        page = contexts[-1].__enter__().new_page()
        page.goto(f"{server.url}#{room}")
        return page

    yield opened
    for each in contexts:
        each.__exit__(None, None, None)


def meet(page: Page) -> None:
    page.get_by_role("button", name="Meet a stranger").click()


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Your message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_two_strangers_chat_and_go_on_to_the_next(stranger: OpenPage, server: Server) -> None:
    alice, bob, carol = stranger(), stranger(), stranger()
    expect(alice.get_by_role("textbox", name="Your message")).to_be_disabled()
    meet(alice)
    expect(alice.get_by_role("status")).to_have_text("Waiting for a stranger…")
    server.until(waiting=1)
    meet(bob)
    for page in (alice, bob):
        expect(page.get_by_role("status")).to_have_text("You are linked with a stranger.")
    say(alice, "Hello?")
    expect(bob.get_by_role("log")).to_contain_text("Stranger: Hello?")
    say(bob, "<b>Hello</b> <img src=x>")
    expect(alice.get_by_role("log")).to_contain_text("Stranger: <b>Hello</b> <img src=x>")
    assert alice.locator("#messages img").count() == 0
    for page in (alice, bob):
        expect(page.locator("#safety-number")).to_have_text(re.compile(r"^(\d{5} ){2}\d{5}$"))
    assert alice.locator("#safety-number").inner_text() == bob.locator("#safety-number").inner_text()

    alice.get_by_role("button", name="Next stranger").click()
    expect(bob.get_by_role("status")).to_have_text("The stranger left.")
    expect(bob.get_by_role("textbox", name="Your message")).to_be_disabled()
    server.until(waiting=1)
    meet(carol)
    say(carol, "I am the next one")
    expect(alice.get_by_role("log")).to_contain_text("Stranger: I am the next one")
    expect(alice.get_by_role("log")).not_to_contain_text("Hello?")
    carol.get_by_role("button", name="Leave").click()
    expect(alice.get_by_role("status")).to_have_text("The stranger left.")


def test_the_page_can_be_used_by_keyboard_alone(stranger: OpenPage, server: Server) -> None:
    alice, bob = stranger(""), stranger("")
    for page in (alice, bob):
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Meet a stranger")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.type("keys only")
        page.keyboard.press("Enter")  # enters the room and begins
        server.until(waiting=1 if page is alice else 0)
    assert alice.url.endswith("#keys%20only")
    expect(alice.get_by_role("status")).to_have_text("You are linked with a stranger.")
    alice.get_by_role("textbox", name="Your message").focus()
    alice.keyboard.type("without a mouse")
    alice.keyboard.press("Enter")
    expect(bob.get_by_role("log")).to_contain_text("without a mouse")


def test_the_focus_goes_where_the_next_step_is(stranger: OpenPage, server: Server) -> None:
    alice, bob = stranger(), stranger()
    meet(alice)
    server.until(waiting=1)
    meet(bob)
    expect(alice.get_by_role("textbox", name="Your message")).to_be_focused()
    bob.close()
    expect(alice.get_by_role("button", name="Next stranger")).to_be_focused()


def test_rooms_are_apart_and_one_may_change(stranger: OpenPage, server: Server, namespace: str) -> None:
    alice, bob = stranger("a room"), stranger("another")
    expect(alice.get_by_role("textbox", name="Room")).to_have_value("a room")
    meet(alice)
    meet(bob)
    server.until(waiting=2)
    bob.get_by_role("textbox", name="Room").fill("a room")
    bob.get_by_role("textbox", name="Room").press("Enter")
    expect(bob.get_by_role("status")).to_have_text("You are linked with a stranger.")
    assert bob.url == alice.url


def test_a_search_can_be_stopped(stranger: OpenPage, server: Server) -> None:
    page = stranger()
    meet(page)
    server.until(waiting=1)
    expect(page.locator("#seconds")).to_have_text(re.compile(r"1[345] s"))
    page.get_by_role("button", name="Stop").click()
    server.until(waiting=0)
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.locator("#events")).to_contain_text("Waiting for a stranger…")


def test_a_pause_is_explained(stranger: OpenPage) -> None:
    with Server(REQUEST_TIMEOUT=0.3) as server:
        page = stranger()
        page.goto(server.url)
        meet(page)
        events = page.locator("#events")
        expect(events).to_contain_text("Nobody came this time. Asking again. (299 NO_PEER)")
    expect(events).to_contain_text(re.compile("cannot be reached|starting again"))


def test_the_page_asks_nobody_but_its_server_and_keeps_its_policy(stranger: OpenPage, server: Server) -> None:
    page = stranger()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    response = page.reload()
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    meet(page)
    server.until(waiting=1)
    assert complaints == []
    assert {url for url in asked if not url.startswith((server.url, "data:"))} == set()


def test_the_page_names_only_what_stands_beside_it() -> None:
    text = (ROOT / "signal_server/static/index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert links
    assert [link for link in links if re.match(r"/|https?:", link)] == []
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", text)


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_the_page_fits(stranger: OpenPage, width: int) -> None:
    page = stranger(viewport={"width": width, "height": 700}, color_scheme="dark" if width > 700 else "light")
    page.locator("summary").last.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(16, 18, 29)") == (width > 700)
    small = "button => button.offsetParent && button.getBoundingClientRect().height < 44"
    assert page.evaluate(f"[...document.querySelectorAll('button, input')].filter({small}).length") == 0


def test_nothing_moves_for_those_who_do_not_want_it(stranger: OpenPage) -> None:
    for motion, expected in (("reduce", "none"), ("no-preference", "breathe")):
        page = stranger(reduced_motion=motion)
        page.evaluate("document.body.dataset.state = 'connecting'")
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.orb-core')).animationName") == expected
        )


def test_friends_who_leave_their_room_meet_again(stranger: OpenPage, server: Server) -> None:
    alice, bob = stranger(), stranger()
    for page in (alice, bob):
        meet(page)
    for _ in range(2):
        for page in (alice, bob):
            expect(page.get_by_role("status")).to_have_text("You are linked with a stranger.")
        alice.get_by_role("button", name="Leave").click()
        expect(bob.get_by_role("status")).to_have_text("The stranger left.")
        bob.get_by_role("button", name="Next stranger").click()
        meet(alice)
    say(bob, "Again?")
    expect(alice.get_by_role("log")).to_contain_text("Again?")


def test_a_network_that_reaches_nobody_is_told_what_it_needs(stranger: OpenPage) -> None:
    relay = """{
        const Real = RTCPeerConnection;
        window.RTCPeerConnection = class extends Real {
            constructor(rtc) { super({ ...rtc, iceTransportPolicy: "relay" }); }
        };
    }"""
    alice, bob = stranger(), stranger()
    for page in (alice, bob):
        page.add_init_script(relay)
        page.reload()
        meet(page)
    events = alice.locator("#events")
    expect(events).to_contain_text("The link did not open. Looking for someone else.")
    expect(events).to_contain_text("You offered 0 of the own network, 0 as seen from outside")
    expect(alice.locator("#detail")).to_contain_text("a TURN server is needed")


def test_a_browser_without_webrtc_is_told(stranger: OpenPage) -> None:
    page = stranger()
    page.add_init_script("delete window.RTCPeerConnection; delete window.webkitRTCPeerConnection")
    page.reload()
    meet(page)
    expect(page.get_by_role("status")).to_have_text(
        "This browser cannot link: WebRTC is missing or switched off."
    )
    expect(page.locator("#detail")).to_contain_text("Try another browser")

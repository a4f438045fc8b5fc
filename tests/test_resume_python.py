"""A browser tab and a Python peer whose path breaks find each other again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest
from playwright.sync_api import sync_playwright

from firefox import firefox
from live import Server
from network import ADDRESS, add, delete, ip, network
from python_peer import aiortc_peer, until_waiting
from tabs import CHROMIUM, serve_site

HELLO = "hello from aiortc"
VISIBLE = {"media.peerconnection.ice.obfuscate_host_addresses": False}
"""It says its addresses, for aiortc finds no `.local` name."""

GREET_AGAIN = """() => {
    tab.link.addEventListener("resumed", () => {
        tab.link.channel.onmessage = ({ data }) => tab.heard.push(data);
        tab.link.channel.send("hello again");
    });
}"""


class Page(Protocol):
    def evaluate(self, function: str) -> Any: ...


@contextlib.contextmanager
def opened(browser: str, url: str) -> Iterator[Page]:
    """A page of tests/browser/page.js."""
    if browser == "firefox":
        with firefox(**VISIBLE) as page:
            page.goto(url)
            yield page
        return
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with contextlib.closing(chromium), contextlib.closing(chromium.new_context()) as context:
            page = context.new_page()
            page.goto(url)
            yield page


def until(page: Page, holds: str) -> None:
    """Wait until an expression holds in the page."""
    deadline = time.monotonic() + 30
    while not page.evaluate(f"() => Boolean({holds})"):
        assert time.monotonic() < deadline, holds
        time.sleep(0.05)


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_a_tab_and_a_python_peer_resume(tmp_path: Path, browser: str) -> None:
    with (
        network(),
        Server() as server,
        serve_site(tmp_path) as site,
        opened(browser, f"{site}page.html?server={quote(server.url, safe='')}") as page,
        aiortc_peer(server.url, "friends") as alice,
    ):
        until_waiting(server)
        until(page, "window.tab")
        page.evaluate("() => void tab.meet('native', { namespace: 'friends' })")
        assert page.evaluate("() => tab.linked()")["role"] == "responder"
        alice.until("linked, as the initiator")
        page.evaluate(GREET_AGAIN)
        assert page.evaluate("() => tab.hears()") == HELLO
        page.evaluate("() => void tab.say('hello from a tab')")
        alice.until("hello from a tab")
        delete(ADDRESS)
        alice.until("interrupted")
        until(page, "tab.states.includes('interrupted')")
        add("10.99.0.3")
        ip("route", "replace", "default", "dev", "nic0")  # it went with the address
        back = time.monotonic()
        alice.until("hello again")
        assert time.monotonic() - back < 10
        print(f"{browser} and aiortc: {time.monotonic() - back:.1f} s after there was a path again")
        assert page.evaluate("() => tab.hears()") == HELLO
        page.evaluate("() => void tab.link.close()")
        alice.ends()

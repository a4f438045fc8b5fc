"""A browser tab and a Python peer whose path breaks find each other again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright

from live import Server
from network import ADDRESS, add, delete, network
from python_peer import aiortc_peer, until_waiting
from tabs import CHROMIUM, Tab, serve_site

HELLO = "hello from aiortc"

GREET_AGAIN = """() => {
    tab.link.addEventListener("resumed", () => {
        tab.link.channel.onmessage = ({ data }) => tab.heard.push(data);
        tab.link.channel.send("hello again");
    });
}"""


def test_a_tab_and_a_python_peer_resume(tmp_path: Path) -> None:
    with (
        network(),
        Server() as server,
        sync_playwright() as playwright,
        serve_site(tmp_path) as site,
        contextlib.closing(
            playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        ) as chromium,
        contextlib.closing(chromium.new_context()) as context,
        aiortc_peer(server.url, "friends") as alice,
    ):
        until_waiting(server)
        url = f"{site}page.html?server={quote(server.url, safe='')}"
        tab = Tab(context.new_page(), url, "friends")
        tab.meet()
        assert tab.linked()["role"] == "responder"
        alice.until("linked, as the initiator")
        tab.page.evaluate(GREET_AGAIN)
        assert tab.hears() == HELLO
        tab.say("hello from a tab")
        alice.until("hello from a tab")
        delete(ADDRESS)
        alice.until("interrupted")
        tab.page.wait_for_function("tab.states.includes('interrupted')", timeout=30_000)
        add("10.99.0.3")
        back = time.monotonic()
        alice.until("hello again")
        assert time.monotonic() - back < 10
        assert tab.hears() == HELLO
        tab.page.evaluate("tab.link.close()")
        alice.ends()

"""Say something the moment a link opens, from both sides, and count what is not heard.

    PYTHONPATH=. python tests/first_words.py [--links 200] STACK PARTNER

A stack is Chromium, Firefox, werift or node-datachannel, the latter two in Node; each by spacerift.js. It is
the initiator in one half of the run and the responder in the other. The page sets its listener and speaks
once `await connect(…)` has given it the link, as any page would.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright

from live import Server
from network import network
from python_peer import until_waiting
from stacks import Closing, TabClient, firefox_page, node
from tabs import CHROMIUM, Tab, serve_site

AT_ONCE = 8
OPENLY = "--disable-features=WebRtcHideLocalIpsWithMdns"
"""With a .local name instead, Firefox finds one of several connections at once: it asks once for a name."""
PATIENCE = 8  # s


def lost(waits: Closing, comes: Closing, half: str, links: int, server: Server) -> tuple[int, int, int]:
    """How often there was no link, only the initiator heard nothing, only the responder heard nothing."""
    unlinked = deaf_initiators = deaf_responders = 0
    for first in range(0, links, AT_ONCE):
        rooms = [f"{half} {number}" for number in range(first, min(first + AT_ONCE, links))]
        common = {"once": True, "rematch": False}
        for number, room in enumerate(rooms):
            url = f"http://127.0.0.{1 + number // 4}:{server.port}/"
            waits.link(server=url, namespace=room, fingerprint=f"a {room}", says=f"{room}, a", **common)
        until_waiting(server, len(rooms))
        for number, room in enumerate(rooms):
            url = f"http://127.0.0.{1 + number // 4}:{server.port}/"
            comes.link(server=url, namespace=room, fingerprint=f"b {room}", says=f"{room}, b", **common)
        to_initiator, to_responder = set(rooms), set(rooms)
        deadline = time.monotonic() + PATIENCE
        while (to_initiator or to_responder) and time.monotonic() < deadline:
            to_initiator -= {words.removesuffix(", b") for words in waits.heard()}
            to_responder -= {words.removesuffix(", a") for words in comes.heard()}
            time.sleep(0.02)
        unlinked += len(to_initiator & to_responder)
        deaf_initiators += len(to_initiator - to_responder)
        deaf_responders += len(to_responder - to_initiator)
        waits.close()
        comes.close()
        server.until(waiting=0)
    return unlinked, deaf_initiators, deaf_responders


def run(stack: str, partner: str, links: int) -> list[tuple[str, str, int, int, int]]:
    """For each half: who was the initiator, who the responder, and what `lost` counted."""
    return [(*half, *lost_in_half(*half, links)) for half in ((stack, partner), (partner, stack))]


def lost_in_half(waits: str, comes: str, links: int) -> tuple[int, int, int]:
    """What `lost` counts, with new browsers: Chromium allows a page 500 connections, closed ones included."""
    with contextlib.ExitStack() as opened:
        enter = opened.enter_context
        enter(network())
        server = enter(Server())

        def start(name: str) -> Closing:
            if name not in ("Chromium", "Firefox"):
                return enter(node(name)())
            site = enter(serve_site(Path(enter(tempfile.TemporaryDirectory()))))
            url = f"{site}page.html?server={quote(server.url, safe='')}"
            if name == "Firefox":
                return enter(firefox_page(url))
            playwright = enter(sync_playwright())
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", OPENLY])
            opened.callback(chromium.close)
            return TabClient(Tab(chromium.new_context().new_page(), url), "native")

        return lost(start(waits), start(comes), waits, links, server)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("stack")
    parser.add_argument("partner")
    parser.add_argument("--links", type=int, default=200)
    given = parser.parse_args()
    for waits, comes, unlinked, initiators, responders in run(given.stack, given.partner, given.links):
        print(f"{waits} waits, {comes} comes: {given.links} pairs, {unlinked} without a link;", end=" ")
        print(f"{initiators} initiators and {responders} responders missed the first words", flush=True)

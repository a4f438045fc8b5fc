"""Who links with whom: every client waits for every client, and each must hear the other.

The tables in docs/clients.md are what was seen here, in a network namespace with an interface. They are
written anew by

    WRITE_MATRIX=1 python -m pytest tests/test_matrix.py
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, sync_playwright

from key_pairs import key_pair
from live import ROOT, Server
from network import network
from python_peer import COMMAND
from stacks import (
    Client,
    SignedTabClient,
    Start,
    TabClient,
    bun,
    deno,
    firefox_page,
    gstreamer,
    node,
    pion,
    process,
    python,
    versions,
)
from tabs import CHROMIUM, Tab, new_context, serve_site
from test_signed_browser import site as signed_site  # noqa: F401, a fixture

pytest_plugins = ["browser_fixtures"]

WRITE = "WRITE_MATRIX"
PAGE = ROOT / "docs/clients.md"

PATIENCE = 15
"""Seconds. After them, a link that was not seen is a cross in the table."""

LINKS_PER_HOST = 4
"""A browser has six connections for a host, and so the waiting links of a page go to several."""

CANNOT = {
    frozenset({"node-datachannel", "Pion"}): "¹",
}
"""The pairs of stacks that are known not to link, and the mark of the reason on the page."""


def hears(client: Client, text: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while text not in client.heard():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def see(clients: dict[str, Start], server: Server) -> dict[tuple[str, str], bool]:
    """Let every client wait for every client: did the two hear each other?"""
    seen = {}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(start()) for name, start in clients.items()}
        urls = {
            name: f"http://127.0.0.{1 + number // LINKS_PER_HOST}:{server.port}/"
            for number, name in enumerate(running)
        }
        for first, waiting in running.items():
            for second in running:
                room = {"server": urls[second], "namespace": f"{first}, {second}"}
                waiting.link(**room, fingerprint="1", says=f"{first} to {second}")
            server.until(waiting=len(running))
            for second, newcomer in running.items():
                room = {"server": urls[second], "namespace": f"{first}, {second}"}
                newcomer.link(**room, fingerprint="2", says=f"{second} back to {first}")
            for second, newcomer in running.items():
                there, back = f"{first} to {second}", f"{second} back to {first}"
                seen[first, second] = hears(newcomer, there) and hears(waiting, back)
    return seen


def table(seen: dict[tuple[str, str], bool]) -> str:
    """In Markdown: who waits, with an offer, by rows; who comes, and answers, by columns."""
    names = list(dict.fromkeys(first for first, _ in seen))
    many = len(names) > 6
    heads = [str(number) for number in range(1, len(names) + 1)] if many else names
    rows = [["waits \\ comes", *heads], ["---"] + [":-:"] * len(names)]
    for number, first in enumerate(names, 1):
        name = f"{number} {first}" if many else first
        rows.append([name, *("✓" if seen[first, second] else cross(first, second) for second in names)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cross(first: str, second: str) -> str:
    stacks = frozenset({first.split(", ")[-1], second.split(", ")[-1]})
    return f"✗{CANNOT.get(stacks, '')}"


def check_or_write(name: str, seen: str) -> None:
    """Compare what was seen with what stands between two comments of the page."""
    between = re.compile(f"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)
    if WRITE in os.environ:
        PAGE.write_text(between.sub(lambda _: seen, PAGE.read_text("utf-8")), "utf-8")
    (written,) = between.findall(PAGE.read_text("utf-8"))
    assert written == seen


def test_the_table_of_who_links_with_whom_is_what_is_seen(tmp_path: Path) -> None:
    with (
        network(),
        Server() as server,
        sync_playwright() as playwright,
        serve_site(tmp_path) as site,
        contextlib.closing(
            playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        ) as chromium,
    ):
        url = f"{site}page.html?server={quote(server.url, safe='')}"

        @contextlib.contextmanager
        def tab(kind: str) -> Iterator[Client]:
            with contextlib.closing(chromium.new_context()) as context:
                yield TabClient(Tab(context.new_page(), url), kind)

        clients: dict[str, Start] = {
            "Chromium": lambda: tab("native"),
            "Chromium, simple-peer 9": lambda: tab("simple-peer 9"),
            "Chromium, simple-peer 10": lambda: tab("simple-peer 10"),
            "Firefox": lambda: firefox_page(url),
            "Node, @roamhq/wrtc": node("@roamhq/wrtc"),
            "Node, @roamhq/wrtc, simple-peer 9": node("simple-peer 9"),
            "Node, node-datachannel": node("node-datachannel"),
            "Node, werift": node("werift"),
            "Deno, werift": deno("werift"),
            "Bun, node-datachannel": bun("node-datachannel"),
            "Python, aiortc": python("aiortc"),
            "Python, wrtc": python("webrtc.aiortc"),
            "GStreamer": gstreamer,
            "Pion": pion,
        }
        seen = see(clients, server)
        if WRITE in os.environ:
            found = ", ".join(f"{name} {version}" for name, version in versions(chromium).items())
            check_or_write("versions", f"{date.today():%d %B %Y}: {found}.\n")
        check_or_write("matrix", table(seen))


def test_the_table_of_signed_clients_is_what_is_seen(
    chromium: Browser,
    signed_site: str,  # noqa: F811
) -> None:
    with Server(SIGNATURES="required") as server:

        @contextlib.contextmanager
        def tab(library: str) -> Iterator[Client]:
            with new_context(chromium) as context:
                url = f"{signed_site}signed.html?server={quote(server.url, safe='')}"
                yield SignedTabClient(context.new_page(), url, library)

        clients: dict[str, Start] = {
            "browser, kbpgp": lambda: tab("kbpgp"),
            "browser, openpgp.js": lambda: tab("openpgp.js"),
            "Python, gpg, aiortc": lambda: process(*COMMAND, PEER_KEY=key_pair("python").private),
        }
        check_or_write("signed matrix", table(see(clients, server)))

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

import pytest
from playwright.sync_api import Browser, sync_playwright

from key_pairs import key_pair
from live import ROOT, Server
from network import network
from python_peer import COMMAND, until_waiting
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

PATIENCE = 45
"""Seconds. After them, a link that was not seen is a cross in the table. One that does not open within 10 s
is tried again by both sides, and on a busy machine some are that slow."""

LINKS_PER_HOST = 4
"""A browser has six connections for a host, and so the waiting links of a page go to several."""

CANNOT = {
    frozenset({"node-datachannel", "Pion"}): "¹",
}
"""The pairs of stacks that are known not to link, and the mark of the reason on the page."""


MENDED = {"Firefox", "GStreamer"}
"""What aiortc links with by the means of its example. Each test run sees these, and all with Chromium."""


def all_pairs(clients: dict[str, Start]) -> list[Pair]:
    return [(first, second) for first in clients for second in clients]


def hears(client: Client, text: str, deadline: float) -> bool:
    while text not in client.heard():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


Pair = tuple[str, str]
"""Who waits, and who comes."""


def see(clients: dict[str, Start], server: Server, pairs: list[Pair]) -> dict[Pair, bool]:
    """Let one wait for the other: did the two hear each other?

    Those that are known not to link come last: they go on trying.
    """
    seen = {}
    hopeful = [pair for pair in pairs if stacks_of(*pair) not in CANNOT]
    hopeless = [pair for pair in pairs if pair not in hopeful]
    batches = [hopeful[at : at + len(clients)] for at in range(0, len(hopeful), len(clients))]
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(start()) for name, start in clients.items()}
        ports = {name: 1 + number // LINKS_PER_HOST for number, name in enumerate(running)}
        for batch in [*batches, hopeless]:
            for first, second in batch:
                url = f"http://127.0.0.{ports[second]}:{server.port}/"
                says = f"{first} to {second}"
                running[first].link(server=url, namespace=says, fingerprint="1", says=says)
            until_waiting(server, len(batch))
            for first, second in batch:
                url = f"http://127.0.0.{ports[second]}:{server.port}/"
                says = f"{second} back to {first}"
                running[second].link(server=url, namespace=f"{first} to {second}", fingerprint="2", says=says)
            deadline = time.monotonic() + PATIENCE
            for first, second in batch:
                came = hears(running[second], f"{first} to {second}", deadline)
                seen[first, second] = came and hears(running[first], f"{second} back to {first}", deadline)
    return seen


def table(names: list[str], seen: dict[Pair, bool], old: str) -> str:
    """In Markdown: who waits, with an offer, by rows; who comes, and answers, by columns.

    Args:
        old: the table that has the cells that were not seen this time.
    """
    many = len(names) > 6
    heads = [str(number) for number in range(1, len(names) + 1)] if many else names
    rows = [["waits \\ comes", *heads], ["---"] + [":-:"] * len(names)]
    for number, first in enumerate(names, 1):
        cells = [mark(first, second, seen, old) for second in names]
        rows.append([f"{number} {first}" if many else first, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def mark(first: str, second: str, seen: dict[Pair, bool], old: str) -> str:
    if (first, second) in seen:
        return "✓" if seen[first, second] else f"✗{CANNOT.get(stacks_of(first, second), '')}"
    rows = [[cell.strip() for cell in line.split("|")] for line in old.splitlines()[2:]]
    names = [row[1].lstrip("0123456789 ") for row in rows]
    return rows[names.index(first)][2 + names.index(second)]


def stacks_of(first: str, second: str) -> frozenset[str]:
    return frozenset({first.split(", ")[-1], second.split(", ")[-1]})


def written(name: str) -> str:
    """What stands between two comments of the page."""
    (found,) = between(name).findall(PAGE.read_text("utf-8"))
    return str(found)


def write(name: str, text: str) -> None:
    PAGE.write_text(between(name).sub(lambda _: text, PAGE.read_text("utf-8")), "utf-8")


def between(name: str) -> re.Pattern[str]:
    return re.compile(f"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)


def check_or_write(name: str, clients: dict[str, Start], seen: dict[Pair, bool]) -> None:
    now = table(list(clients), seen, written(name))
    if WRITE in os.environ:
        write(name, now)
    assert written(name) == now


@pytest.mark.timeout(600)
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
        pairs = all_pairs(clients)
        if WRITE in os.environ:
            found = ", ".join(f"{name} {version}" for name, version in versions(chromium).items())
            write("versions", f"{date.today():%d %B %Y}: {found}.\n")
        else:
            pairs = [
                pair
                for pair in pairs
                if "Chromium" in pair or ("Python, aiortc" in pair and MENDED & {*pair})
            ]
        check_or_write("matrix", clients, see(clients, server, pairs))


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
        check_or_write("signed matrix", clients, see(clients, server, all_pairs(clients)))

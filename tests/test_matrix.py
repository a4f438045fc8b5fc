"""Who links with whom: every client waits for every client, and each must hear the other.

The tables in docs/clients.md are what was seen here. They are written anew by

    WRITE_MATRIX=1 python -m pytest tests/test_matrix.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import quote

from playwright.sync_api import Browser, Page

from key_pairs import key_pair
from live import ROOT, Server
from python_peer import COMMAND, ENVIRON
from tabs import Tab, new_context
from test_signed_browser import site as signed_site  # noqa: F401, a fixture

pytest_plugins = ["browser_fixtures"]

WRITE = "WRITE_MATRIX"
PAGE = ROOT / "docs/clients.md"

LINK = """([kind, { says, ...options }]) => {
    const search = tab.search(kind, { ...options, met: () => false });
    search.then(({ peer, channel }) => setInterval(() => (channel ?? peer).send(says), 100));
}"""
"""Said again and again: Chromium may lose a responder's first words, where the initiator's page is busy."""

SIGNED_LINK = """async ({ says, ...options }) => {
    const server = new URLSearchParams(location.search).get("server");
    const { connect } = await import(`${server}spacerift.js`);
    tab.all ??= [];
    connect(server, { ...options, signer: tab.signer, met: () => false }).then(({ channel }) => {
        channel.onmessage = ({ data }) => tab.all.push(data);
        setInterval(() => channel.send(says), 100);
    });
}"""

PATIENCE = 10
"""Seconds. After them, a link that was not seen is a cross in the table."""


class Client(Protocol):
    """A page or a program that links in any number of namespaces at once."""

    def link(self, **options: str) -> None:
        """Begin to link, and say what `says` says to the other side."""

    def heard(self) -> list[str]:
        """All that was said to it so far, by anyone."""


class TabClient:
    def __init__(self, tab: Tab, kind: str) -> None:
        self._page, self._kind = tab.page, kind

    def link(self, **options: str) -> None:
        self._page.evaluate(LINK, [self._kind, options])

    def heard(self) -> list[str]:
        heard: list[str] = self._page.evaluate("tab.heard")
        return heard


class SignedTabClient:
    """A tab with tests/browser/signed.js in it, and a key that one of its libraries made."""

    def __init__(self, page: Page, url: str, library: str) -> None:
        self._page = page
        page.goto(url)
        page.wait_for_function("window.tab")
        page.evaluate("async library => void await tab.key(library)", library)

    def link(self, **options: str) -> None:
        self._page.evaluate(SIGNED_LINK, options)

    def heard(self) -> list[str]:
        heard: list[str] = self._page.evaluate("tab.all")
        return heard


class ProcessClient:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._heard: list[str] = []
        threading.Thread(target=self._hear, daemon=True).start()

    def link(self, **options: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()

    def heard(self) -> list[str]:
        return self._heard

    def _hear(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._heard.append(line.strip())


def hears(client: Client, text: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while text not in client.heard():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


Start = Callable[[], contextlib.AbstractContextManager[Client]]


@contextlib.contextmanager
def process(*command: str, private_key: str = "") -> Iterator[Client]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environ = os.environ | ENVIRON | {"PEER_KEY": private_key}
    with subprocess.Popen(command, cwd=ROOT, env=environ, **pipes) as started:
        try:
            yield ProcessClient(started)
        finally:
            started.kill()


def see(clients: dict[str, Start], server: Server) -> dict[tuple[str, str], bool]:
    """Let every client wait for every client: did the two hear each other?"""
    seen = {}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(start()) for name, start in clients.items()}
        for first, waiting in running.items():
            for second in running:
                waiting.link(namespace=f"{first}, {second}", fingerprint="1", says=f"{first} to {second}")
            server.until(waiting=len(running))
            for second, newcomer in running.items():
                newcomer.link(
                    namespace=f"{first}, {second}", fingerprint="2", says=f"{second} back to {first}"
                )
            for second, newcomer in running.items():
                there, back = f"{first} to {second}", f"{second} back to {first}"
                seen[first, second] = hears(newcomer, there) and hears(waiting, back)
    return seen


def table(seen: dict[tuple[str, str], bool]) -> str:
    """In Markdown: who waits, with an offer, by rows; who comes, and answers, by columns."""
    names = list(dict.fromkeys(first for first, _ in seen))
    rows = [["waits \\ comes", *names], ["---"] + [":-:"] * len(names)]
    rows += [[first, *("✓" if seen[first, second] else "✗" for second in names)] for first in names]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def check_or_write(name: str, seen: str) -> None:
    """Compare what was seen with what stands between two comments of the page."""
    table = re.compile(f"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)
    if WRITE in os.environ:
        PAGE.write_text(table.sub(lambda _: seen, PAGE.read_text("utf-8")), "utf-8")
    (written,) = table.findall(PAGE.read_text("utf-8"))
    assert written == seen


def test_the_table_of_who_links_with_whom_is_what_is_seen(
    chromium: Browser, site: str, server: Server
) -> None:
    @contextlib.contextmanager
    def tab(kind: str) -> Iterator[Client]:
        with new_context(chromium) as context:
            url = f"{site}page.html?server={quote(server.url, safe='')}"
            yield TabClient(Tab(context.new_page(), url), kind)

    node = ("node", "tests/browser/node-matrix.js", server.url)
    clients: dict[str, Start] = {
        "browser": lambda: tab("native"),
        "browser, simple-peer 9": lambda: tab("simple-peer 9"),
        "browser, simple-peer 10": lambda: tab("simple-peer 10"),
        "Node, wrtc": lambda: process(*node, "native"),
        "Node, wrtc, simple-peer 9": lambda: process(*node, "simple-peer 9"),
        "Python, aiortc": lambda: process(*COMMAND, server.url),
    }
    check_or_write("matrix", table(see(clients, server)))


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
            "Python, gpg, aiortc": lambda: process(
                *COMMAND, server.url, private_key=key_pair("python").private
            ),
        }
        check_or_write("signed matrix", table(see(clients, server)))

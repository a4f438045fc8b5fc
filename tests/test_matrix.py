"""Who links with whom: every client waits for every client, and each must hear the other.

The table in docs/clients.md is what was seen here. To write it anew: python tests/test_matrix.py --write
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser

from live import ROOT, Server
from python_peer import COMMAND, ENVIRON
from tabs import Tab, new_context

pytest_plugins = ["browser_fixtures"]

WRITE = "SPACERIFT_MATRIX"  # in the environment of this test only
PAGE = ROOT / "docs/clients.md"
TABLE = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- /matrix -->)", re.S)

LINK = """([kind, { says, ...options }]) => {
    const search = tab.search(kind, { ...options, met: () => false });
    search.then(({ peer, channel }) => (channel ?? peer).send(says));
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
        time.sleep(0.01)
    return True


Start = Callable[[], contextlib.AbstractContextManager[Client]]


@contextlib.contextmanager
def process(*command: str) -> Iterator[Client]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRON, **pipes) as started:
        try:
            yield ProcessClient(started)
        finally:
            started.kill()


@pytest.fixture
def clients(chromium: Browser, site: str, server: Server) -> dict[str, Start]:
    """The rows and columns of the table."""

    @contextlib.contextmanager
    def tab(kind: str) -> Iterator[Client]:
        with new_context(chromium) as context:
            url = f"{site}page.html?server={quote(server.url, safe='')}"
            yield TabClient(Tab(context.new_page(), url, ""), kind)

    node = ("node", "tests/browser/node-matrix.js", server.url)
    return {
        "browser": lambda: tab("native"),
        "browser, simple-peer 9": lambda: tab("simple-peer 9"),
        "browser, simple-peer 10": lambda: tab("simple-peer 10"),
        "Node, wrtc": lambda: process(*node, "native"),
        "Node, wrtc, simple-peer 9": lambda: process(*node, "simple-peer 9"),
        "Python, aiortc": lambda: process(*COMMAND, server.url),
    }


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


def test_the_table_of_who_links_with_whom_is_what_is_seen(clients: dict[str, Start], server: Server) -> None:
    seen = table(see(clients, server))
    if WRITE in os.environ:
        PAGE.write_text(TABLE.sub(lambda _: seen, PAGE.read_text("utf-8")), "utf-8")
    (written,) = TABLE.findall(PAGE.read_text("utf-8"))
    assert written == seen


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        os.environ[WRITE] = "write"
    sys.exit(pytest.main([__file__]))

"""Every WebRTC stack that links here, each as a client that links in any number of namespaces at once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from playwright.sync_api import Browser, Page

from firefox import firefox
from live import ROOT
from marionette import Marionette
from python_peer import COMMAND, ENVIRON
from tabs import Tab

DENO = ROOT / "node_modules/@deno/linux-x64-glibc/deno"
BUN = ROOT / "node_modules/@oven/bun-linux-x64/bin/bun"
SCRIPT = "tests/browser/node-matrix.js"

LINK = """([kind, { server, says, once, ...options }]) => {
    const search = tab.search(kind, { ...options, met: () => false }, server);
    search.then(({ peer, channel }) => {
        const to = channel ?? peer;
        to.send(says);
        let left = once ? 0 : 100;
        const timer = setInterval(() => left-- > 0 ? to.send(says) : clearInterval(timer), 100);
    }).catch(() => {});
}"""


class Client(Protocol):
    """A page or a program that links in any number of namespaces at once."""

    def link(self, **options: str | bool) -> None:
        """Begin to link at `server`, and say `says` to the other side, again and again or `once`."""

    def heard(self) -> list[str]:
        """All that was said to it so far, by anyone."""


class Closing(Client, Protocol):
    def close(self) -> None:
        """Close all links."""


Start = Callable[[], contextlib.AbstractContextManager[Any]]


class TabClient:
    def __init__(self, tab: Tab, kind: str) -> None:
        self._page, self._kind = tab.page, kind

    def link(self, **options: str | bool) -> None:
        self._page.evaluate(LINK, [self._kind, options])

    def close(self) -> None:
        self._page.evaluate("() => void tab.reset()")

    def heard(self) -> list[str]:
        heard: list[str] = self._page.evaluate("tab.heard")
        return heard


class FirefoxClient:
    def __init__(self, browser: Marionette) -> None:
        self._browser = browser

    def link(self, **options: str | bool) -> None:
        self._browser.evaluate(LINK, ["native", options])

    def close(self) -> None:
        self._browser.evaluate("() => void tab.reset()")

    def heard(self) -> list[str]:
        heard: list[str] = self._browser.evaluate("() => tab.heard")
        return heard


class ProcessClient:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._heard: list[str] = []
        threading.Thread(target=_hear, args=[process, self._heard], daemon=True).start()

    def link(self, **options: str | bool) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self.link(close="all")

    def heard(self) -> list[str]:
        return self._heard


class PionClient:
    """The Pion example, a process for each link."""

    def __init__(self, program: Path, stack: contextlib.ExitStack) -> None:
        self._program, self._stack = program, stack
        self._heard: list[str] = []

    def link(self, *, server: str, says: str, namespace: str, fingerprint: str) -> None:
        options = ["-fingerprint", fingerprint, "-say", says, "-every", "100ms"]
        command = [self._program, *options, server, namespace]
        process = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self._stack.callback(process.kill)
        threading.Thread(target=_hear, args=[process, self._heard], daemon=True).start()

    def heard(self) -> list[str]:
        return self._heard


def _hear(process: subprocess.Popen[str], heard: list[str]) -> None:
    assert process.stdout
    with contextlib.suppress(ValueError):  # closed: the test is over
        for line in process.stdout:
            heard.append(line.strip())


@contextlib.contextmanager
def process(*command: str | Path, **environ: str) -> Iterator[Client]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRON | environ, **pipes) as started:
        try:
            yield ProcessClient(started)
        finally:
            started.kill()


def node(stack: str) -> Start:
    return lambda: process("node", SCRIPT, stack)


def deno(stack: str) -> Start:
    return lambda: process(DENO, "run", "-A", "--node-modules-dir=manual", "--no-lock", "-q", SCRIPT, stack)


def bun(stack: str) -> Start:
    return lambda: process(BUN, SCRIPT, stack)


def python(stack: str) -> Start:
    return lambda: process(*COMMAND, PEER_STACK=stack)


def gstreamer() -> contextlib.AbstractContextManager[Client]:
    return process("/usr/bin/python3", "tests/gstreamer_links.py")


@contextlib.contextmanager
def pion() -> Iterator[Client]:
    with tempfile.TemporaryDirectory(prefix="pion-") as folder, contextlib.ExitStack() as stack:
        yield PionClient(build_pion(Path(folder)), stack)


def build_pion(folder: Path) -> Path:
    """Build the example as its head says. The result is kept in the cache of go's."""
    shutil.copytree(ROOT / "docs/examples/pion", folder / "src/pion")
    environ = {"GO111MODULE": "off", "GOPATH": f"{folder}:/usr/share/gocode", "GOFLAGS": "-buildvcs=false"}
    subprocess.run(
        ["go", "build", "-o", folder / "pion_peer"],
        cwd=folder / "src/pion",
        env=os.environ | environ,
        check=True,
        timeout=240,
    )
    return folder / "pion_peer"


@contextlib.contextmanager
def firefox_page(url: str) -> Iterator[Client]:
    """With its default preferences."""
    with firefox() as browser:
        browser.goto(url)
        browser.evaluate("async () => { while (!window.tab) await new Promise(r => setTimeout(r, 20)); }")
        yield FirefoxClient(browser)


def versions(chromium: Browser) -> dict[str, str]:
    """What is installed here, by name."""

    def npm(name: str) -> str:
        version: str = json.loads((ROOT / f"node_modules/{name}/package.json").read_text())["version"]
        return version

    def said(*command: str | Path) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]

    def debian(package: str) -> str:
        return said("dpkg-query", "-W", "-f", "${Version}", package)

    js = ["simple-peer", "@thaunknown/simple-peer", "@roamhq/wrtc", "node-datachannel", "werift"]
    return {
        "Chromium": chromium.version,
        "Firefox": debian("firefox-esr"),
        "Node": said("node", "--version"),
        "Deno": npm("deno"),
        "Bun": npm("bun"),
        **{name: npm(name) for name in js},
        **{name: importlib.metadata.version(name) for name in ("aiortc", "wrtc")},
        "GStreamer": debian("gstreamer1.0-plugins-bad"),
        "libnice": debian("gstreamer1.0-nice"),
        "Pion": debian("golang-github-pion-webrtc.v3-dev"),
    }


class SignedTabClient:
    """A tab with tests/browser/signed.js in it, and a key that one of its libraries made."""

    def __init__(self, page: Page, url: str, library: str) -> None:
        self._page = page
        page.goto(url)
        page.wait_for_function("window.tab")
        page.evaluate("async library => void await tab.key(library)", library)

    def link(self, **options: str | bool) -> None:
        self._page.evaluate(SIGNED_LINK, options)

    def heard(self) -> list[str]:
        heard: list[str] = self._page.evaluate("tab.all")
        return heard


SIGNED_LINK = """async ({ server, says, ...options }) => {
    const { connect } = await import(`${server}spacerift.js`);
    tab.all ??= [];
    connect(server, { ...options, signer: tab.signer, met: () => false }).then(({ channel }) => {
        channel.onmessage = ({ data }) => tab.all.push(data);
        setInterval(() => channel.send(says), 100);
    });
}"""

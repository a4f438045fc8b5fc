"""Tabs that run spacerift.js, and a line to the server that is watched and can be cut."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from playwright.sync_api import Browser, BrowserContext, Page

from live import ROOT

KINDS = ["native", "simple-peer 9", "simple-peer 10"]


CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",  # the suite runs as root
    "--disable-features=WebRtcHideLocalIpsWithMdns",  # without multicast, a .local name never resolves
    "--allow-loopback-in-peer-connection",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]

PERMISSIONS = ["microphone", "camera"]
"""Without one of them Chromium offers the address of the default route only, and no loopback."""


def bundle(entry: str, output: Path) -> None:
    """Make one module of `entry` and all that it imports, as a web developer would."""
    command = ["node_modules/.bin/esbuild", entry, "--bundle", "--format=esm", "--target=es2022"]
    command += ["--define:global=globalThis", "--log-level=warning", f"--outfile={output}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


@contextlib.contextmanager
def serve_site(folder: Path) -> Iterator[str]:
    """Make that site in a folder, and serve it."""
    (folder / "page.html").write_bytes((ROOT / "tests/browser/page.html").read_bytes())
    bundle("tests/browser/page.js", folder / "page.bundle.js")
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def new_context(chromium: Browser, **options: Any) -> Iterator[BrowserContext]:
    made = chromium.new_context(permissions=PERMISSIONS, **options)
    made.set_default_timeout(15_000)
    yield made
    made.close()


class Tab:
    """A tab with tests/browser/page.js in it."""

    def __init__(self, page: Page, url: str, namespace: str = "") -> None:
        self.page = page
        self.namespace = namespace
        page.goto(url)
        page.wait_for_function("window.tab")

    def can_be_used_again(self, server: str) -> bool:
        """Make the tab as new, if it is still there and of this server."""
        if self.page.is_closed() or quote(server, safe="") not in self.page.url:
            return False
        return self.reset()

    def reset(self) -> bool:
        """End the tab's search and its links."""
        return bool(self.page.evaluate("window.tab?.reset()"))

    def meet(self, kind: str = "native", javascript: str = "{}", **options: Any) -> None:
        """Begin to look for a peer, with these options and those (functions, say) that `javascript` makes."""
        options = {"namespace": self.namespace, **options}
        self.page.evaluate(
            f"([kind, given]) => tab.meet(kind, {{...given, ...{javascript}}})", [kind, options]
        )

    def linked(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("tab.linked()")
        return found

    def refused(self) -> dict[str, Any]:
        reason: dict[str, Any] = self.page.evaluate("tab.refused()")
        return reason

    def reaches(self, state: str) -> None:
        self.page.wait_for_function("state => tab.states.at(-1) === state", arg=state)

    @property
    def pauses(self) -> list[dict[str, Any]]:
        pauses: list[dict[str, Any]] = self.page.evaluate("tab.pauses")
        return pauses

    @property
    def states(self) -> list[str]:
        states: list[str] = self.page.evaluate("tab.states")
        return states

    def fingerprint(self, library: str, **options: bool) -> str:
        call = "([library, options]) => tab.fingerprints[library](options)()"
        return str(self.page.evaluate(call, [library, options]))

    def say(self, text: str) -> None:
        self.page.evaluate("text => tab.say(text)", text)

    def hears(self) -> str:
        return str(self.page.evaluate("tab.hears()"))


def talk(one: Tab, other: Tab) -> None:
    """See that what either says comes to the other."""
    for speaker, listener, text in ((one, other, "ping ☕"), (other, one, "pong")):
        speaker.say(text)
        assert listener.hears() == text


class Request:
    """A request as it went over the line."""

    def __init__(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        self.method, self.path = head.decode().split(" ")[:2]
        self.parameters = {name: values[0] for name, values in parse_qs(body.decode()).items()}

    @property
    def signal(self) -> dict[str, str]:
        signal: dict[str, str] = json.loads(self.parameters["SIGNAL"])
        return signal

    def __repr__(self) -> str:
        return f"{self.method} {self.path} {self.parameters.get('TYPE', '')}".strip()


class Line:
    """A line to the server that notes every request, and breaks at those that `breaks_at` picks.

    It works on bytes and not on what a browser tells of itself: Chromium hides preflights.

    Args:
        port: the server's.
        tells_hang_ups: False: as some proxies do, it keeps the connection to the server when a client goes.
    """

    def __init__(self, port: int, *, tells_hang_ups: bool = True) -> None:
        self.target = port
        self._tells_hang_ups = tells_hang_ups
        self.requests: list[Request] = []
        self.breaks_at: Callable[[Request], bool] = lambda request: False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Line:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            self._close(each)

    def posts(self, **parameters: str) -> list[Request]:
        """The POSTs with these parameters, in order."""
        return [
            each
            for each in list(self.requests)
            if each.method == "POST" and parameters.items() <= each.parameters.items()
        ]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            self.requests.append(Request(client.recv(65536) or b"NONE /"))
            self._close(client)
            return
        self._open.add(server)
        threading.Thread(target=self._replies, args=(server, client), daemon=True).start()
        pending = b""
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                pending += piece
                while whole := re.match(rb"(?s).+?\r\n\r\n", pending):
                    length = re.search(rb"(?i)content-length: (\d+)", whole[0])
                    end = len(whole[0]) + (int(length[1]) if length else 0)
                    if len(pending) < end:
                        break
                    request = Request(pending[:end])
                    pending = pending[end:]
                    self.requests.append(request)
                    if self.breaks_at(request):
                        raise ConnectionAbortedError
                server.sendall(piece)
            if not self._tells_hang_ups:
                return
        self._close(server)
        self._close(client)

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(65536):
                client.sendall(piece)
        self._close(client)
        self._close(server)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


OpenTab = Callable[..., "Tab"]

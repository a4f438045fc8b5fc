"""Who meets in the laboratory: Chromium and Firefox, each in a namespace; and the servers in the world."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from playwright.sync_api import Error, Playwright, sync_playwright

from laboratory import OTHER, OTHER_V6, SERVER, SERVER_V6, Laboratory
from live import NO_LIMITS, ROOT, environment
from marionette import Marionette, preferences
from tabs import bundle

MODULE = ROOT / "signal_server/static/spacerift.js"
CHROMIUM = "/usr/bin/chromium"
FIREFOX = "/usr/bin/firefox-esr"
ARGUMENTS = [
    "--no-sandbox",  # as root
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--ignore-certificate-errors",  # the TURN server's is our own
]
PATIENCE = 100  # seconds, for a machine that is busy with other things
TURN_SECRET = "a long random text"
STUN = f"stun:{SERVER}:3478"
STUN_V6 = f"stun:[{SERVER_V6}]:3478"


class Page(Protocol):
    """A page of Playwright or of Marionette."""

    def goto(self, url: str) -> object: ...

    def evaluate(self, function: str, argument: Any = None) -> Any: ...


class Peer(Protocol):
    """Who looks for another one."""

    def meet(self, **options: Any) -> None: ...

    def outcome(self) -> dict[str, Any] | None: ...

    def end(self) -> None: ...


class Window:
    """A browser's window, with tests/nat/page.js in it."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def open(self, url: str) -> None:
        for again in (True, True, False):
            try:
                self._page.goto(url)
                break
            except Error as error:  # it has just heard of an address that changed
                if not again or "ERR_NETWORK_CHANGED" not in str(error):
                    raise
        there = "async () => { while (!window.rift) await new Promise(resolve => setTimeout(resolve, 10)); }"
        self._page.evaluate(there)

    def evaluate(self, function: str, argument: Any = None) -> Any:
        return self._page.evaluate(function, argument)

    def meet(self, **options: Any) -> None:
        """Begin to look for a peer; `kind` may be `simple-peer`, the rest is `connect`'s."""
        self.evaluate("options => rift.meet(options)", options)

    def outcome(self) -> dict[str, Any] | None:
        """What became of it, or None while that is not known."""
        found: dict[str, Any] | None = self.evaluate("() => rift.outcome()")
        return found

    def end(self) -> None:
        self.evaluate("() => rift.end()")


class Example:
    """The aiortc example of the docs, in a namespace. It tells neither times nor candidates."""

    def __init__(self, lab: Laboratory, namespace: str) -> None:
        program = str(ROOT / "docs/examples/aiortc_peer.py")
        self._command = [*lab.command(namespace), sys.executable, program, f"http://{SERVER}/"]
        self._process: subprocess.Popen[str] | None = None
        self._begun = 0.0

    def open(self, url: str) -> None:
        pass

    def meet(self, **options: Any) -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [*self._command, options["namespace"]],
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._begun = time.monotonic()

    def outcome(self) -> dict[str, Any] | None:
        assert self._process
        assert self._process.stdout
        if select.select([self._process.stdout], [], [], 0.05)[0]:
            line = self._process.stdout.readline()
            role = re.search(r"^linked, as the (\w+)", line)
            if role or not line:
                return {"states": [], "role": role and role[1], "error": None if role else "ended"}
        if time.monotonic() - self._begun > 20:
            return {"states": [], "role": None, "error": "LINK_LOST"}
        return None

    def end(self) -> None:
        if self._process:
            end(self._process)
            self._process = None


class World:
    """The signal server, a site with the laboratory's page, and coturn, all in `world`.

    The signal server has port 80 of one address, the site port 80 of the other: a client that may use no
    other port reaches both. coturn is on 3478 (UDP and TCP) and 443 (TCP).
    """

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self._exits = contextlib.ExitStack()
        self.folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="nat-")))
        self.server: subprocess.Popen[bytes] | None = None
        self._turn: subprocess.Popen[bytes]
        self._settings: dict[str, str] | None = None

    def __enter__(self) -> World:
        site = self.folder / "site"
        site.mkdir()
        (site / "index.html").write_text(
            '<!doctype html><script type="module" src="page.bundle.js"></script>'
        )
        bundle("tests/nat/page.js", site / "page.bundle.js")
        self.offer_module("spacerift.js", MODULE.read_text())
        serve = [sys.executable, "-m", "http.server", "--directory", str(site), "--bind"]
        for address in (OTHER, OTHER_V6):
            self._start("site", [*serve, address, "80"])
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def offer_module(self, name: str, text: str) -> None:
        """Let the site have a browser module under a name."""
        (self.folder / "site" / name).write_text(text)

    def start_server(self, **settings: str) -> None:
        """Start the signal server with these settings, in place of one that has others."""
        if settings == self._settings:
            return
        self._stop(self.server)
        self._settings = settings
        environ = environment(**{**NO_LIMITS, "REQUEST_TIMEOUT": "60", **settings})
        binds = ["--bind", f"{SERVER}:80", "--bind", f"[{SERVER_V6}]:80"]
        command = [sys.executable, "-m", "gunicorn", *binds, "tests.probe:app()"]
        self.server = self._start("server", command, cwd=ROOT, env=environ)
        self.answers(lambda: self.get("/ready"))

    def start_turn(self) -> None:
        """Start coturn as STUN and TURN server, by the configuration that docs/nat.md shows."""
        (self.folder / "turnserver.conf").write_text(turn_configuration(self.folder))
        self._turn = self._start_turn()
        with self.lab.udp("world", SERVER) as asking:
            self.answers(lambda: ask_stun(asking, SERVER))

    def _start_turn(self, *options: str) -> subprocess.Popen[bytes]:
        command = ["turnserver", "-c", str(self.folder / "turnserver.conf"), "--log-file=stdout"]
        command += [f"--userdb={self.folder / 'turn'}", f"--pidfile={self.folder / 'turn.pid'}"]
        return self._start("coturn", [*command, *options])

    def replace_turn(self) -> None:
        """Kill coturn. Another one starts on port 3479, and knows nothing of its clients."""
        self._turn.kill()
        self._turn.wait()
        self._turn = self._start_turn("--listening-port=3479")

    def _start(self, name: str, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        log = self._exits.enter_context((self.folder / f"{name}.log").open("ab"))
        whole = [*self.lab.command("world"), *command]
        process = subprocess.Popen(whole, stdout=log, stderr=log, start_new_session=True, **more)
        self._exits.callback(self._stop, process)
        return process

    @staticmethod
    def _stop(process: subprocess.Popen[bytes] | None) -> None:
        if process and process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def answers(self, asked: Callable[[], object]) -> None:
        """Ask until there is an answer."""
        deadline = time.monotonic() + 30
        while True:
            try:
                asked()
                return
            except OSError:
                if time.monotonic() > deadline:
                    logs = [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
                    raise TimeoutError("\n".join(logs)) from None
                time.sleep(0.05)

    def get(self, path: str) -> Any:
        """What the signal server says, as JSON."""

        def ask() -> Any:
            with urllib.request.urlopen(f"http://{SERVER}{path}", timeout=5) as response:
                return json.load(response)

        return self.lab.within("world", ask)

    def until(self, **counts: int) -> None:
        """Return once the signal server's store has these counts."""
        deadline = time.monotonic() + 30
        while not counts.items() <= self.get("/test/statistics").items():
            assert time.monotonic() < deadline, f"{counts} was never reached"
            time.sleep(0.01)

    def open(self, peer: Window | Example, *, over_v6: bool = False, module: str = "spacerift.js") -> None:
        """Open the laboratory's page."""
        server, site = (f"[{SERVER_V6}]", f"[{OTHER_V6}]") if over_v6 else (SERVER, OTHER)
        query = urllib.parse.urlencode({"server": f"http://{server}/", "module": module})
        peer.open(f"http://{site}/?{query}")


def turn_configuration(folder: Path) -> str:
    """What docs/nat.md says to write into turnserver.conf, with a certificate of our own in this folder."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=turn", "-days", "2"]
    command += ["-addext", f"subjectAltName=IP:{SERVER}", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    shown = (ROOT / "docs/nat.md").read_text().split("# turnserver.conf\n")[1].split("```")[0]
    return re.sub(
        r"(?m)^(cert|pkey)=.*", lambda line: f"{line[1]}={certificate if line[1] == 'cert' else key}", shown
    )


def ask_stun(asking: socket.socket, server: str) -> bytes:
    """Ask for our own address, as STUN has it."""
    asking.sendto(bytes.fromhex("0001 0000 2112a442") + b"a test of 12", (server, 3478))
    return asking.recv(1500)


class Browsers:
    """Starts browsers, each in a namespace of its own, and ends them."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self._exits = contextlib.ExitStack()
        self._playwright: Playwright | None = None

    def __enter__(self) -> Browsers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End all of them."""
        self._playwright = None
        self._exits.close()

    def start(self, browser: str, namespace: str) -> Window:
        """Start `chromium` or `firefox` there; its one window."""
        return Window(self._chromium(namespace) if browser == "chromium" else self._firefox(namespace))

    def _chromium(self, namespace: str) -> Page:
        if not self._playwright:
            self._playwright = self._exits.enter_context(sync_playwright())
        folder = self._exits.enter_context(tempfile.TemporaryDirectory(prefix="nat-"))
        launcher = Path(folder, "chromium")  # Playwright speaks with it over pipes, which no namespace cuts
        command = " ".join(self.lab.command(namespace))
        launcher.write_text(f'#!/bin/sh\nexec {command} {CHROMIUM} "$@"\n')
        launcher.chmod(0o755)
        browser = self._playwright.chromium.launch(executable_path=str(launcher), args=ARGUMENTS)
        self._exits.callback(browser.close)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        return page

    def _firefox(self, namespace: str) -> Page:
        profile = Path(
            self._exits.enter_context(tempfile.TemporaryDirectory(prefix="nat-", ignore_cleanup_errors=True))
        )
        (profile / "user.js").write_text(preferences())
        command = [*self.lab.command(namespace), FIREFOX, "--headless", "--marionette", "--no-remote"]
        command += ["--profile", str(profile), "about:blank"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        self._exits.callback(end, process)
        connection = self.lab.within(namespace, lambda: _connected(("127.0.0.1", 2828), process))
        self._exits.callback(connection.close)
        return Marionette(connection, PATIENCE)


def _connected(address: tuple[str, int], process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(address)
        except ConnectionRefusedError:
            assert process.poll() is None, "the browser has ended"
            assert time.monotonic() < deadline, "the browser did not begin to listen"
            time.sleep(0.05)


def end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Try(NamedTuple):
    """Two peers looked for one another; what either of them says of it."""

    waited: dict[str, Any]
    came: dict[str, Any]

    @property
    def linked(self) -> bool:
        return self.waited["role"] is not None and self.came["role"] is not None

    @property
    def ms(self) -> float:
        """From the answer to the open channel, at the one that waited (or the only one that tells)."""
        times = {state: ms for state, ms, _ in self.waited["states"] or self.came["states"]}
        return float(times["linked"] - times["connecting"])

    @property
    def click(self) -> float:
        """From the start to the open channel in ms, at the one that came."""
        return float(self.came["opened"])

    @property
    def way(self) -> str:
        """The kinds of candidates in use, of the one that waited and of the one that came."""
        return "-".join(self.waited["way"])


_numbers = itertools.count(1)


def attempt(world: World, waits: Peer, comes: Peer, *, keep: bool = False, **options: Any) -> Try:
    """Let two peers look for one another once, in a pool of their own.

    Args:
        keep: the link stays open; the caller ends it.
        options: of `Peer.meet`; a pair is of the one that waits and the one that comes.
    """
    namespace = f"try {next(_numbers)}"
    for number, peer in enumerate((waits, comes)):
        own = {name: each[number] if isinstance(each, tuple) else each for name, each in options.items()}
        peer.meet(namespace=namespace, **own)
        if peer is waits:
            world.until(waiting=1)
    deadline = time.monotonic() + 40
    while (waited := waits.outcome()) is None or (came := comes.outcome()) is None:
        assert time.monotonic() < deadline, "neither linked nor lost"
    if not keep:
        waits.end()
        comes.end()
    return Try(waited, came)

"""Take the path of an open link away, and see how long two pages need to be linked again.

    python tests/resume.py [--a chromium] [--b firefox] [--kind native] [--signed] [--redis] LOSS …

| LOSS | what happens to A |
| --- | --- |
| `swap` | its network card goes, and another comes, from whose address B's firewall takes nothing |
| `cut SECONDS` | something on the way is gone, and comes back |
| `away SECONDS` | its cable is pulled, and plugged in again |
| `restart SECONDS` | as `cut`, and the server is started anew meanwhile |

It prints for each how long after the path's return both pages had the link again. A and B are `chromium`,
`firefox`, or in Node `node-datachannel` or `@roamhq/wrtc`. Signed peers have keys of openpgp.js; `--redis`:
the server has two workers.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from playwright.sync_api import Playwright, sync_playwright

from live import ROOT, Server
from marionette import Marionette, preferences
from redis_server import RedisServer
from tabs import ARGUMENTS, CHROMIUM, QuietHandler, bundle
from two_paths import ADDRESS, TwoPaths

NODES = ("node-datachannel", "@roamhq/wrtc")
FIREFOX = "/usr/bin/firefox-esr"
PATIENCE = 25  # s

LOOK = """async ([kind, { isSigned, ...options }]) => {
    if (isSigned) {
        const script = document.createElement("script"); // of the page's own, and not of the remote control's
        script.type = "module";
        script.textContent = `
            import { openpgpSigner } from "${new URL("signers.js", tab.server)}";
            import * as openpgp from "./openpgp.bundle.js";
            window.makeSigner = () => openpgpSigner(openpgp);`;
        document.head.append(script);
        while (!window.makeSigner) await new Promise(resolve => setTimeout(resolve, 20));
        options.signer = await makeSigner();
    }
    window.seen = [];
    const note = (...what) => seen.push([Date.now(), ...what]);
    const hear = () => {
        if (tab.link.channel) tab.link.channel.onmessage = ({ data }) => note("heard", data);
        else tab.link.peer.on("data", data => note("heard", new TextDecoder().decode(data)));
    };
    tab.reset();
    tab.meet(kind, { ...options, onstate: state => note("state", state) });
    tab.meeting.then(link => {
        window.first = link;
        hear();
        link.addEventListener("resumed", () => (note("resumed"), hear()));
        link.closed.then(() => link === window.first && note("closed"));
    });
}"""


class Page(Protocol):
    def evaluate(self, function: str, argument: Any = None) -> Any: ...


class Home:
    """A page in a browser of its own, in a namespace of its own."""

    def __init__(self, name: str, page: Page) -> None:
        self.name = name
        self.page = page

    def meet(self, kind: str, **options: Any) -> None:
        self.page.evaluate(LOOK, [kind, options])

    def says(self, text: str) -> None:
        """Say it, unless there is no link now."""
        self.page.evaluate("text => { try { tab.say(text); } catch {} }", text)

    def has_heard(self, since: float) -> bool:
        """Has it heard something that was said since that second of the clock?"""
        return any(what == "heard" and float(more[0]) >= since for _, what, *more in self.seen)

    @property
    def seen(self) -> list[list[Any]]:
        """What happened in the page: milliseconds, and what."""
        seen: list[list[Any]] = self.page.evaluate("() => seen")
        return seen

    def until(self, *what: str, since: float = 0) -> float:
        """Wait until it happened, after that second of the clock; then tell when."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for at, *happened in self.seen:
                if happened == list(what) and at / 1000 >= since:
                    return float(at) / 1000
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: {what} did not happen, but {self.seen}")
            time.sleep(0.05)

    @property
    def keeps_its_link(self) -> bool:
        return bool(self.page.evaluate("() => tab.link === first"))


class NodeHome(Home):
    """tests/browser/node-resume.js in a namespace of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str], url: str) -> None:
        self.name = name
        self._process = process
        self._url = url
        self._seen: list[list[Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        with contextlib.suppress(ValueError):  # closed at the end
            for line in self._process.stdout:
                self._seen.append(json.loads(line))

    def _tell(self, **what: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def meet(self, kind: str, **options: Any) -> None:
        self._seen.clear()
        self._tell(meet={**options, "server": self._url})

    def says(self, text: str) -> None:
        self._tell(say=text)

    @property
    def seen(self) -> list[list[Any]]:
        return list(self._seen)

    @property
    def keeps_its_link(self) -> bool:
        return not any(what == "closed" for _, what, *_ in self.seen)


class Lab:
    """Two homes with a browser each, and a server.

    Args:
        browsers: of A and of B, see above.
        settings: of the server.
        redis: the server has two workers and a Redis.
    """

    def __init__(self, *browsers: str, redis: bool = False, **settings: object) -> None:
        self._browsers = browsers or ("chromium", "chromium")
        self._arguments = ("--workers", "2") if redis else ()
        self._redis = redis
        self._settings = settings
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as stack:
            self.world = stack.enter_context(TwoPaths())
            stack.enter_context(self.world.inside("server"))
            if self._redis:
                redis = stack.enter_context(RedisServer())
                self._settings |= {"REDIS_URL": redis.url, "SECRET_KEY": "a secret"}
            self.server = Server(*self._arguments, limits=True, **self._settings).__enter__()
            stack.callback(lambda: self.server.__exit__(None, None, None))  # which may be another one by then
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            page = stack.enter_context(site(folder)) + f"?server={quote(self.url, safe='')}"
            playwright = stack.enter_context(sync_playwright())
            self.homes = []
            for name, browser in zip("ab", self._browsers, strict=True):
                if browser in NODES:
                    process = stack.enter_context(node(self.world, name, folder, browser))
                    self.homes.append(NodeHome(name, process, self.url))
                    continue
                start = firefox if browser == "firefox" else chromium
                opened = stack.enter_context(start(self.world, name, folder, page, playwright))
                self.homes.append(Home(name, opened))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server.port}/"

    def restart(self) -> None:
        """Another server takes the place of the one that there is."""
        again = Server(*self._arguments, limits=True, **self._settings)
        again.port = self.server.port
        self.server.__exit__(None, None, None)
        self.server = again.__enter__()

    def link(self, kind: str = "native", **options: Any) -> None:
        for home in self.homes:
            home.meet(kind, **options)
        for home in self.homes:
            home.until("state", "linked")
        time.sleep(0.3)

    def lose(self, loss: str, seconds: float = 0) -> float:
        """Let it happen to A. Returns the second of the clock in which there is a path again."""
        if loss == "swap":
            self.world.down("a", 0)
            self.world.up("a", 1)
            return time.time()
        pull, plug = (self.world.down, self.world.up) if loss == "away" else (self.world.cut, self.world.mend)
        pull("a", 0)
        if loss == "restart":
            self.restart()
        time.sleep(seconds)
        plug("a", 0)
        return time.time()

    def tidy(self) -> None:
        """A has its first card again."""
        self.world.down("a", 1)
        self.world.up("a", 0)

    def talk(self) -> None:
        """Let both speak until each has heard the other say something that it said from now on."""
        now, deadline = time.time(), time.monotonic() + PATIENCE
        a, b = self.homes
        while not (a.has_heard(now) and b.has_heard(now)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"they do not hear each other: {a.seen}, {b.seen}")
            for home in self.homes:
                home.says(f"{time.time()}")
            time.sleep(0.1)


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    (folder / "page.html").write_bytes((ROOT / "tests/browser/page.html").read_bytes())
    bundle("tests/browser/page.js", folder / "page.bundle.js")
    (folder / "openpgp.bundle.js").write_bytes(
        (ROOT / "node_modules/openpgp/dist/openpgp.min.mjs").read_bytes()
    )
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer((ADDRESS, 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://{ADDRESS}:{running.server_port}/page.html"
        running.shutdown()


@contextlib.contextmanager
def chromium(world: TwoPaths, home: str, folder: Path, url: str, playwright: Playwright) -> Iterator[Page]:
    start = folder / f"chromium-{home}"
    start.write_text(f'#!/bin/sh\nexec ip netns exec {world.prefix}{home} {CHROMIUM} "$@"\n')
    start.chmod(0o755)
    origin = url.partition("/page.html")[0]
    secure = f"--unsafely-treat-insecure-origin-as-secure={origin}"  # openpgp.js needs crypto.subtle
    browser = playwright.chromium.launch(executable_path=str(start), args=[*ARGUMENTS, secure])
    try:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function("window.tab")
        yield page
    finally:
        browser.close()


@contextlib.contextmanager
def firefox(world: TwoPaths, home: str, folder: Path, url: str, _: Playwright) -> Iterator[Page]:
    profile = folder / f"firefox-{home}"
    profile.mkdir()
    chosen = {
        "media.peerconnection.ice.obfuscate_host_addresses": False,
        "dom.securecontext.allowlist": ADDRESS,
    }
    (profile / "user.js").write_text(preferences(**chosen))
    command = ["ip", "netns", "exec", f"{world.prefix}{home}", FIREFOX, "--headless", "--marionette"]
    command += ["--no-remote", "--profile", str(profile)]
    environ = os.environ | {"HOME": str(profile), "MOZ_CRASHREPORTER_DISABLE": "1"}
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=output, stderr=output, env=environ)
    try:
        page = Marionette(connect(world, home, process))
        page.goto(url)
        while not page.evaluate("() => Boolean(window.tab)"):
            time.sleep(0.1)
        yield page
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def node(world: TwoPaths, home: str, folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Node with this WebRTC. node-datachannel resumes with a certificate from files."""
    files = [folder / f"{home}.pem", folder / f"{home}.key"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=peer", "-days", "2", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    command = [
        "ip",
        "netns",
        "exec",
        f"{world.prefix}{home}",
        "node",
        "tests/browser/node-resume.js",
        name,
        *map(str, files),
    ]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def connect(world: TwoPaths, home: str, process: subprocess.Popen[bytes]) -> socket.socket:
    for _ in range(300):
        assert process.poll() is None, "Firefox has ended"
        with world.inside(home), contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", 2828))
        time.sleep(0.1)
    raise TimeoutError("Firefox did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for side in ("--a", "--b"):
        parser.add_argument(side, default="chromium", choices=["chromium", "firefox", *NODES])
    parser.add_argument("--kind", default="native")
    parser.add_argument("--signed", action="store_true")
    parser.add_argument("--redis", action="store_true")
    parser.add_argument(
        "losses", nargs="+", metavar="LOSS", help="such as swap, 'cut 12', 'away 6', 'restart 10'"
    )
    asked = parser.parse_args()
    signed: dict[str, Any] = {"SIGNATURES": "required"} if asked.signed else {}
    with Lab(asked.a, asked.b, redis=asked.redis, **signed) as lab:
        for loss in asked.losses:
            name, _, seconds = loss.partition(" ")
            lab.link(asked.kind, namespace=f"{loss} {time.time()}", isSigned=asked.signed)
            began = time.time()
            back = lab.lose(name, float(seconds or 0))
            try:
                lab.talk()
                again = time.time() - back
                is_new = any(each[1:] == ["resumed"] for each in lab.homes[0].seen)
                kept = all(home.keeps_its_link for home in lab.homes)
                how = "by a new link" if is_new else "by the old one"
                print(f"{asked.a} {asked.b} {asked.kind} {loss}: {again:.1f} s, {how}, same object: {kept}")
            except TimeoutError as error:
                print(f"{asked.a} {asked.b} {asked.kind} {loss}: {error}")
            for home in lab.homes:
                seen = [[round(at - began * 1000), *what] for at, *what in home.seen if at > began * 1000]
                print(f"    {home.name}: {seen}")
            if name == "swap":
                lab.tidy()


if __name__ == "__main__":
    main()

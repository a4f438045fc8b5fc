"""Debian's Firefox, headless, by its own remote control: Marionette.

It speaks WebDriver's commands, each a JSON list with its length before it: [0, number, command, parameters],
to which [1, number, error, result] replies. PyPI's driver for it brings ten packages along; this is enough.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from live import free_port

FIREFOX = "/usr/bin/firefox-esr"

QUIET = {
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.newtabpage.enabled": False,
    "browser.region.network.url": "",
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.search.update": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}
"""Nothing here changes how WebRTC behaves: a page's addresses hide behind .local names, as for anybody."""


class Marionette:
    """A session with a Firefox."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._lines = self._socket.makefile("rb")
        self._number = 0
        self._read()  # what it is
        capabilities = self.ask("WebDriver:NewSession")["capabilities"]
        self.version = str(capabilities["browserVersion"])

    def ask(self, command: str, **parameters: Any) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(f"{command}: {error['error']}: {error['message']}")
        return result

    def open(self, url: str) -> None:
        self.ask("WebDriver:Navigate", url=url)

    def evaluate(self, function: str, argument: object = None) -> Any:
        """Call a JavaScript function in the page, and wait for what it gives."""
        script = f"const done = arguments[1]; Promise.resolve(({function})(arguments[0])).then(done);"
        asked = {"script": script, "args": [argument], "sandbox": None, "scriptTimeout": 30_000}
        return self.ask("WebDriver:ExecuteAsyncScript", **asked)["value"]

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> Any:
        length = b""
        while (byte := self._lines.read(1)) != b":":
            assert byte, "Firefox has gone"
            length += byte
        return json.loads(self._lines.read(int(length)))


@contextlib.contextmanager
def firefox(**preferences: object) -> Iterator[Marionette]:
    """Run one until the block is left.

    Args:
        preferences: with underscores for dots.
    """
    port = free_port()
    chosen = {**QUIET, "marionette.port": port, **{k.replace("_", "."): v for k, v in preferences.items()}}
    with tempfile.TemporaryDirectory(prefix="firefox-") as folder:
        lines = [f"user_pref({_js(name)}, {_js(value)});" for name, value in chosen.items()]
        (Path(folder) / "user.js").write_text("\n".join(lines))
        command = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", folder]
        environ = {"HOME": folder, "PATH": "/usr/bin:/bin", "MOZ_DISABLE_CONTENT_SANDBOX": "1"}
        with open(Path(folder) / "log", "w") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            with contextlib.closing(_session(port, process)) as session:
                yield session
        finally:
            process.kill()
            process.wait()
            time.sleep(0.1)  # its children write into the folder until they see that it is gone


def _session(port: int, process: subprocess.Popen[bytes]) -> Marionette:
    deadline = time.monotonic() + 60
    while True:
        try:
            return Marionette(port)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _js(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f'"{value}"'

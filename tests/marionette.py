"""Drive a Firefox as Debian has it, by its own remote control, Marionette.

It speaks WebDriver's commands, each a JSON list with its length before it: [0, number, command, parameters],
to which [1, number, error, result] replies. PyPI's driver for it brings ten packages along; this is enough.
"""

from __future__ import annotations

import json
import socket
from typing import Any

QUIET = {
    "app.normandy.enabled": False,
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
    "dom.push.connection.enabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}
"""Nothing here changes how WebRTC behaves: a page's addresses hide behind .local names, as for anybody."""


def preferences(**more: Any) -> str:
    """The text of a profile's `user.js`."""
    lines = {**QUIET, **more}.items()
    return "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in lines)


class MarionetteError(Exception):
    """Firefox says that a command failed."""


class Marionette:
    """A session with one window.

    Args:
        connection: to the browser's Marionette port.
        seconds: how long a script may take.
    """

    def __init__(self, connection: socket.socket, seconds: float = 30) -> None:
        self._connection = connection
        self._received = b""
        self._number = 0
        connection.settimeout(seconds + 10)
        self._read()  # who it is
        self.version = str(self.ask("WebDriver:NewSession")["capabilities"]["browserVersion"])
        self.ask("WebDriver:SetTimeouts", script=int(seconds * 1000), pageLoad=int(seconds * 1000))

    def close(self) -> None:
        self._connection.close()

    def goto(self, url: str) -> None:
        self.ask("WebDriver:Navigate", url=url)

    def evaluate(self, function: str, argument: Any = None) -> Any:
        """Call a function in the page, and wait for what it resolves to."""
        script = f"""
            const [argument, done] = arguments;
            (async () => (0, {function})(argument))().then(
                value => done({{ value: value === undefined ? null : value }}),
                error => done({{ error: `${{error}}` }}),
            );
        """
        told = self.ask("WebDriver:ExecuteAsyncScript", script=script, args=[argument], sandbox=None)["value"]
        if "error" in told:
            raise MarionetteError(told["error"])
        return told["value"]

    def ask(self, command: str, **parameters: Any) -> Any:
        self._number += 1
        text = json.dumps([0, self._number, command, parameters]).encode()
        self._connection.sendall(b"%d:%b" % (len(text), text))
        _, _, error, result = self._read()
        if error:
            raise MarionetteError(f"{command}: {error['message']}")
        return result

    def _read(self) -> Any:
        while b":" not in self._received:
            self._more()
        length, _, rest = self._received.partition(b":")
        while len(rest) < int(length):
            self._more()
            _, _, rest = self._received.partition(b":")
        text, self._received = rest[: int(length)], rest[int(length) :]
        return json.loads(text)

    def _more(self) -> None:
        piece = self._connection.recv(65536)
        if not piece:
            raise MarionetteError("Firefox has gone")
        self._received += piece

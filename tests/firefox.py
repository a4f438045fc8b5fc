"""Debian's Firefox, headless, on this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from live import free_port
from marionette import Marionette, preferences

FIREFOX = "/usr/bin/firefox-esr"


@contextlib.contextmanager
def firefox(**chosen: object) -> Iterator[Marionette]:
    """Run one until the block is left.

    Args:
        chosen: preferences, with dots or with underscores for dots.
    """
    port = free_port()
    named = {name if "." in name else name.replace("_", "."): value for name, value in chosen.items()}
    with tempfile.TemporaryDirectory(prefix="firefox-") as folder:
        (Path(folder) / "user.js").write_text(preferences(**{"marionette.port": port, **named}))
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
            return Marionette(socket.create_connection(("127.0.0.1", port)), seconds=60)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.1)

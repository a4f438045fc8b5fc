"""docs/clients.md: what stands there to be copied works as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from live import ROOT, Server

PAGE = (ROOT / "docs/clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000/"
COMMANDS = re.findall(r"```sh\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.S)
PYTHON, _ = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """With the limits that a newcomer's server has, but with less patience."""
    with Server(REQUEST_TIMEOUT=1.5, limits=True) as running:
        yield running


@pytest.mark.parametrize(("commands", "printed"), COMMANDS, ids=["exchange", "missing", "nobody", "routes"])
def test_the_commands_print_what_is_said(impatient: Server, commands: str, printed: str) -> None:
    assert ADDRESS in commands
    command = ["bash", "-euc", commands.replace(ADDRESS, impatient.url)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (0, "")
    for line in printed.splitlines():
        pattern = re.escape(line).replace("…", "[A-Za-z0-9_-]{22}")
        assert re.search(f"(?m)^{pattern}\r?$", ended.stdout), ended.stdout


def test_the_python_example_meets_a_peer(server: Server) -> None:
    with server.offer("an offer", NAMESPACE="chess") as alice:
        server.until(waiting=1)
        code = PYTHON.replace(ADDRESS, server.url)
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20
        )
        assert (ended.stdout, ended.stderr) == ("responder my answer to an offer\n", "")
        assert alice.reply()["SIGNAL"] == "my answer to an offer"

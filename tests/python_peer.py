"""The aiortc example as a process, also on a machine with nothing but loopback.

Arguments: a url and a namespace for one link. Without, it links for each line of input, which has the server,
what it says, and options. It prints what it hears. PEER_STACK names what is imported in place of aiortc.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from live import ROOT, Server
from signal_server.openpgp.signer import OpenpgpSigner

COMMAND = [sys.executable, __file__]
ENVIRON = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


class Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def until(self, *lines: str) -> None:
        """Read on until these lines were said, in any order."""
        assert self._process.stdout
        missing = set(lines)
        while missing:
            line = self._process.stdout.readline()
            print(line, end="")  # what a test that waits for more was told
            assert line, f"{missing} was never said"
            missing.discard(line.strip())

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self.ends()

    def stop(self) -> None:
        """The same, whatever it ends with."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)

    def ends(self) -> None:
        assert self._process.wait(20) == 0


def until_waiting(server: Server, count: int = 1) -> None:
    """Return once so many wait. A program that starts and gathers takes its time, on a busy machine."""
    deadline = time.monotonic() + 60
    while server.statistics()["waiting"] < count:
        assert time.monotonic() < deadline, server.statistics()
        time.sleep(0.05)


def aiortc_peer(url: str, namespace: str) -> contextlib.AbstractContextManager[Process]:
    return peer(*COMMAND, url, namespace)


@contextlib.contextmanager
def peer(*command: str | Path) -> Iterator[Process]:
    """Run a program until the block is left."""
    environ = os.environ | ENVIRON
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


async def link_for_each_line(example: dict[str, Any], **common: Any) -> None:
    async with asyncio.TaskGroup() as links:
        while line := await asyncio.to_thread(sys.stdin.readline):
            links.create_task(link_alone(example, **common, **json.loads(line)))


async def link_alone(*arguments: Any, **options: Any) -> None:
    """One that fails does not end the others."""
    try:
        await link(*arguments, **options)
    except Exception:  # noqa: BLE001, whatever it is
        traceback.print_exc()


async def link(example: dict[str, Any], *, server: str, says: str, **options: Any) -> None:
    peer = example["Peer"]([], partial(print, flush=True))
    callbacks = {"offer": peer.offer, "answer": peer.answer, "link": peer.link}
    await example["connect_async"](server, **callbacks, **options)
    for _ in range(100):
        peer.channel.send(says)
        await asyncio.sleep(0.1)


def main(*arguments: str) -> None:
    import aioice.ice

    sys.modules["aiortc"] = importlib.import_module(os.environ.get("PEER_STACK", "aiortc"))

    if not aioice.ice.get_host_addresses(True, True):  # it leaves loopback out, and there may be nothing else
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    example = runpy.run_path(str(ROOT / "docs/examples/aiortc_peer.py"))
    key = os.environ.get("PEER_KEY")
    with OpenpgpSigner(key) if key else contextlib.nullcontext() as signer:
        run = example["main"] if arguments else partial(link_for_each_line, example)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(*arguments, signer=signer))


if __name__ == "__main__":
    main(*sys.argv[1:])

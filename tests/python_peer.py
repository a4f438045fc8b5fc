"""The aiortc example as a process, also on a machine with nothing but loopback.

Arguments: a url and a namespace for one link; only a url, and it links for each line of input, which has what
it says, and options. It prints what it hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from live import ROOT
from signal_server.openpgp.signer import OpenpgpSigner

COMMAND = [sys.executable, __file__]
ENVIRON = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


class Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def until(self, *lines: str) -> None:
        """Read on until these lines were said, in any order."""
        assert self._process.stdout
        missing, said = set(lines), []
        while missing:
            line = self._process.stdout.readline()
            assert line, f"{missing} was never said, but {said}"
            said.append(line.strip())
            missing.discard(line.strip())

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self.ends()

    def ends(self) -> None:
        assert self._process.wait(20) == 0


@contextlib.contextmanager
def aiortc_peer(url: str, namespace: str) -> Iterator[Process]:
    """Run it until the block is left."""
    command = [*COMMAND, url, namespace]
    environ = os.environ | ENVIRON
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


async def link_for_each_line(example: dict[str, Any], url: str, **common: Any) -> None:
    async with asyncio.TaskGroup() as links:
        while line := await asyncio.to_thread(sys.stdin.readline):
            links.create_task(link(example, url, **common, **json.loads(line)))


async def link(example: dict[str, Any], url: str, *, says: str, **options: Any) -> None:
    peer = example["Peer"]([], partial(print, flush=True))
    callbacks = {"offer": peer.offer, "answer": peer.answer, "link": peer.link}
    await example["connect_async"](url, **callbacks, **options)
    while peer.channel.readyState == "open":
        peer.channel.send(says)
        await asyncio.sleep(0.1)


def main(url: str, *namespace: str) -> None:
    import aioice.ice

    if not aioice.ice.get_host_addresses(True, True):  # it leaves loopback out, and there may be nothing else
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    example = runpy.run_path(str(ROOT / "docs/examples/aiortc_peer.py"))
    key = os.environ.get("PEER_KEY")
    with OpenpgpSigner(key) if key else contextlib.nullcontext() as signer:
        run = example["main"] if namespace else partial(link_for_each_line, example)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(url, *namespace, signer=signer))


if __name__ == "__main__":
    main(*sys.argv[1:])

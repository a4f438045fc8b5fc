"""The aiortc example as a process, as on a machine with nothing but loopback.

Arguments: a url and a namespace for one link; only a url, and it links for each line of input, which has what
it says, and options. It prints what it hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import runpy
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

    def says(self) -> str:
        """Its output, once it has ended."""
        output, _ = self._process.communicate(timeout=20)
        assert self._process.returncode == 0
        return output.strip()


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
    peer = example["Peer"]([])
    callbacks = {"offer": peer.offer, "answer": peer.answer, "link": peer.link}
    await example["connect_async"](url, **callbacks, **options)
    while peer.channel.readyState == "open":
        peer.channel.send(says)
        await asyncio.sleep(0.1)
        while not peer.heard.empty():
            print(peer.heard.get_nowait(), flush=True)


def main(url: str, *namespace: str) -> None:
    import aioice.ice

    # aioice leaves loopback out, and there may be nothing else.
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    example = runpy.run_path(str(ROOT / "docs/examples/aiortc_peer.py"))
    key = os.environ.get("PEER_KEY")
    with OpenpgpSigner(key) if key else contextlib.nullcontext() as signer:
        run = example["main"] if namespace else partial(link_for_each_line, example)
        asyncio.run(run(url, *namespace, signer=signer))


if __name__ == "__main__":
    main(*sys.argv[1:])

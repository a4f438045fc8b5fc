"""The aiortc example as a process, as on a machine with nothing but loopback. Arguments: url, namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator

from live import ROOT


class Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def says(self) -> str:
        """Its output, once it has ended."""
        output, _ = self._process.communicate(timeout=20)
        assert self._process.returncode == 0
        return output.strip()


@contextlib.contextmanager
def aiortc_peer(url: str, *arguments: str) -> Iterator[Process]:
    """Run it until the block is left."""
    command = [sys.executable, __file__, url, *arguments]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


if __name__ == "__main__":
    import aioice.ice

    # aioice leaves loopback out, and there may be nothing else.
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    main = runpy.run_path(str(ROOT / "docs/examples/aiortc_peer.py"))["main"]
    asyncio.run(main(*sys.argv[1:]))

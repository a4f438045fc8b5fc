"""What a burst of peers that wait takes of memory, and what is left of it when they have gone.

    PYTHONPATH=.:tests python tests/burst.py --waiting 19500

For this server and for the one before it had a worker of its own, one after the other. A process that may
have 20,000 descriptors holds a few less. It needs a C compiler.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import servers
from bench.measure import compiled, end, told
from bench.servers import Started

REST_SECONDS = 20


def burst(server: Started, program: str, waiting: int) -> tuple[float, float]:
    """Let so many wait, and hang up. Returns MiB at most, and after a rest."""
    words = [program, str(server.port), server.protocol, "crowd", str(waiting)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        told(process, "waiting")
        most = 0  # they have asked; the server may take its time
        for _ in range(4 * REST_SECONDS):
            most = max(most, server.resident_kib())
            time.sleep(0.25)
    finally:
        end(process)
    time.sleep(REST_SECONDS)
    return most / 1024, server.resident_kib() / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--waiting", type=int, default=19_500)
    parser.add_argument("--bursts", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program, tree = compiled(folder), stack.enter_context(servers.earlier(folder))
        for name, root in (("this one", servers.ROOT), (servers.EARLIER, tree)):
            server = servers.ours(name, root)
            try:
                print(f"{name}: {server.resident_kib() / 1024:.1f} MiB before", flush=True)
                for _ in range(options.bursts):
                    most, after = burst(server, program, options.waiting)
                    print(f"  {options.waiting} wait: {most:.1f} MiB; after them: {after:.1f}", flush=True)
            finally:
                server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

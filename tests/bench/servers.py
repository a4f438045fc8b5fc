"""The servers that are measured: each is started on a core of its own, and tells what it uses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from live import ROOT, environment, free_port

APPS = Path(__file__).parent / "apps"

EARLIER = "9ffa193"
"""The commit before the server had a worker of its own."""

PEERJS = "peer@1.0.2"

HIGH = {
    "REQUEST_LIMIT": "1000000 per second",
    "PAIR_LIMIT": "1000000 per second",
    "ADDRESS_LIMIT": "10000000 per second",
    "HELD_PER_ADDRESS": "1000000",
    "CONNECTIONS_PER_ADDRESS": "1000000",
}
"""Every limit is on, and too high to hit."""

TICKS = os.sysconf("SC_CLK_TCK")

STOCK = ("-k", "gevent", "-w", "1", "--worker-connections", "25000", "--no-control-socket")
"""For gunicorn without our configuration."""


@dataclass
class Started:
    """A server that runs.

    Attributes:
        protocol: as load.c names it.
        process: its first process; its children count as well.
    """

    name: str
    port: int
    protocol: str
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            found += map(int, children.split())
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        return sum(map(cpu_seconds, self.pids))

    def resident_kib(self) -> int:
        return sum(map(resident_kib, self.pids))

    def stop(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: all of them are ours
        self.process.wait(10)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def busy_seconds() -> float:
    """CPU time that anything on this machine has used so far."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / TICKS


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError("no VmRSS")


def cores() -> tuple[int, int]:
    """The server's, and the generator's; the same one if there is no other."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[-1]


def pin(pid: int, core: int) -> None:
    """Keep a process and its children to one core."""
    os.sched_setaffinity(pid, {core})


def start(name: str, command: Sequence[str], *, folder: Path, protocol: str, **environ: str) -> Started:
    """Start a server. `{port}` in its command is a free port of 127.0.0.1.

    Raises:
        RuntimeError: it ended, or does not listen within 30 s.
    """
    port, core = free_port(), cores()[0]
    with tempfile.TemporaryFile() as log:  # its lines cost what they cost, and nobody reads them
        process = subprocess.Popen(
            [word.replace("{port}", str(port)) for word in command],
            cwd=folder,
            env=environment() | environ | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        started = Started(name, port, protocol, process)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                time.sleep(0.5)
                return started
            time.sleep(0.05)
        started.stop()
        log.seek(0)
        raise RuntimeError(f"{name} did not start:\n{log.read().decode()[-2000:]}")


def ours(name: str, folder: Path = ROOT, **settings: object) -> Started:
    """This project's server, or another commit's, as its gunicorn.conf.py has it."""
    environ = environment(**{**HIGH, **settings})
    return start(name, [sys.executable, "-m", "gunicorn"], folder=folder, protocol="spacerift", **environ)


def mounted(name: str, folder: Path = ROOT) -> Started:
    """The same in an application of somebody else's, on gunicorn as it comes."""
    command = [sys.executable, "-m", "gunicorn", *STOCK, "-b", "127.0.0.1:{port}", "elsewhere:app"]
    environ = environment(**HIGH) | {"PYTHONPATH": str(folder)}
    return start(name, command, folder=APPS, protocol="spacerift", **environ)


def nothing(name: str) -> Started:
    command = [sys.executable, "-m", "gunicorn", *STOCK, "-b", "127.0.0.1:{port}", "nothing:app"]
    return start(name, command, folder=APPS, protocol="nothing")


def peerjs(name: str, folder: Path) -> Started:
    """PeerJS's server, which npm installs into this folder."""
    script = folder / "node_modules/peer/dist/bin/peerjs.js"
    if not script.exists():
        npm = [
            "npm",
            "install",
            "--prefix",
            str(folder),
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            PEERJS,
        ]
        subprocess.run([*npm, "--silent"], check=True, stdout=subprocess.DEVNULL)
    options = ["--host", "127.0.0.1", "--port", "{port}", "--path", "/", "--concurrent_limit", "100000"]
    return start(
        name, ["node", str(script), *options], folder=folder, protocol="peerjs", NODE_ENV="production"
    )


@contextlib.contextmanager
def earlier(folder: Path) -> Iterator[Path]:
    """The tree of the earlier commit, beside this one."""
    tree = folder / EARLIER
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "-f", str(tree), EARLIER], check=True, capture_output=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=False, capture_output=True)

"""What is measured of a server from outside: by the load generator, and from its processes."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .servers import Started, busy_seconds, cores, cpu_seconds, pin

SOURCE = Path(__file__).parent / "load.c"


@dataclass(frozen=True)
class Rate:
    """Pairs that were linked one after the other, so many at once.

    Attributes:
        per_second: pairs; of a server that does nothing, requests.
        cpu_us: of the server's processes, for a pair.
        p50_ms, p99_ms: from the second peer's first system call until the first peer has the answer.
        server, generator, others: shares of a core, while it was measured.
    """

    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    server: float
    generator: float
    others: float


@dataclass(frozen=True)
class Crowd:
    """Peers that wait, and newcomers that are linked with them one by one.

    Attributes:
        kib: of memory for each that waits.
        upkeep: the share of a core that it takes to keep them waiting.
        newcomer_p50_ms, newcomer_p99_ms: see `Rate`.
    """

    waiting: int
    kib: float
    upkeep: float
    newcomer_p50_ms: float
    newcomer_p99_ms: float


class Damaged(AssertionError):
    """Something did not arrive as it was sent, or an error came back."""


def compiled(folder: Path) -> str:
    """The load generator, built into this folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the load generator needs a C compiler: apt-get install gcc libc6-dev")
    program = folder / "load"
    subprocess.run([compiler, "-O2", "-Wall", "-o", program, SOURCE], check=True)
    return str(program)


class Load:
    """The load generator, on the last core.

    Args:
        program: from `compiled`.
    """

    def __init__(self, program: str) -> None:
        self._program = program

    def rate(
        self, server: Started, *, at_once: int, kept: bool, unseen: bool, warm: float, seconds: float
    ) -> Rate:
        """Link pairs for some seconds.

        Args:
            at_once: pairs.
            kept: connections stay open; else every peer opens its own.
            unseen: no request's head is sent twice.
        """
        process = self._start(server, ["rate", at_once, int(kept), int(unseen), warm, seconds])
        return self._finish(process, server, server.process.pid)[0]

    def rate_with(
        self, server: Started, beside: int, *, at_once: int, kept: bool, warm: float, seconds: float
    ) -> tuple[Rate, float]:
        """The same beside another process. Returns also its CPU time for a pair, in µs."""
        process = self._start(server, ["rate", at_once, int(kept), 0, warm, seconds])
        return self._finish(process, server, beside)

    def crowd(self, server: Started, waiting: int, upkeep_seconds: float) -> Crowd:
        """Let so many peers wait, each in a pool of its own, and then link 200 newcomers with them.

        Args:
            upkeep_seconds: should cover the time after which a client asks anew.
        """
        # What the first requests need is not of those that wait.
        self.rate(server, at_once=16, kept=False, unseen=False, warm=0.5, seconds=0.5)
        time.sleep(1)
        before = server.resident_kib()
        process = self._start(server, ["crowd", waiting])
        try:
            told(process, "waiting")
            kib = (server.resident_kib() - before) / waiting
            cpu, started = server.cpu_seconds(), time.monotonic()
            time.sleep(upkeep_seconds)
            upkeep = (server.cpu_seconds() - cpu) / (time.monotonic() - started)
            assert process.stdin is not None
            process.stdin.write("go on\n")
            process.stdin.flush()
            found = told(process, "done")
        finally:
            end(process)
        sound(found, server.name)
        return Crowd(waiting, kib, upkeep, found["p50_ms"], found["p99_ms"])

    def _finish(self, process: subprocess.Popen[str], server: Started, beside: int) -> tuple[Rate, float]:
        def now() -> tuple[float, float, float, float]:
            return server.cpu_seconds(), cpu_seconds(beside), busy_seconds(), time.monotonic()

        try:
            told(process, "measuring")
            before = now()
            found = told(process, "done")
            after = now()
        finally:
            end(process)
        used, other, busy, elapsed = (new - old for new, old in zip(after, before, strict=True))
        sound(found, server.name)
        own, pairs = found["generator_cpu"], max(1, found["pairs"])
        rate = Rate(
            per_second=found["pairs"] / found["seconds"],
            cpu_us=used / pairs * 1e6,
            p50_ms=found["p50_ms"],
            p99_ms=found["p99_ms"],
            server=used / elapsed,
            generator=own / found["seconds"],
            others=max(0.0, busy - used - own) / elapsed,
        )
        return rate, other / pairs * 1e6

    def _start(self, server: Started, words: list[object]) -> subprocess.Popen[str]:
        line = [self._program, str(server.port), server.protocol, *map(str, words)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        pin(process.pid, cores()[1])
        return process


def told(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The generator's next line, which must be of this event."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Damaged(f"the load generator ended with {process.wait()}")
    found: dict[str, Any] = json.loads(line)
    if found["event"] != event:
        raise Damaged(f"{event} was expected, but {line}")
    return found


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def sound(found: dict[str, Any], name: str) -> None:
    if found["errors"] or found["damaged"] or found["lost"] or not found["pairs"]:
        raise Damaged(f"{name}: {found}")


def median(found: list[Rate]) -> Rate:
    """Each figure's median."""
    names = Rate.__dataclass_fields__
    return Rate(**{name: statistics.median(getattr(each, name) for each in found) for name in names})

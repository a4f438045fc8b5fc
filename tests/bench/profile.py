"""Where the microseconds of one pair go: samples of the worker's stack, summed up by what they belong to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from .measure import Load
from .servers import Started

PARTS = [
    ("JSON", ("/json/", "encode (", "json_object")),
    ("the request as a message", ("signal_server/messages.py",)),
    ("who the peer is: hashes", ("signal_server/matching/identity.py",)),
    ("limits", ("signal_server/matching/limits.py", "/limits/")),
    ("the rules and their store", ("signal_server/matching/",)),
    ("counts and the log", ("signal_server/telemetry/",)),
    ("the head and the reply", ("signal_server/http/ordinary.py", "signal_server/http/head.py")),
    ("sockets, epoll and the loop", ("http/worker.py", "http/serving.py", "gevent/")),
    ("the endpoint", ("signal_server/http/", "signal_server/app.py")),
    ("gunicorn", ("gunicorn/",)),
    ("Flask", ("flask/", "werkzeug/")),
]
"""The innermost frame that fits decides; what stands first goes first."""


def part_of(stack: list[str]) -> str:
    """What a stack's time belongs to, by its innermost frame that is known."""
    for frame in reversed(stack):
        for name, marks in PARTS:
            if any(mark in frame for mark in marks):
                return name
    return "the rest"


def summed(raw: str) -> dict[str, float]:
    """Shares by part, of py-spy's raw output: one stack and its number of samples in each line."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        counts[part_of(stack.split(";"))] += int(samples)
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.most_common()}


def measure(load: Load, server: Started, folder: Path, *, seconds: int) -> dict[str, dict[str, float]]:
    """µs of a pair by part, for new and for kept connections."""
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    found = {}
    for name, kept in (("new", False), ("kept", True)):
        out = folder / f"{name}.raw"
        command = [spy, "record", "--pid", str(server.pids[-1]), "--rate", "200", "--duration", str(seconds)]
        command += ["--format", "raw", "--full-filenames", "--output", str(out)]
        plain = load.rate(server, at_once=64, kept=kept, unseen=False, warm=1, seconds=5)
        watching = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        load.rate(server, at_once=64, kept=kept, unseen=False, warm=1, seconds=seconds)
        _, complaint = watching.communicate(timeout=60)
        if watching.returncode:
            raise RuntimeError(f"py-spy: {complaint.decode()}")
        found[name] = {part: share * plain.cpu_us for part, share in summed(out.read_text()).items()}
    return found

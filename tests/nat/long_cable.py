"""A cable on which each packet takes its time: `python long_cable.py FD FD MS MS`, with two TAP devices.

The first time is that of UDP, which peers speak, the second that of all else, for the server may be farther
away than the peers are from each other. For kernels without `netem`. It is a process of its own: nothing else
of a test makes packets late.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME = 65536


def open_tap(name: str) -> int:
    """Make a TAP device in the namespace of this thread. It is gone once its descriptor is closed."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


class LongCable:
    """Two ends in two namespaces, and a process between them."""

    def __init__(self, *ends: int) -> None:
        self._ends = ends
        self._process: subprocess.Popen[bytes] | None = None
        self.delay(0, 0)

    def delay(self, udp_ms: float, ms: float) -> None:
        self._stop()
        command = [sys.executable, __file__, *map(str, self._ends), str(udp_ms), str(ms)]
        self._process = subprocess.Popen(command, pass_fds=self._ends)

    def close(self) -> None:
        self._stop()
        for end in self._ends:
            os.close(end)

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def is_udp(frame: bytes) -> bool:
    """Of an Ethernet frame."""
    kind = frame[12:14]
    return (kind == b"\x08\x00" and frame[23] == 17) or (kind == b"\x86\xdd" and frame[20] == 17)


def carry(one: int, other: int, udp_seconds: float, seconds: float) -> None:
    """Carry packets both ways, for ever."""
    under_way: dict[bool, deque[tuple[float, int, bytes]]] = {True: deque(), False: deque()}
    times = {True: udp_seconds, False: seconds}
    ends = {one: other, other: one}
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    while True:
        due = min((queue[0][0] for queue in under_way.values() if queue), default=None)
        for end, _ in poll.poll(None if due is None else max(0.0, due - time.monotonic()) * 1000):
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = os.read(end, FRAME)
                    kind = is_udp(frame)
                    under_way[kind].append((time.monotonic() + times[kind], ends[end], frame))
        for queue in under_way.values():
            while queue and queue[0][0] <= time.monotonic():
                _, end, frame = queue.popleft()
                with contextlib.suppress(OSError):  # as on any cable, what does not fit is lost
                    os.write(end, frame)


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(-10)
    carry(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, float(sys.argv[4]) / 1000)

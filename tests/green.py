"""A loop, a clock and threads that are a test's: greenlets go on when a seed says so, and nothing sleeps.

They stand in the place of gevent's loop, of `time`, `threading` and `select` in the modules of a server; see
green_server.py.
"""

from __future__ import annotations

import select
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from greenlet import getcurrent, greenlet


class Green:
    """Greenlets that a seed resumes, and a clock that it moves: the ground under all that runs.

    Attributes:
        now: the time, by any of the server's clocks.
        ready: greenlets that may go on.
        asleep: the same, from a time on.
        blocked: the same, once a descriptor is ready.
        alive: how many there are.
        current: the ground of what runs now.
    """

    current: Green

    def __init__(self) -> None:
        self.main = getcurrent()
        self.now = 1_000.0
        self.ready: list[greenlet] = []
        self.asleep: list[tuple[float, greenlet]] = []
        self.blocked: list[tuple[int, int, greenlet]] = []
        self.alive = 0
        self.wrong: list[str] = []

    def wait(self, queue: list[Any], *entry: Any) -> None:
        """Let the others go on, until somebody takes this greenlet out of the queue."""
        me = getcurrent()
        if me is self.main:
            raise AssertionError("a callback waits, and with it everything")
        queue.append((*entry, me) if entry else me)
        self.main.switch()

    def spawn(self, call: Callable[..., object], *args: Any) -> None:
        def run() -> None:
            try:
                call(*args)
            except Exception:  # noqa: BLE001  that is what is looked for
                self.wrong.append(f"a greenlet failed: {traceback.format_exc()}")
            finally:
                self.alive -= 1

        self.alive += 1
        made = greenlet(run, self.main)
        if getcurrent() is self.main:
            made.switch()
        else:
            self.ready.append(made)

    def runnable(self) -> list[greenlet]:
        """All that may go on, out of their queues' hands but for the one that is chosen; see `resume`."""
        due = [each for until, each in self.asleep if until <= self.now]
        open_ = [each for fd, mask, each in self.blocked if is_ready(fd, mask)]
        return [*self.ready, *due, *open_]

    def resume(self, chosen: greenlet) -> None:
        self.ready = [each for each in self.ready if each is not chosen]
        self.asleep = [each for each in self.asleep if each[1] is not chosen]
        self.blocked = [each for each in self.blocked if each[2] is not chosen]
        chosen.switch()


def is_ready(fd: int, mask: int) -> bool:
    poll = select.poll()
    poll.register(fd, mask)
    return bool(poll.poll(0))


class Event:
    """`threading.Event`, of greenlets."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[greenlet] = []

    def set(self) -> None:
        self._is_set = True
        Green.current.ready += self._waiting
        self._waiting = []

    def wait(self) -> None:
        if not self._is_set:
            Green.current.wait(self._waiting)


class Thread:
    """`threading.Thread`, of greenlets."""

    def __init__(self, target: Callable[[], object]) -> None:
        self._target, self._ended = target, Event()

    def start(self) -> None:
        Green.current.spawn(self._run)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended.set()

    def join(self) -> None:
        self._ended.wait()


class Daemon(Thread):
    """One that never ends."""

    def __init__(self, target: Callable[[], object], **_: object) -> None:
        super().__init__(target)

    def start(self) -> None:
        Green.current.alive -= 1
        super().start()


class Select:
    """`select`, of greenlets."""

    def __getattr__(self, name: str) -> Any:
        return getattr(select, name)

    def select(self, readable: list[Any], *_: object) -> None:
        Green.current.wait(Green.current.blocked, readable[0].fileno(), select.POLLIN)


CLOCK = SimpleNamespace(
    monotonic=lambda: Green.current.now,
    time=lambda: Green.current.now,
    sleep=lambda seconds: Green.current.wait(Green.current.asleep, Green.current.now + seconds),
)

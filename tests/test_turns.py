"""Who verifies next: each address in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from live import eventually
from signal_server.errors import Unavailable
from signal_server.openpgp.turns import Turns


class Crowd:
    """Threads that want a turn, and keep it until they are told."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.refused: list[str] = []
        self._waiting = 0
        self._go_on = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def come(self, who: str, times: int = 1) -> None:
        """Return once they have their turn, wait for it, or were refused."""
        for _ in range(times):
            before = self.count()
            self._threads.append(threading.Thread(target=self._want, args=(who,)))
            self._threads[-1].start()
            assert eventually(lambda before=before: self.count() > before)

    def count(self) -> int:
        waiting = sum(map(len, self.turns._waiting.values()))
        return waiting + len(self.served) + len(self.refused)

    def _want(self, who: str) -> None:
        try:
            with self.turns.turn(who.encode()):
                self.served.append(who)
                self._go_on.acquire()
        except Unavailable:
            self.refused.append(who)

    def serve(self, number: int) -> None:
        """Let so many go on, one after the other."""
        for _ in range(number):
            before = len(self.served)
            self._go_on.release()
            eventually(lambda before=before: len(self.served) > before or not self.turns._waiting)

    def end(self) -> None:
        self._go_on.release(1000)
        for each in self._threads:
            each.join(10)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd(Turns(1, 8, patience_seconds=30))
    crowd.come("first")
    yield crowd
    crowd.end()
    assert crowd.turns._free == 1
    assert not crowd.turns._waiting


def test_who_floods_has_a_quarter_of_the_queue(crowd: Crowd) -> None:
    crowd.come("flood", 10)
    assert crowd.refused == ["flood"] * 8
    with pytest.raises(Unavailable):
        crowd.turns.check(b"flood")
    crowd.turns.check(b"honest")


def test_each_address_has_its_turn(crowd: Crowd) -> None:
    for who in ("a", "a", "b", "b", "c"):
        crowd.come(who)
    crowd.serve(5)
    assert crowd.served == ["first", "a", "b", "c", "a", "b"]


def test_who_has_none_in_a_full_queue_gets_the_place_of_who_has_most(crowd: Crowd) -> None:
    for who in "abcd":
        crowd.come(who, 2)
    crowd.come("honest")
    crowd.refused.sort()
    assert crowd.refused == ["a"]
    crowd.come("a")  # which has no fewer than anybody has more
    assert eventually(lambda: crowd.refused == ["a", "a"])
    crowd.serve(5)
    assert "honest" in crowd.served


def test_a_queue_of_addresses_with_one_each_is_full_for_one_more(crowd: Crowd) -> None:
    for who in "abcdefgh":
        crowd.come(who)
    crowd.come("i")
    assert crowd.refused == ["i"]


def test_nobody_waits_for_ever() -> None:
    turns = Turns(1, 8, patience_seconds=0.05)
    with turns.turn(b"hangs"):
        started = time.monotonic()
        with pytest.raises(Unavailable), turns.turn(b"other"):
            raise AssertionError
        assert time.monotonic() - started < 5
    with turns.turn(b"other"):
        pass


def test_a_turn_that_fails_is_given_on() -> None:
    turns = Turns(1, 8, patience_seconds=5)
    with pytest.raises(ZeroDivisionError), turns.turn(b"a"):
        raise ZeroDivisionError
    with turns.turn(b"b"):
        pass


@pytest.mark.parametrize("has_turn", [False, True])
def test_who_is_ended_while_it_waits_takes_no_turn_with_it(
    has_turn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(1, 8, patience_seconds=0.1)
    first = ExitStack()
    first.enter_context(turns.turn(b"a"))

    def ended(*_: object) -> bool:
        if has_turn:
            first.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Event, "wait", ended)
        with pytest.raises(KeyboardInterrupt), turns.turn(b"b"):
            raise AssertionError
    first.close()
    with turns.turn(b"c"):
        pass

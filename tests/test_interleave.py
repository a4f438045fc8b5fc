"""A short run of tests/interleave.py, and what it notices. Longer runs: docs/reliability.md."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import live
from interleave import KINDS, interleave
from mutants import Mutant

MATCHER, WSGI = "signal_server/matching/matcher.py", "signal_server/http/wsgi.py"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong_in_whatever_order_it_happens(kind: str) -> None:
    told = 0
    for seed in range(60):
        world = interleave(kind, seed)
        assert not world.wrong, (seed, world.wrong)
        told += world.seen["ANSWER DELIVERED"]
    assert told >= 5


MUTANTS = [
    (MATCHER, "        self.close(ticket)\n        if ticket.refusal", "        if ticket.refusal"),
    (MATCHER, "if ticket.name:\n                self._store.drop_name(ticket.name)", "pass"),
    (MATCHER, "return ticket.result is None  # it may", "return True  # it may"),
    (MATCHER, "ticket.has_place = True  # before", "pass  # before"),
    (MATCHER, "        if pending:\n            self.resolve(ticket, result)", "        pass"),
    (WSGI, "self._hangups.look()", "pass"),
    (WSGI, "timer.cancel()", "pass"),
    ("signal_server/http/endpoint.py", "finish(reply, written=written)", "finish(reply, written=True)"),
    ("signal_server/http/serving.py", "return self.socket is not None and not self.is_gone", "return True"),
]
"""What is broken of which file, and how."""


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[old for _, old, _ in MUTANTS])
def test_what_is_broken_is_noticed(number: int) -> None:
    file, old, new = MUTANTS[number]
    with Mutant(file=file, old=old, new=new).planted():
        ran = subprocess.run(
            [sys.executable, "tests/interleave.py", "--seeds", "200"],
            cwd=live.ROOT,
            env=os.environ | {"PYTHONPATH": str(live.ROOT)},
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 1, ran.stdout
    assert "wrong; " in ran.stdout, ran.stderr  # and it did not just fall over

"""A short run of tests/invariants.py, and what it notices. Longer runs: docs/reliability.md."""

from __future__ import annotations

import pytest

import rules_machine
import test_store_model
from invariants import play
from redis_server import RedisServer
from test_rules_model import MUTANTS, broken_rules


def test_no_walk_finds_anything() -> None:
    assert play(rules_machine.Machine, 0, 5_000) == -1
    with RedisServer() as redis:
        assert play(test_store_model.machine_of(redis, 3), 0, 200) == -1


def test_a_walk_notices_a_broken_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        broken = broken_rules(*MUTANTS[0], patch)
    assert play(type("Broken", (rules_machine.Machine,), {"rules_class": broken}), 0, 5_000) >= 0

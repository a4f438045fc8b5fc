"""Short runs of the floods of tests/hostile.py. Longer ones are by hand; see docs/reliability.md."""

from __future__ import annotations

import pytest

from hostile import SETTINGS, VICTIMS, Flooded, flood
from live import Server


def flooded(kind: str, count: int, seconds: float = 2, **settings: object) -> Flooded:
    with Server(limits=True, LOG="off", **SETTINGS.get(kind, {}) | settings) as server:
        seen = flood(server, kind, count, seconds, pairs=10, rest=0)
        assert "Traceback" not in server.log
    print(seen)
    assert len(seen.fared.waits) >= 10
    assert not seen.fared.lost
    return seen


def test_slow_heads_and_bodies_cost_others_nothing(driver: str) -> None:
    took = flooded("slow", 100, seconds=7).took
    assert min(took[kind] for kind in ("heads", "bodies", "silent")) >= 100


@pytest.mark.parametrize("held", ["256", "4000"])
def test_one_address_that_holds_much_is_in_nobodys_way(driver: str, held: str) -> None:
    raised = {"HELD_PER_ADDRESS": held, "CONNECTIONS_PER_ADDRESS": "4000", "ADDRESS_LIMIT": ""}
    seen = flooded("held", 1000, **raised if held == "4000" else {})
    assert ("RATE_LIMIT" in seen.took) is (held == "256")


def test_who_reads_nothing_is_in_nobodys_way(driver: str) -> None:
    assert flooded("unread", 100).took["asked"] >= 100


def test_what_is_invented_gains_nothing(driver: str) -> None:
    took = flooded("invented", 100).took
    assert took["NO_NAMESPACE_PEER"] <= 3 * 50 * 6  # addresses, ADDRESS_LIMIT, and seconds at most
    assert took["RATE_LIMIT"] > 0


def test_a_nonce_or_a_name_that_is_guessed_hits_nothing(driver: str) -> None:
    seen = flooded("guesses", 50)
    assert seen.took.keys() == {"asked", "LEFT", "NO_NAMESPACE_PEER"}
    assert seen.victims == VICTIMS


def test_names_that_nobody_bears_are_soon_forgotten(driver: str) -> None:
    seen = flooded("leaves", 50)
    assert seen.took["LEFT"] > 100
    assert seen.memory[1] - seen.memory[0] < 30


def test_bodies_that_are_much_work_take_no_memory(driver: str) -> None:
    seen = flooded("bombs", 30)
    assert seen.took["asked"] > 30
    assert seen.memory[1] - seen.memory[0] < 60

"""The in-process store keeps the promises of a store."""

from __future__ import annotations

import pytest

from signal_server.matching.stores.base import Name
from signal_server.matching.stores.memory import MemoryStore
from store_contract import SWEEP_MS, TIMES, StoreContract, World, leaver_of


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def world(self) -> World:
        return World(lambda clock: MemoryStore(TIMES, sweep_ms=SWEEP_MS, clock=clock))

    def test_old_pairs_are_swept(self, world: World) -> None:
        world.pair("ann", "ben")
        world.after(TIMES.pair_memory + SWEEP_MS)
        assert world.counts()["pairs"] == 0

    def test_what_was_seen_is_forgotten(self, world: World) -> None:
        world.store.remember_once("one", seconds=60)
        world.now_ms += 60_000
        assert not world.store.remember_once("one", seconds=60)

    def test_a_request_may_come_after_the_last_leave_of_its_name(self, world: World) -> None:
        for _ in range(2):
            world.store.leave("a name", leaver_of("ann"))
            world.now_ms += 1_500
        assert world.take_name(world.arrival("ann", name="a name")) is Name.LEFT
        world.now_ms += 500
        assert world.take_name(world.arrival("ann", name="a name")) is Name.TAKEN

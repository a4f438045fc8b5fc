"""The short run of the measurement: it works, and nothing has become several times worse."""

from __future__ import annotations

import bench


def test_the_bench_runs_and_keeps_its_floors() -> None:
    measured = bench.main(quick=True)
    assert measured["ratio_to_a_third_of_N"] > 0.2, "the floor is 0.6; this machine may be busy"
    assert 0 < measured["kib_per_waiting_peer"] < 30

"""The short run of the benchmark: it works, and nothing has become several times worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import report, servers
from bench.measure import Load, compiled


def test_the_benchmark_runs_and_keeps_its_floors(tmp_path: Path) -> None:
    results = bench.measure_all(quick=True)
    for kept in (False, True):
        pair, request = (results.rates[name, (16, kept)] for name in (bench.OURS, bench.NOTHING))
        assert pair.cpu_us < 2.5 * request.cpu_us, "a pair takes less than one request of N"
        assert pair.generator < 0.7, "the generator must not be the limit"
    assert 0 < results.crowds[bench.OURS, 200].kib < 15
    assert results.inside is not None
    assert results.inside.many_us < 3 * results.inside.few_us
    assert 50 < results.inside.pair_bytes < 400
    page = tmp_path / "performance.md"
    page.write_text(f"before {report.BEGIN} old {report.END} after")
    report.write(results, report.tables(results), tmp_path)
    assert page.read_text().startswith(f"before {report.BEGIN}")
    assert bench.NOTHING in page.read_text()
    assert " old " not in page.read_text()
    assert (tmp_path / "performance.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("at_once", [2, 4])
def test_no_request_stays_unread_where_a_step_may_wait(at_once: int, tmp_path: Path) -> None:
    """Few connections, so that no event of another one wakes the worker for it."""
    server = servers.ours("signed peers are let in", SIGNATURES="optional", OPENPGP="sequoia")
    try:
        load = Load(compiled(tmp_path))
        rate = load.rate(server, at_once=at_once, kept=True, unseen=False, warm=0.5, seconds=1)
    finally:
        server.stop()
    assert rate.per_second > 20

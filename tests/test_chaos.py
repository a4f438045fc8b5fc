"""A short run of tests/chaos.py. Longer ones are by hand; see docs/scale-out-proofs.md."""

from __future__ import annotations

from chaos import FAULTS, chaos, report


def test_nothing_wrong_is_seen_while_everything_goes_wrong() -> None:
    seen = chaos(seconds=10, peers=30, workers=2, faults=list(FAULTS), pause=0.5, seed=4)
    print(report(seen))
    assert seen.wrong == []
    assert sum(seen.faults.values()) >= 4
    assert len(seen.answers) > 50
    assert max(seen.refused, default=0) < 3  # the promise is 1 s, of a machine that is not as busy as this

"""Which fields of an arrival a state machine varies: one that it leaves alone is a rule that nobody plays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields

from signal_server.messages import Arrival

PLAYED = {each.name for each in fields(Arrival)} - {"counts"}
"""No rule sees the counts: tests/test_counts.py has them."""


class Varied:
    """Remembers the values of each field over all the arrivals of a run."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, set[object]] = defaultdict(set)

    def note(self, arrival: Arrival) -> Arrival:
        for name in PLAYED:
            self._seen[name].add(getattr(arrival, name))
        return arrival

    def missing(self) -> set[str]:
        """The fields that had the same value in every arrival."""
        return {name for name in PLAYED if len(self._seen[name]) < 2}

"""Which fields of an arrival a state machine varies: one that it leaves alone is a rule that nobody plays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields

from signal_server.messages import Arrival


class Varied:
    """Remembers the values of each field over all the arrivals of a run."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, set[object]] = defaultdict(set)

    def note(self, arrival: Arrival) -> Arrival:
        for each in fields(Arrival):
            self._seen[each.name].add(getattr(arrival, each.name))
        return arrival

    def missing(self) -> set[str]:
        """The fields that had the same value in every arrival."""
        return {each.name for each in fields(Arrival) if len(self._seen[each.name]) < 2}

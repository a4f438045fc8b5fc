"""The rules keep their invariants, and a machine that looks for one that they break would find it.

`MUTANTS` breaks the rules and their parts one line at a time, and the machine must notice each.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rules_machine import Machine
from signal_server import matching
from signal_server.matching import deadlines, pairs, pool, rules
from signal_server.matching.rules import Rules
from varied import Varied

QUICK = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def test_the_rules_keep_their_invariants() -> None:
    played = type("Played", (Machine,), {"varied": Varied()})
    run_state_machine_as_test(played, settings=QUICK)
    assert not played.varied.missing(), "what an arrival says, and the machine never plays"


MUTANTS = [
    (rules, "self._stop_waiting(found)", "pass"),
    (rules, "handover.pool != arrival.pool or", ""),
    (rules, "or handover.bearer != arrival.bearer", ""),
    (rules, "offer, handover.offer = handover.offer, None", "offer = handover.offer"),
    (rules, "if handover.digest != arrival.digest:", "if False:"),
    (rules, "handover.repliers.append(arrival)\n            return []", "return []"),
    (
        rules,
        "handover.stage is not _Stage.ANSWERED:\n            return False",
        "False:\n            return False",
    ),
    (rules, "handover.stage = _Stage.WRITING", "pass"),
    (rules, "handover.stage not in (_Stage.ANSWERED, _Stage.WRITING)", "False"),
    (rules, "if not written:\n            return", "if False:\n            return"),
    (rules, "self._remember(handover, Met.LINKED, now_ms)", "pass"),
    (rules, "self._remember(handover, Met.BOUNCED, now_ms)", "pass"),
    (
        rules,
        "self._remember(handover, Met.BOUNCED, now_ms)",
        "self._remember(handover, Met.LINKED, now_ms)",
    ),
    (
        rules,
        "self._remember(handover, Met.LINKED, now_ms)",
        "self._remember(handover, Met.BOUNCED, now_ms)",
    ),
    (rules, "returned = self._give_back(handover.offer, nonces, now_ms)", "returned = []"),
    (rules, "self._handovers[offer.nonce].offer = None", "pass"),
    (
        rules,
        "if offer.nonce is None:\n            self._stop_waiting(offer)",
        "if offer.nonce is None:\n            pass",
    ),
    (rules, "offer.nonce = None\n        if", "if"),
    (rules, "if offer.deadline_ms <= now_ms:", "if False:"),
    (rules, "self._stop_waiting(other)\n", "\n"),
    (rules, "if offer.place < other.place else", "if offer.place > other.place else"),
    (rules, "del self._offers[arrival.ticket]", "pass"),
    (
        rules,
        "deadlines.ANSWER, nonce, now_ms + self._times.answer)\n        return D",
        "deadlines.ANSWER, nonce, 10**12)\n        return D",
    ),
    (rules, "self._set_deadline(handover, deadlines.WRITE, now_ms + self._times.write)", "pass"),
    (rules, "if handover.stage in (_Stage.ANSWERED, _Stage.WRITING):", "if False:"),
    (rules, "if offer is not None and offer.nonce is None:", "if offer is not None:"),
    (rules, "self.deadlines.add(deadlines.WAIT, offer.arrival.ticket, offer.deadline_ms)", "pass"),
    (rules, "self.deadlines.drop(deadlines.WAIT, offer.arrival.ticket)", "pass"),
    (rules, "self.deadlines.drop(handover.term, handover.nonce)\n        self", "self"),
    (rules, "handover.nonce, when_ms)\n        handover.term = term", "handover.nonce, when_ms)"),
    (rules, "self._stop_waiting(offer)\n                deliveries", "deliveries"),
    (rules, "now_ms + arrival.wait_ms", "now_ms + self._times.request"),
    (
        rules,
        "self._oldest_for(arrival, now_ms, unwanted=handover.initiator)",
        "self._oldest_for(arrival, now_ms)",
    ),
    (
        rules,
        "self._pairs.met(name, arrival.peer, other, now_ms=now_ms)",
        "self._pairs.met(b'', arrival.peer, other, now_ms=now_ms)",
    ),
    (pool, "if places[0] == place:", "if False:"),
    (pool, "if self._drop_gone(self._places, peer) and was_head:", "if False:"),
    (
        pool,
        "if self._drop_gone(self._places, peer) and was_head:",
        "if self._drop_gone(self._places, peer) and not was_head:",
    ),
    (pool, "if offer.arrival.rematch:\n            heapq", "if True:\n            heapq"),
    (pool, "if offer.arrival.rematch:\n            heapq", "if False:\n            heapq"),
    (
        pool,
        "if offer.arrival.rematch:\n            self._drop_gone",
        "if False:\n            self._drop_gone",
    ),
    (pool, "met = Met.BOUNCED if owner == peer else met_by(owner)", "met = met_by(owner)"),
    (pool, "if met is Met.LINKED:\n", "if True:\n"),
    (pool, "if offer is not None and met is not Met.BOUNCED:", "if offer is not None:"),
    (pool, "self._that_rematches(offer) if arrival.rematch else None", "self._that_rematches(offer)"),
    (pool, "self._that_rematches(offer) if arrival.rematch else None", "None"),
    (pool, "return self.offers[self._rematch[peer][0]] if", "return head if"),
    (pool, "for place in passed_over:", "for place in ():"),
    (pool, "if found is None and others:", "if False:"),
    (pool, "if found is None and others:", "if others:"),
    (pool, "min(others)", "max(others)"),
    (pool, "others.append((lapsed, met is", "others.append((False, met is"),
    (pool, "return arrival.peer in offer.lapsed", "return False"),
    (pool, "return offer.arrival.peer in returned.lapsed", "return False"),
    (pool, "if returned is None or offer.place < returned.place:", "if returned is None:"),
    (pool, "if returned is None or offer.place < returned.place:", "if True:"),
    (pool, "if met is None and not _would_lapse_again(offer, arrival, returned):", "if met is None:"),
    (pool, "if offer.lapsed:\n            heapq.heappush(self._heads, place)", "if False:\n            pass"),
    (pool, "        if offer.lapsed:\n            return\n        peer", "        peer"),
    (pool, "or offer.lapsed):", "):"),
    (pool, "return head if head.arrival.rematch else None", "return head"),
    (pool, "return head if head.arrival.rematch else None", "return None"),
    (pool, "if head.lapsed:\n", "if False:\n"),
    (rules, "handover.offer.lapsed += (handover.responder,)", "pass"),
    (rules, "now_ms, returned=offer)", "now_ms)"),
    (pool, "while places and ((offer", "while False and ((offer"),
    (pool, "if not places:\n            del heaps[peer]", "if False:\n            pass"),
    (pool, "self._heads.add(self._only)", "pass"),
    (pool, "self._heads.add(self._only)\n            self._only = None", "self._heads.add(self._only)"),
    (pool, "offer is None or offer.arrival.peer == arrival.peer", "offer is None"),
    (
        pool,
        "met is Met.LINKED and arrival.rematch and offer.arrival.rematch",
        "arrival.rematch and offer.arrival.rematch",
    ),
    (
        pool,
        "met is Met.LINKED and arrival.rematch and offer.arrival.rematch",
        "met is Met.LINKED and offer.arrival.rematch",
    ),
    (
        pool,
        "met is Met.LINKED and arrival.rematch and offer.arrival.rematch",
        "met is Met.LINKED and arrival.rematch",
    ),
    (pairs, "met is Met.LINKED and self.met(pool, one, other, now_ms=now_ms) is Met.BOUNCED", "False"),
    (
        pairs,
        "met is Met.LINKED and self.met(pool, one, other, now_ms=now_ms) is Met.BOUNCED",
        "met is Met.LINKED and self._pairs.get(_key(pool, one, other), 0) & 1",
    ),
    (pairs, "self._pairs.pop(key, None)", "pass"),
    (pairs, "until_ms << 1 | met", "until_ms << 1"),
    (pairs, "value is None or value >> 1 <= now_ms", "value is None"),
    (pairs, "value is None or value >> 1 <= now_ms", "value is None or value >> 1 < now_ms"),
    (pairs, "if value >> 1 > now_ms:", "if value >> 1 > now_ms + 1000:"),
    (pairs, "pool + one + other if one < other else pool + other + one", "pool + one + other"),
    (
        pairs,
        "pool + one + other if one < other else pool + other + one",
        "one + other if one < other else other + one",
    ),
    (deadlines, "if when_ms >= self._last_ms[term]:", "if True:"),
    (deadlines, "self._early[name] = when_ms", "pass"),
    (deadlines, "self._early.pop(name, None)", "pass"),
    (deadlines, "is None:\n            self._early", "is not None:\n            self._early"),
    (
        deadlines,
        "if when_ms > now_ms:\n                    f",
        "if when_ms >= now_ms:\n                    f",
    ),
    (deadlines, "when_ms > now_ms:\n                f", "when_ms >= now_ms:\n                f"),
    (deadlines, "if self._early.get(name) == when_ms:", "if True:"),
    (deadlines, "first_ms = min(first_ms, when_ms)\n                    break", "break"),
    (deadlines, "first_ms = min(first_ms, when_ms)\n                break", "break"),
    (deadlines, "taken.sort(key=itemgetter(0))", "pass"),
    (deadlines, "if when_ms < self.first_ms:", "if False:"),
    (rules, "if now_ms < self.deadlines.first_ms:", "if now_ms <= self.deadlines.first_ms:"),
]


def broken_rules(module: ModuleType, old: str, new: str, patch: pytest.MonkeyPatch) -> type[Rules]:
    """The rules and their parts, loaded anew, one line of one of them changed."""
    names = {}
    for each in (pairs, deadlines, pool, rules):
        source = inspect.getsource(each)
        if each is module:
            assert source.count(old) == 1, "the line to break has changed"
            source = source.replace(old, new)
        copy = ModuleType(each.__name__)
        copy.__package__ = each.__package__
        patch.setitem(sys.modules, each.__name__, copy)
        patch.setattr(matching, each.__name__.rpartition(".")[2], copy)
        exec(compile(source, f"broken {each.__name__}", "exec"), copy.__dict__)
        names[each.__name__] = copy
    return names[rules.__name__].Rules  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "number",
    range(len(MUTANTS)),
    ids=[f"{each.__name__.rpartition('.')[2]}: {old!r}"[:50] for each, old, _ in MUTANTS],
)
def test_a_broken_rule_is_noticed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        broken_class = broken_rules(*MUTANTS[number], patch)
    broken = type("Broken", (Machine,), {"rules_class": broken_class})
    thorough = settings(QUICK, max_examples=1500, phases=[Phase.generate], derandomize=True, database=None)
    with pytest.raises(Exception):  # noqa: B017  an assertion of the model, or the rules fall over
        run_state_machine_as_test(broken, settings=thorough)

"""The state machines of the rules and of Redis, for as many steps as one has time for.

    PYTHONPATH=. python tests/invariants.py --steps 1000000             # the rules against their invariants
    PYTHONPATH=. python tests/invariants.py --redis --steps 100000      # Redis against the rules
    PYTHONPATH=. python tests/invariants.py --redis --processes 3

A step is one rule of the machine, most of which are several events, and then its invariants. Hypothesis
looks for short ways to a fault; this is a walk of chance, 50 steps at a time, at a fifth of the cost.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from typing import Any

from hypothesis.strategies import SearchStrategy

import rules_machine
import test_store_model
from redis_server import RedisServer

STEPS_A_WALK = 50


class Chance:
    """Draws from strategies, as `st.data()` does, but by the chance of a seed and with nothing behind it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def draw(self, strategy: SearchStrategy[Any], label: object = None) -> Any:
        while hasattr(strategy, "wrapped_strategy"):
            strategy = strategy.wrapped_strategy
        given: Any = strategy
        match type(strategy).__name__:
            case "SampledFromStrategy":
                return self.random.choice(given.elements)
            case "JustStrategy":
                return given.value
            case "BooleansStrategy":
                return self.random.random() < 0.5
            case "OneOfStrategy":
                return self.draw(self.random.choice(given.original_strategies))
            case "IntegersStrategy":
                return self.random.randint(given.start, given.end)
            case "TupleStrategy":
                return tuple(self.draw(each) for each in given.element_strategies)
            case "ListStrategy":
                size = self.random.randint(given.min_size, int(given.max_size))
                return [self.draw(given.element_strategy) for _ in range(size)]
            case "PermutationStrategy":
                return self.random.sample(given.values, len(given.values))
            case "DataStrategy":
                return self
        raise NotImplementedError(f"a new kind of strategy: {strategy!r}")


def walk(machine_class: type[Any], seed: int) -> None:
    """One walk. An assertion of the machine's goes through."""
    chance = Chance(seed)
    machine = machine_class()
    state = machine_class.setup_state()
    rules, invariants = state.rules, state.invariants
    for _ in range(STEPS_A_WALK):
        able = [each for each in rules if all(asks(machine) for asks in each.preconditions)]
        chosen = chance.random.choice(able)
        words = {name: chance.draw(strategy) for name, strategy in chosen.arguments_strategies.items()}
        chosen.function(machine, **words)
        for each in invariants:
            each.function(machine)
    machine.teardown()


def play(machine_class: type[Any], first_seed: int, steps: int) -> int:
    """Walk until there were so many steps. Returns the seed that found something, or -1."""
    started = told = time.monotonic()
    for number in range(-(-steps // STEPS_A_WALK)):
        try:
            walk(machine_class, first_seed + number)
        except Exception:  # noqa: BLE001  that is what is looked for
            traceback.print_exc()
            return first_seed + number
        if time.monotonic() > told + 60:
            told = time.monotonic()
            print(f"{(number + 1) * STEPS_A_WALK} steps by now, {told - started:.0f} s", flush=True)
    return -1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one; each walk has its own")
    parser.add_argument("--redis", action="store_true")
    parser.add_argument("--processes", type=int, default=1, help="that share the Redis")
    given = parser.parse_args()
    started = time.monotonic()
    if not given.redis:
        found = play(rules_machine.Machine, given.seed, given.steps)
    else:
        with RedisServer() as redis:
            found = play(test_store_model.machine_of(redis, given.processes), given.seed, given.steps)
    if found >= 0:
        print(f"a violation: --seed {found} --steps {STEPS_A_WALK}")
        return 1
    print(f"{given.steps} steps without a violation, in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The short run of the fuzz of HTTP framing: our worker is as strict as gunicorn's, and the fuzz bites."""

from __future__ import annotations

import pytest

import fuzz_framing
from mutants import MUTANTS

SEED = 20261127


def test_our_worker_and_gunicorns_own_agree_on_what_a_request_is(capsys: pytest.CaptureFixture[str]) -> None:
    fuzz = fuzz_framing.compare("", fuzz_framing.STOCK, cases=1500, seed=SEED, enough=1, quiet=False)
    assert not fuzz.differences, capsys.readouterr().out
    assert fuzz.ran == 1500
    assert fuzz.statuses["298"] > 500, "most cases must come as far as a good request"


@pytest.mark.parametrize(
    "name", ["obsolete folding", "a body one byte short", "ours: what is behind is lost"]
)
def test_a_lenient_parser_is_noticed(name: str) -> None:
    assert name in MUTANTS
    assert not fuzz_framing.try_mutants(cases=500, seed=SEED, names=[name])

"""tests/first_words.py, in short: what is said the moment a link opens is heard."""

from __future__ import annotations

from first_words import run


def test_werift_and_node_datachannel_hear_the_first_words_of_each_other() -> None:
    assert run("werift", "node-datachannel", 8) == [
        ("werift", "node-datachannel", 0, 0, 0),
        ("node-datachannel", "werift", 0, 0, 0),
    ]

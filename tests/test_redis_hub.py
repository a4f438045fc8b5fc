"""The store in Redis under gevent, as workers have it: in patched processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "arguments",
    [
        ("hub_cases.py",),
        ("test_store_redis.py", "-k", "not Valkey"),
        ("test_counts.py", "-k", "redis or fall"),
    ],
    ids=["calls", "the store", "limits"],
)
def test_under_gevent(arguments: tuple[str, ...]) -> None:
    file, *options = arguments
    command = [sys.executable, str(HERE / "in_hub.py"), str(HERE / file), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stdout[-4_000:]

"""Runs pytest in a process that gevent has patched: `python tests/in_hub.py ARGUMENTS`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    # A signal would be handled in whatever greenlet runs; a thread of its own sees a hub that hangs, too.
    sys.exit(pytest.main(["-o", "timeout_method=thread", "-p", "no:cacheprovider", *sys.argv[1:]]))

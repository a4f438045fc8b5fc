"""The server as tests/probe.py serves it, with the Lua of the folder that TEST_LUA names."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask

import signal_server.matching.stores.redis_scripts
from tests import probe


def app() -> Flask:
    signal_server.matching.stores.redis_scripts.FOLDER = Path(os.environ["TEST_LUA"])
    return probe.app()

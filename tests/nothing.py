"""The measure of tests/bench.py: a Flask view that does nothing, under this project's gunicorn.conf.py."""

from __future__ import annotations

from flask import Flask


class _Store:
    def is_ready(self) -> bool:
        """gunicorn.conf.py asks for it at the start."""
        return True


class _Rift:
    store = _Store()

    def shutdown(self) -> None:
        """gunicorn.conf.py calls it at the end."""


def app() -> Flask:
    idle = Flask(__name__)
    idle.extensions["spacerift"] = _Rift()
    idle.add_url_rule("/", "view", lambda: b"", methods=["POST"])
    idle.add_url_rule("/health", "health", lambda: b"")
    return idle

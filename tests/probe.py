"""The server as it is, with one more route: the counts, so that a test need not guess when to go on."""

from __future__ import annotations

from flask import Flask

from signal_server.app import serve


def app() -> Flask:
    served = serve()
    rift = served.extensions["spacerift"]
    served.add_url_rule("/test/statistics", "statistics", lambda: rift.statistics())
    return served

"""The server as it is, and two more routes, so that a test need not guess when to go on.

They tell the counts, and which worker it is that answers, and whether it is ready.
"""

from __future__ import annotations

import os

from flask import Flask

from signal_server.app import serve


def app() -> Flask:
    served = serve()
    rift = served.extensions["spacerift"]
    served.add_url_rule("/test/statistics", "statistics", lambda: rift.statistics())

    @served.route("/test/worker")
    def worker() -> dict[str, object]:
        return {"pid": os.getpid(), "is_ready": rift.store.is_ready()}

    return served

"""The server as it is, and three more routes, so that a test need not guess when to go on.

They tell the counts, which worker it is that answers and whether it is ready, and what lives in it.
"""

from __future__ import annotations

import gc
import os

from flask import Flask
from greenlet import greenlet

from signal_server.app import serve
from signal_server.http.steps import Steps


def app() -> Flask:
    served = serve()
    rift = served.extensions["spacerift"]
    served.add_url_rule("/test/statistics", "statistics", lambda: rift.statistics())

    @served.route("/test/worker")
    def worker() -> dict[str, object]:
        return {"pid": os.getpid(), "is_ready": rift.store.is_ready()}

    @served.route("/test/living")
    def living() -> dict[str, object]:
        objects = gc.get_objects()
        greenlets = sum(isinstance(each, greenlet) and not each.dead for each in objects)
        greenlets -= sum(len(each._idle) for each in objects if isinstance(each, Steps))
        return {"pid": os.getpid(), "greenlets": greenlets, "objects": len(objects)}

    return served

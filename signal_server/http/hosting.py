"""Whether the WSGI server that runs us can do what the protocol promises; one warning each if it cannot.

`gunicorn.conf.py` refuses such servers at the start. In somebody's own application, under a server of their
choice, the first request is the first that tells.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from gevent.monkey import is_module_patched

SOCKETS: Final = ("gunicorn.socket", "werkzeug.socket")
"""Where a server lends us the client's socket."""

SERVERS: Final = ("SERVER_SOFTWARE", "uwsgi.version", "mod_wsgi.version")
"""At least one of these is there if a real server asks, and none if a test client does."""

SEE: Final = "see docs/operating.md, In an application of your own"

log = logging.getLogger(__name__)


class Hosting:
    """What the environ of the first request tells.

    Args:
        is_shared: processes share a store.

    Attributes:
        is_split: other processes have peers of their own, which those of this one never meet.
    """

    def __init__(self, *, is_shared: bool) -> None:
        self._is_shared = is_shared
        self._is_known = False
        self.is_split = False

    def look(self, environ: dict[str, Any]) -> None:
        """Look at the first request of a real server."""
        if self._is_known or not is_real(environ):
            return
        self._is_known = True
        self.is_split = bool(environ.get("wsgi.multiprocess")) and not self._is_shared
        if self.is_split:
            log.warning("several processes without REDIS_URL: most peers never meet, /ready is 503; %s", SEE)
        if not environ.get("wsgi.multithread") and not is_module_patched("threading"):  # uWSGI's --gevent
            log.warning("this server has one request at a time in a process, so no peer can wait; %s", SEE)
        if not lends_socket(environ):
            log.warning(
                "this server lends no socket, so it is not seen who leaves, and no answer is delivered; %s",
                SEE,
            )


def is_real(environ: dict[str, Any]) -> bool:
    """Is it a server that asks, and not a test client?"""
    return any(name in environ for name in SERVERS)


def lends_socket(environ: dict[str, Any]) -> bool:
    return any(name in environ for name in SOCKETS)

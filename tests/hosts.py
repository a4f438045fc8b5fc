"""Somebody's application, with a mind of its own about everything, and a signal server mounted in it."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_limiter import Limiter

from signal_server import Spacerift


class Marked(Response):
    """Flask turns every response into the application's own class."""

    default_mimetype = "text/x-host"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers["X-Host"] = "marked"


class Sessions(SecureCookieSessionInterface):
    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        response.headers["X-Session"] = "saved"
        super().save_session(app, session, response)


def busy() -> Flask:
    """It has a prefix from its configuration, which wins over the environment."""
    app = Flask(__name__)
    app.secret_key = "the host's"
    app.response_class = Marked
    app.session_interface = Sessions()
    app.config |= {
        "SPACERIFT_URL_PREFIX": "/rift",
        "RATELIMIT_DEFAULT": "2 per minute",
        "RATELIMIT_STORAGE_URI": "memory://",
        "RATELIMIT_HEADERS_ENABLED": True,
    }
    rift = Spacerift()
    rift.init_app(app)
    limiter = Limiter(lambda: "everybody", app=app)
    limiter.exempt(app.blueprints["spacerift"])

    @app.after_request
    def stamp(response: Response) -> Response:
        if "X-Boom" in request.headers:
            raise RuntimeError("the host's after_request failed")
        response.headers["X-After"] = "stamped"
        return response

    @app.errorhandler(404)
    def missing(error: Exception) -> tuple[str, int]:
        return "the host has no such page", 404

    @app.errorhandler(Exception)
    def failed(error: Exception) -> tuple[str, int]:
        code = getattr(error, "code", None) or 500
        return f"the host's own {code}", code

    @app.get("/")
    def home() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return f"visit {session['visits']}"

    @app.get("/statistics")
    @limiter.exempt
    def statistics() -> dict[str, int]:
        counts: dict[str, int] = app.extensions["spacerift"].statistics()
        return counts

    return app

"""Spacerift: a signal server that links two browsers that have never met, over plain HTTP."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import Spacerift, create_app
    from .errors import ConfigurationError
    from .settings import Settings

__all__ = ["ConfigurationError", "Settings", "Spacerift", "create_app"]


def __getattr__(name: str) -> Any:
    # When it is asked for and not before, for `signal_server.client` needs nothing of what the server needs.
    if name in __all__:
        from . import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

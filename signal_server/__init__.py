"""Spacerift: a signal server that links two browsers that have never met, over plain HTTP."""

from .app import Spacerift, create_app
from .errors import ConfigurationError
from .settings import Settings

__all__ = ["ConfigurationError", "Settings", "Spacerift", "create_app"]

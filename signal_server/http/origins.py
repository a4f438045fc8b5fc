"""Whether a page's origin is among those that `SPACERIFT_CORS_ORIGINS` lists."""

from __future__ import annotations

import re
from typing import Final

SUBDOMAINS: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def allows(origins: tuple[str, ...], origin: str) -> bool:
    """May a page of this origin ask?

    Args:
        origins: as `Settings.cors_origins` has them: in a browser's own form, `*`, or `https://*.example.com`
            for all subdomains of a host, but not for the host itself.
        origin: the request's `Origin`.
    """
    if "*" in origins or origin in origins:
        return True
    return any(_is_below(each, origin) for each in origins if "://*." in each)


def _is_below(pattern: str, origin: str) -> bool:
    scheme, _, host = pattern.partition("*")
    if not (origin.startswith(scheme) and origin.endswith(host)):
        return False
    return bool(SUBDOMAINS.fullmatch(origin[len(scheme) : len(origin) - len(host)]))

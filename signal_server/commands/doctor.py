"""What would keep a deployment from working, each as one finding in plain words."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..openpgp.trust import refused_by_the_other
from ..settings import platform_of

OK: Final = "ok"
WARNING: Final = "warning"
FAULT: Final = "fault"

SPARE_FILES: Final = 1000
"""Beside those that wait: connections of others, the store, the modules."""

BACKLOG: Final = 2048
CLOCK_IS_OFF: Final = 5  # TIME_ERROR of adjtimex(2)
SHORT_SECRET: Final = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, how it is, and what that means."""

    about: str
    state: str
    words: str


def examine(server: Any) -> Iterator[Finding]:
    """Look at everything.

    Args:
        server: a `SignalServer`. Its settings are good, or there would be none.
    """
    settings = server.settings
    yield Finding("settings", OK, "every value is good")
    yield _server()
    yield _workers(settings)
    yield _store(server)
    yield _secret(settings)
    yield _signatures(server)
    yield from _trusted_keys(server)
    yield _proxies(settings)
    yield _files(settings)
    yield _backlog()
    yield _clock()
    yield _ice(settings)


def _server() -> Finding:
    missing = [name for name in ("gunicorn", "gevent") if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("server", FAULT, f"not installed: {', '.join(missing)}")
    return Finding("server", OK, "gunicorn and gevent are installed")


def _workers(settings: Any) -> Finding:
    asked = os.environ.get("WEB_CONCURRENCY", "1")  # empty, gunicorn itself does not start
    if not (asked.isdecimal() and int(asked) > 0):
        return Finding("workers", FAULT, "WEB_CONCURRENCY must be a number from 1 on")
    if settings.redis_url is None and asked != "1":
        words = f"WEB_CONCURRENCY={asked} is brought back to 1: processes find each other by REDIS_URL only"
        return Finding("workers", WARNING, words)
    where = "Redis" if settings.redis_url else "one process"
    return Finding("workers", OK, f"{asked}, with the store in {where}")


def _store(server: Any) -> Finding:
    if server.settings.redis_url is None:
        return Finding("store", OK, "in the server's process: a restart forgets who has met")
    if not server.store.is_ready():
        return Finding("store", FAULT, "Redis does not answer, or cannot be written: look at REDIS_URL")
    policy = server.store.eviction()
    if policy not in ("noeviction", None):
        words = f"maxmemory-policy is {policy}: when Redis is full it forgets who waits. Set noeviction"
        return Finding("store", WARNING, words)
    return Finding("store", OK, "Redis answers, and can be written")


def _secret(settings: Any) -> Finding:
    if settings.secret_key is None:
        return Finding("secret", OK, "random at each start, as one process may; `pools` needs SECRET_KEY")
    if len(settings.secret_key) < SHORT_SECRET:
        return Finding("secret", WARNING, f"SPACERIFT_SECRET_KEY is shorter than {SHORT_SECRET} characters")
    return Finding("secret", OK, "SPACERIFT_SECRET_KEY is set")


def _signatures(server: Any) -> Finding:
    settings = server.settings
    if settings.signatures == "off" and (settings.trusted_keys or settings.private_key):
        return Finding(
            "signatures", WARNING, "off, whatever TRUSTED_KEYS and PRIVATE_KEY say: all are let in"
        )
    if settings.signatures == "off":
        return Finding("signatures", OK, "off: no gpg is needed")
    if settings.openpgp == "gnupg" and shutil.which("gpg") is None:
        return Finding("signatures", FAULT, "gpg is not installed")
    if not server.signatures.is_ready():
        return Finding("signatures", FAULT, f"{settings.openpgp} does not work here")
    trust = "those of TRUSTED_KEYS" if settings.trusted_keys else "anybody's, each for itself"
    return Finding("signatures", OK, f"{settings.signatures}, by {settings.openpgp}; keys: {trust}")


def _trusted_keys(server: Any) -> Iterator[Finding]:
    """Keys that may not sign now, and keys that the other engine would refuse."""
    settings = server.settings
    if settings.signatures == "off" or settings.trusted_keys is None:
        return
    keyring = server.signatures.keyring
    trusted = keyring.trusted
    states = {fingerprint: keyring.state(each) for fingerprint, each in trusted.items()}
    words = [f"{fingerprint}: {state}" for fingerprint, state in states.items() if state != "good"]
    words += refused_by_the_other(settings.openpgp, settings.trusted_keys)
    if words:
        yield Finding("trusted keys", WARNING, "; ".join(words))
    else:
        yield Finding("trusted keys", OK, f"{len(trusted)}, which may sign now, with either engine")


def _proxies(settings: Any) -> Finding:
    platform = platform_of(os.environ)
    if settings.trusted_proxies:
        words = f"{settings.trusted_proxies} before us: whoever gets past them may claim any address"
        return Finding("proxies", OK, words)
    if platform:
        words = f"{platform} tells of a router before us, whose address all clients seem to have: "
        return Finding("proxies", FAULT, words + "set SPACERIFT_TRUSTED_PROXIES=1")
    return Finding("proxies", OK, "none: behind one, all clients would count as a single address")


def _files(settings: Any) -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (settings.max_waiting or 0) + SPARE_FILES
    if most != resource.RLIM_INFINITY and most < needed:
        words = f"this process may open {most}, {needed} are needed: raise `ulimit -Hn`, or lower MAX_WAITING"
        return Finding("open files", WARNING, words)
    return Finding(
        "open files", OK, f"{'any number' if most == resource.RLIM_INFINITY else most} may be open"
    )


def _backlog() -> Finding:
    try:
        most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return Finding("backlog", OK, "not known on this system")
    if most < BACKLOG:
        words = f"net.core.somaxconn is {most}: of a larger burst of connections some are refused"
        return Finding("backlog", WARNING, words)
    return Finding("backlog", OK, f"net.core.somaxconn is {most}")


def _clock() -> Finding:
    """Signatures and TURN credentials are of a time. The kernel knows whether anything sets its clock."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    except (OSError, AttributeError):
        return Finding("clock", OK, "not known on this system")
    if state == CLOCK_IS_OFF:
        return Finding("clock", WARNING, "nothing sets it: signatures and TURN credentials need it right")
    return Finding("clock", OK, "it is set by NTP, or by the machine's host")


def _ice(settings: Any) -> Finding:
    if settings.turn_urls:
        return Finding("ICE", OK, "STUN or TURN servers are told, with short-lived credentials")
    if settings.ice_servers:
        return Finding(
            "ICE", OK, "ICE_SERVERS is set; without TURN some peers behind strict NATs do not link"
        )
    words = "ICE_SERVERS and TURN_URLS are empty: only peers of one network, or with public addresses, link"
    return Finding("ICE", WARNING, words)

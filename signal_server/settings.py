"""Every setting, read once at the start from `SPACERIFT_…` and checked."""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from limits import RateLimitItem, parse_many

from .errors import ConfigurationError

PREFIX = "SPACERIFT_"

T = TypeVar("T")
Reader = Callable[[str], Any]

log = logging.getLogger(__name__)


MAX_SECONDS: Final = 1e9
"""Redis could not count much longer times in ms."""


def _seconds(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ValueError("must be more than 0 seconds")
    return value


def _seconds_or_none(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError("must be 0 seconds or more")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number of seconds") from None
    if not math.isfinite(value):
        raise ValueError("must be a finite number of seconds")
    if value > MAX_SECONDS:
        raise ValueError("must be less than 31 years, in seconds")
    return value


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise ValueError(f"must be a whole number, {least} or more")
        return int(text)

    return read


def _rate(text: str) -> RateLimitItem:
    try:
        (item,) = parse_many(text)
    except ValueError:
        raise ValueError("must be one rate such as '1 per 5 seconds'") from None
    if item.amount < 1 or re.search(r"(?<!\d)0+(?!\d)", text):  # limits takes "per 0 seconds" for one
        raise ValueError("must allow at least 1 in at least a second")
    return item


def _or_off(read: Callable[[str], T]) -> Callable[[str], T | None]:
    """An empty limit turns it off."""

    def read_or_off(text: str) -> T | None:
        return read(text) if text.strip() else None

    return read_or_off


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _prefix(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or any(each in text for each in "<>?#% \t\r\n"):
        raise ValueError("must be a path such as '/rift'")
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(each.strip().rstrip("/") for each in text.split(","))
    for origin in origins:
        scheme, colon, host = origin.partition("://")
        if origin != "*" and not (scheme and colon and host and "/" not in host and origin.isprintable()):
            raise ValueError("must be '*' or a list of origins such as 'https://example.com', by commas")
    return origins


def _choice(*choices: str) -> Reader:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return text

    return read


def _ice_servers(text: str) -> tuple[dict[str, Any], ...]:
    try:
        servers = json.loads(text)
    except ValueError:
        raise ValueError("must be a JSON list of ICE servers") from None
    if not isinstance(servers, list) or not all(
        isinstance(each, dict) and each.get("urls") for each in servers
    ):
        raise ValueError("must be a JSON list of objects with 'urls'")
    return tuple(servers)


def _urls(text: str) -> tuple[str, ...]:
    urls = tuple(each.strip() for each in text.split(","))
    if not all(each.startswith(("turn:", "turns:")) for each in urls):
        raise ValueError("must be a list of 'turn:' or 'turns:' addresses, by commas")
    return urls


def _setting(read: Reader, default: str | None, *, secret: bool = False) -> Any:
    return field(metadata={"read": read, "default": default, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values in force. Times are in seconds; None is an unset value or a limit that is off."""

    request_timeout: float = _setting(_seconds, "15")
    answer_timeout: float = _setting(_seconds, "5")
    pair_memory_ttl: float = _setting(_seconds_or_none, "3600")
    pair_memory_sweep: float = _setting(_seconds, "30")

    request_limit: RateLimitItem | None = _setting(_or_off(_rate), "1 per second")
    pair_limit: RateLimitItem | None = _setting(_or_off(_rate), "1 per 5 seconds")
    address_limit: RateLimitItem | None = _setting(_or_off(_rate), "50 per second")
    held_per_address: int | None = _setting(_or_off(_count(1)), "256")
    max_waiting: int | None = _setting(_or_off(_count(1)), "20000")
    max_body: int | None = _setting(_or_off(_count(1)), "65536")

    cors_origins: tuple[str, ...] = _setting(_origins, "*")
    trusted_proxies: int = _setting(_count(0), "0")
    url_prefix: str | None = _setting(_prefix, None)
    secret_key: str | None = _setting(_text, None, secret=True)

    log: str = _setting(_choice("text", "json", "off"), "text")

    signatures: str = _setting(_choice("off", "optional", "required"), "off")
    openpgp: str = _setting(_choice("gnupg", "sequoia"), "gnupg")
    trusted_keys: str | None = _setting(_text, None)
    private_key: str | None = _setting(_text, None, secret=True)
    private_key_passphrase: str | None = _setting(_text, None, secret=True)

    ice_servers: tuple[dict[str, Any], ...] = _setting(_ice_servers, "[]")
    turn_urls: tuple[str, ...] | None = _setting(_urls, None)
    turn_secret: str | None = _setting(_text, None, secret=True)

    redis_url: str | None = _setting(_text, None, secret=True)
    """The platform's own name, `REDIS_URL`, without our prefix."""

    redis_tls_verify: str = _setting(_choice("on", "off"), "on")

    @classmethod
    def from_env(cls, environ: Mapping[str, str], config: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings from an environment and from an application's configuration, which wins.

        Args:
            config: has them as text or as what they are: numbers, lists, paths, None for what is off.

        Raises:
            ConfigurationError: a bad value, in one line that names it. Secrets are not repeated.
        """
        config = config or {}
        names = {variable_of(each.name): each for each in fields(cls)}
        _warn_of_unknown(environ, names)
        _warn_of_unknown(config, [PREFIX + each.name.upper() for each in fields(cls)])
        values: dict[str, Any] = {}
        for variable, each in names.items():
            key, default = PREFIX + each.name.upper(), each.metadata["default"]
            text = _as_text(config[key], default) if key in config else environ.get(variable, default)
            try:
                values[each.name] = None if text is None else each.metadata["read"](text)
            except ValueError as exc:
                raise ConfigurationError(f"{key if key in config else variable} {exc}") from None
        settings = cls(**values)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        if self.redis_url and not self.secret_key:
            raise ConfigurationError("SPACERIFT_SECRET_KEY must be set, the same everywhere, with REDIS_URL")
        if bool(self.turn_urls) != bool(self.turn_secret):
            raise ConfigurationError("SPACERIFT_TURN_URLS and SPACERIFT_TURN_SECRET go together: set both")


def variable_of(name: str) -> str:
    """The environment variable of a field of `Settings`."""
    return "REDIS_URL" if name == "redis_url" else PREFIX + name.upper()


def sources(environ: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Where the value of each field of `Settings` comes from: `application`, `environment` or `default`."""
    return {
        each.name: "application"
        if PREFIX + each.name.upper() in config
        else "environment"
        if variable_of(each.name) in environ
        else "default"
        for each in fields(Settings)
    }


def _as_text(value: object, default: str | None) -> str | None:
    """A value of an application's configuration, as the environment would have it."""
    if value is None:
        return None if default is None else ""
    if isinstance(value, list | tuple | dict):
        is_names = value and all(isinstance(each, str) for each in value)
        return ",".join(value) if is_names else json.dumps(value, default=str)
    return str(value)


def _warn_of_unknown(given: Iterable[str], known: Collection[str]) -> None:
    for name in sorted(given):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            log.warning("%s is not a setting of Spacerift and is ignored%s", ascii(name), hint)

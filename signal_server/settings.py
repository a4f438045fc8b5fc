"""Every setting, read once at the start from `SPACERIFT_…` and checked."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from limits import RateLimitItem

from . import readers
from .errors import ConfigurationError
from .readers import Reader

PREFIX = "SPACERIFT_"

PLATFORMS: Final = ("DYNO", "RENDER", "FLY_APP_NAME", "RAILWAY_ENVIRONMENT", "K_SERVICE", "DOKKU_APP_NAME")
"""Variables that platforms set, all of which put a router before us."""

PLATFORMS_OWN: Final = ("PORT", "WEB_CONCURRENCY")
"""Names that are read without our prefix, by gunicorn.conf.py."""

log = logging.getLogger(__name__)

_OF_AN_ORCHESTRATOR: Final = re.compile(
    r".*_SERVICE_(HOST|PORT(_.+)?)|.*_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?", re.ASCII
)
"""Kubernetes and Docker's links put such names into every process, here for a service called spacerift."""


def _setting(read: Reader, default: str | None, *, secret: bool = False) -> Any:
    return field(metadata={"read": read, "default": default, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values in force. Times are in seconds; None is an unset value or a limit that is off."""

    request_timeout: float = _setting(readers.seconds, "15")
    answer_timeout: float = _setting(readers.seconds, "5")
    pair_memory_ttl: float = _setting(readers.seconds_or_none, "3600")
    pair_memory_sweep: float = _setting(readers.seconds, "30")

    request_limit: RateLimitItem | None = _setting(readers.or_off(readers.rate), "1 per second")
    pair_limit: RateLimitItem | None = _setting(readers.or_off(readers.rate), "1 per 5 seconds")
    address_limit: RateLimitItem | None = _setting(readers.or_off(readers.rate), "50 per second")
    held_per_address: int | None = _setting(readers.or_off(readers.count(1)), "256")
    connections_per_address: int | None = _setting(readers.or_off(readers.count(1)), "512")
    max_waiting: int | None = _setting(readers.or_off(readers.count(1)), "20000")
    max_body: int | None = _setting(readers.or_off(readers.count(1)), "65536")

    cors_origins: tuple[str, ...] = _setting(readers.origins, "*")
    trusted_proxies: int = _setting(readers.count(0), "0")
    url_prefix: str | None = _setting(readers.prefix, None)
    secret_key: str | None = _setting(readers.word, None, secret=True)

    log: str = _setting(readers.choice("text", "json", "off"), "text")

    signatures: str = _setting(readers.choice("off", "optional", "required"), "off")
    openpgp: str = _setting(readers.choice("gnupg", "sequoia"), "gnupg")
    trusted_keys: str | None = _setting(readers.word, None)
    private_key: str | None = _setting(readers.word, None, secret=True)
    private_key_passphrase: str | None = _setting(readers.word, None, secret=True)

    ice_servers: tuple[dict[str, Any], ...] = _setting(readers.ice_servers, "[]")
    turn_urls: tuple[str, ...] | None = _setting(readers.turn_urls, None)
    turn_secret: str | None = _setting(readers.word, None, secret=True)

    redis_url: str | None = _setting(readers.redis_url, None, secret=True)
    """The platform's own name, `REDIS_URL`, without our prefix. An empty one is unset."""

    redis_tls_verify: str = _setting(readers.choice("on", "off"), "on")

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
        settings._warn_of_router(environ)
        return settings

    def _check_together(self) -> None:
        if self.redis_url and not self.secret_key:
            raise ConfigurationError("SPACERIFT_SECRET_KEY must be set, the same everywhere, with REDIS_URL")
        if bool(self.turn_urls) != bool(self.turn_secret):
            raise ConfigurationError("SPACERIFT_TURN_URLS and SPACERIFT_TURN_SECRET go together: set both")

    def _warn_of_router(self, environ: Mapping[str, str]) -> None:
        platform = platform_of(environ)
        if platform and not self.trusted_proxies:
            log.warning(
                "%s tells of a router before us, whose address all clients seem to have: "
                "set SPACERIFT_TRUSTED_PROXIES=1",
                platform,
            )


def platform_of(environ: Mapping[str, str]) -> str | None:
    """The variable that tells of a platform with a router before us."""
    return next((name for name in PLATFORMS if name in environ), None)


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


def _warn_of_unknown(given: Mapping[str, Any], known: Collection[str]) -> None:
    for name in sorted(given):
        if name.startswith(PREFIX) and name not in known and not _is_of_an_orchestrator(name, given[name]):
            # Without the prefix, which makes all of them alike.
            own = {each.removeprefix(PREFIX): each for each in (*known, *PLATFORMS_OWN)}
            near = difflib.get_close_matches(name.removeprefix(PREFIX), own, n=1)
            hint = f"; did you mean {own[near[0]]}?" if near else ""
            log.warning("%s is not a setting of Spacerift and is ignored%s", ascii(name), hint)


def _is_of_an_orchestrator(name: str, value: object) -> bool:
    is_link = name.endswith("_PORT") and bool(re.match(r"(tcp|udp|sctp)://", str(value)))
    return is_link or bool(_OF_AN_ORCHESTRATOR.fullmatch(name))

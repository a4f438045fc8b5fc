"""`flask spacerift …`: what an operator asks of a deployment, in words or, with `--json`, for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click
from flask import current_app
from flask.cli import AppGroup
from limits import RateLimitItem
from prometheus_client.parser import text_string_to_metric_families

from ..errors import Unavailable
from ..matching.stores.base import pool_hash
from ..messages import pool_of
from ..settings import variable_of
from .doctor import FAULT, OK, WARNING, Finding, examine
from .keys import keys
from .peer import own_url, peer
from .probe import Way

MASKED: Final = "***"

group = AppGroup("spacerift", help="The signal server: its settings, its state, its keys.")
group.add_command(peer)
group.add_command(keys)

as_json = click.option("--json", "as_json", is_flag=True, help="For a program.")

server_url = click.option(
    "--url",
    callback=lambda context, option, url: url and f"{url.rstrip('/')}/",
    help="Where the server is mounted; by default, on this machine, as set up here.",
)


def this_server() -> Any:
    """The signal server of the application that `flask` has loaded, a `SignalServer`."""
    return current_app.extensions["spacerift"]


def show(value: object) -> None:
    """Print for a program."""
    click.echo(json.dumps(value, indent=2))


def table(rows: Sequence[Sequence[object]]) -> None:
    """Print for a person, in columns."""
    cells = [[str(each) for each in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@group.command()
@as_json
def config(as_json: bool) -> None:
    """Every setting, its value and where it comes from. Secrets are masked."""
    server = this_server()
    rows = {
        variable_of(each.name): {
            "value": _shown(getattr(server.settings, each.name), secret=each.metadata["secret"]),
            "from": server.sources[each.name],
        }
        for each in fields(server.settings)
    }
    if as_json:
        show(rows)
    else:
        table([(name, _words(row["value"]), row["from"]) for name, row in rows.items()])


@group.command()
@server_url
@as_json
def stats(url: str | None, as_json: bool) -> None:
    """What the running server has counted, from its /metrics."""
    counts = _counts(_get(f"{url or own_url()}metrics").decode())
    if as_json:
        show(counts)
        return
    for title, rows in counts.items():
        click.echo(f"{title}:")
        table([("  " + name, _words(value)) for name, value in rows.items()] or [("  -",)])


@group.command()
@server_url
@click.option("--namespace", help="Only the pools of this namespace.")
@as_json
def pools(url: str | None, namespace: str | None, as_json: bool) -> None:
    """Who waits where: counts of each pool, by a hash of its namespace, fullest first."""
    found = _pools(url)
    if namespace is not None:
        wanted = {pool_hash(pool_of(namespace, signed=signed)) for signed in (False, True)}
        found = [each for each in found if each["pool"] in wanted]
    found.sort(key=lambda each: (-each["waiting"], -each["offered"], -each["pairs"]))
    default = {pool_hash(pool_of(None)): "default", pool_hash(pool_of(None, signed=True)): "default, signed"}
    if as_json:
        show(found)
    else:
        heads = [("pool", "waiting", "offered", "pairs")]
        table(
            heads
            + [(default.get(e["pool"], e["pool"]), e["waiting"], e["offered"], e["pairs"]) for e in found]
        )


def _pools(url: str | None) -> list[dict[str, Any]]:
    """From Redis, or from the server, which shows them to whoever knows its secret."""
    server = this_server()
    if server.settings.redis_url and not url:
        try:
            return [asdict(each) for each in server.store.pools()]
        except Unavailable:
            raise click.ClickException("Redis does not answer") from None
    if not server.settings.secret_key:
        raise click.ClickException(
            "the pools are in the server's memory: set SPACERIFT_SECRET_KEY, the same for both"
        )
    shown = _get(f"{url or own_url()}pools", Authorization=f"Bearer {server.new_pass()}")
    found: list[dict[str, Any]] = json.loads(shown)["pools"]
    return found


@group.command()
@server_url
@as_json
def doctor(url: str | None, as_json: bool) -> None:
    """What would keep this deployment from working. Ends with 1 if anything would.

    With --url also on the way to it: proxies that hide a closed tab, cut long requests, or name no client.
    """
    server = this_server()
    findings = list(examine(server))
    if url:
        findings += _on_the_way(url, server)
    if as_json:
        show([asdict(each) for each in findings])
    else:
        table([(each.state, each.about, each.words) for each in findings])
    if any(each.state == FAULT for each in findings):
        sys.exit(1)


def _on_the_way(url: str, server: Any) -> list[Finding]:
    try:
        _get(f"{url}ready")
    except click.ClickException as error:
        return [Finding("running server", FAULT, error.message)]
    found = [Finding("running server", OK, f"{url} can pair")]
    if server.settings.signatures == "required":
        words = "not probed: only signed peers may ask"
        return [*found, Finding("pairing", WARNING, words)]
    return found + list(Way(url, server.new_pass if server.settings.secret_key else None).findings())


def _get(url: str, **headers: str) -> bytes:
    try:
        with urlopen(Request(url, headers=headers), timeout=5) as response:
            body: bytes = response.read()
            return body
    except HTTPError as error:
        raise click.ClickException(f"{url} answers {error.code}") from None
    except (OSError, ValueError, HTTPException) as error:
        raise click.ClickException(
            f"no server answers at {url} ({getattr(error, 'reason', error)})"
        ) from None


def _counts(text: str) -> dict[str, dict[str, float]]:
    """The metrics that a person looks at first."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def by(name: str, label: str) -> dict[str, float]:
        return {each.labels[label]: each.value for each in samples if each.name == f"spacerift_{name}"}

    single = {each.name.removeprefix("spacerift_"): each.value for each in samples if not each.labels}
    gauges, totals = ("waiting", "offered", "pools", "pairs_remembered"), ("pairs", "answers_lost", "ghosts")
    counts, sums = by("request_seconds_count", "reply"), by("request_seconds_sum", "reply")
    return {
        "now": {name: single[name] for name in gauges if name in single},
        "so far": {name: single.get(f"{name}_total", 0) for name in totals},
        "replies": counts,
        "seconds, on average": {
            name: round(sums[name] / count, 4) for name, count in counts.items() if count
        },
        "refused by a limit": by("limits_hit_total", "limit"),
    }


def _shown(value: Any, *, secret: bool) -> Any:
    """A value as JSON has it. A credential within it is masked too."""
    if value is not None and secret:
        return MASKED
    if isinstance(value, RateLimitItem):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _shown(each, secret=key == "credential") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each, secret=False) for each in value]
    return value


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(each if isinstance(each, str) else json.dumps(each) for each in value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)

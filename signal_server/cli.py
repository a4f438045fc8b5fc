"""`flask spacerift …`: what an operator asks of a deployment, in words or, with `--json`, for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import click
from flask import current_app
from flask.cli import AppGroup
from limits import RateLimitItem

from .settings import variable_of
from .terminal import peer

MASKED: Final = "***"

group = AppGroup("spacerift", help="The signal server: its settings, its state, its keys.")
group.add_command(peer)

as_json = click.option("--json", "as_json", is_flag=True, help="For a program.")


def this_rift() -> Any:
    """The signal server of the application that `flask` has loaded, a `Rift`."""
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
    rift = this_rift()
    rows = {
        variable_of(each.name): {
            "value": _shown(getattr(rift.settings, each.name), secret=each.metadata["secret"]),
            "from": rift.sources[each.name],
        }
        for each in fields(rift.settings)
    }
    if as_json:
        show(rows)
    else:
        table([(name, _words(row["value"]), row["from"]) for name, row in rows.items()])


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

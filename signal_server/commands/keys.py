"""`flask spacerift keys …`: the server's own key, and the keys that it trusts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from ..errors import ConfigurationError
from ..openpgp.keyring import Keyring
from ..openpgp.trust import open_keyring, read_keys
from ..settings import Settings

keys = AppGroup("keys", help="The server's own key, and the keys that it trusts.")


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def list_(as_json: bool) -> None:
    """The server's key and the trusted ones: fingerprint, whether it may sign now, name."""
    settings = _settings()
    rows = _rows(settings)
    if as_json:
        names = ("role", "fingerprint", "state", "name")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    for role, fingerprint, state, name in rows:
        click.echo(f"{role:8}  {fingerprint}  {state:12}  {name}")
    if settings.private_key is None:
        click.echo("No private key: replies are not signed. `flask spacerift keys generate` makes one.")
    if settings.trusted_keys is None:
        click.echo("No trusted keys: each key speaks for itself, and peers decide whom they trust.")


@keys.command("import")
@click.argument("file", type=click.File())
def import_(file: Any) -> None:
    """Trust the armored public keys in FILE (- for standard input): put them into the folder."""
    folder = Path(_settings().trusted_keys or "")
    if not _settings().trusted_keys or not folder.is_dir():
        raise click.ClickException("SPACERIFT_TRUSTED_KEYS is not a folder")
    text = file.read()
    if "-----BEGIN PGP PUBLIC KEY BLOCK-----" not in text:
        raise click.ClickException(f"{file.name}: no armored OpenPGP public key")
    try:
        with open_keyring(
            openpgp=_settings().openpgp, trusted_keys=text, private_key=None, passphrase=None
        ) as keyring:
            found = [(each, keyring.state(each)) for each in (keyring.trusted or {}).values()]
    except ConfigurationError as error:
        raise click.ClickException(str(error).replace("SPACERIFT_TRUSTED_KEYS", file.name)) from None
    for each, state in found:
        (folder / f"{each.fingerprint}.asc").write_text(each.armoured())
        click.echo(f"trusted   {each.fingerprint}  {state:12}  {each.name}")
    click.echo("A running server reads the folder when gunicorn gets a SIGHUP.")


@keys.command()
@click.option("--name", default="Spacerift server", show_default=True, help="The name in the key.")
@click.option("--out", type=click.Path(dir_okay=False), help="A file; by default, standard output.")
def generate(name: str, out: str | None) -> None:
    """Make a private key for SPACERIFT_PRIVATE_KEY, with SPACERIFT_PRIVATE_KEY_PASSPHRASE if that is set."""
    from ..openpgp.gnupg_helper import Failed, Refused, make_private_key

    try:
        private_key = make_private_key(name, _settings().private_key_passphrase)
    except (Failed, Refused) as error:
        raise click.ClickException(str(error)) from None
    if out is None:
        click.echo(private_key, nl=False)
        return
    try:
        path = Path(out)
        path.touch(0o600, exist_ok=False)
        path.write_text(private_key)
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror}") from None


@keys.command()
def export() -> None:
    """The server's public key, as `GET /key` answers it: for clients to pin."""
    with _opened(_settings()) as keyring:
        own = keyring.public_key()
    if own is None:
        raise click.ClickException("SPACERIFT_PRIVATE_KEY is not set")
    click.echo(own, nl=False)


def _rows(settings: Settings) -> list[tuple[str, str, str, str]]:
    if settings.private_key is None and settings.trusted_keys is None:
        return []  # and no gpg is needed to say so
    with _opened(settings) as keyring:
        own = keyring.public_key()
        found = [("server", each) for each in read_keys("SPACERIFT_PRIVATE_KEY", own)] if own else []
        found += [("trusted", each) for each in (keyring.trusted or {}).values()]
        return [(role, each.fingerprint, keyring.state(each), each.name) for role, each in found]


def _settings() -> Settings:
    settings: Settings = current_app.extensions["spacerift"].settings
    return settings


def _opened(settings: Settings) -> Keyring:
    """The keyring of these settings, whether the server uses it or not."""
    try:
        return open_keyring(
            openpgp=settings.openpgp,
            trusted_keys=settings.trusted_keys,
            private_key=settings.private_key,
            passphrase=settings.private_key_passphrase,
        )
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None

"""`flask spacerift keys …`"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from signal_server.app import create_app
from signal_server.settings import Settings
from signed_peer import SignedPeer


def keys(*arguments: str, given: str | None = None, **settings: object) -> Result:
    environ = {f"SPACERIFT_{name}": str(value) for name, value in settings.items()}
    app = create_app(Settings.from_env(environ))
    return app.test_cli_runner().invoke(args=["spacerift", "keys", *arguments], input=given)


@pytest.mark.parametrize("engine", ["gnupg", "sequoia"])
@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_a_key_is_made_and_listed_and_exported(engine: str, passphrase: str | None, tmp_path: Path) -> None:
    path = tmp_path / "server.asc"
    secret = {} if passphrase is None else {"PRIVATE_KEY_PASSPHRASE": passphrase}
    assert keys("generate", "--name", "A server", "--out", str(path), **secret).exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    own = {"PRIVATE_KEY": path, "OPENPGP": engine, **secret}
    (listed,) = json.loads(keys("list", "--json", **own).output)
    assert (listed["role"], listed["state"], listed["name"]) == ("server", "good", "A server")
    assert keys("export", **own).output.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    again = keys("generate", "--out", str(path))
    assert again.exit_code != 0  # it is not overwritten
    assert again.output.count("\n") == 1


def test_a_key_is_imported_into_the_folder(tmp_path: Path) -> None:
    bob = SignedPeer()
    done = keys("import", "-", given="Bob's:\n" + bob.public_key, TRUSTED_KEYS=tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / f"{bob.fingerprint}.asc").exists()
    listed = keys("list", TRUSTED_KEYS=tmp_path).output
    assert f"trusted   {bob.fingerprint}  good          x <x@x.invalid>" in listed


def test_what_is_no_key_is_not_imported(tmp_path: Path) -> None:
    for text in ("hello", SignedPeer().public_key.replace("\n\n", "\n\n!!", 1)):
        done = keys("import", "-", given=text, TRUSTED_KEYS=tmp_path)
        assert done.exit_code != 0
        assert done.output.count("\n") == 1
        assert "BEGIN" not in done.output
    assert list(tmp_path.iterdir()) == []
    assert "SPACERIFT_TRUSTED_KEYS is not a folder" in keys("import", "-", given="x").output


def test_without_keys_it_says_so_and_needs_no_gpg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    listed = keys("list")
    assert listed.exit_code == 0
    assert listed.output.startswith("No private key")
    assert keys("export").exit_code != 0

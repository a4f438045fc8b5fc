"""The commands of docs/signatures.md, as they stand there: both engines accept what they make."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import ROOT
from signal_server.openpgp.gnupg import GnupgEngine
from signal_server.openpgp.keyring import Engine, Keyring
from signal_server.openpgp.sequoia import SequoiaEngine

TEXT = '{"TYPE":"CONNECT","NAMESPACE":"chess","SIGNAL":"v=0","TIME":1}'


def commands() -> dict[str, list[str]]:
    """The three commands of each program: make a key, sign, tell the public key."""
    document = (ROOT / "docs" / "signatures.md").read_text()
    table = document.split("| software | make a key |")[1].split("\n\n")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:]]
    return {
        software.strip(): [re.findall(r"`(.+?)`", cell)[0].replace("\\|", "|") for cell in cells]
        for software, *cells in rows
    }


@pytest.fixture(scope="module")
def engines() -> Iterator[list[Engine]]:
    made: list[Engine] = [GnupgEngine(), SequoiaEngine()]
    yield made
    for each in made:
        each.close()


def test_there_are_five_programs() -> None:
    assert [len(each) for each in commands().values()] == [3] * 5


@pytest.mark.parametrize("software", commands())
def test_what_the_commands_make_is_accepted(software: str, engines: list[Engine], tmp_path: Path) -> None:
    # A program's keys lie in its home; gpg's socket needs a short path.
    environment = os.environ | {"HOME": str(tmp_path), "GNUPGHOME": str(tmp_path), "text": TEXT}
    tmp_path.chmod(0o700)

    def shell(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    make, sign, export = commands()[software]
    try:
        shell(make)
        message, key = shell(sign), shell(export)
    finally:
        subprocess.run(["gpgconf", f"--homedir={tmp_path}", "--kill", "all"], check=True)
    for engine in engines:
        assert Keyring(engine, None).verify(message, key).text == TEXT.encode()

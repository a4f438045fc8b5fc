"""signers.js under Node: kbpgp and openpgp.js, by the same vectors as the server's engines.

A library is not as strict as the server in everything: it may read a form that the server does not, or count
a weak statement in a key. What it must never do is read another text, tell another name, or take what nobody
signed.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from live import ROOT
from vectors import Vector, shared_vectors

LIBRARIES = ["kbpgp", "openpgp.js"]

NEVER = re.compile(
    r"eve's|another's|by another|no signature|only a text|no text|two texts|another text|the other text"
    r"|two keys|two blocks|twice|two signatures|(gpg|openpgp.js) by two|secret|private key|unsigned|stored"
    r"|encrypted|password|detached|clearsigned|grafted|did not agree|another agreed|agreed to another"
    r"|bound wrongly|unbound subkey|signed wrongly|spoiled|without a name|: revoked$|a revoked (key|subkey)"
    r"|expired (key|subkey|since)|: expired$|: (md5|sha1|sha224)$|ripemd|text (before|behind)"
)
"""What is refused by every program, by the vectors' names."""


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vector, ...]:
    """What both libraries must refuse, what they made themselves, and every third of the rest."""
    found = shared_vectors(tmp_path_factory.getbasetemp().parent)
    matter = {each for each in found if NEVER.search(each.name) or each.name.startswith(("kbpgp", "openpgp"))}
    return tuple(each for place, each in enumerate(found) if each in matter or place % 3 == 0)


@pytest.fixture(scope="module")
def found(vectors: tuple[Vector, ...]) -> dict[str, Any]:
    lines = [json.dumps({"name": each.name, "message": each.message, "key": each.key}) for each in vectors]
    command = ["node", str(Path(__file__).with_name("signers.mjs"))]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    return {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}


def test_there_is_a_verdict_on_every_vector(vectors: tuple[Vector, ...], found: dict[str, Any]) -> None:
    assert set(found) == {each.name for each in vectors}
    assert sum(each.text is None and bool(NEVER.search(each.name)) for each in vectors) >= 80


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_read_is_what_was_signed(
    vectors: tuple[Vector, ...], found: dict[str, Any], library: str
) -> None:
    for each in vectors:
        verdict = found[each.name][library]
        if isinstance(verdict, dict) and each.text is not None:
            assert verdict["text"].encode() == each.text, each.name
            assert each.signer in (None, verdict["fingerprint"]), each.name


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_nobody_may_take_is_refused(
    vectors: tuple[Vector, ...], found: dict[str, Any], library: str
) -> None:
    taken = [
        each.name
        for each in vectors
        if each.text is None and NEVER.search(each.name) and isinstance(found[each.name][library], dict)
    ]
    assert taken == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_both_libraries_make_is_taken_by_both(
    vectors: tuple[Vector, ...], found: dict[str, Any], library: str
) -> None:
    made = [
        each for each in vectors if each.name.startswith(("kbpgp", "openpgp.js")) and each.text is not None
    ]
    refused = [each.name for each in made if not isinstance(found[each.name][library], dict)]
    # kbpgp does not find the subkey that openpgp.js signs with, which is no key that openpgpSigner makes.
    assert [name for name in refused if "with a signing subkey" not in name] == []
    assert len(made) >= 30


LISTS = """
import kbpgp from "kbpgp";
import * as openpgp from "openpgp";
import { kbpgpSigner, openpgpSigner } from "./signal_server/static/signers.js";
const makers = [
  trusted => kbpgpSigner(kbpgp, { trusted }),
  trusted => openpgpSigner(openpgp, { trusted }),
];
for (const make of makers) {
  const [friend, stranger] = [await make(), await make()];
  const message = await friend.sign("text");
  const reads = async trusted => (await (await make(trusted)).verify(message, friend.publicKey())).text;
  const key = friend.publicKey();
  for (const trusted of [[key], `\\n  ${key}\\n\\n`, undefined, [], "", stranger.publicKey()]) {
    console.log(await reads(trusted).catch(error => "refused"));
  }
}
process.exit();
"""


def test_trusted_keys_are_a_list_or_one_and_none_is_not_all() -> None:
    done = subprocess.run(
        ["node", "--input-type=module", "-e", LISTS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["text", "text", "text", "refused", "refused", "refused"] * 2

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
from signal_server.openpgp.gnupg_helper import Home
from vectors import Vector, shared_vectors
from vectors_core import TEXT
from vectors_programs import run

LIBRARIES = ["kbpgp", "openpgp.js"]

NEVER = re.compile(
    r"eve's|another's|by another|no signature|only a text|no text|two texts|another text|the other text"
    r"|two keys|two blocks|twice|two signatures|(gpg|openpgp.js) by two|secret|private key|unsigned|stored"
    r"|encrypted|password|detached|clearsigned|grafted|did not agree|another agreed|agreed to another"
    r"|bound wrongly|unbound subkey|signed wrongly|spoiled|without a name|: revoked$|a revoked (key|subkey)"
    r"|expired (key|subkey|since)|: expired$|: (md5|sha1|sha224)$|ripemd|text (before|behind)"
    r"|: may not sign|nothing of signing|may only certify$|subkey for|flags (|00|01|0c|20|0002|not signed)$"
    r"|forbidden since|: (a subkey )?shortened|then shortened|critical notation|a signature expired"
)
"""What is refused by every program, by the vectors' names."""


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vector, ...]:
    """What both libraries must refuse, one text of each program's each key, and some of the rest."""
    found = shared_vectors(tmp_path_factory.getbasetemp())
    return tuple(
        each
        for place, each in enumerate(found)
        if NEVER.search(each.name)
        or (is_by_a_program(each) and each.text in (b"chess", TEXT))
        or place % 9 == 0
    )


def is_by_a_program(vector: Vector) -> bool:
    return not vector.name.startswith(("by hand", "said", "new"))


@pytest.fixture(scope="module")
def found(vectors: tuple[Vector, ...]) -> dict[str, Any]:
    lines = [json.dumps({"name": each.name, "message": each.message, "key": each.key}) for each in vectors]
    command = ["node", str(Path(__file__).with_name("signers.mjs"))]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True, cwd=ROOT, timeout=170
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
    if library == "kbpgp":  # nor does it know what came with RFC 9580
        assert all(str(found[each.name][library]).startswith("CannotVerify") for each in made if each.is_new)
        refused = [each.name for each in made if each.name in refused and not each.is_new]
    assert [name for name in refused if "with a signing subkey" not in name] == []
    assert len(made) >= 15


def test_nothing_is_thrown_where_nobody_can_catch_it(found: dict[str, Any]) -> None:
    verdicts = [each[library] for each in found.values() for library in LIBRARIES]
    assert [each for each in verdicts if str(each).startswith("crash")] == []


def test_openpgp_js_verifies_what_the_server_accepts(
    vectors: tuple[Vector, ...], found: dict[str, Any]
) -> None:
    made = [each.name for each in vectors if each.text is not None and is_by_a_program(each)]
    assert [name for name in made if not isinstance(found[name]["openpgp.js"], dict)] == []
    assert len(made) >= 90


def test_kbpgp_says_whose_keys_it_cannot_verify(vectors: tuple[Vector, ...], found: dict[str, Any]) -> None:
    """The table of docs/signatures.md."""
    verifies, refuses = set(), set()
    for each in vectors:
        program = each.name.split()[0].rstrip(":")
        if each.text is not None and is_by_a_program(each) and program != "openpgp.js":
            verdict = found[each.name]["kbpgp"]
            if each.name != "gpg its key inside" and not each.is_new:
                (verifies if isinstance(verdict, dict) else refuses).add(program)
            assert isinstance(verdict, dict) or verdict.startswith("CannotVerify: kbpgp cannot"), each.name
    assert not isinstance(
        found["gpg its key inside"]["kbpgp"], dict
    )  # the one option of gpg that it stops at
    assert verifies == {"gpg", "kbpgp", "python-gnupg", "rnp", "PGPy"}
    assert refuses == {"go-crypto", "pgpainless-cli", "pysequoia", "sq", "sqop"}


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


STARTS = """
import { readFileSync } from "node:fs";
import kbpgp from "kbpgp";
import * as openpgp from "openpgp";
import { kbpgpSigner, openpgpSigner } from "./signal_server/static/signers.js";
const { sq, sqPublic, mute, nameless } = JSON.parse(readFileSync(0));
const tries = [
  () => kbpgpSigner(kbpgp, { privateKey: sq }),
  () => kbpgpSigner(kbpgp, { privateKey: mute }),
  () => kbpgpSigner(kbpgp, { trusted: [sqPublic] }),
  () => openpgpSigner(openpgp, { privateKey: mute }),
  () => openpgpSigner(openpgp, { privateKey: nameless }),
  () => openpgpSigner(openpgp, { privateKey: sq, trusted: [sqPublic] }),
];
for (const each of tries) {
  console.log(await each().then(() => "made", error => `${error.name}: ${error.message}`));
}
process.exit();
"""


def test_a_private_key_that_may_not_sign_is_refused_at_once(tmp_path: Path) -> None:
    def generated(*options: str) -> str:
        return run("sqop", "generate-key", *options).decode()

    with Home() as home:
        gpg = [
            "gpg",
            f"--homedir={home.path}",
            "--batch",
            "--quiet",
            "--passphrase=",
            "--pinentry-mode=loopback",
        ]
        run(*gpg, "--quick-generate-key", "mute", "ed25519", "cert", "0")
        mute = run(*gpg, "--armor", "--export-secret-keys").decode()
    sq = generated("s <s@example.invalid>")
    given = {"sq": sq, "mute": mute, "nameless": generated()}
    given["sqPublic"] = run("sqop", "extract-cert", given=sq.encode()).decode()
    command = ["node", "--input-type=module", "-e", STARTS]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    *refused, made = done.stdout.splitlines()
    assert made == "made"
    assert [line.split(":")[0] for line in refused] == ["Error", "Error", "CannotVerify", "Error", "Error"]
    assert all(
        each.startswith("Error: this private key cannot be used: ") for each in refused[:2] + refused[3:]
    )

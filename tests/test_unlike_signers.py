"""Peers that sign with different programs link through a running server, and know each other."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pysequoia
import pytest

from live import Server, eventually
from signal_server.client import Exchange, SpaceriftError, connect
from signal_server.openpgp.signer import OpenpgpSigner, Verified
from signal_server.openpgp.trust import open_keyring
from signed_peer import make_private_key
from vectors_programs import WHO, run

ENGINES = ["gnupg", "sequoia"]


class ByProgram:
    """A peer's signer: a program signs, and one of the server's engines verifies, as in the Python client."""

    def __init__(self, engine: str, sign: Callable[[str], str | bytes], public_key: str | bytes) -> None:
        self._sign, self._key = sign, _text(public_key)
        self._keyring = open_keyring(openpgp=engine, trusted_keys=None, private_key=None, passphrase=None)
        self.close = self._keyring.close
        self.fingerprint = self._keyring.verify(self.sign("mine"), self._key).fingerprint

    def public_key(self) -> str:
        return self._key

    def sign(self, text: str) -> str:
        return _text(self._sign(text))

    def verify(self, message: str, public_key: str, *, pinned: bool = False) -> Verified:
        signed = self._keyring.verify(message, public_key)
        return Verified(signed.text.decode(), signed.fingerprint)


class InNode:
    """A signer of signers.js, which signs and verifies with the library of that name."""

    def __init__(self, library: str) -> None:
        command = ["node", str(Path(__file__).with_name("sign_lines.mjs")), library]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._line()
        self.fingerprint, self._key = said["fingerprint"], said["key"]

    def public_key(self) -> str:
        return str(self._key)

    def sign(self, text: str) -> str:
        return str(self._ask(text=text)["signed"])

    def verify(self, message: str, public_key: str, *, pinned: bool = False) -> Verified:
        said = self._ask(message=message, key=public_key)
        return Verified(said["text"], said["fingerprint"])

    def close(self) -> None:
        with self._process:
            pass

    def _ask(self, **question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        said = self._line()
        if "error" in said:
            raise ValueError(said["error"])
        return said

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said


def _text(block: str | bytes) -> str:
    return block.decode() if isinstance(block, bytes) else block


# --- the programs ------------------------------------------------------------------------------------------


def gpg(folder: str) -> ByProgram:
    Path(folder).chmod(0o700)
    own = ["gpg", f"--homedir={folder}", "--batch", "--quiet", "--passphrase=", "--pinentry-mode=loopback"]
    run(*own, "--quick-generate-key", WHO, "rsa3072", "sign", "2y")
    return ByProgram(
        "gnupg",
        lambda text: run(*own, "--armor", "--sign", given=text.encode()),
        run(*own, "--armor", "--export"),
    )


def rnp(folder: str) -> ByProgram:
    own = (f"--homedir={folder}", "--password=")
    run("rnpkeys", *own, "--generate-key", f"--userid={WHO}")
    return ByProgram(
        "gnupg",
        lambda text: run("rnp", *own, "--armor", "--sign", given=text.encode()),
        run("rnpkeys", *own, "--export-key", WHO),
    )


def sq(folder: str) -> ByProgram:
    key = f"{folder}/key.pgp"
    run("sq", "key", "generate", f"--userid={WHO}", "--export", key)
    return ByProgram(
        "sequoia",
        lambda text: run("sq", "sign", "--signer-key", key, given=text.encode()),
        run("sq", "key", "extract-cert", key),
    )


def sop(program: str, folder: str) -> ByProgram:
    key = Path(folder, "key.pgp")
    key.write_bytes(run(program, "generate-key", WHO))
    return ByProgram(
        "sequoia",
        lambda text: run(program, "inline-sign", str(key), given=text.encode()),
        run(program, "extract-cert", given=key.read_bytes()),
    )


def pgpy(_: str) -> ByProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgpy
        from pgpy.constants import EllipticCurveOID, HashAlgorithm, KeyFlags, PubKeyAlgorithm

        key = pgpy.PGPKey.new(PubKeyAlgorithm.ECDSA, EllipticCurveOID.NIST_P256)
        usage = {KeyFlags.Sign, KeyFlags.Certify}
        key.add_uid(pgpy.PGPUID.new("p"), usage=usage, hashes=[HashAlgorithm.SHA256])

    def sign(text: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = pgpy.PGPMessage.new(text)
            message |= key.sign(message)
            return str(message)

    return ByProgram("gnupg", sign, str(key.pubkey))


def in_pysequoia(profile: pysequoia.Profile) -> ByProgram:
    secret = pysequoia.Tsk.generate(WHO, profile=profile)
    signer = secret.signer()
    return ByProgram(
        "sequoia",
        lambda text: bytes(pysequoia.sign(signer, text.encode())),
        str(secret.extract_certificate()),
    )


Peer = ByProgram | InNode | OpenpgpSigner

PROGRAMS: dict[str, Callable[[str], Peer]] = {
    "gpg": gpg,
    "rnp": rnp,
    "sq": sq,
    "sqop": lambda folder: sop("sqop", folder),
    "pgpainless": lambda folder: sop("pgpainless-cli", folder),
    "PGPy": pgpy,
    "pysequoia": lambda _: in_pysequoia(pysequoia.Profile.RFC4880),
    "pysequoia, version 6": lambda _: in_pysequoia(pysequoia.Profile.RFC9580),
    "kbpgp": lambda _: InNode("kbpgp"),
    "openpgp.js": lambda _: InNode("openpgp.js"),
    "openpgp.js, version 6": lambda _: InNode("openpgp.js, version 6"),
    "the Python client": lambda _: OpenpgpSigner(make_private_key("")),
}

PAIRS = [
    ("gpg", "openpgp.js"),
    ("kbpgp", "gpg"),
    ("openpgp.js", "kbpgp"),
    ("rnp", "kbpgp"),
    ("PGPy", "kbpgp"),
    ("sq", "PGPy"),
    ("openpgp.js", "pgpainless"),
    ("pysequoia", "rnp"),
    ("sqop", "gpg"),
    ("the Python client", "sq"),
]

NEW_PAIRS = [
    ("pysequoia, version 6", "openpgp.js, version 6"),
    ("openpgp.js, version 6", "sq"),
    ("openpgp.js", "pysequoia, version 6"),
]


@pytest.fixture(scope="module")
def peers() -> Iterator[dict[str, Peer]]:
    """A peer with a key of each program. sq and gpg verify for some, and gpg knows no new keys."""
    with ExitStack() as opened, ThreadPoolExecutor(4) as threads:

        def make(name: str) -> Peer:
            folder = opened.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")))
            peer = PROGRAMS[name](folder)
            opened.callback(peer.close)
            if name == "gpg":
                opened.callback(run, "gpgconf", f"--homedir={folder}", "--kill", "all")
            return peer

        yield dict(zip(PROGRAMS, threads.map(make, PROGRAMS), strict=True))


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with ExitStack() as opened:
        own = {"SIGNATURES": "required", "PRIVATE_KEY": make_private_key("")}
        yield {engine: opened.enter_context(Server(OPENPGP=engine, **own)) for engine in ENGINES}


def link(server: Server, name: str, peer: Peer, namespace: str) -> Exchange:
    return connect(
        server.url,
        offer=lambda: f"offer of {name}",
        answer=lambda offer: f"answer of {name} to {offer}",
        namespace=namespace,
        signer=peer,
        server_key=server.get("/key")[2].decode(),
        timeout=20,
    )


def check_link(server: Server, peers: dict[str, Peer], first: str, second: str) -> None:
    """Both get what the other signed, and know whose it is; what the server says is signed, too."""
    namespace = f"{first} and {second}"
    with ThreadPoolExecutor(1) as thread:
        held = thread.submit(link, server, first, peers[first], namespace)
        server.until(waiting=1)
        responder = link(server, second, peers[second], namespace)
        initiator = held.result()
    offer, answer = f"offer of {first}", f"answer of {second} to offer of {first}"
    assert initiator == Exchange("initiator", offer, answer, peers[second].fingerprint)
    assert responder == Exchange("responder", offer, answer, peers[first].fingerprint)
    server.until(waiting=0, offered=0)


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("engine", ENGINES)
def test_peers_of_two_programs_link(
    engine: str, first: str, second: str, servers: dict[str, Server], peers: dict[str, Peer]
) -> None:
    check_link(servers[engine], peers, first, second)


@pytest.mark.parametrize(("first", "second"), NEW_PAIRS)
def test_peers_with_new_keys_link_where_the_engine_knows_them(
    first: str, second: str, servers: dict[str, Server], peers: dict[str, Peer]
) -> None:
    check_link(servers["sequoia"], peers, first, second)
    new = peers[first if "version 6" in first else second]
    assert len(new.fingerprint) == 64
    with pytest.raises(SpaceriftError, match="UNTRUSTED"):
        link(servers["gnupg"], "new", new, "refused")
    assert eventually(lambda: "needs sequoia" in servers["gnupg"].log)


def test_a_peer_that_cannot_be_verified_is_bounced_once_and_both_find_others(
    servers: dict[str, Server], peers: dict[str, Peer]
) -> None:
    """kbpgp takes no key of sq's. The server keeps the two apart, and each links with the next that comes."""
    server = servers["sequoia"]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(link, server, "sq", peers["sq"], "mixed")
        server.until(waiting=1)
        second = threads.submit(link, server, "kbpgp", peers["kbpgp"], "mixed")
        server.until(waiting=2, offered=0)  # after one bounce
        assert link(server, "rnp", peers["rnp"], "mixed").remote_key in (
            peers["sq"].fingerprint,
            peers["kbpgp"].fingerprint,
        )
        link(server, "openpgp.js", peers["openpgp.js"], "mixed")
        keys = {first.result().remote_key, second.result().remote_key}
    assert keys == {peers["rnp"].fingerprint, peers["openpgp.js"].fingerprint}

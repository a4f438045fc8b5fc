"""A signed peer for the tests, by the parameters of its requests; and a private key for a server."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from crafted import Author, Rsa, armour
from signal_server.openpgp.gnupg_helper import Home


def make_private_key(passphrase: str, algorithm: str = "ed25519", name: str = "server") -> str:
    with Home() as home:
        gpg = ["gpg", f"--homedir={home.path}", "--pinentry-mode=loopback", f"--passphrase={passphrase}"]
        gpg += ["--batch", "--quiet"]
        subprocess.run([*gpg, "--quick-generate-key", name, algorithm, "sign", "0"], check=True)
        done = subprocess.run([*gpg, "--armor", "--export-secret-keys"], check=True, capture_output=True)
        return done.stdout.decode()


class SignedPeer:
    """Signs as a browser does, with a key of its own."""

    def __init__(self, namespace: str = "", author: Author | None = None) -> None:
        self.author = author or Author(Rsa())
        self.namespace = namespace
        self.public_key = armour(self.author.certificate(), "PUBLIC KEY BLOCK")
        self.signed_namespace = self.sign(namespace)

    @property
    def fingerprint(self) -> str:
        return self.author.fingerprint

    def sign(self, text: str, *, at: float | None = None) -> str:
        created = int(time.time() if at is None else at)
        return armour(self.author.message(text.encode(), created=created))

    def statement(self, **said: object) -> str:
        whole = {"TYPE": "CONNECT", "NAMESPACE": self.namespace, "SIGNAL": "offer"}
        whole |= {"TIME": round(time.time() * 1000)} | said  # type: ignore[operator]
        return json.dumps({name: value for name, value in whole.items() if value is not None})

    def request(
        self, signal: str = "offer", *, nonce: str | None = None, type_: str = "CONNECT", **clear: Any
    ) -> dict[str, Any]:
        """The parameters of a request; `clear` adds to them or, with None, takes away."""
        text = self.statement(TYPE=type_, SIGNAL=signal, NONCE=nonce)
        whole = {
            "TYPE": type_,
            "NONCE": nonce,
            "SIGNED_NAMESPACE": self.signed_namespace,
            "SIGNED_SIGNAL": self.sign(text),
            "PUBLIC_KEY": self.public_key,
        } | clear
        return {name: value for name, value in whole.items() if value is not None}

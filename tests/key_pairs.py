"""OpenPGP keys made by gpg, for peers and servers that really sign."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from signal_server.openpgp.gnupg_helper import Home


@dataclass(frozen=True)
class KeyPair:
    """Armored, and without a passphrase."""

    private: str
    public: str


def key_pair(name: str) -> KeyPair:
    with Home() as home:
        quiet = ["--batch", "--quiet", "--passphrase=", "--pinentry-mode=loopback"]
        gpg = ["gpg", f"--homedir={home.path}", *quiet]
        subprocess.run([*gpg, "--quick-generate-key", name, "ed25519", "sign", "0"], check=True)

        def export(command: str) -> str:
            done = subprocess.run([*gpg, "--armor", command], check=True, capture_output=True, text=True)
            return done.stdout

        return KeyPair(export("--export-secret-keys"), export("--export"))

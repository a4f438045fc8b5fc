"""Signed messages by gpg, right and wrong."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from crafted import NOW
from vectors_core import DAY, SOME_TEXTS, TEXT, Vector


class Gpg:
    """A keyring of gpg's own, for making messages."""

    def __init__(self, home: str) -> None:
        Path(home, "gpg-agent.conf").write_text("s2k-count 65536\n")  # its own number takes a second to find
        self._command = ["gpg", f"--homedir={home}", "--batch", "--quiet", "--no-tty", "--yes"]
        self._command += ["--pinentry-mode=loopback", "--passphrase=", "--trust-model=always", "--no-options"]
        self._home = home

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run([*self._command, *arguments], input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def key(
        self,
        name: str,
        *,
        algorithm: str = "ed25519",
        use: str = "sign",
        expires: str = "0",
        options: tuple[str, ...] = (),
    ) -> str:
        """Make a key and give its fingerprint."""
        self(*options, "--quick-generate-key", f"{name} <{name}@example.invalid>", algorithm, use, expires)
        listed = self("--list-keys", "--with-colons", f"={name} <{name}@example.invalid>").decode()
        return re.findall(r"^fpr:+([0-9A-F]{40}):", listed, re.M)[0]

    def export(self, *keys: str) -> str:
        return self("--armor", "--export", *keys).decode()

    def sign(self, key: str, text: bytes, *options: str, how: str = "--sign") -> str:
        return self("--armor", "--local-user", key, *options, how, given=text).decode()

    def close(self) -> None:
        subprocess.run(["gpgconf", f"--homedir={self._home}", "--kill", "all"], check=True)


def by_gpg() -> Iterator[Vector]:
    with tempfile.TemporaryDirectory() as home:
        gpg = Gpg(home)
        try:
            yield from _by_gpg(gpg)
        finally:
            gpg.close()


def _by_gpg(gpg: Gpg) -> Iterator[Vector]:
    alice, eve = gpg.key("alice"), gpg.key("eve")
    own = gpg.export(alice)
    keys = {
        name: gpg.key(f"key-{name}", algorithm=name)
        for name in ("rsa2048", "rsa3072", "nistp256", "nistp384", "nistp521")
    }
    keys["ed25519"] = alice
    keys["expiring"] = gpg.key("expiring", expires="1d")
    keys["with a subkey"] = gpg.key("subkey", use="cert")
    gpg("--quick-add-key", keys["with a subkey"], "rsa2048", "sign", "0")
    keys["with an encrypting subkey"] = gpg.key("encrypting")
    gpg("--quick-add-key", keys["with an encrypting subkey"], "cv25519", "encr", "0")
    keys["with two names"] = gpg.key("names")
    gpg("--quick-add-uid", keys["with two names"], "second <second@example.invalid>")
    keys["certified by another"] = gpg.key("certified")
    gpg("--local-user", eve, "--quick-sign-key", keys["certified by another"])
    for name, key in keys.items():
        exported = gpg.export(key)
        for text in SOME_TEXTS:
            yield Vector(f"gpg {name}: {text[:20]!r}", gpg.sign(key, text), exported, text, key)

    for name, options in {
        "uncompressed": ["--compress-algo=none"],
        "zlib": ["--compress-algo=zlib"],
        "sha256": ["--digest-algo=sha256"],
        "sha384": ["--digest-algo=sha384"],
        "text": ["--textmode"],
        "a comment": ["--comment=hello"],
        "a version": ["--emit-version"],
        "a notation": ["--sig-notation=a@example.invalid=b"],
        "a policy": ["--sig-policy-url=https://example.invalid"],
        "a sender": ["--sender=alice@example.invalid"],
        "will expire": ["--default-sig-expire=1d"],
        "its key inside": ["--include-key-block"],
        "a key server": ["--sig-keyserver-url=https://keys.example.invalid"],
    }.items():
        yield Vector(f"gpg {name}", gpg.sign(alice, TEXT, *options), own, TEXT, alice)

    def refused(name: str, message: str, key: str = own) -> Vector:
        return Vector(f"gpg {name}", message, key, None)

    good = gpg.sign(alice, TEXT)
    yield refused("clearsigned", gpg.sign(alice, TEXT, how="--clear-sign"))
    yield refused("detached", gpg.sign(alice, TEXT, how="--detach-sign"))
    yield refused("bzip2", gpg.sign(alice, TEXT, "--compress-algo=bzip2"))
    yield refused("ripemd", gpg.sign(alice, TEXT, "--digest-algo=ripemd160"))
    yield refused("by two", gpg.sign(alice, TEXT, "--local-user", eve))
    yield refused("by two, both keys", gpg.sign(alice, TEXT, "--local-user", eve), gpg.export(alice, eve))
    yield refused("by two, the other first", gpg.sign(eve, TEXT, "--local-user", alice))
    yield refused("a signed signature", gpg.sign(eve, good.encode()), own)
    yield refused("a stored text", gpg("--armor", "--store", given=TEXT).decode())
    recipient = ("--recipient", keys["with an encrypting subkey"])
    yield refused("encrypted", gpg("--armor", *recipient, "--encrypt", given=TEXT).decode())
    yield refused("signed and encrypted", gpg.sign(alice, TEXT, *recipient, "--encrypt"))
    yield refused("by a password", gpg("--passphrase=x", "--armor", "--symmetric", given=TEXT).decode())
    yield refused("by another", gpg.sign(eve, TEXT))
    yield refused("a bundle, alice's", good, gpg.export(alice, eve))
    yield refused("a bundle, eve's", gpg.sign(eve, TEXT), gpg.export(alice, eve))
    yield refused("two blocks of keys", good, own + gpg.export(eve))
    yield refused("the private key", good, gpg("--armor", "--export-secret-keys", alice).decode())
    yield refused("a future signature", gpg.sign(alice, TEXT, "--faked-system-time=" + _at(NOW + DAY)))
    past = ("--faked-system-time=" + _at(NOW - 3 * DAY),)
    old = gpg.key("old", expires="1d", options=past)
    yield refused("an expired key", gpg.sign(old, TEXT, *past), gpg.export(old))
    lasting = gpg.key("lasting", options=past)
    yield refused(
        "an expired signature", gpg.sign(lasting, TEXT, *past, "--default-sig-expire=1d"), gpg.export(lasting)
    )
    yield Vector("gpg an old signature", gpg.sign(lasting, TEXT, *past), gpg.export(lasting), TEXT, lasting)
    withdrawn = gpg.key("withdrawn")
    signed = gpg.sign(withdrawn, TEXT)
    certificate = Path(gpg._home, "openpgp-revocs.d", f"{withdrawn}.rev").read_text()
    gpg("--import", given=certificate[certificate.index(":-----BEGIN") + 1 :].encode())
    yield refused("a revoked key", signed, gpg.export(withdrawn))
    for algorithm in ("dsa2048", "secp256k1", "brainpoolP256r1", "rsa1024"):
        other = gpg.key(algorithm, algorithm=algorithm)
        yield refused(algorithm, gpg.sign(other, TEXT), gpg.export(other))
    weak = gpg.key("weak", options=("--cert-digest-algo=sha1",))
    yield refused("a name signed with sha1", gpg.sign(weak, TEXT), gpg.export(weak))


def _at(seconds: int) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))

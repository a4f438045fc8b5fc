"""A Python peer's key, and whom it trusts: the `signer` of `signal_server.client`, with gpg or Sequoia."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import NamedTuple

from .keyring import Keyring
from .trust import open_keyring


class Verified(NamedTuple):
    """What a signed message says, and the primary fingerprint of the key that signed it."""

    text: str
    fingerprint: str


class OpenpgpSigner:
    """Signs what a peer sends, and verifies what it is sent.

        with OpenpgpSigner(private_key="bot.asc", trusted="friends/") as signer:
            exchange = connect(url, offer=…, answer=…, signer=signer)
            exchange.remote_key  # who it is

    Args:
        private_key: armored text, or a path.
        passphrase: of the private key.
        trusted: a folder of armored keys, or their text; without it, any key that matches its `PUBLIC_KEY`.
        openpgp: `gnupg` or `sequoia`.

    Attributes:
        fingerprint: of the primary key, in upper-case hex.

    Raises:
        ConfigurationError: a key cannot be used.
    """

    def __init__(
        self,
        private_key: str,
        *,
        passphrase: str | None = None,
        trusted: str | None = None,
        openpgp: str = "gnupg",
    ) -> None:
        with ExitStack() as opened:

            def keyring(trusted: str | None, private_key: str | None) -> Keyring:
                made = open_keyring(
                    openpgp=openpgp, trusted_keys=trusted, private_key=private_key, passphrase=passphrase
                )
                opened.callback(made.close)
                return made

            # Two, for the server's key may be pinned and not be among the peers that we trust.
            self._own = keyring(None, private_key)
            self._others = self._own if trusted is None else keyring(trusted, None)
            self.fingerprint = self._own.verify(self.sign("mine"), self.public_key()).fingerprint
            self._opened = opened.pop_all()

    def public_key(self) -> str:
        public_key = self._own.public_key()
        assert public_key is not None, "there is a private one"
        return public_key

    def sign(self, text: str) -> str:
        return self._own.sign(text)

    def verify(self, message: str, public_key: str, *, pinned: bool = False) -> Verified:
        """Raise what does not hold. `pinned`: with exactly this key, whomever else we trust."""
        signed = (self._own if pinned else self._others).verify(message, public_key)
        return Verified(signed.text.decode("utf-8"), signed.fingerprint)

    def set_clock(self, ahead_ms: int) -> None:
        """Go by a clock that is so far ahead of this machine's: the server's, which judges signatures."""
        for keyring in {self._own, self._others}:
            keyring.set_clock(lambda: time.time() + ahead_ms / 1000)

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> OpenpgpSigner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

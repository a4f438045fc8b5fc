"""The keys that the settings name: in a folder, in a file, or as text, for a platform has no files."""

from __future__ import annotations

import errno
import logging
import re
import time
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError, Unavailable, Untrusted
from .armour import PRIVATE_KEY_BLOCK, PUBLIC_KEY_BLOCK, armour, dearmour
from .certificate import NEEDS_SEQUOIA, Certificate
from .certificate_reader import read_certificate, split_certificates
from .key_packet import is_new
from .keyring import Engine, Keyring
from .packets import read_packets
from .signature_packet import END_OF_TIME

log = logging.getLogger(__name__)

PUBLIC_BLOCK: Final = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----.*?-----END PGP PUBLIC KEY BLOCK-----", re.S
)
PRIVATE_BLOCK: Final = re.compile(
    r"-----BEGIN PGP PRIVATE KEY BLOCK-----.*?-----END PGP PRIVATE KEY BLOCK-----", re.S
)
PRIVATE: Final = "-----BEGIN PGP PRIVATE KEY BLOCK-----"

_NO_PATH: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def open_keyring(
    *,
    openpgp: str,
    trusted_keys: str | None,
    private_key: str | None,
    passphrase: str | None,
    yields: bool = False,
) -> Keyring:
    """Make the keyring that the settings ask for.

    Args:
        openpgp: `gnupg` or `sequoia`.
        trusted_keys: a folder of armoured keys, or the armoured text; None: each key speaks for itself.
        private_key: a path, or the armoured text; None: replies are not signed.
        passphrase: of the private key.
        yields: there are others to be served, who need no signature and are not to wait for any.

    Raises:
        ConfigurationError: they cannot be used: one line, which names the setting and repeats no key.
    """
    engine = _engine(openpgp, private_key and _private_text(openpgp, private_key), passphrase, yields=yields)
    try:
        trusted = None if trusted_keys is None else load_trusted(engine, trusted_keys)
        keyring = Keyring(engine, trusted)
        _check_own_key(engine)
    except Unavailable as error:
        engine.close()
        raise ConfigurationError(f"SPACERIFT_SIGNATURES: {error.reason}") from None
    except BaseException:
        engine.close()
        raise
    return keyring


def load_trusted(engine: Engine, setting: str) -> dict[str, Certificate]:
    """The trusted keys by their fingerprints.

    Raises:
        ConfigurationError: something there is no key, or is none that can be used.
    """
    found = [(source, each) for source, text in _sources(setting) for each in read_keys(source, text)]
    if not found:
        log.warning("SPACERIFT_TRUSTED_KEYS holds no key: nobody is let in")
        return {}
    trusted = _tidied(engine, found)
    for source, certificate in found:
        if certificate.fingerprint not in trusted:
            raise ConfigurationError(
                f"{source}: the key {certificate.fingerprint} {_fault(engine, certificate)}"
            )
    return trusted


def refused_by_the_other(openpgp: str, setting: str) -> list[str]:
    """The trusted keys that the engine which is not in use would refuse, one line for each.

    Nothing if that engine is not installed.
    """
    other = {"gnupg": "sequoia", "sequoia": "gnupg"}[openpgp]
    try:
        engine = _engine(other, None, None)
    except ConfigurationError:
        return []
    try:
        found = [each for source, text in _sources(setting) for each in read_keys(source, text)]
        taken = _tidied(engine, [("", each) for each in found])
        words = {each.fingerprint: _fault(engine, each) for each in found if each.fingerprint not in taken}
        for fingerprint, each in taken.items():
            if Keyring(engine, taken).state(each) == NEEDS_SEQUOIA:
                words[fingerprint] = f"may not sign: {NEEDS_SEQUOIA}"
    finally:
        engine.close()
    return [f"with {other}, {fingerprint} {fault}" for fingerprint, fault in words.items()]


def _tidied(engine: Engine, found: list[tuple[str, Certificate]]) -> dict[str, Certificate]:
    """Those of the keys that are signed by themselves, by their fingerprints."""
    # One key may lie in two files, the second with its revocation: the engine makes one of both.
    asked = [each for _, each in found if engine.takes_new or not each.primary.is_new]
    data = b"".join(each.whole for each in asked)
    tidied = [read_certificate(each) for each in split_certificates(engine.tidy(data))]
    return {each.fingerprint: each for each in tidied}


def _fault(engine: Engine, certificate: Certificate) -> str:
    """Why a key is none of those that an engine takes."""
    if certificate.primary.is_new and not engine.takes_new:
        return f"cannot be used: {NEEDS_SEQUOIA}"
    try:
        certificate.cut(certificate.primary, signed_at=END_OF_TIME, now=time.time())
    except Untrusted as error:
        return f"cannot be used: {error.reason}"
    return "is not signed by itself"


def _engine(openpgp: str, private_key: str | None, passphrase: str | None, *, yields: bool = False) -> Engine:
    if openpgp == "sequoia":
        try:
            from .sequoia import SequoiaEngine
        except ImportError:
            raise ConfigurationError("SPACERIFT_OPENPGP=sequoia needs: pip install pysequoia") from None
        return SequoiaEngine(private_key, passphrase)
    from .gnupg import GnupgEngine

    return GnupgEngine(private_key, passphrase, yields=yields)


def _check_own_key(engine: Engine) -> None:
    """Peers must be able to verify our replies by the rules that we hold them to."""
    if engine.public_key is None:
        return
    try:
        Keyring(engine, None).verify(engine.sign("ready"), engine.public_key)
    except Untrusted as error:
        raise ConfigurationError(
            f"SPACERIFT_PRIVATE_KEY: peers could not verify it: {error.reason}"
        ) from None


def _private_text(openpgp: str, setting: str) -> str:
    """The armoured private key of the setting, in the form that every engine reads."""
    name = "SPACERIFT_PRIVATE_KEY"
    try:
        text = _lines(setting) if "-----BEGIN" in setting else Path(setting).read_text("latin-1")
    except (OSError, ValueError) as error:
        raise _unreadable(name, "an armoured key nor a file", error) from None
    found = PRIVATE_BLOCK.findall(text)
    if len(found) != 1:
        raise ConfigurationError(
            f"{name}: one armoured OpenPGP private key is needed, and there are {len(found)}"
        )
    try:
        data = dearmour(found[0], PRIVATE_KEY_BLOCK)
        first = next(read_packets(data), None)
        # A private key begins as its public half does.
        if openpgp == "gnupg" and first is not None and is_new(first.body):
            raise Untrusted(NEEDS_SEQUOIA)
        return armour(data, PRIVATE_KEY_BLOCK)
    except Untrusted as error:
        raise ConfigurationError(f"{name}: not a key that can be used: {error.reason}") from None


def _sources(setting: str) -> list[tuple[str, str]]:
    """The texts that hold trusted keys, each with where it stands."""
    name = "SPACERIFT_TRUSTED_KEYS"
    if "-----BEGIN" in setting:
        return [(name, _lines(setting))]
    try:
        files = [each for each in sorted(Path(setting).iterdir()) if not each.name.startswith(".")]
        return [(f"{name}: {each.name}", each.read_text("latin-1")) for each in files if each.is_file()]
    except (OSError, ValueError) as error:
        raise _unreadable(name, "armoured keys nor a folder", error) from None


def read_keys(source: str, text: str) -> list[Certificate]:
    """The public keys in a text.

    Raises:
        ConfigurationError: there is none, or something else; `source` says where.
    """
    if PRIVATE in text:
        raise ConfigurationError(f"{source}: holds a private key, which does not belong there")
    try:
        return [
            read_certificate(each)
            for block in PUBLIC_BLOCK.findall(text)
            for each in split_certificates(dearmour(block, PUBLIC_KEY_BLOCK))
        ] or _no_key(source)
    except Untrusted as error:
        raise ConfigurationError(f"{source}: not a key that can be used: {error.reason}") from None


def _no_key(source: str) -> list[Certificate]:
    raise ConfigurationError(f"{source}: no armoured OpenPGP public key")


def _lines(text: str) -> str:
    """A file of environment variables has one line for each: there, a line break is written as \\\\n."""
    return text if "\n" in text.strip() else text.replace("\\n", "\n")


def _unreadable(name: str, wanted: str, error: Exception) -> ConfigurationError:
    """Most often the value was not meant as a path: it is a key in base64, or one whose lines were cut."""
    if isinstance(error, OSError) and error.errno not in _NO_PATH:
        return ConfigurationError(f"{name}: cannot read it: {error.strerror or 'error'}")
    return ConfigurationError(f"{name} is neither {wanted} that is there")
